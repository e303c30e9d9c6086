"""Reports to post_api: at least once, in order per conversation, through whatever its receiver does (openwx-api.md 6).

A report that is not taken is tried again and holds up only its own conversation; after a while it is a dead letter.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

from wxsup.client.backoff import longer
from wxsup.client.http import Answer, Http, TransportError
from wxsup.client.pulse import Pulse
from wxsup.client.store import Store
from wxsup.client.store.outbox import Report
from wxsup.options import Options

logger = logging.getLogger(__name__)

POST_TIMEOUT = 35.0
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
OVERDUE = 60.0  # for so long those that were refused give way to the others
JSON_TYPES = ("application/json", "text/json")


class Poster:
    """Posts what the store keeps for post_api, as `dressed()` completes it, signed with `key` if there is one.

    `replied(report, text, media)` is called, in the transaction that notes the report as taken, when its receiver
    answered a received message with something to send back; what it returns is called after the commit.
    """

    def __init__(
        self, store: Store, options: Options, key: str, dressed: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self._store = store
        self._dressed = dressed
        self._options = options
        self._key = key.encode()
        self._http = Http(keep=True)
        self._news = threading.Condition()
        self._stopping = False
        self._pauses: dict[str, float] = {}  # of conversations whose oldest report was not taken
        self._due: dict[str, float] = {}
        self._calm_until, self._calm = 0.0, 0.0  # of all, while nothing at all is taken
        self._taken: tuple[int, str, str] | None = None
        self._thread = threading.Thread(target=self._run, name="post", daemon=True)
        self.pulse = Pulse()
        self.replied: Callable[[dict[str, Any], str, str], Callable[[], None]] = lambda report, text, media: _nothing

    def start(self) -> None:
        """Begin to post."""
        self._thread.start()

    def wake(self) -> None:
        """Look for reports; to be called by nobody who holds the store."""
        with self._news:
            self._news.notify_all()

    def stop(self, *, grace: float) -> None:
        """Post what is left for at most `grace` seconds; the rest stays for the next start."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(grace)
        self._http.close()

    def retry(self) -> None:
        """Try at once what waits to be tried again."""
        with self._news:
            self._due.clear()
            self._calm_until = 0.0
            self._news.notify_all()

    def _run(self) -> None:
        conversation = ""
        while True:
            try:
                report = self._next()
                if report is None:
                    return
                conversation = report.conversation
                self._deliver(report)
            except sqlite3.Error as ex:
                self._fail("", f"store: {ex}")
            except Exception:  # a defect must not stop all other reports
                logger.exception("post failed", extra={"action": "post"})
                self._fail(conversation, "internal error")

    def _next(self) -> Report | None:
        """Wait for a report whose turn it is; return None when we stop and none is left to be tried."""
        self.pulse.rest()
        with self._news:
            while True:
                now = time.monotonic()
                report = self._find(now) if now >= self._calm_until else None
                if report or self._stopping:
                    return report
                later = [due for due in (*self._due.values(), self._calm_until) if due > now]
                self._news.wait(min(later) - now if later else None)

    def _find(self, now: float) -> Report | None:
        # First a conversation that was not refused: one that was may hold up all of them for POST_TIMEOUT.
        giving_way = {name for name, due in self._due.items() if due > now - OVERDUE}
        untried = self._store.outbox.next_to_post(giving_way)
        return untried or self._store.outbox.next_to_post({name for name, due in self._due.items() if due > now})

    def _deliver(self, report: Report) -> None:
        # Taken is taken, also when the store could not be told.
        if self._taken is None or self._taken[0] != report.number:
            self.pulse.within(POST_TIMEOUT)
            try:
                answer = self._post(report)
            except TransportError as ex:
                self._fail(report.conversation, str(ex))
                return
            if not 200 <= answer.status < 300:
                self._fail(report.conversation, f"HTTP {answer.status}")
                return
            self._taken = (report.number, *_reply(report, answer))
        _, text, media = self._taken
        after = _nothing
        with self._store.transaction():
            self._store.outbox.posted(report.number)
            if text or media:
                after = self.replied(report.body, text, media)
        after()
        self._pauses.pop(report.conversation, None)
        self._due.pop(report.conversation, None)
        self._calm = 0.0

    def _post(self, report: Report) -> Answer:
        body = json.dumps(self._dressed(report.body), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "X-Event-Id": report.id}
        if self._key:
            timestamp = str(int(time.time()))
            headers |= {"X-Timestamp": timestamp, "X-Signature": signature(self._key, timestamp, body)}
        url = self._options.plugin_openwx_post_api
        return self._http.request("POST", url, body=body, headers=headers, timeout=POST_TIMEOUT)

    def _fail(self, conversation: str, reason: str) -> None:
        """Hold back a conversation for a while, and all of them for as long as nothing is taken."""
        pause = self._pauses[conversation] = longer(self._pauses.get(conversation, 0.0), RETRY_FIRST, RETRY_MOST)
        now, self._calm = time.monotonic(), longer(self._calm, RETRY_FIRST, RETRY_MOST)
        with self._news:
            self._due[conversation] = now + pause * random.uniform(0.8, 1.2)
            self._calm_until = now + self._calm * random.uniform(0.8, 1.2)
        if self._stopping:
            return
        logger.warning("report not taken", extra={"action": "post", "reason": reason, "retry_in": pause})
        try:
            given_up = self._store.outbox.give_up(self._options.post_max_age)
        except sqlite3.Error as ex:
            logger.error("old reports stay", extra={"action": "post", "reason": str(ex)})
            return
        if given_up:
            logger.error("reports given up", extra={"action": "post", "count": given_up})


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """Return the X-Signature of a POST: HMAC-SHA256 (RFC 2104) over ``TIMESTAMP.BODY``, in hexadecimal digits."""
    return hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _reply(report: Report, answer: Answer) -> tuple[str, str]:
    """Return the text and the media that a receiver wants sent back, "" for neither (openwx-api.md 6.6)."""
    # Never to reports of what was sent: a receiver that answers everything would talk to itself for ever.
    if report.body.get("post_type") != "receive_message" or answer.headers.get_content_type() not in JSON_TYPES:
        return "", ""
    try:
        # Half a surrogate pair is no text that could be kept or sent.
        said = json.loads(json.dumps(json.loads(answer.body or b"{}"), ensure_ascii=False).encode(errors="replace"))
        found = (said.get("reply") or "", said.get("media") or "") if isinstance(said, dict) else ("", "")
        if not all(isinstance(part, str) for part in found):
            raise ValueError("reply and media must be texts")
        return found
    except (ValueError, RecursionError):
        logger.warning("answer ignored", extra={"action": "post", "reason": "it is no JSON that could be a reply"})
        return "", ""


def _nothing() -> None:
    """Do nothing."""
