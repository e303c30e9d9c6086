"""Reports held back until a file of theirs is fetched, and with each the later ones of its conversation."""

from __future__ import annotations

import json
import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from wxsup.client.store.database import Database
from wxsup.client.store.outbox import Limits, Outbox
from wxsup.client.store.times import Times


@dataclass(frozen=True)
class Held:
    """A report whose file is to be fetched from `source`, which only the driver understands."""

    number: int
    conversation: str
    body: dict[str, Any]
    source: dict[str, Any]


class HeldBack:
    """What is on its way to the outbox."""

    def __init__(self, database: Database, times: Times, outbox: Outbox) -> None:
        self._database = database
        self._times = times
        self._outbox = outbox

    def holds(self, conversation: str) -> bool:
        """Tell whether reports of a conversation are held, so that a new one would overtake them."""
        with self._database.guard:
            row = self._database.execute(
                "SELECT 1 FROM held WHERE conversation = ? LIMIT 1", (conversation,)
            ).fetchone()
        return row is not None

    def hold(
        self, body: dict[str, Any], conversation: str, source: dict[str, Any] | None, *, to_post: bool, to_check: bool
    ) -> None:
        """Hold a report back: until its file is fetched, or with no `source` until its turn has come."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO held (body, conversation, created, source, to_post, to_check) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    json.dumps(body, ensure_ascii=False),
                    conversation,
                    time.time(),
                    json.dumps(source, ensure_ascii=False) if source else None,
                    to_post,
                    to_check,
                ),
            )

    def next(self, blocked: Container[int] = ()) -> Held | None:
        """Return the oldest report whose file is to be fetched, but for the `blocked` ones."""
        with self._database.guard:
            heads = self._database.execute(
                "SELECT min(number), conversation, body, source FROM held GROUP BY conversation"
            ).fetchall()
        for number, conversation, body, source in sorted(heads):
            if number not in blocked:
                return Held(number, conversation, json.loads(body), json.loads(source))
        return None

    def age(self, number: int) -> float:
        """Return for how many seconds a report is held already."""
        with self._database.transaction():
            self._times.follow()
            row = self._database.execute("SELECT created FROM held WHERE number = ?", (number,)).fetchone()
        return time.time() - row[0] if row else 0.0

    def ids(self, conversation: str) -> set[str]:
        """Return the ids of the messages of a conversation that are held."""
        with self._database.guard:
            rows = self._database.execute("SELECT body FROM held WHERE conversation = ?", (conversation,)).fetchall()
        return {str(json.loads(body).get("id", "")) for (body,) in rows}

    def count(self) -> int:
        """Return how many are held."""
        with self._database.guard:
            return int(self._database.execute("SELECT count(*) FROM held").fetchone()[0])

    def release(self, held: Held, body: dict[str, Any], keep: Limits) -> int:
        """Let a report go, as `body`, and those that only waited for it; return how many were given up for that."""
        with self._database.transaction():
            self._database.execute(
                "UPDATE held SET body = ?, source = NULL WHERE number = ?",
                (json.dumps(body, ensure_ascii=False), held.number),
            )
            given_up = 0
            rows = self._database.execute(
                "SELECT number, body, source, to_post, to_check FROM held WHERE conversation = ? ORDER BY number",
                (held.conversation,),
            ).fetchall()
            for number, text, source, to_post, to_check in rows:
                if source is not None:
                    break
                self._database.execute("DELETE FROM held WHERE number = ?", (number,))
                given_up += self._outbox.add(
                    json.loads(text), held.conversation, to_post=bool(to_post), to_check=bool(to_check), keep=keep
                )
        return given_up
