"""The SQLite file of one account: its schema, its transactions, and a few values by name.

WAL with synchronous=FULL: what a transaction wrote survives a power cut (sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
    """
CREATE TABLE said (number INTEGER PRIMARY KEY, bot TEXT NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL,
    at REAL NOT NULL, UNIQUE (bot, id));
CREATE TABLE held (number INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, conversation TEXT NOT NULL,
    created REAL NOT NULL, source TEXT, to_post INTEGER NOT NULL, to_check INTEGER NOT NULL);
CREATE INDEX held_conversation ON held (conversation, number);
""",
)
SCHEMA_VERSION = len(MIGRATIONS)


def disk_full(ex: Exception) -> bool:
    """Tell whether a failure is one of a disk that has no room now, or answers no longer (sqlite.org/rescode.html)."""
    if isinstance(ex, OSError):
        return ex.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(ex, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR"))


class Database:
    """One account's file; any thread may use it, under the `guard` or inside of a transaction."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self.guard = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"{path} was written by a newer wxsup (schema {version})")
            for number, step in enumerate(MIGRATIONS[version:], version + 1):
                self._db.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version={number}; COMMIT;")
        except BaseException:
            self._db.close()
            raise

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute one statement; the guard is held by the caller."""
        return self._db.execute(sql, values)

    def executemany(self, sql: str, values: Sequence[Sequence[object]]) -> sqlite3.Cursor:
        """Execute one statement for each of `values`; the guard is held by the caller."""
        return self._db.executemany(sql, values)

    def watch(self, progress: Callable[[], int] | None, steps: int) -> None:
        """Have `progress` called after every so many steps of SQLite's machine, to tell what a statement costs."""
        self._db.set_progress_handler(progress, steps)

    def close(self) -> None:
        """Close the file; what was committed is kept."""
        with self.guard:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside happen, or nothing; raises sqlite3.Error when it could not (a full disk)."""
        with self.guard:
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
        with self.guard:
            return self._db.in_transaction

    def get(self, key: str) -> str:
        """Return what was set under `key`, "" if nothing was."""
        with self.guard:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else ""

    def set(self, key: str, value: str) -> None:
        """Set `key` to `value`."""
        with self.guard:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
