"""Taking in what people wrote, committed with the cursor that acknowledges it (ilink-protocol.md 5.3, 13.6)."""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

from wxsup.client.drivers.ilink import messages
from wxsup.client.drivers.ilink.fields import string, text_of
from wxsup.client.drivers.ilink.gate import Gate
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.events import Events
from wxsup.client.store import Store
from wxsup.options import Options

logger = logging.getLogger(__name__)

OWNER_NAME = "owner"


class Intake:
    """Keeps what one account receives, and makes reports of it."""

    def __init__(self, store: Store, events: Events, gate: Gate, options: Options) -> None:
        self._store = store
        self._events = events
        self._gate = gate
        self._options = options

    def user(self, current: Session) -> dict[str, Any]:
        """Return the account itself."""
        return messages.user_object(current.bot_id, self._options.ilink_label or self._options.account)

    def friends(self, current: Session) -> list[dict[str, Any]]:
        """Return all friends, and how they may be written to."""
        return [
            {**messages.friend_object(friend), **self._gate.outlook(friend)}
            for friend in self._store.people.friends(current.bot_id)
        ]

    def cursor(self, current: Session) -> str:
        """Return what covers all that is kept already."""
        return self._store.get(_cursor_key(current))

    def keep(self, current: Session, cursor: str, received: list[dict[str, Any]]) -> list[str]:
        """Commit messages together with the cursor that will acknowledge them; return who wrote something new.

        Raises sqlite3.Error, and then nothing is kept.
        """
        with self._store.transaction():
            new = [self._take_in(current, message) for message in received]
            if cursor != self.cursor(current):
                self._store.set(_cursor_key(current), cursor)
        senders = list(dict.fromkeys(filter(None, new)))
        if senders:
            self._events.announce()
        return senders

    def meet_owner(self, current: Session) -> None:
        """Remember to whom the client belongs, who is its first friend."""
        with self._store.transaction():
            self._store.set("owner", current.owner_hash)
            self._meet(current, current.user_id, OWNER_NAME)
        self._events.announce()

    def set_markname(self, current: Session, friend_id: str, name: str) -> None:
        """Call a friend `name` from now on."""
        with self._store.transaction():
            before = self._store.people.friend(current.bot_id, friend_id)
            self._store.people.mark(current.bot_id, friend_id, name)
            after = self._store.people.friend(current.bot_id, friend_id)
            if before and after and before.markname != name:
                params = (messages.friend_object(after), "markname", before.markname, name)
                self._events.event("friend_property_change", *params, conversation=friend_id)
        self._events.announce()

    def _take_in(self, current: Session, message: dict[str, Any]) -> str:
        """Keep a message and its reports; return who wrote it, "" if it is not a new one of a user."""
        sender = string(message.get("from_user_id"))
        if not sender or message.get("message_type") == messages.FROM_BOT:
            return ""
        if not self._store.people.remember(current.bot_id, messages.key_of(message), message):
            return ""
        if message.get("group_id"):  # not seen in practice (5.4): kept, and not taken for a friend's
            return ""
        self._meet(current, sender, sender[:8])
        self._store.people.heard(current.bot_id, sender, string(message.get("context_token")), time.time())
        self._gate.open(sender)
        friend = self._store.people.friend(current.bot_id, sender)
        assert friend
        outlook = self._gate.outlook(friend)
        said = functools.partial(self._store.people.said, current.bot_id)
        for found in messages.received(message, messages.friend_object(friend), self.user(current), said):
            source = found.source if self._options.download_media else None
            self._store.people.say(current.bot_id, text_of(found.body["id"]), found.body["content"])
            self._events.message({**found.body, **outlook}, sender, source=source)
        logger.info("message received", extra={"action": "receive", "sender": sender[:8]})
        return sender

    def _meet(self, current: Session, id_: str, name: str) -> None:
        """Make somebody a friend, unless they are; inside a transaction."""
        friend = self._store.people.meet(current.bot_id, id_, name)
        if friend:
            self._events.event("new_friend", messages.friend_object(friend), conversation=id_)


def _cursor_key(session: Session) -> str:
    return f"cursor:{session.bot_id}"
