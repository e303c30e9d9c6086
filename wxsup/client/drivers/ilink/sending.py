"""Writing to friends: one message at a time, spaced out, and as WeChat's rules allow (ilink-protocol.md 8)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wxsup.client.drivers.ilink import messages
from wxsup.client.drivers.ilink.gate import Gate
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, Wire
from wxsup.client.events import Events
from wxsup.client.http import NotConnected, TransportError
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Friend, Store
from wxsup.errors import ContentRejected, DeliveryUnknown, NotLoggedIn, ObjectNotFound, RateLimited
from wxsup.options import Options

logger = logging.getLogger(__name__)

PATIENCE = 100.0  # for one's turn and all pauses; the controller gives up after 150 s


class Sender:
    """Sends for the session that `current()` returns at that time; `stopped` ends a wait for one's turn."""

    def __init__(
        self,
        wire: Wire,
        gate: Gate,
        options: Options,
        state: LoginState,
        store: Store,
        events: Events,
        current: Callable[[], Session],
        stopped: threading.Event,
    ) -> None:
        self._wire = wire
        self._gate = gate
        self._options = options
        self._state = state
        self._store = store
        self._events = events
        self._current = current
        self._stopped = stopped
        self._turn = threading.Lock()
        self._sent_at = -options.send_interval

    def send(self, receiver: dict[str, Any], content: str) -> dict[str, Any]:
        """Send a text, in parts if it is long: all of them or, where the gate forbids it, none."""
        if not content:
            raise ContentRejected("the content is empty")
        parts = messages.split(content, self._options.ilink_text_limit)
        deadline = time.monotonic() + PATIENCE
        with self._in_turn():
            self._check_time(len(parts), deadline)
            current = self._current()
            friend = self._store.friend(current.bot_id, receiver["id"])
            if friend is None:
                raise ObjectNotFound(id=None)
            self._gate.enter(current.bot_id, friend, len(parts))
            for number, part in enumerate(parts):
                reply = self._send_part(current, friend, receiver, part, unsent=len(parts) - number)
            friend = self._store.friend(current.bot_id, friend.id) or friend
        return {**reply, "parts": len(parts), "sends_left": self._gate.outlook(friend)["sends_left"]}

    def _send_part(
        self, current: Session, friend: Friend, receiver: dict[str, Any], part: str, *, unsent: int
    ) -> dict[str, Any]:
        client_id = f"wx-{int(time.time() * 1000)}-{os.urandom(4).hex()}"
        bot_id = current.bot_id
        message = {
            "from_user_id": "",
            "to_user_id": friend.id,
            "client_id": client_id,
            "message_type": messages.FROM_BOT,
            "message_state": 2,
            "item_list": [{"type": messages.TEXT, "text_item": {"text": part}}],
            "context_token": friend.context_token or "",
        }
        try:
            self._space_out()
            reply = self._wire.send_message(current.base_url, current.token, message)
        except NotLoggedIn:
            self._gate.give_back(bot_id, friend, unsent)
            raise
        except TransportError as ex:
            nothing_sent = isinstance(ex, NotConnected)
            self._gate.give_back(bot_id, friend, unsent if nothing_sent else unsent - 1)
            raise DeliveryUnknown(str(ex), client_id=client_id, ret=None, errmsg=None, retryable=nothing_sent) from ex
        except ApiError as ex:
            self._gate.give_back(bot_id, friend, unsent)
            raise self._gate.refusal(bot_id, friend, ex, client_id) from ex
        message_id = str(reply.get("message_id") or "")
        id_ = message_id or client_id
        user = messages.user_object(bot_id, self._options.ilink_label or self._options.account)
        self._events.message(messages.sent(id_, client_id, part, user, receiver))
        self._state.note(last_outbound_at=int(time.time()))
        logger.info("message sent", extra={"action": "send", "receiver": friend.id[:8]})
        return {"id": id_, "msg_id": id_, "message_id": message_id, "client_id": client_id, "delivery": "accepted"}

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=PATIENCE):
            raise RateLimited("others are being sent", retryable=True, retry_after=int(PATIENCE))
        try:
            yield
        finally:
            self._turn.release()

    def _check_time(self, parts: int, deadline: float) -> None:
        """Refuse what would still be sent when its caller has given up, and perhaps has sent it again."""
        interval, now = self._options.send_interval, time.monotonic()
        wait = max(0.0, self._sent_at + interval - now) + (parts - 1) * interval
        if now + wait > deadline:
            raise RateLimited("it would take too long at this send_interval", retryable=True, retry_after=int(wait) + 1)

    def _space_out(self) -> None:
        wait = self._sent_at + self._options.send_interval - time.monotonic()
        if self._stopped.wait(max(0.0, wait)):
            raise NotLoggedIn("the client is stopping", state=Login.STOP.value)
        self._sent_at = time.monotonic()
