"""Notices when the wall clock is set: ages that were counted by it would be wrong at a stroke."""

from __future__ import annotations

import time

LEAST = 60.0  # less is the clock being kept right


class Clock:
    """Watches the wall clock beside the one that nobody can set (clock_gettime(2), CLOCK_MONOTONIC)."""

    def __init__(self) -> None:
        self._offset = _offset()

    def moved(self) -> float:
        """Return by how many seconds it was moved since the last call."""
        found = _offset()
        by = found - self._offset
        if abs(by) < LEAST:
            return 0.0
        self._offset = found
        return by


def _offset() -> float:
    return time.time() - time.monotonic()
