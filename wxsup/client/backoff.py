"""Pauses between tries that fail: each twice as long as the one before, within bounds."""

from __future__ import annotations


def longer(pause: float, first: float, most: float) -> float:
    """Return the pause after one of `pause` seconds, 0 for none yet."""
    return min(max(first, 2 * pause), most)
