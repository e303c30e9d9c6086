"""Writing to friends, one part at a time, as WeChat's rules allow (ilink-protocol.md 8)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from wxsup.client import filetypes
from wxsup.client.drivers.ilink import messages
from wxsup.client.drivers.ilink.cdn import Cdn, Uploaded
from wxsup.client.drivers.ilink.fields import text_of
from wxsup.client.drivers.ilink.gate import Gate
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, Throttled, TokenDead, Wire
from wxsup.client.http import NotConnected, TransportError
from wxsup.client.letters import Part
from wxsup.client.media import Media
from wxsup.client.store import Store
from wxsup.client.store.people import Friend
from wxsup.errors import (
    ContentRejected,
    DeliveryUnknown,
    MediaUploadFailed,
    NotLoggedIn,
    NotSent,
    ObjectNotFound,
    RateLimited,
)
from wxsup.options import Options

UPLOAD_TIMEOUT = 60.0  # of what prepare() has done already, as a rule
REUSE = 3600.0  # seconds for which a file at the CDN serves again


@dataclass(frozen=True)
class _Place:
    """What a kind of file is to sendmessage, an item type, and to getuploadurl, a media_type (7.2, 9.1)."""

    item: int
    upload: int


# A voice goes out as a file: phones do not show it else (9.1).
_PLACES = {filetypes.IMAGE: _Place(2, 1), filetypes.VIDEO: _Place(5, 2), filetypes.FILE: _Place(4, 3)}
_PLACES |= {filetypes.EMOTICON: _PLACES[filetypes.IMAGE], filetypes.MICROVIDEO: _PLACES[filetypes.VIDEO]}


class Sender:
    """Sends for the session that `current()` returns at that time."""

    def __init__(
        self, wire: Wire, cdn: Cdn, gate: Gate, options: Options, store: Store, current: Callable[[], Session]
    ) -> None:
        self._cdn = cdn
        self._there: dict[tuple[str, str, str], tuple[float, Uploaded]] = {}
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

    def prepare(self, friend_id: str, part: Part, deadline: float) -> None:
        """Have the file of a part at the CDN."""
        if part.media:
            self._uploaded(self._current(), friend_id, part.media, deadline)

    def send_part(self, friend_id: str, part: Part, client_id: str) -> dict[str, Any]:
        """Send one message, for which there is a claim, and return the fields of the reply."""
        current, friend = self._current(), self._friend(friend_id)
        message = {
            "from_user_id": "",
            "to_user_id": friend_id,
            "client_id": client_id,
            "message_type": messages.FROM_BOT,
            "message_state": 2,
            "item_list": [self._item(current, friend_id, part)],
            "context_token": friend.context_token or "",
        }
        try:
            reply = self._wire.send_message(current.base_url, current.token, message)
        except NotConnected as ex:
            raise NotSent(str(ex), client_id=client_id, ret=None, errmsg=None, retryable=True) from ex
        except Throttled as ex:
            wait = int(ex.retry_after)
            raise RateLimited(client_id=client_id, ret=None, errmsg=str(ex), retryable=True, retry_after=wait) from ex
        except TransportError as ex:
            raise DeliveryUnknown(str(ex), client_id=client_id, ret=None, errmsg=None, retryable=False) from ex
        except ApiError as ex:
            unclaimed = replace(friend, sent_since=max(0, friend.sent_since - 1))
            raise self._gate.refusal(current.bot_id, unclaimed, ex, client_id) from ex
        self._gate.open(friend_id)
        message_id = text_of(reply.get("message_id"))
        if message_id:
            self._store.people.say(current.bot_id, message_id, part.content)
        id_ = message_id or client_id
        return {
            "id": id_,
            "msg_id": id_,
            "message_id": message_id,
            "client_id": client_id,
            "delivery": "accepted",
            "sends_left": self._gate.outlook(friend)["sends_left"],
        }

    def _item(self, current: Session, friend_id: str, part: Part) -> dict[str, Any]:
        if part.media is None:
            return {"type": messages.TEXT, "text_item": {"text": part.text}}
        place = _place(part.media)
        uploaded = self._uploaded(current, friend_id, part.media, time.monotonic() + UPLOAD_TIMEOUT)
        at, size = uploaded.media, uploaded.size
        if place is _PLACES[filetypes.IMAGE]:
            return {"type": place.item, "image_item": {"media": at, "mid_size": size}}
        if place is _PLACES[filetypes.VIDEO]:
            return {"type": place.item, "video_item": {"media": at, "video_size": size}}
        return {
            "type": place.item,
            "file_item": {"media": at, "file_name": part.media.name, "len": str(part.media.size)},
        }

    def _uploaded(self, current: Session, friend_id: str, file: Media, deadline: float) -> Uploaded:
        """Bring a file to the CDN, unless it is there for this friend: nobody knows whether another could have it."""
        now = time.monotonic()
        self._there = {key: entry for key, entry in self._there.items() if now - entry[0] < REUSE}
        key = (current.bot_id, friend_id, file.id)
        if found := self._there.get(key):
            return found[1]

        def ticket(fields: dict[str, Any]) -> dict[str, Any]:
            told = {**fields, "media_type": _place(file).upload, "to_user_id": friend_id}
            return self._wire.get_upload_url(current.base_url, current.token, told)

        try:
            uploaded = self._cdn.upload(file.path, ticket, deadline)
        except TokenDead as ex:
            raise NotLoggedIn("the login is lost", ret=ex.ret, errmsg=ex.errmsg, retryable=False) from ex
        except ApiError as ex:
            raise MediaUploadFailed(str(ex), ret=ex.ret, errmsg=ex.errmsg, retryable=False) from ex
        except TransportError as ex:
            raise MediaUploadFailed(str(ex), ret=None, errmsg=None, retryable=True) from ex
        except OSError as ex:
            raise ContentRejected(f"media file read error: {ex.strerror}", retryable=False) from ex
        self._there[key] = (now, uploaded)
        return uploaded

    def _friend(self, friend_id: str) -> Friend:
        friend = self._store.people.friend(self._current().bot_id, friend_id)
        if friend is None:
            raise ObjectNotFound(id=None)
        return friend


def _place(file: Media) -> _Place:
    return _PLACES.get(file.kind, _PLACES[filetypes.FILE])
