"""What a receiver of reports wants sent back to who wrote (openwx-api.md 6.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wxsup.client import reports
from wxsup.client.drivers import Driver
from wxsup.client.events import Events
from wxsup.client.letters import Part, new_id
from wxsup.client.sendqueue import SendQueue
from wxsup.errors import CallFailed, ContentRejected

URLS = ("http://", "https://")  # a path would be one of the receiver's machine


class Answers:
    """Takes answers of receivers; what cannot be sent is reported as such."""

    def __init__(self, driver: Driver, queue: SendQueue, events: Events) -> None:
        self._driver = driver
        self._queue = queue
        self._events = events

    def take(self, report: dict[str, Any], text: str, media: str) -> Callable[[], None]:
        """Promise what answers a received message; return what to call once the transaction is committed."""
        us, friend = reports.party(report, "receiver"), reports.party(report, "sender")
        parts = [Part(part) for part in self._driver.parts(text)] if text else []
        if media.startswith(URLS):
            parts.append(Part(url=media))
        elif media:
            self._tell(us, friend, [Part(media)], ContentRejected("media must be an http or https URL"))
        letter = None
        if parts:
            try:
                letter = self._queue.enclose(us, friend, parts)
            except CallFailed as ex:
                self._tell(us, friend, parts, ex)
            else:
                self._queue.keep(letter)

        def committed() -> None:
            if letter:
                self._queue.put(letter)
            self._events.announce()

        return committed

    def _tell(self, sender: dict[str, Any], receiver: dict[str, Any], parts: list[Part], ex: CallFailed) -> None:
        id_ = new_id()
        self._events.message(reports.sent(id_, id_, parts, sender, receiver, ex), str(receiver["id"]))
