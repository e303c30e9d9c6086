"""Waiting in tests: until something holds, or a deadline has passed; never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

TIMEOUT = 30.0
POLL = 0.02


def eventually(
    probe: Callable[[], Found], *, holds: Callable[[Found], object] = bool, timeout: float = TIMEOUT, what: str = ""
) -> Found:
    """Return the first result of `probe` of which `holds` is true; fail with the last one after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = probe()
        if holds(found):
            return found
        assert time.monotonic() < deadline, f"{what or 'it'} did not come true in {timeout:g} s; last seen: {found!r}"
        time.sleep(POLL)
