"""Letters until it is known what became of them."""

from __future__ import annotations

import json
import time
from typing import Any

from wxsup.client.store.database import Database
from wxsup.client.store.times import Times


class Letterbox:
    """What one account is to send."""

    def __init__(self, database: Database, times: Times) -> None:
        self._database = database
        self._times = times

    def add(self, body: dict[str, Any]) -> int:
        """Keep something that is to be sent; return its number."""
        with self._database.transaction():
            added = self._database.execute(
                "INSERT INTO letter (body, created) VALUES (?, ?)", (json.dumps(body, ensure_ascii=False), time.time())
            )
        return int(added.lastrowid or 0)

    def mark(self, number: int, *, sent: int, under_way: bool, refused: int) -> None:
        """Note how many parts of a letter are sent, whether the next is under way, how often that was refused."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE letter SET sent = ?, under_way = ?, refused = ? WHERE number = ?",
                (sent, under_way, refused, number),
            )

    def age(self, number: int) -> float:
        """Return for how many seconds a letter is kept already."""
        with self._database.transaction():
            self._times.follow()
            row = self._database.execute("SELECT created FROM letter WHERE number = ?", (number,)).fetchone()
        return time.time() - row[0] if row else 0.0

    def remove(self, number: int) -> None:
        """Forget a letter that was sent or given up."""
        with self._database.transaction():
            self._database.execute("DELETE FROM letter WHERE number = ?", (number,))

    def all(self) -> list[tuple[int, dict[str, Any], int, bool, int]]:
        """Return number, body, parts sent, under way, refusals of each letter, oldest first."""
        with self._database.guard:
            rows = self._database.execute(
                "SELECT number, body, sent, under_way, refused FROM letter ORDER BY number"
            ).fetchall()
        return [(number, json.loads(body), sent, bool(way), refused) for number, body, sent, way, refused in rows]

    def count(self) -> int:
        """Return how many there are."""
        with self._database.guard:
            return int(self._database.execute("SELECT count(*) FROM letter").fetchone()[0])
