"""The newest log lines of this process, for who cannot read where they go (get_log)."""

from __future__ import annotations

import collections
import itertools
import logging
import threading
import time
from typing import Any

from wxsup import daemon

MOST = 500


class Journal(logging.Handler):
    """Keeps the newest lines, numbered from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(daemon.Formatter("%(message)s"))
        self._lines: collections.deque[dict[str, Any]] = collections.deque(maxlen=MOST)
        self._numbers = itertools.count(1)
        self._news = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        line = {"time": record.created, "level": record.levelname, "text": self.format(record)}
        with self._news:
            self._lines.append({"n": next(self._numbers), **line})
            self._news.notify_all()

    def newest(self, count: int) -> list[dict[str, Any]]:
        """Return the newest lines."""
        with self._news:
            return list(self._lines)[-count:]

    def after(self, number: int, count: int, hold: float) -> list[dict[str, Any]]:
        """Return the first lines after that number, holding up to so many seconds for one."""
        deadline = time.monotonic() + hold
        with self._news:
            while not (found := [line for line in self._lines if line["n"] > number]):
                if (left := deadline - time.monotonic()) <= 0:
                    break
                self._news.wait(left)
            return found[:count]
