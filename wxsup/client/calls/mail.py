"""Sending: texts and files, to one friend or to all, and asking for an answer (openwx-api.md 3.3, 3.6, 3.7)."""

from __future__ import annotations

import re
import time
from typing import Any

from wxsup.client.calls import Call, Calls
from wxsup.client.calls.contacts import Contacts
from wxsup.client.calls.uploads import Uploads
from wxsup.client.drivers import Driver
from wxsup.client.events import Events
from wxsup.client.letters import Part
from wxsup.client.sendqueue import SendQueue
from wxsup.errors import CallFailed, ContentRejected, ObjectNotFound

ALL = "@all"
CONSULT_TIMEOUT, CONSULT_MOST = 30.0, 100.0
CONSULT_LONGEST = 140.0  # with the sending; the controller gives up after 150 s
#: Of a file that could not be stored, in the form of the original (openwx-api.md 3.6).
NO_MEDIA = dict.fromkeys(
    f"media_{name}" for name in ("id", "code", "type", "path", "name", "size", "mime", "ext", "mtime")
)


class Mail:
    """Sends for one account."""

    def __init__(
        self, driver: Driver, queue: SendQueue, events: Events, *, contacts: Contacts, uploads: Uploads
    ) -> None:
        self._driver = driver
        self._queue = queue
        self._events = events
        self._contacts = contacts
        self._uploads = uploads

    def calls(self) -> Calls:
        """Return what is answered here and needs a login."""
        return {
            "send_friend_message": self._send_friend_message,
            "send_group_message": self._send_group_message,
            "consult": self._consult,
            "send_typing": self._send_typing,
        }

    def calls_without_login(self) -> Calls:
        """Return what is answered here in every state."""
        return {"upload_media": self._upload_media, "get_media": self._uploads.get_media}

    def _send_friend_message(self, call: Call) -> dict[str, Any]:
        if call.get("id") == ALL:
            return self._send_to_all(call)
        friend = self._contacts.friend(call.parameters)
        parts = self._parts(call)
        try:
            if call.truthy("async"):
                client_id = self._queue.promise(friend, parts)
                shown = {"media_id": parts[-1].media.id} if parts[-1].media else {}
                return {"code": 0, "status": "request already in execution", "client_id": client_id, **shown}
            return {"code": 0, "status": "success", **self._queue.send(friend, parts)}
        except CallFailed as ex:
            ex.fields.setdefault("id", None)
            if parts[-1].media or parts[-1].url:
                ex.fields["media_id"] = ""
            raise

    def _send_to_all(self, call: Call) -> dict[str, Any]:
        """Promise it to every friend who may be written to; the others are skipped, never forced."""
        parts = self._parts(call)
        queued = skipped = 0
        for friend in self._driver.friends():
            try:
                self._queue.promise(friend, parts)
                queued += 1
            except CallFailed:
                skipped += 1
        return {"id": 0, "code": 0, "status": "request already executed", "queued": queued, "skipped": skipped}

    def _send_group_message(self, call: Call) -> dict[str, Any]:
        raise ObjectNotFound(id=None)

    def _upload_media(self, call: Call) -> dict[str, Any]:
        try:
            media = self._uploads.media(call)
            if media is None:
                raise ContentRejected("invaild media: media_path, media_data or media_id is needed")
        except CallFailed as ex:
            return {**NO_MEDIA, **ex.body()}
        return {**media.fields(), "media_code": str(media.kind.code)}

    def _consult(self, call: Call) -> dict[str, Any]:
        """Send, and wait for the friend's next message."""
        began, timeout = time.monotonic(), _seconds(call.get("timeout"))
        friend = self._contacts.friend(call.parameters)
        parts = self._parts(call)
        before = self._events.now(friend["id"])
        sent = self._queue.send(friend, parts)
        left = CONSULT_LONGEST - (time.monotonic() - began)
        answer = self._events.next_message(friend["id"], before, min(timeout, left))
        if answer is None:
            return {
                "reply": None,
                "reply_status": "reply timeout",
                "id": sent["id"],
                "msg_id": sent["id"],
                "code": 0,
                "status": "success",
            }
        return {"reply": answer["content"], "id": answer["id"], "msg_id": answer["id"], "code": None, "status": None}

    def _send_typing(self, call: Call) -> dict[str, Any]:
        status = call.get("status") or "1"
        if status not in ("1", "2"):
            raise ContentRejected("status must be 1, typing, or 2, not any more")
        self._driver.send_typing(self._contacts.friend(call.parameters)["id"], status == "1")
        return {"code": 0, "status": "success"}

    def _parts(self, call: Call) -> list[Part]:
        """Return all that is to be sent: first the text, then the file, which is there but for who does not wait."""
        file = self._uploads.part(call, later=call.truthy("async"))
        content = call.get("content")
        if file is None and "content" not in call.parameters:
            raise ContentRejected("there is neither content nor media")
        texts = self._driver.parts(content) if content or file is None else []
        return [*(Part(text=text) for text in texts), *([file] if file else [])]


def _seconds(value: str) -> float:
    if not value:
        return CONSULT_TIMEOUT
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", value):
        raise ContentRejected("timeout must be a number of seconds")
    return min(float(value), CONSULT_MOST)
