"""What one account must not lose, in one SQLite file: cursor, received messages, friends, reports, unsent letters.

WAL with synchronous=FULL: what a transaction wrote survives a power cut (sqlite.org/pragma.html#pragma_synchronous).
Rows belong to a bot, since a cursor or a context token of one binding is void in the next.

A report stays while any of four wants it: post_api (to_post), the list of check_event (to_check), its readers with a
cursor (logged), and whoever replays what post_api never took (dead says why it was given up).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wxsup.client.clock import Clock

KEEP_KEYS_SECONDS = 24 * 3600
KEEP_KEYS = 2048
KEEP_DEAD = 10_000
FORGET_AT_ONCE = 16  # so that no message pays for all that are old

#: Step N brings a file of schema N to N + 1; a new file takes them all.
MIGRATIONS = (
    """
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
""",
    """
ALTER TABLE event ADD COLUMN conversation TEXT NOT NULL DEFAULT '';
ALTER TABLE event ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE event ADD COLUMN dead TEXT;
DROP INDEX event_to_post;
CREATE INDEX event_to_post ON event (conversation, number) WHERE to_post;
CREATE INDEX event_logged ON event (number) WHERE logged;
CREATE INDEX event_dead ON event (number) WHERE dead IS NOT NULL;
CREATE INDEX event_done ON event (number) WHERE NOT to_post AND NOT to_check AND NOT logged AND dead IS NULL;
CREATE TABLE letter (number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, created REAL NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0, under_way INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0);
""",
)
SCHEMA_VERSION = len(MIGRATIONS)


@dataclass(frozen=True)
class Report:
    """A message or an event on its way to the user; `id` is the same at every delivery, `body` carries it too.

    Reports of one `conversation` are delivered in the order of their numbers.
    """

    number: int
    id: str
    conversation: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """How many reports are kept for each who wants them; the oldest go first."""

    post: int
    check: int
    log: int


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


#: The oldest report of each conversation, found by one look into the index for each (sqlite.org/lang_with.html).
_HEADS = """
WITH RECURSIVE head (conversation) AS (
    SELECT min(conversation) FROM event WHERE to_post
    UNION ALL
    SELECT (SELECT min(conversation) FROM event WHERE to_post AND conversation > head.conversation) FROM head
    WHERE head.conversation IS NOT NULL
)
SELECT (SELECT min(number) FROM event WHERE to_post AND conversation = head.conversation), conversation FROM head
WHERE conversation IS NOT NULL
"""
_FRIEND = "id, name, markname, first_seen, last_inbound, last_outbound, context_token, sent_since"


def disk_full(ex: Exception) -> bool:
    """Tell whether a failure is one of a disk that has no room now, or answers no longer (sqlite.org/rescode.html)."""
    if isinstance(ex, OSError):
        return ex.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(ex, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR"))


class Store:
    """One account's database; any thread may call it."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._guard = threading.RLock()
        self._clock = Clock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"{path} was written by a newer wxsup (schema {version})")
            for number, step in enumerate(MIGRATIONS[version:], version + 1):
                self._db.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version={number}; COMMIT;")
            if not self.get("name"):
                self.set("name", secrets.token_hex(4))  # so that no two stores give out the same ids
            self._name = self.get("name")
        except BaseException:
            self._db.close()
            raise

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
                    "DELETE FROM inbox WHERE number IN (SELECT number FROM inbox ORDER BY number LIMIT ?)"
                    " AND received < ? AND number <= (SELECT max(number) FROM inbox) - ?",
                    (FORGET_AT_ONCE, now - KEEP_KEYS_SECONDS, KEEP_KEYS),
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

    def last_inbound(self, bot: str) -> float | None:
        """Return when any friend of `bot` was last heard."""
        with self._guard:
            row = self._db.execute("SELECT max(last_inbound) FROM friend WHERE bot = ?", (bot,)).fetchone()
        return row[0] if row[0] is None else float(row[0])

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

    def exhaust(self, bot: str, id_: str, count: int) -> None:
        """Count at least `count` sends to a friend."""
        with self._guard:
            self._db.execute(
                "UPDATE friend SET sent_since = max(sent_since, ?) WHERE bot = ? AND id = ?", (count, bot, id_)
            )

    # Reports

    def add_report(
        self, body: dict[str, Any], conversation: str, *, to_post: bool, to_check: bool, keep: Limits
    ) -> int:
        """Keep a report until all are served that want it; return how many were given up for their number."""
        if not (to_post or to_check):
            return 0
        with self.transaction():
            self._db.execute(
                "INSERT INTO event (body, created, conversation, to_post, to_check, logged) VALUES (?, ?, ?, ?, ?, ?)",
                (json.dumps(body, ensure_ascii=False), time.time(), conversation, to_post, to_check, to_check),
            )
            given_up = 0
            if to_check:
                self._trim("to_check", "to_check = 0", keep.check)
                self._trim("logged", "logged = 0", keep.log)
            if to_post:
                given_up = self._trim("to_post", "to_post = 0, dead = 'too many reports waited'", keep.post)
            self._forget_served()
        return given_up

    def reports_to_check(self) -> list[Report]:
        """Return what the list of check_event holds, oldest first."""
        return self._reports("to_check ORDER BY number")

    def checked(self, numbers: list[int]) -> None:
        """Note that check_event delivered these."""
        with self.transaction():
            self._db.executemany("UPDATE event SET to_check = 0 WHERE number = ?", [(number,) for number in numbers])
            self._forget_served()

    def reports_after(self, id_: str) -> tuple[list[Report], bool]:
        """Return what came after the report `id_`, and whether some of that is not kept any more.

        "" is before the first that is kept; so is an id that is not known, and then some may be missing.
        """
        number = self.number_of(id_)
        with self._guard:
            known = bool(self._reports("number = ? AND logged", number))
            found = self._reports("logged AND number > ? ORDER BY number", number if known else 0)
        return found, bool(id_) and not known

    def number_of(self, id_: str) -> int:
        """Return the number in a report's id, 0 for an id that this store never gave out."""
        name, _, digits = id_.rpartition("-")
        ours = name == self._name and digits.isascii() and digits.isdigit() and len(digits) <= 18
        return int(digits) if ours else 0

    def next_to_post(self, blocked: Container[str] = ()) -> Report | None:
        """Return the oldest report that post_api has not taken, of all conversations but the `blocked` ones."""
        with self._guard:
            heads = self._db.execute(_HEADS).fetchall()
            number = min((number for number, conversation in heads if conversation not in blocked), default=None)
            return self._reports("number = ?", number)[0] if number is not None else None

    def posted(self, number: int) -> None:
        """Note that post_api took this one."""
        with self.transaction():
            # Perhaps it was given up meanwhile.
            self._db.execute("UPDATE event SET to_post = 0, dead = NULL WHERE number = ?", (number,))
            self._forget_served()

    def give_up(self, age: float) -> int:
        """Make dead letters of reports that wait for post_api for more than `age` seconds; return how many."""
        with self.transaction():
            self._follow_clock()
            given_up = self._db.execute(
                "UPDATE event SET to_post = 0, dead = 'it waited too long' WHERE to_post AND created < ?",
                (time.time() - age,),
            ).rowcount
            if given_up:
                self._forget_served()
        return given_up

    def dead_letters(self, after: int, count: int) -> list[tuple[Report, str]]:
        """Return `count` reports at most that post_api never took, with the reason, after number `after`."""
        with self._guard:
            rows = self._db.execute(
                "SELECT number, conversation, body, dead FROM event WHERE dead IS NOT NULL AND number > ?"
                " ORDER BY number LIMIT ?",
                (after, count),
            ).fetchall()
        return [(self._report(*row[:3]), row[3]) for row in rows]

    def replay(self, number: int | None = None) -> int:
        """Let dead letters, all or that one, wait for post_api again, in their old places; return how many."""
        with self.transaction():
            return self._db.execute(
                "UPDATE event SET to_post = 1, dead = NULL, created = ?"
                " WHERE dead IS NOT NULL AND number = coalesce(?, number)",
                (time.time(), number),
            ).rowcount

    def count(self, kind: str) -> int:
        """Return how many reports wait ("to_post"), are dead letters ("dead"), or how many letters ("letter")."""
        query = {
            "to_post": "SELECT count(*) FROM event WHERE to_post",
            "dead": "SELECT count(*) FROM event WHERE dead IS NOT NULL",
            "letter": "SELECT count(*) FROM letter",
        }[kind]
        with self._guard:
            return int(self._db.execute(query).fetchone()[0])

    def _reports(self, which: str, *values: object) -> list[Report]:
        with self._guard:
            rows = self._db.execute(f"SELECT number, conversation, body FROM event WHERE {which}", values).fetchall()
        return [self._report(*row) for row in rows]

    def _report(self, number: int, conversation: str, body: str) -> Report:
        id_ = f"{self._name}-{number}"
        return Report(number, id_, conversation, {**json.loads(body), "event_id": id_})

    def _trim(self, kind: str, change: str, keep: int) -> int:
        """Apply `change` to all but the newest `keep` reports of a kind; return how many those are."""
        return self._db.execute(
            f"UPDATE event SET {change} WHERE {kind} AND number <="
            f" (SELECT number FROM event WHERE {kind} ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (keep,),
        ).rowcount

    def _follow_clock(self) -> None:
        """Let nothing be old because the clock was set."""
        if moved := self._clock.moved():
            self._db.execute("UPDATE event SET created = created + ? WHERE to_post", (moved,))
            self._db.execute("UPDATE letter SET created = created + ?", (moved,))

    def _forget_served(self) -> None:
        self._trim("dead IS NOT NULL", "dead = NULL", KEEP_DEAD)
        self._db.execute("DELETE FROM event WHERE NOT to_post AND NOT to_check AND NOT logged AND dead IS NULL")

    # Letters

    def add_letter(self, body: dict[str, Any]) -> int:
        """Keep something that is to be sent; return its number."""
        with self.transaction():
            added = self._db.execute(
                "INSERT INTO letter (body, created) VALUES (?, ?)", (json.dumps(body, ensure_ascii=False), time.time())
            )
        return int(added.lastrowid or 0)

    def mark_letter(self, number: int, *, sent: int, under_way: bool, refused: int) -> None:
        """Note how many parts of a letter are sent, whether the next is under way, how often that was refused."""
        with self.transaction():
            self._db.execute(
                "UPDATE letter SET sent = ?, under_way = ?, refused = ? WHERE number = ?",
                (sent, under_way, refused, number),
            )

    def letter_age(self, number: int) -> float:
        """Return for how many seconds a letter is kept already."""
        with self.transaction():
            self._follow_clock()
            row = self._db.execute("SELECT created FROM letter WHERE number = ?", (number,)).fetchone()
        return time.time() - row[0] if row else 0.0

    def remove_letter(self, number: int) -> None:
        """Forget a letter that was sent or given up."""
        with self.transaction():
            self._db.execute("DELETE FROM letter WHERE number = ?", (number,))

    def letters(self) -> list[tuple[int, dict[str, Any], int, bool, int]]:
        """Return number, body, parts sent, under way, refusals of each letter, oldest first."""
        with self._guard:
            rows = self._db.execute(
                "SELECT number, body, sent, under_way, refused FROM letter ORDER BY number"
            ).fetchall()
        return [(number, json.loads(body), sent, bool(way), refused) for number, body, sent, way, refused in rows]
