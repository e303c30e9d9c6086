"""Tells a thread that goes on from one that hangs: before each step it says how long that may take."""

from __future__ import annotations

import math
import time

MARGIN = 90.0  # for what a step does besides waiting: a slow disk, a busy machine


class Pulse:
    """The pulse of one thread."""

    def __init__(self) -> None:
        self._due = math.inf

    def within(self, seconds: float) -> None:
        """Begin a step that waits for so many seconds at most."""
        self._due = time.monotonic() + seconds + MARGIN

    def rest(self) -> None:
        """Begin to wait for something that may never come."""
        self._due = math.inf

    @property
    def late(self) -> bool:
        """Whether the step under way has taken longer than it may."""
        return time.monotonic() > self._due
