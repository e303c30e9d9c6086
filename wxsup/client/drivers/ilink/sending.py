"""Writing to friends, one part at a time, as WeChat's rules allow (ilink-protocol.md 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from wxsup.client.drivers.ilink import messages
from wxsup.client.drivers.ilink.gate import Gate
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, Wire
from wxsup.client.http import NotConnected, TransportError
from wxsup.client.store import Friend, Store
from wxsup.errors import ContentRejected, DeliveryUnknown, NotSent, ObjectNotFound
from wxsup.options import Options


class Sender:
    """Sends for the session that `current()` returns at that time."""

    def __init__(self, wire: Wire, gate: Gate, options: Options, store: Store, current: Callable[[], Session]) -> None:
        self._wire = wire
        self._gate = gate
        self._limit = options.ilink_text_limit
        self._store = store
        self._current = current
        self._claimed_of = ""  # the bot that the last claim was for

    def parts(self, content: str) -> list[str]:
        """Cut a text into messages; raise ContentRejected for an empty one."""
        if not content:
            raise ContentRejected("the content is empty")
        return messages.split(content, self._limit)

    def admit(self, friend_id: str, count: int) -> None:
        """Raise what forbids so many sends now."""
        self._gate.admit(self._friend(friend_id), count)

    def claim(self, friend_id: str, count: int) -> None:
        """Count one send, unless so many would not be admitted."""
        self.admit(friend_id, count)
        self._claimed_of = self._current().bot_id
        self._gate.claim(self._claimed_of, friend_id)

    def give_back(self, friend_id: str) -> None:
        """Take back a claim of which nothing came."""
        self._gate.give_back(self._claimed_of, friend_id)

    def send_part(self, friend_id: str, text: str, client_id: str) -> dict[str, Any]:
        """Send one message, for which there is a claim, and return the fields of the reply."""
        current, friend = self._current(), self._friend(friend_id)
        message = {
            "from_user_id": "",
            "to_user_id": friend_id,
            "client_id": client_id,
            "message_type": messages.FROM_BOT,
            "message_state": 2,
            "item_list": [{"type": messages.TEXT, "text_item": {"text": text}}],
            "context_token": friend.context_token or "",
        }
        try:
            reply = self._wire.send_message(current.base_url, current.token, message)
        except NotConnected as ex:
            raise NotSent(str(ex), client_id=client_id, ret=None, errmsg=None, retryable=True) from ex
        except TransportError as ex:
            raise DeliveryUnknown(str(ex), client_id=client_id, ret=None, errmsg=None, retryable=False) from ex
        except ApiError as ex:
            unclaimed = replace(friend, sent_since=max(0, friend.sent_since - 1))
            raise self._gate.refusal(current.bot_id, unclaimed, ex, client_id) from ex
        self._gate.open(friend_id)
        message_id = str(reply.get("message_id") or "")
        id_ = message_id or client_id
        return {
            "id": id_,
            "msg_id": id_,
            "message_id": message_id,
            "client_id": client_id,
            "delivery": "accepted",
            "sends_left": self._gate.outlook(friend)["sends_left"],
        }

    def _friend(self, friend_id: str) -> Friend:
        friend = self._store.friend(self._current().bot_id, friend_id)
        if friend is None:
            raise ObjectNotFound(id=None)
        return friend
