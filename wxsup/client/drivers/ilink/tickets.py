"""Typing: the friend sees that an answer is being written (ilink-protocol.md 10)."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from wxsup.client.backoff import longer
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, TokenDead, Wire
from wxsup.client.http import TransportError
from wxsup.client.store.people import Friend
from wxsup.errors import NotLoggedIn, RateLimited, RemoteRefusal

LIFE = 24 * 3600.0
RETRY_FIRST, RETRY_MOST = 2.0, 3600.0
TYPING, DONE = 1, 2


@dataclass
class _Ticket:
    """A ticket, or the pause after none was given."""

    text: str
    until: float
    pause: float = 0.0


class Tickets:
    """The tickets that typing needs, one for each friend."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._tickets: dict[tuple[str, str], _Ticket] = {}
        self._guard = threading.Lock()

    def type(self, current: Session, friend: Friend, typing: bool) -> None:
        """Show `friend` that we type, or no longer; raise CallFailed when that is not possible."""
        ticket = self._ticket(current, friend)
        try:
            self._wire.send_typing(current.base_url, current.token, friend.id, ticket, TYPING if typing else DONE)
        except TokenDead as ex:
            raise NotLoggedIn("the login is lost") from ex
        except (ApiError, TransportError) as ex:
            with self._guard:
                self._tickets.pop((current.bot_id, friend.id), None)  # perhaps it was the ticket
            raise RemoteRefusal(str(ex)) from ex

    def _ticket(self, current: Session, friend: Friend) -> str:
        key, now = (current.bot_id, friend.id), time.monotonic()
        with self._guard:
            known = self._tickets.get(key)
        if known and now < known.until:
            if known.text:
                return known.text
            raise RateLimited("there was no ticket for typing", retry_after=int(known.until - now) + 1)
        try:
            reply = self._wire.get_config(current.base_url, current.token, friend.id, friend.context_token or "")
            ticket = reply.get("typing_ticket")
            if reply.get("ret") != 0 or not isinstance(ticket, str) or not ticket:  # absent is no success here (2.3)
                raise TransportError("the answer has no ticket")
        except TokenDead as ex:
            raise NotLoggedIn("the login is lost") from ex
        except (ApiError, TransportError) as ex:
            pause = longer(known.pause if known else 0.0, RETRY_FIRST, RETRY_MOST)
            with self._guard:
                self._tickets[key] = _Ticket("", now + pause, pause)
            raise RemoteRefusal(f"there is no ticket for typing: {ex}", retry_after=int(pause) + 1) from ex
        with self._guard:
            self._tickets[key] = _Ticket(ticket, now + random.uniform(0.0, LIFE))
        return ticket
