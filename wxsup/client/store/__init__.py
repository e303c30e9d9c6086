"""What one account must not lose, in one SQLite file: cursor, received messages, friends, reports, unsent letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wxsup.client.store.database import Database
from wxsup.client.store.held import HeldBack
from wxsup.client.store.letterbox import Letterbox
from wxsup.client.store.outbox import Outbox
from wxsup.client.store.people import People
from wxsup.client.store.times import Times


class Store:
    """The parts of one account's file; any thread may call them, and put several calls into one transaction."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        try:
            times = Times(self.database)
            self.people = People(self.database)
            self.outbox = Outbox(self.database, times)
            self.held = HeldBack(self.database, times, self.outbox)
            self.letterbox = Letterbox(self.database, times)
        except BaseException:
            self.database.close()
            raise

    def close(self) -> None:
        """Close the file; what was committed is kept."""
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside happen, or nothing; raises sqlite3.Error when it could not (a full disk)."""
        with self.database.transaction():
            yield

    @property
    def in_transaction(self) -> bool:
        """Whether the calling thread is inside a transaction."""
        return self.database.in_transaction

    def get(self, key: str) -> str:
        """Return what was set under `key`, "" if nothing was."""
        return self.database.get(key)

    def set(self, key: str, value: str) -> None:
        """Set `key` to `value`."""
        self.database.set(key, value)
