"""Delivery of messages and events: to post_api in order and again until it is taken, to check_event on demand.

Reports lie in the store until they are delivered, so neither a slow receiver nor a crash loses one.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

from wxsup.client.http import Http, TransportError
from wxsup.client.pulse import Pulse
from wxsup.client.store import Store
from wxsup.options import Options

logger = logging.getLogger(__name__)

HOLD = 30.0  # openwx-api.md 5
POST_TIMEOUT = 35.0
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
# openwx-api.md 5: these never show in check_event.
NOT_CHECKED = frozenset({"login", "stop", "state_change", "input_qrcode", "input_verifycode"})


class Events:
    """Takes reports in, and gives them out.

    Those who wait for news ask the store meanwhile, so nobody may announce news while holding the store.
    """

    def __init__(self, store: Store, options: Options) -> None:
        self._store = store
        self._options = options
        self._news = threading.Condition()
        self._lent: set[int] = set()
        self._stopping = False
        self._http = Http(keep=True)
        self._heart_http = Http()
        self._posted = 0
        self.pulse = Pulse()
        self._poster = threading.Thread(target=self._post_all, name="post", daemon=True)
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to post, and to ask poll_api."""
        if self._options.plugin_openwx_post_api:
            self._poster.start()
        if self._options.plugin_openwx_poll_api:
            self._heart.start()

    def stop(self, *, grace: float) -> None:
        """Post what is left for at most `grace` seconds; the rest stays for the next start."""
        self._stopping = True
        self.announce()
        if self._poster.is_alive():
            self._poster.join(grace)
        self._http.close()
        self._heart_http.close()

    def message(self, body: dict[str, Any]) -> None:
        """Take in a message; inside a transaction of the store it is kept with that."""
        self._add(body, to_check=True)

    def event(self, name: str, *params: Any) -> None:
        """Take in an event, unless events are switched off (plugin_openwx_post_event)."""
        if self._options.plugin_openwx_post_event:
            self._add({"post_type": "event", "event": name, "params": list(params)}, to_check=name not in NOT_CHECKED)

    def announce(self) -> None:
        """Wake those who wait; to be called after a transaction that took something in."""
        with self._news:
            self._news.notify_all()

    def lend(self, still_there: Callable[[], bool] = lambda: True) -> list[tuple[int, str]]:
        """Return what check_event has not delivered, holding up to 30 s for something; to be settled afterwards.

        A caller who is not `still_there` when something comes gets nothing, so that the next one does.
        """
        deadline = time.monotonic() + HOLD
        with self._news:
            while True:
                found = [event for event in self._store.events_to_check() if event[0] not in self._lent]
                left = deadline - time.monotonic()
                if found and not still_there():
                    return []
                if found or left <= 0 or self._stopping:
                    self._lent.update(number for number, _ in found)
                    return found
                self._news.wait(left)

    def settle(self, lent: list[tuple[int, str]], *, delivered: bool) -> None:
        """Forget what was delivered; what was not is there for the next caller."""
        if not lent:
            return
        numbers = [number for number, _ in lent]
        try:
            if delivered:
                self._store.checked(numbers)
        except sqlite3.Error as ex:
            logger.error("delivered events stay", extra={"action": "check", "reason": str(ex)})
        finally:
            with self._news:
                self._lent.difference_update(numbers)
                self._news.notify_all()

    def _add(self, body: dict[str, Any], *, to_check: bool) -> None:
        inside = self._store.in_transaction
        try:
            self._store.add_event(
                body,
                to_post=bool(self._options.plugin_openwx_post_api),
                to_check=to_check,
                check_limit=self._options.check_event_list_max_size,
            )
        except sqlite3.Error as ex:
            if inside:
                raise
            # What is reported has happened: a full disk must not make it fail afterwards.
            logger.error("report lost", extra={"action": "report", "reason": str(ex)})
            return
        if not inside:
            self.announce()

    def _post_all(self) -> None:
        """Post one after the other; the one that is not taken is tried again, and holds up only its followers."""
        pause = 0.0
        while True:
            try:
                reason = self._post_next()
            except sqlite3.Error as ex:
                reason = f"store: {ex}"
            if reason is None:
                return
            if not reason:
                pause = 0.0
                continue
            if self._stopping:
                return
            pause = min(max(RETRY_FIRST, 2 * pause), RETRY_MOST)
            logger.warning("report not taken", extra={"action": "post", "reason": reason, "retry_in": pause})
            self.pulse.within(2 * pause)
            with self._news:
                self._news.wait_for(lambda: self._stopping, pause * random.uniform(0.8, 1.2))

    def _post_next(self) -> str | None:
        """Wait for a report and post it; return why it was not taken, "" if it was, None when all is done."""
        self.pulse.rest()
        with self._news:
            self._news.wait_for(lambda: self._stopping or self._store.event_to_post() is not None)
        self.pulse.within(POST_TIMEOUT)
        waiting = self._store.event_to_post()
        if waiting is None:
            return None
        number, body = waiting
        # Taken is taken, also when the store could not be told.
        reason = "" if number == self._posted else self._post(body)
        if not reason:
            self._posted = number
            self._store.posted(number)
        return reason

    def _post(self, body: str) -> str:
        """Post one report; return why it was not taken, "" if it was."""
        try:
            answer = self._http.request(
                "POST",
                self._options.plugin_openwx_post_api,
                body=body.encode(),
                headers={"Content-Type": "application/json"},
                timeout=POST_TIMEOUT,
            )
        except TransportError as ex:
            return str(ex)
        return "" if 200 <= answer.status < 300 else f"HTTP {answer.status}"

    def _beat(self) -> None:
        """Ask poll_api again and again (openwx-api.md 7); what it answers is of no interest, redirects included."""
        while not self._stopping:
            try:
                self._heart_http.request("GET", self._options.plugin_openwx_poll_api, headers={}, timeout=POST_TIMEOUT)
            except TransportError as ex:
                logger.debug("heartbeat failed", extra={"action": "poll", "reason": str(ex)})
            with self._news:
                self._news.wait_for(lambda: self._stopping, self._options.plugin_openwx_poll_interval)


def as_list(lent: list[tuple[int, str]]) -> list[Any]:
    """Return lent events as the list that check_event answers with."""
    return [json.loads(body) for _, body in lent]
