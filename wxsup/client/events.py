"""Messages and events, taken in to be delivered: to post_api by the Poster, to check_event on demand.

Reports lie in the store until they are delivered, so neither a slow receiver nor a crash loses one.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from wxsup.client import reports
from wxsup.client.posting import Poster
from wxsup.client.store import Store
from wxsup.client.store.held import Held
from wxsup.client.store.outbox import Limits, Report
from wxsup.errors import CallFailed
from wxsup.options import Options

logger = logging.getLogger(__name__)

HOLD = 30.0  # openwx-api.md 5
# openwx-api.md 5: these never show in check_event.
NOT_CHECKED = frozenset({"login", "stop", "state_change", "input_qrcode", "input_verifycode"})


@dataclass(frozen=True)
class Moment:
    """What had been reported by then, and what had come but was held back."""

    number: int
    held: frozenset[str]


class Events:
    """Takes reports in, and gives them out; `key` signs what is posted.

    Those who wait for news ask the store meanwhile, so nobody may announce news while holding the store. With each
    announcement `held_back()` is called, to look for files that are to be fetched.
    """

    def __init__(self, store: Store, options: Options, *, key: str = "") -> None:
        self._store = store
        self._options = options
        self._keep = Limits(options.post_max_size, options.check_event_list_max_size, options.check_event_log_max_size)
        self._news = threading.Condition()
        self._lent: set[int] = set()
        self._stopping = False
        self.poster = Poster(store, options, key, lambda body: self._dressed(body, reports.DATA_MOST))
        self.held_back: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to post; without a post_api what waits from when there was one is given up."""
        if self._options.plugin_openwx_post_api:
            self.poster.start()
            return
        try:
            self._store.outbox.give_up(0.0)
        except sqlite3.Error as ex:
            logger.error("old reports stay", extra={"action": "post", "reason": str(ex)})

    def stop(self, *, grace: float) -> None:
        """Post what is left for at most `grace` seconds, and let those go who wait for news."""
        self._stopping = True
        self.announce()
        self.poster.stop(grace=grace)

    def message(self, body: dict[str, Any], conversation: str, *, source: dict[str, Any] | None = None) -> None:
        """Take in a message; inside a transaction of the store it is kept with that.

        One with a `source` is held back until its file is fetched from there, and with it the later ones.
        """
        self._add(body, conversation, to_check=True, source=source)

    def event(self, name: str, *params: Any, conversation: str = "") -> None:
        """Take in an event, unless events are switched off (plugin_openwx_post_event)."""
        if self._options.plugin_openwx_post_event:
            body = {"post_type": "event", "event": name, "params": list(params)}
            self._add(body, conversation, to_check=name not in NOT_CHECKED)

    def announce(self) -> None:
        """Wake those who wait; to be called after a transaction that took something in."""
        with self._news:
            self._news.notify_all()
        self.poster.wake()
        self.held_back()

    def release(self, held: Held, body: dict[str, Any]) -> None:
        """Let a report go that was held back, as `body`; raises sqlite3.Error."""
        self._lost(self._store.held.release(held, body, self._keep))
        self.announce()

    def lend(self, still_there: Callable[[], bool] = lambda: True) -> list[Report]:
        """Return what check_event has not delivered, holding up to 30 s for something; to be settled afterwards.

        A caller who is not `still_there` when something comes gets nothing, so that the next one does.
        """

        def unlent() -> list[Report]:
            return [report for report in self._store.outbox.to_check() if report.number not in self._lent]

        with self._news:
            found = self._await(unlent, HOLD)
            if found and not still_there():
                return []
            self._lent.update(report.number for report in found)
            return found

    def settle(self, lent: list[Report], *, delivered: bool) -> None:
        """Forget what was delivered; what was not is there for the next caller."""
        if not lent:
            return
        numbers = [report.number for report in lent]
        try:
            if delivered:
                self._store.outbox.checked(numbers)
        except sqlite3.Error as ex:
            logger.error("delivered events stay", extra={"action": "check", "reason": str(ex)})
        finally:
            with self._news:
                self._lent.difference_update(numbers)
                self._news.notify_all()

    def after(self, id_: str) -> tuple[list[Report], bool]:
        """Return what came after the report `id_`, holding up to 30 s for something, for any number of readers.

        "" is before everything that is kept. Also tells whether some of it is not kept any more.
        """
        missed = False

        def later() -> list[Report]:
            nonlocal missed
            found, missed = self._store.outbox.after(id_)
            return found

        with self._news:
            return self._await(later, HOLD), missed

    def now(self, conversation: str) -> Moment:
        """Return a moment in a conversation, for next_message()."""
        return Moment(self._store.outbox.newest(), frozenset(self._store.held.ids(conversation)))

    def next_message(self, conversation: str, after: Moment, timeout: float) -> dict[str, Any] | None:
        """Return the first message received in a conversation after then, None if none comes in `timeout` seconds."""

        def received() -> list[Report]:
            found = [report for report in self._store.outbox.later(conversation, after.number) if _received(report)]
            return [report for report in found if report.body.get("id") not in after.held]

        with self._news:
            found = self._await(received, timeout)
        return found[0].body if found else None

    def bodies(self, found: Iterable[Report]) -> list[dict[str, Any]]:
        """Return what is answered of reports: with the content of files, as far as one answer can carry it."""
        left, bodies = reports.DATA_MOST, []
        for report in found:
            bodies.append(self._dressed(report.body, left))
            left -= len(bodies[-1].get("media_data", ""))
        return bodies

    def replay(self, number: int | None = None) -> int:
        """Post dead letters again, all or the one of that number; return how many.

        Raises CallFailed without post_api.
        """
        if not self._options.plugin_openwx_post_api:
            raise CallFailed("there is no post_api to post them to")
        found = self._store.outbox.replay(number)
        self.poster.retry()
        return found

    def _await(self, find: Callable[[], list[Report]], seconds: float) -> list[Report]:
        """Hold until something is found, so long at most; the lock of the news is held by the caller."""
        deadline = time.monotonic() + seconds
        while not (found := find()) and not self._stopping and (left := deadline - time.monotonic()) > 0:
            self._news.wait(left)
        return found

    def _add(
        self, body: dict[str, Any], conversation: str, *, to_check: bool, source: dict[str, Any] | None = None
    ) -> None:
        inside = self._store.in_transaction
        to_post = bool(self._options.plugin_openwx_post_api)
        given_up = 0
        try:
            with self._store.transaction():
                if source or self._store.held.holds(conversation):
                    self._store.held.hold(body, conversation, source, to_post=to_post, to_check=to_check)
                else:
                    given_up = self._store.outbox.add(
                        body, conversation, to_post=to_post, to_check=to_check, keep=self._keep
                    )
        except sqlite3.Error as ex:
            if inside:
                raise
            # What is reported has happened: a full disk must not make it fail afterwards.
            logger.error("report lost", extra={"action": "report", "reason": str(ex)})
            return
        self._lost(given_up)
        if not inside:
            self.announce()

    def _lost(self, given_up: int) -> None:
        if given_up:
            logger.error("reports given up", extra={"action": "report", "count": given_up})

    def _dressed(self, body: dict[str, Any], most: int) -> dict[str, Any]:
        return reports.dressed(body, most) if self._options.plugin_openwx_post_media_data else body


def _received(report: Report) -> bool:
    return bool(report.body["post_type"] == "receive_message")
