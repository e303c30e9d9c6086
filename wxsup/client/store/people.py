"""Whom an account knows, and what was said: received messages, friends, texts that may be quoted.

Rows belong to a bot, since a context token of one binding is void in the next.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from wxsup.client.store.database import Database

KEEP_KEYS_SECONDS = 24 * 3600
KEEP_KEYS = 2048
KEEP_SAID_SECONDS, KEEP_SAID = 30 * 24 * 3600, 10_000  # as the plugin does (ilink-protocol.md 7.3)
FORGET_AT_ONCE = 16  # so that no message pays for all that are old


@dataclass(frozen=True)
class Friend:
    """Somebody who can write to us. Times are seconds of the epoch, `sent_since` counts since the last inbound."""

    id: str
    name: str
    markname: str
    first_seen: float
    last_inbound: float | None
    last_outbound: float | None
    context_token: str | None
    sent_since: int


_FRIEND = "id, name, markname, first_seen, last_inbound, last_outbound, context_token, sent_since"


class People:
    """The people of one account."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remember(self, bot: str, key: str, raw: dict[str, Any]) -> bool:
        """Keep a received message; tell whether its key is new."""
        now = time.time()
        with self._database.guard:
            added = self._database.execute(
                "INSERT OR IGNORE INTO inbox (bot, key, raw, received) VALUES (?, ?, ?, ?)",
                (bot, key, json.dumps(raw, ensure_ascii=False), now),
            ).rowcount
            if added:
                self._database.execute(
                    "DELETE FROM inbox WHERE number IN (SELECT number FROM inbox ORDER BY number LIMIT ?)"
                    " AND received < ? AND number <= (SELECT max(number) FROM inbox) - ?",
                    (FORGET_AT_ONCE, now - KEEP_KEYS_SECONDS, KEEP_KEYS),
                )
        return bool(added)

    def friends(self, bot: str) -> list[Friend]:
        """Return the friends of `bot`, in the order in which they came."""
        with self._database.guard:
            rows = self._database.execute(f"SELECT {_FRIEND} FROM friend WHERE bot = ? ORDER BY first_seen, id", (bot,))
            return [Friend(*row) for row in rows]

    def friend(self, bot: str, id_: str) -> Friend | None:
        """Return one friend of `bot`."""
        with self._database.guard:
            row = self._database.execute(
                f"SELECT {_FRIEND} FROM friend WHERE bot = ? AND id = ?", (bot, id_)
            ).fetchone()
        return Friend(*row) if row else None

    def last_inbound(self, bot: str) -> float | None:
        """Return when any friend of `bot` was last heard."""
        with self._database.guard:
            row = self._database.execute("SELECT max(last_inbound) FROM friend WHERE bot = ?", (bot,)).fetchone()
        return row[0] if row[0] is None else float(row[0])

    def meet(self, bot: str, id_: str, name: str) -> Friend | None:
        """Add a friend and return it, None if there was one with this id."""
        with self._database.guard:
            added = self._database.execute(
                "INSERT OR IGNORE INTO friend (bot, id, name, first_seen) VALUES (?, ?, ?, ?)",
                (bot, id_, name, time.time()),
            ).rowcount
            return self.friend(bot, id_) if added else None

    def heard(self, bot: str, id_: str, context_token: str, when: float) -> None:
        """Note a message of a friend: it opens the window and renews the quota."""
        with self._database.guard:
            self._database.execute(
                "UPDATE friend SET last_inbound = ?, sent_since = 0, context_token = coalesce(nullif(?, ''),"
                " context_token) WHERE bot = ? AND id = ?",
                (when, context_token, bot, id_),
            )

    def claim(self, bot: str, id_: str, count: int) -> None:
        """Count `count` sends to a friend, before they are made; a negative count gives them back."""
        with self._database.guard:
            self._database.execute(
                "UPDATE friend SET sent_since = max(0, sent_since + ?), last_outbound = ? WHERE bot = ? AND id = ?",
                (count, time.time(), bot, id_),
            )

    def exhaust(self, bot: str, id_: str, count: int) -> None:
        """Count at least `count` sends to a friend."""
        with self._database.guard:
            self._database.execute(
                "UPDATE friend SET sent_since = max(sent_since, ?) WHERE bot = ? AND id = ?", (count, bot, id_)
            )

    def mark(self, bot: str, id_: str, markname: str) -> None:
        """Call a friend `markname` from now on."""
        with self._database.guard:
            self._database.execute("UPDATE friend SET markname = ? WHERE bot = ? AND id = ?", (markname, bot, id_))

    def say(self, bot: str, id_: str, text: str) -> None:
        """Keep what a message said, in case another quotes it."""
        now = time.time()
        with self._database.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO said (bot, id, text, at) VALUES (?, ?, ?, ?)", (bot, id_, text, now)
            )
            self._database.execute(
                "DELETE FROM said WHERE number IN (SELECT number FROM said ORDER BY number LIMIT ?)"
                " AND (at < ? OR number <= (SELECT max(number) FROM said) - ?)",
                (FORGET_AT_ONCE, now - KEEP_SAID_SECONDS, KEEP_SAID),
            )

    def said(self, bot: str, id_: str) -> str | None:
        """Return what a message said, None if that is not known."""
        with self._database.guard:
            row = self._database.execute("SELECT text FROM said WHERE bot = ? AND id = ?", (bot, id_)).fetchone()
        return row[0] if row else None
