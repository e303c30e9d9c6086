"""Keeps the ages of what waits right when somebody sets the clock."""

from __future__ import annotations

from wxsup.client.clock import Clock
from wxsup.client.store.database import Database


class Times:
    """The times at which something was taken in, in the file of one account."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = Clock()

    def follow(self) -> None:
        """Let nothing be old because the clock was set; inside a transaction."""
        if moved := self._clock.moved():
            self._database.execute("UPDATE event SET created = created + ? WHERE to_post", (moved,))
            self._database.execute("UPDATE letter SET created = created + ?", (moved,))
            self._database.execute("UPDATE held SET created = created + ?", (moved,))
