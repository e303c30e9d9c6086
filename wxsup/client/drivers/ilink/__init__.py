"""The driver for Tencent's bot channel (ilink-protocol.md): log in, receive, send."""

from __future__ import annotations

import base64
import logging
import os
import random
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from wxsup.client.drivers import Driver
from wxsup.client.drivers.ilink import messages, session
from wxsup.client.drivers.ilink.gate import Gate
from wxsup.client.drivers.ilink.login import QrLogin
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, TokenDead, Wire
from wxsup.client.events import Events
from wxsup.client.http import TransportError, TransportTimeout
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Friend, Store
from wxsup.errors import ContentRejected, DeliveryUnknown, NotLoggedIn
from wxsup.model import Exit
from wxsup.options import Options

logger = logging.getLogger(__name__)

HOLD, HOLD_LEAST, HOLD_MOST = 35.0, 5.0, 120.0
RETRY_FIRST, RETRY_MOST = 2.0, 30.0
REVIVE_PAUSE, REVIVE_AGAIN = 2.0, 600.0
OWNER_NAME = "owner"


class Ilink(Driver):
    """One account on the bot channel; its only friends are those who have written to it."""

    capabilities = ("text",)

    def __init__(self, options: Options, state: LoginState, store: Store, events: Events, *, started: str) -> None:
        self._options = options
        self._state = state
        self._store = store
        self._events = events
        self._started = started
        self._stopped = threading.Event()
        self._wire = Wire(options)
        self._session: Session | None = None
        self._gate = Gate(store, options)
        self._sending = threading.Lock()
        self._sent_at = 0.0
        self._login = QrLogin(self._wire, state, options, self._stopped)
        self._login.shown = self._tell_code
        self._login.digits_wanted = lambda: events.event("input_verifycode")
        self._login.refused = self._tell_refused

    def run(self) -> Exit:
        kept = self._kept()
        trusted = kept is not None
        while not self._stopped.is_set():
            if not trusted:
                found = self._login.run(kept)
                if found is None:
                    if self._stopped.is_set():
                        break
                    if self._options.ilink_on_lost == "exit":
                        return Exit.LOST
                    self._park()
                    continue
                if found != kept:
                    self._adopt(found)
                kept = found
            assert kept is not None
            self._begin(kept, scanned=not trusted)
            lost = self._receive_until_lost(kept)
            trusted = False
            if lost:
                self._session = None
                logger.warning("login lost", extra={"action": "login", "reason": str(lost)})
                self._state.enter(Login.SCANING, login_reason=str(lost))
                self._events.event("login", -1, str(lost))
        return Exit.STOPPED

    def stop(self) -> None:
        self._stopped.set()
        self._login.wake()
        self._wire.close()
        if self._session:
            try:
                self._wire.notify("notifystop", self._session.base_url, self._session.token)
            except (TransportError, ApiError) as ex:
                logger.debug("notifystop failed", extra={"action": "stop", "reason": str(ex)})

    def user(self) -> dict[str, Any]:
        current = self._current()
        return messages.user_object(current.bot_id, self._options.ilink_label or self._options.account)

    def friends(self) -> list[dict[str, Any]]:
        return [
            {**messages.friend_object(friend), **self._gate.outlook(friend)}
            for friend in self._store.friends(self._current().bot_id)
        ]

    def send_text(self, friend: dict[str, Any], content: str) -> dict[str, Any]:
        if not content:
            raise ContentRejected("the content is empty")
        current = self._current()
        parts = messages.split(content, self._options.ilink_text_limit)
        with self._sending:
            known = self._friend(current, friend["id"])
            self._gate.enter(current.bot_id, known, len(parts))
            for number, part in enumerate(parts):
                self._space_out()
                reply = self._send_part(current, known, friend, part, unsent=len(parts) - number)
        left = self._gate.outlook(self._friend(current, known.id))
        return {**reply, "parts": len(parts), "sends_left": left["sends_left"]}

    def submit_verify_code(self, code: str) -> None:
        self._login.submit(code)

    # Login

    def _kept(self) -> Session | None:
        """Return the session of an earlier run, unless this start asked for a fresh one; it does so once."""
        path = self._options.cookie_path
        if self._options.fresh and self._store.get("fresh") != self._started:
            session.set_aside(path)
            self._store.set("fresh", self._started)
        return session.load(path)

    def _adopt(self, found: Session) -> None:
        if self._options.keep_cookie:
            session.save(self._options.cookie_path, found)
        with self._store.transaction():
            if self._store.meet(found.bot_id, found.user_id, OWNER_NAME):
                self._events.event("new_friend", messages.friend_object(self._friend(found, found.user_id)))
        self._events.announce()

    def _begin(self, current: Session, *, scanned: bool) -> None:
        self._state.enter(
            Login.UPDATING,
            ilink_bot_id=current.bot_id,
            owner_hash=current.owner_hash,
            login_at=int(time.time()),
            login_reason="",
            parked=False,
            last_error=None,
        )
        self._events.event("login", int(scanned))

    def _park(self) -> None:
        """Show no more codes until the process is started anew: nobody is there to scan them."""
        logger.warning("nobody scanned; parked", extra={"action": "login", "codes": self._options.qrcode_count_max})
        self._state.enter(Login.SCANING, parked=True)
        self._stopped.wait()

    def _tell_code(self, path: Path, picture: bytes) -> None:
        self._events.event("input_qrcode", str(path), base64.encodebytes(picture).decode())

    def _tell_refused(self, reason: str) -> None:
        logger.warning("login refused", extra={"action": "login", "reason": reason})
        self._state.note(login_reason=reason)
        self._events.event("login", -1, reason)

    # Receiving

    def _receive_until_lost(self, current: Session) -> TokenDead | None:
        """Receive until stopped, or until the token stays dead after one attempt to revive it (6.1)."""
        revived = -REVIVE_AGAIN
        while not self._stopped.is_set():
            try:
                self._start(current)
                self._session = current
                self._state.enter(Login.RUNNING)
                self._poll(current)
            except TokenDead as ex:
                if time.monotonic() - revived < REVIVE_AGAIN:
                    return ex
                revived = time.monotonic()
                self._stopped.wait(REVIVE_PAUSE)
        return None

    def _start(self, current: Session) -> None:
        try:
            self._wire.notify("notifystart", current.base_url, current.token)
        except TokenDead:
            raise
        except (TransportError, ApiError) as ex:
            logger.info("notifystart failed", extra={"action": "login", "reason": str(ex)})

    def _poll(self, current: Session) -> None:
        """Ask for messages for ever. To ask with a new cursor is to acknowledge, so commit before (5.3)."""
        key = f"cursor:{current.bot_id}"
        cursor, hold, pause, errors = self._store.get(key), HOLD, 0.0, 0
        while not self._stopped.is_set():
            try:
                reply = self._wire.get_updates(current.base_url, current.token, cursor, hold)
            except TransportTimeout:
                continue
            except TokenDead:
                raise
            except (TransportError, ApiError) as ex:
                if self._stopped.is_set():
                    return
                errors += 1
                pause = min(max(RETRY_FIRST, 2 * pause), RETRY_MOST)
                logger.warning("poll failed", extra={"action": "poll", "reason": str(ex), "retry_in": pause})
                self._state.note(poll_errors=errors, last_error={"errmsg": str(ex), "at": int(time.time())})
                self._stopped.wait(pause * random.uniform(0.8, 1.2))
                continue
            pause, hold = 0.0, _hold(reply, hold)
            self._state.note(last_poll_at=int(time.time()))
            cursor = _text(reply.get("get_updates_buf")) or cursor
            self._keep(current, key, cursor, [item for item in reply.get("msgs") or [] if isinstance(item, dict)])

    def _keep(self, current: Session, key: str, cursor: str, received: list[dict[str, Any]]) -> None:
        """Commit what was received, trying until the disk takes it; meanwhile nothing is acknowledged."""
        pause = RETRY_FIRST
        while not self._stopped.is_set():
            try:
                with self._store.transaction():
                    for message in received:
                        self._take_in(current, message)
                    if cursor != self._store.get(key):
                        self._store.set(key, cursor)
                self._events.announce()
                return
            except sqlite3.Error as ex:
                logger.error("cannot keep messages", extra={"action": "receive", "reason": str(ex), "retry_in": pause})
                self._state.note(last_error={"errmsg": f"cannot keep messages: {ex}", "at": int(time.time())})
                self._stopped.wait(pause)
                pause = min(2 * pause, RETRY_MOST)

    def _take_in(self, current: Session, message: dict[str, Any]) -> None:
        sender = _text(message.get("from_user_id"))
        if not sender or message.get("message_type") == messages.FROM_BOT:
            return
        if not self._store.remember(current.bot_id, messages.key_of(message), message):
            return
        if self._store.meet(current.bot_id, sender, sender[:8]):
            self._events.event("new_friend", messages.friend_object(self._friend(current, sender)))
        self._store.heard(current.bot_id, sender, _text(message.get("context_token")), time.time())
        friend = self._friend(current, sender)
        outlook = self._gate.outlook(friend)
        user = messages.user_object(current.bot_id, self._options.ilink_label or self._options.account)
        for body in messages.received(message, messages.friend_object(friend), user):
            self._events.message({**body, **outlook})
        self._state.note(last_inbound_at=int(time.time()))
        logger.info("message received", extra={"action": "receive", "sender": sender[:8]})

    # Sending

    def _send_part(
        self, current: Session, known: Friend, friend: dict[str, Any], part: str, *, unsent: int
    ) -> dict[str, Any]:
        client_id = f"wx-{int(time.time() * 1000)}-{os.urandom(4).hex()}"
        message = {
            "from_user_id": "",
            "to_user_id": known.id,
            "client_id": client_id,
            "message_type": messages.FROM_BOT,
            "message_state": 2,
            "item_list": [{"type": messages.TEXT, "text_item": {"text": part}}],
            "context_token": known.context_token or "",
        }
        try:
            reply = self._wire.send_message(current.base_url, current.token, message)
        except TransportError as ex:
            self._gate.give_back(current.bot_id, known, unsent - 1)
            raise DeliveryUnknown(str(ex), client_id=client_id, ret=None, errmsg=None, retryable=False) from ex
        except ApiError as ex:
            self._gate.give_back(current.bot_id, known, unsent)
            raise self._gate.refusal(known, ex.ret, ex.errmsg, client_id) from ex
        message_id = str(reply.get("message_id") or "")
        id_ = message_id or client_id
        self._events.message(messages.sent(id_, client_id, part, self.user(), friend))
        self._state.note(last_outbound_at=int(time.time()))
        logger.info("message sent", extra={"action": "send", "receiver": known.id[:8]})
        return {"id": id_, "msg_id": id_, "message_id": message_id, "client_id": client_id, "delivery": "accepted"}

    def _space_out(self) -> None:
        wait = self._sent_at + self._options.send_interval - time.monotonic()
        if wait > 0 and self._stopped.wait(wait):
            raise NotLoggedIn("the client is stopping", state=Login.STOP.value)
        self._sent_at = time.monotonic()

    def _friend(self, current: Session, id_: str) -> Friend:
        return next(friend for friend in self._store.friends(current.bot_id) if friend.id == id_)

    def _current(self) -> Session:
        if self._session is None:
            raise NotLoggedIn(state=self._state.current.value)
        return self._session


def _hold(reply: dict[str, Any], before: float) -> float:
    hint = reply.get("longpolling_timeout_ms")
    return min(max(hint / 1000, HOLD_LEAST), HOLD_MOST) if isinstance(hint, (int, float)) and hint > 0 else before


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
