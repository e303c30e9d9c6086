"""Reports until they are delivered.

A report stays while any of four wants it: post_api (to_post), the list of check_event (to_check), its readers with a
cursor (logged), and whoever replays what post_api never took (dead says why it was given up).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from wxsup.client.store.database import Database
from wxsup.client.store.times import Times

KEEP_DEAD = 10_000


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


class Outbox:
    """The reports of one account."""

    def __init__(self, database: Database, times: Times) -> None:
        self._database = database
        self._times = times
        if not database.get("name"):
            database.set("name", secrets.token_hex(4))  # so that no two stores give out the same ids
        self._name = database.get("name")

    def add(self, body: dict[str, Any], conversation: str, *, to_post: bool, to_check: bool, keep: Limits) -> int:
        """Keep a report until all are served that want it; return how many were given up for their number."""
        if not (to_post or to_check):
            return 0
        with self._database.transaction():
            self._database.execute(
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

    def to_check(self) -> list[Report]:
        """Return what the list of check_event holds, oldest first."""
        return self._reports("to_check ORDER BY number")

    def checked(self, numbers: list[int]) -> None:
        """Note that check_event delivered these."""
        with self._database.transaction():
            self._database.executemany(
                "UPDATE event SET to_check = 0 WHERE number = ?", [(number,) for number in numbers]
            )
            self._forget_served()

    def after(self, id_: str) -> tuple[list[Report], bool]:
        """Return what came after the report `id_`, and whether some of that is not kept any more.

        "" is before the first that is kept; so is an id that is not known, and then some may be missing.
        """
        number = self.number_of(id_)
        with self._database.guard:
            known = bool(self._reports("number = ? AND logged", number))
            found = self._reports("logged AND number > ? ORDER BY number", number if known else 0)
        return found, bool(id_) and not known

    def number_of(self, id_: str) -> int:
        """Return the number in a report's id, 0 for an id that this store never gave out."""
        name, _, digits = id_.rpartition("-")
        ours = name == self._name and digits.isascii() and digits.isdigit() and len(digits) <= 18
        return int(digits) if ours else 0

    def newest(self) -> int:
        """Return the number of the newest report."""
        with self._database.guard:
            return int(self._database.execute("SELECT coalesce(max(number), 0) FROM event").fetchone()[0])

    def later(self, conversation: str, number: int) -> list[Report]:
        """Return the reports of a conversation after the one of that number, as far as they are kept."""
        return self._reports("logged AND number > ? AND conversation = ? ORDER BY number", number, conversation)

    def next_to_post(self, blocked: Container[str] = ()) -> Report | None:
        """Return the oldest report that post_api has not taken, of all conversations but the `blocked` ones."""
        with self._database.guard:
            heads = self._database.execute(_HEADS).fetchall()
            number = min((number for number, conversation in heads if conversation not in blocked), default=None)
            return self._reports("number = ?", number)[0] if number is not None else None

    def posted(self, number: int) -> None:
        """Note that post_api took this one."""
        with self._database.transaction():
            # Perhaps it was given up meanwhile.
            self._database.execute("UPDATE event SET to_post = 0, dead = NULL WHERE number = ?", (number,))
            self._forget_served()

    def give_up(self, age: float) -> int:
        """Make dead letters of reports that wait for post_api for more than `age` seconds; return how many."""
        with self._database.transaction():
            self._times.follow()
            given_up = self._database.execute(
                "UPDATE event SET to_post = 0, dead = 'it waited too long' WHERE to_post AND created < ?",
                (time.time() - age,),
            ).rowcount
            if given_up:
                self._forget_served()
        return given_up

    def dead_letters(self, after: int, count: int) -> list[tuple[Report, str]]:
        """Return `count` reports at most that post_api never took, with the reason, after number `after`."""
        with self._database.guard:
            rows = self._database.execute(
                "SELECT number, conversation, body, dead FROM event WHERE dead IS NOT NULL AND number > ?"
                " ORDER BY number LIMIT ?",
                (after, count),
            ).fetchall()
        return [(self._report(*row[:3]), row[3]) for row in rows]

    def replay(self, number: int | None = None) -> int:
        """Let dead letters, all or that one, wait for post_api again, in their old places; return how many."""
        with self._database.transaction():
            return self._database.execute(
                "UPDATE event SET to_post = 1, dead = NULL, created = ?"
                " WHERE dead IS NOT NULL AND number = coalesce(?, number)",
                (time.time(), number),
            ).rowcount

    def count(self, kind: str) -> int:
        """Return how many reports wait ("to_post"), or are dead letters ("dead")."""
        query = {
            "to_post": "SELECT count(*) FROM event WHERE to_post",
            "dead": "SELECT count(*) FROM event WHERE dead IS NOT NULL",
        }[kind]
        with self._database.guard:
            return int(self._database.execute(query).fetchone()[0])

    def _reports(self, which: str, *values: object) -> list[Report]:
        with self._database.guard:
            rows = self._database.execute(
                f"SELECT number, conversation, body FROM event WHERE {which}", values
            ).fetchall()
        return [self._report(*row) for row in rows]

    def _report(self, number: int, conversation: str, body: str) -> Report:
        id_ = f"{self._name}-{number}"
        return Report(number, id_, conversation, {**json.loads(body), "event_id": id_})

    def _trim(self, kind: str, change: str, keep: int) -> int:
        """Apply `change` to all but the newest `keep` reports of a kind; return how many those are."""
        return self._database.execute(
            f"UPDATE event SET {change} WHERE {kind} AND number <="
            f" (SELECT number FROM event WHERE {kind} ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (keep,),
        ).rowcount

    def _forget_served(self) -> None:
        self._trim("dead IS NOT NULL", "dead = NULL", KEEP_DEAD)
        self._database.execute("DELETE FROM event WHERE NOT to_post AND NOT to_check AND NOT logged AND dead IS NULL")
