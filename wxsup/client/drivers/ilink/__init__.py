"""The driver for Tencent's bot channel (ilink-protocol.md): log in, receive, send."""

from __future__ import annotations

import base64
import functools
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wxsup.client.drivers import Driver
from wxsup.client.drivers.ilink import messages, session
from wxsup.client.drivers.ilink.gate import Gate
from wxsup.client.drivers.ilink.login import QrLogin
from wxsup.client.drivers.ilink.sending import Sender
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, TokenDead, Wire
from wxsup.client.events import Events
from wxsup.client.http import TransportError, TransportTimeout
from wxsup.client.pulse import Pulse
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.errors import NotLoggedIn
from wxsup.model import Exit
from wxsup.options import Options

logger = logging.getLogger(__name__)

HOLD, HOLD_LEAST, HOLD_MOST = 35.0, 5.0, 120.0
RETRY_FIRST, RETRY_MOST = 2.0, 30.0
REVIVE_PAUSE, REVIVE_AGAIN = 2.0, 600.0
POLL_FLOOR = 1.0
PARKED = 3600.0
OWNER_NAME = "owner"


class Ilink(Driver):
    """One account on the bot channel; its only friends are those who have written to it."""

    name = "ilink"
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
        self._sender = Sender(
            self._wire, self._gate, options, state, store, events, current=self._current, stopped=self._stopped
        )
        self.pulse = Pulse()
        self._login = QrLogin(self._wire, state, options, self._stopped, self.pulse)
        self._login.shown = self._tell_code
        self._login.digits_wanted = lambda: events.event("input_verifycode")
        self._login.refused = self._tell_refused

    def run(self) -> Exit:
        self.pulse.within(0)
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
                    trusted = kept is not None
                    continue
                if found != kept:
                    self._adopt(found)
                kept = found
            assert kept is not None
            self._begin(kept, scanned=not trusted)
            lost = self._receive_until_lost(kept)
            trusted = False
            if lost:
                logger.warning("login lost", extra={"action": "login", "reason": str(lost)})
                self._state.enter(Login.SCANING, login_reason=str(lost))
                self._events.event("login", -1, str(lost))
        self._take_leave()
        return Exit.STOPPED

    def stop(self) -> None:
        self._stopped.set()
        self._login.wake()
        self._wire.close()

    def user(self) -> dict[str, Any]:
        return self._user(self._current())

    def friends(self) -> list[dict[str, Any]]:
        return [
            {**messages.friend_object(friend), **self._gate.outlook(friend)}
            for friend in self._store.friends(self._current().bot_id)
        ]

    def send_text(self, friend: dict[str, Any], content: str) -> dict[str, Any]:
        return self._sender.send(friend, content)

    def submit_verify_code(self, code: str) -> None:
        self._login.submit(code)

    # Login

    def _kept(self) -> Session | None:
        """Return the session of an earlier run, unless this start asked for a fresh one; it does so once."""
        path = self._options.cookie_path
        if self._options.fresh and self._store.get("fresh") != self._started:
            session.set_aside(path)
            self._store.set("fresh", self._started)
        return session.load(path) if self._options.keep_cookie else None

    def _adopt(self, found: Session) -> None:
        if self._options.keep_cookie:
            self._insist("session", lambda: session.save(self._options.cookie_path, found))

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
        self._insist("owner", lambda: self._meet_owner(current))

    def _park(self) -> None:
        """Show no more codes, since nobody is there to scan them; in an hour the old login is tried again."""
        logger.warning("nobody scanned; parked", extra={"action": "login", "codes": self._options.qrcode_count_max})
        self._state.enter(Login.SCANING, parked=True)
        self.pulse.within(PARKED)
        self._stopped.wait(PARKED)
        self.pulse.within(0)

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
                self._session = None
                if time.monotonic() - revived < REVIVE_AGAIN:
                    return ex
                revived = time.monotonic()
                self._stopped.wait(REVIVE_PAUSE)
        return None

    def _start(self, current: Session) -> None:
        try:
            self._wire.notify_start(current.base_url, current.token)
        except TokenDead:
            raise
        except (TransportError, ApiError) as ex:
            logger.info("notifystart failed", extra={"action": "login", "reason": str(ex)})

    def _take_leave(self) -> None:
        if self._session:
            try:
                self._wire.notify_stop(self._session.base_url, self._session.token)
            except (TransportError, ApiError) as ex:
                logger.debug("notifystop failed", extra={"action": "stop", "reason": str(ex)})

    def _poll(self, current: Session) -> None:
        """Ask for messages for ever. To ask with a new cursor is to acknowledge, so commit before (5.3)."""
        key = f"cursor:{current.bot_id}"
        cursor, hold, pause, errors = self._store.get(key), HOLD, 0.0, 0
        while not self._stopped.is_set():
            asked = time.monotonic()
            self.pulse.within(hold)
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
                self.pulse.within(2 * pause)
                self._stopped.wait(pause * random.uniform(0.8, 1.2))
                continue
            pause, hold = 0.0, _hold(reply, hold)
            self._state.note(last_poll_at=int(time.time()))
            cursor = _text(reply.get("get_updates_buf")) or cursor
            received = messages.objects(reply.get("msgs"))
            self._insist("messages", functools.partial(self._keep, current, key, cursor, received))
            if not received and time.monotonic() - asked < POLL_FLOOR:
                self._stopped.wait(POLL_FLOOR)  # a server that does not hold its polls must not be flooded

    def _keep(self, current: Session, key: str, cursor: str, received: list[dict[str, Any]]) -> None:
        """Commit what was received together with the cursor that will acknowledge it."""
        with self._store.transaction():
            new = [self._take_in(current, message) for message in received]
            if cursor != self._store.get(key):
                self._store.set(key, cursor)
        if any(new):
            self._events.announce()
            self._state.note(last_inbound_at=int(time.time()))

    def _take_in(self, current: Session, message: dict[str, Any]) -> bool:
        """Keep a message and its reports; tell whether it is a new one of a user."""
        sender = _text(message.get("from_user_id"))
        if not sender or message.get("message_type") == messages.FROM_BOT:
            return False
        if not self._store.remember(current.bot_id, messages.key_of(message), message):
            return False
        self._meet(current, sender, sender[:8])
        self._store.heard(current.bot_id, sender, _text(message.get("context_token")), time.time())
        friend = self._store.friend(current.bot_id, sender)
        assert friend
        outlook = self._gate.outlook(friend)
        for body in messages.received(message, messages.friend_object(friend), self._user(current)):
            self._events.message({**body, **outlook})
        logger.info("message received", extra={"action": "receive", "sender": sender[:8]})
        return True

    def _meet_owner(self, current: Session) -> None:
        with self._store.transaction():
            self._meet(current, current.user_id, OWNER_NAME)
        self._events.announce()

    def _meet(self, current: Session, id_: str, name: str) -> None:
        """Make somebody a friend, unless they are; inside a transaction."""
        friend = self._store.meet(current.bot_id, id_, name)
        if friend:
            self._events.event("new_friend", messages.friend_object(friend))

    def _insist(self, what: str, act: Callable[[], None]) -> None:
        """Do what needs the disk, trying again until it is done or we are stopped; meanwhile nothing goes on."""
        pause = RETRY_FIRST
        while not self._stopped.is_set():
            try:
                return act()
            except (sqlite3.Error, OSError) as ex:
                logger.error("cannot be kept", extra={"action": "keep", "what": what, "reason": str(ex)})
                self._state.note(last_error={"errmsg": f"{what} cannot be kept: {ex}", "at": int(time.time())})
                self.pulse.within(pause)
                self._stopped.wait(pause)
                pause = min(2 * pause, RETRY_MOST)

    def _user(self, current: Session) -> dict[str, Any]:
        return messages.user_object(current.bot_id, self._options.ilink_label or self._options.account)

    def _current(self) -> Session:
        if self._session is None:
            raise NotLoggedIn(state=self._state.current.value)
        return self._session


def _hold(reply: dict[str, Any], before: float) -> float:
    hint = reply.get("longpolling_timeout_ms")
    if not isinstance(hint, int) or hint <= 0:
        return before
    return min(max(hint, HOLD_LEAST * 1000), HOLD_MOST * 1000) / 1000


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
