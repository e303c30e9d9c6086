"""What one account must not lose, in one SQLite file: cursor, received messages, friends, undelivered reports.

WAL with synchronous=FULL: what a transaction wrote survives a power cut (sqlite.org/pragma.html#pragma_synchronous).
Rows belong to a bot, since a cursor or a context token of one binding is void in the next.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
KEEP_KEYS_SECONDS = 24 * 3600
KEEP_KEYS = 2048

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE inbox (number INTEGER PRIMARY KEY, bot TEXT NOT NULL, key TEXT NOT NULL, raw TEXT NOT NULL,
    received REAL NOT NULL, UNIQUE (bot, key));
CREATE TABLE friend (bot TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, markname TEXT NOT NULL DEFAULT '',
    first_seen REAL NOT NULL, last_inbound REAL, last_outbound REAL, context_token TEXT,
    sent_since INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (bot, id)) WITHOUT ROWID;
CREATE TABLE event (number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, created REAL NOT NULL,
    to_post INTEGER NOT NULL, to_check INTEGER NOT NULL);
CREATE INDEX event_to_post ON event (number) WHERE to_post;
CREATE INDEX event_to_check ON event (number) WHERE to_check;
"""


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


class Store:
    """One account's database; any thread may call it."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._guard = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            self._db.close()
            raise sqlite3.DatabaseError(f"{path} was written by a newer wxsup (schema {version})")
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file; what was committed is kept."""
        with self._guard:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside happen, or nothing; raises sqlite3.Error when it could not (a full disk)."""
        with self._guard:
            nested = self._db.in_transaction
            if nested:  # the outer one decides
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @property
    def in_transaction(self) -> bool:
        """Whether the calling thread is inside a transaction."""
        with self._guard:
            return self._db.in_transaction

    def get(self, key: str) -> str:
        """Return what was set under `key`, "" if nothing was."""
        with self._guard:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else ""

    def set(self, key: str, value: str) -> None:
        """Set `key` to `value`."""
        with self._guard:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def remember(self, bot: str, key: str, raw: dict[str, Any]) -> bool:
        """Keep a received message; tell whether its key is new."""
        now = time.time()
        with self._guard:
            added = self._db.execute(
                "INSERT OR IGNORE INTO inbox (bot, key, raw, received) VALUES (?, ?, ?, ?)",
                (bot, key, json.dumps(raw, ensure_ascii=False), now),
            ).rowcount
            if added:
                self._db.execute(
                    "DELETE FROM inbox WHERE received < ? AND number <= (SELECT max(number) FROM inbox) - ?",
                    (now - KEEP_KEYS_SECONDS, KEEP_KEYS),
                )
        return bool(added)

    def friends(self, bot: str) -> list[Friend]:
        """Return the friends of `bot`, in the order in which they came."""
        with self._guard:
            rows = self._db.execute(f"SELECT {_FRIEND} FROM friend WHERE bot = ? ORDER BY first_seen, id", (bot,))
            return [Friend(*row) for row in rows]

    def friend(self, bot: str, id_: str) -> Friend | None:
        """Return one friend of `bot`."""
        with self._guard:
            row = self._db.execute(f"SELECT {_FRIEND} FROM friend WHERE bot = ? AND id = ?", (bot, id_)).fetchone()
        return Friend(*row) if row else None

    def meet(self, bot: str, id_: str, name: str) -> Friend | None:
        """Add a friend and return it, None if there was one with this id."""
        with self._guard:
            added = self._db.execute(
                "INSERT OR IGNORE INTO friend (bot, id, name, first_seen) VALUES (?, ?, ?, ?)",
                (bot, id_, name, time.time()),
            ).rowcount
            return self.friend(bot, id_) if added else None

    def heard(self, bot: str, id_: str, context_token: str, when: float) -> None:
        """Note a message of a friend: it opens the window and renews the quota."""
        with self._guard:
            self._db.execute(
                "UPDATE friend SET last_inbound = ?, sent_since = 0, context_token = coalesce(nullif(?, ''),"
                " context_token) WHERE bot = ? AND id = ?",
                (when, context_token, bot, id_),
            )

    def claim(self, bot: str, id_: str, count: int) -> None:
        """Count `count` sends to a friend, before they are made; a negative count gives them back."""
        with self._guard:
            self._db.execute(
                "UPDATE friend SET sent_since = max(0, sent_since + ?), last_outbound = ? WHERE bot = ? AND id = ?",
                (count, time.time(), bot, id_),
            )

    def add_event(self, body: dict[str, Any], *, to_post: bool, to_check: bool, check_limit: int) -> None:
        """Keep a report until it is delivered; of those for check_event only the newest `check_limit` stay."""
        if not (to_post or to_check):
            return
        with self.transaction():
            self._db.execute(
                "INSERT INTO event (body, created, to_post, to_check) VALUES (?, ?, ?, ?)",
                (json.dumps(body, ensure_ascii=False), time.time(), to_post, to_check),
            )
            if to_check:
                self._db.execute(
                    "UPDATE event SET to_check = 0 WHERE to_check AND number <="
                    " (SELECT number FROM event WHERE to_check ORDER BY number DESC LIMIT 1 OFFSET ?)",
                    (check_limit,),
                )
            self._forget_delivered()

    def events_to_check(self) -> list[tuple[int, str]]:
        """Return number and body of what check_event has not delivered, oldest first."""
        with self._guard:
            return self._db.execute("SELECT number, body FROM event WHERE to_check ORDER BY number").fetchall()

    def event_to_post(self) -> tuple[int, str] | None:
        """Return the oldest report that post_api has not taken."""
        with self._guard:
            row: tuple[int, str] | None = self._db.execute(
                "SELECT number, body FROM event WHERE to_post ORDER BY number LIMIT 1"
            ).fetchone()
        return row

    def checked(self, numbers: list[int]) -> None:
        """Note that check_event delivered these."""
        with self.transaction():
            self._db.executemany("UPDATE event SET to_check = 0 WHERE number = ?", [(number,) for number in numbers])
            self._forget_delivered()

    def posted(self, number: int) -> None:
        """Note that post_api took this one."""
        with self.transaction():
            self._db.execute("UPDATE event SET to_post = 0 WHERE number = ?", (number,))
            self._forget_delivered()

    def _forget_delivered(self) -> None:
        self._db.execute("DELETE FROM event WHERE NOT to_post AND NOT to_check")
