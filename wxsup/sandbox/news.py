"""The one lock of the pretend world, and waiting for news under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

GLANCE = 0.5  # how often a held call looks whether its caller is still there, in seconds

#: Called now and then while a call is held; raises to give the call up.
Glance = Callable[[], None]


def stay() -> None:
    """Be the glance of a caller that cannot go away."""


class News(threading.Condition):
    """A condition that is notified of every change, and tells waiters apart by what they wait for."""

    def hold(self, ready: Callable[[], bool], seconds: float, glance: Glance = stay) -> None:
        """Wait until `ready`, at most `seconds`; the lock is held by the caller."""
        deadline = time.monotonic() + seconds
        while not ready() and (left := deadline - time.monotonic()) > 0:
            self.wait(min(left, GLANCE))
            glance()
