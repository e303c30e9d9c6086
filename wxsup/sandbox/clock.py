"""The sandbox's time of day, which can be moved."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """A clock that runs as `source` does, ahead of it by what it was moved; a restart puts it right again."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._ahead = 0.0

    def __call__(self) -> float:
        """Return the time in seconds since 1970."""
        return self._source() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the clock forward, or back with a negative number."""
        self._ahead += seconds
