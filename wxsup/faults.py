"""Places, between two steps of a start or stop, at which a test lets a process die; nothing happens in normal life.

``WXFAULT=POINT=VICTIM`` in the environment kills the victim (SIGKILL) at that point: ``self``, or the process whose
number is in the file that VICTIM names.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

VARIABLE = "WXFAULT"
TIMEOUT = 10.0

_armed, _, _victim = os.environ.get(VARIABLE, "").partition("=")


def point(name: str) -> None:
    """Be a place where a process may die; costs a comparison."""
    if name == _armed:
        _strike()


def _strike() -> None:
    global _armed
    _armed = ""  # once: the victim's number may be gone, or another's, when we come by again
    if _victim == "self":
        os.kill(os.getpid(), signal.SIGKILL)
    file = Path(_victim)
    deadline = time.monotonic() + TIMEOUT
    while not (file.exists() and file.read_text().strip()):  # a client that was just started writes it soon
        if time.monotonic() > deadline:
            raise TimeoutError(f"{VARIABLE}: {file} names no process")
        time.sleep(0.01)
    os.kill(int(file.read_text()), signal.SIGKILL)
