"""The driver for Tencent's bot channel (ilink-protocol.md): log in, receive, send."""

from __future__ import annotations

import base64
import functools
import logging
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wxsup.client.backoff import longer
from wxsup.client.drivers import Driver
from wxsup.client.drivers.ilink import session
from wxsup.client.drivers.ilink.cdn import Cdn, key_of
from wxsup.client.drivers.ilink.fields import objects, string
from wxsup.client.drivers.ilink.gate import Gate
from wxsup.client.drivers.ilink.halt import Halt
from wxsup.client.drivers.ilink.intake import Intake
from wxsup.client.drivers.ilink.login import QrLogin
from wxsup.client.drivers.ilink.sending import Sender
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.tickets import Tickets
from wxsup.client.drivers.ilink.wire import ApiError, Throttled, TokenDead, Wire
from wxsup.client.events import Events
from wxsup.client.http import TransportError, TransportTimeout
from wxsup.client.letters import Part
from wxsup.client.media import Sink
from wxsup.client.pulse import Pulse
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.errors import NotLoggedIn, ObjectNotFound
from wxsup.model import Exit
from wxsup.options import Options

logger = logging.getLogger(__name__)

HOLD, HOLD_LEAST, HOLD_MOST = 35.0, 5.0, 120.0
RETRY_FIRST, RETRY_MOST = 2.0, 30.0
REVIVE_PAUSE, REVIVE_AGAIN = 2.0, 600.0
POLL_FLOOR = 1.0
PARKED, PARKED_CALLS = 3600.0, 60.0


class Ilink(Driver):
    """One account on the bot channel; its only friends are those who have written to it."""

    name = "ilink"
    capabilities = ("text", "image", "video", "file", "voice_in", "quote_in", "typing")

    def __init__(self, options: Options, state: LoginState, store: Store, events: Events, *, started: str) -> None:
        self._options = options
        self._state = state
        self._store = store
        self._events = events
        self._started = started
        self._halt = Halt()
        self._wire = Wire(options, unwanted=lambda: self._halt.again)
        self._session: Session | None = None
        self._gate = Gate(store, options)
        self._intake = Intake(store, events, self._gate, options)
        self._cdn = Cdn(self._wire, options, self._halt.pause)
        self._sender = Sender(self._wire, self._cdn, self._gate, options, store, self._current)
        self._tickets = Tickets(self._wire)
        self.pulse = Pulse()
        self._login = QrLogin(self._wire, state, options, self._halt, self.pulse)
        self._login.shown = self._tell_code
        self._login.digits_wanted = lambda: events.event("input_verifycode")
        self._login.refused = self._tell_refused

    def run(self) -> Exit:
        self.pulse.within(0)
        self._insist("session", self._set_aside)
        kept = self._load()
        trusted = kept is not None
        while not self._halt.stopped:
            if not trusted:
                self._halt.again = False
                found = self._login.run(kept, self._owner(kept))
                if found is None:
                    if self._halt:
                        continue
                    if self._options.ilink_on_lost == "exit":
                        return Exit.LOST
                    trusted = self._park(kept)
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
                if renewed := self._renewed(kept):
                    kept, trusted = renewed, True
        self._take_leave()
        return Exit.STOPPED

    def stop(self) -> None:
        self._halt.stop()
        self._login.wake()
        self._wire.close()

    def hang_up(self) -> None:
        self._wire.close_sends()
        self._cdn.close()

    def relogin(self) -> None:
        self._halt.begin_again()
        self._login.wake()
        self._wire.break_off()

    def user(self) -> dict[str, Any]:
        return self._intake.user(self._current())

    def friends(self) -> list[dict[str, Any]]:
        return self._intake.friends(self._current())

    def set_markname(self, friend_id: str, name: str) -> None:
        self._intake.set_markname(self._current(), friend_id, name)

    def parts(self, content: str) -> list[str]:
        return self._sender.parts(content)

    def admit(self, friend_id: str, count: int) -> None:
        self._sender.admit(friend_id, count)

    def claim(self, friend_id: str, count: int) -> None:
        self._sender.claim(friend_id, count)

    def give_back(self, friend_id: str) -> None:
        self._sender.give_back(friend_id)

    def prepare(self, friend_id: str, part: Part, deadline: float) -> None:
        self._sender.prepare(friend_id, part, deadline)

    def send_part(self, friend_id: str, part: Part, client_id: str) -> dict[str, Any]:
        return self._sender.send_part(friend_id, part, client_id)

    def send_typing(self, friend_id: str, typing: bool) -> None:
        current = self._current()
        friend = self._store.people.friend(current.bot_id, friend_id)
        if friend is None:
            raise ObjectNotFound(id=None)
        self._tickets.type(current, friend, typing)

    def fetch(self, source: Mapping[str, Any], sink: Sink) -> None:
        self._cdn.download(source["media"], key_of(source["media"], source.get("aeskey")), sink)

    def submit_verify_code(self, code: str) -> None:
        self._login.submit(code)

    # Login

    def _load(self) -> Session | None:
        """Return the session that was kept."""
        return session.load(self._options.cookie_path) if self._options.keep_cookie else None

    def _renewed(self, kept: Session) -> Session | None:
        """Return another session of the same user when somebody has put one in place of a dead one (6.1)."""
        found = self._load()
        return found if found and found != kept and found.owner_hash == kept.owner_hash else None

    def _set_aside(self) -> None:
        """Put the session of an earlier run out of use if this start asked for a fresh one; it does so once."""
        if self._options.fresh and self._store.get("fresh") != self._started:
            session.set_aside(self._options.cookie_path)
            with self._store.transaction():
                self._store.set("fresh", self._started)
                self._store.set("owner", "")

    def _owner(self, kept: Session | None) -> str:
        """Return the hash of the WeChat user to whom this client belongs, known also when no session can be read."""
        return kept.owner_hash if kept else self._store.get("owner")

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
            last_inbound_at=int(self._store.people.last_inbound(current.bot_id) or 0) or None,
        )
        self._events.event("login", int(scanned))
        self._insist("owner", lambda: self._intake.meet_owner(current))

    def _park(self, kept: Session | None) -> bool:
        """Show no more codes, since nobody is there to scan them; tell whether the old login is alive again.

        It is looked after now, in case it never was dead, and once an hour. Only relogin() leads to new codes.
        """
        logger.warning("nobody scanned; parked", extra={"action": "login", "codes": self._options.qrcode_count_max})
        self._state.enter(Login.SCANING, parked=True)
        while not self._halt:
            if kept and self._is_alive(kept):
                return True
            self.pulse.within(PARKED)
            self._halt.wait(PARKED)
            self.pulse.within(PARKED_CALLS)
        return False

    def _is_alive(self, kept: Session) -> bool:
        """Ask whether a token is good, without acknowledging anything."""
        try:
            self._wire.notify_start(kept.base_url, kept.token)
            self._wire.get_updates(kept.base_url, kept.token, self._intake.cursor(kept), HOLD)
        except (TransportError, ApiError):  # no answer says nothing, and so leads to nothing
            return False
        return True

    def _tell_code(self, path: Path, picture: bytes) -> None:
        self._events.event("input_qrcode", str(path), base64.encodebytes(picture).decode())

    def _tell_refused(self, reason: str) -> None:
        logger.warning("login refused", extra={"action": "login", "reason": reason})
        self._state.note(login_reason=reason)
        self._events.event("login", -1, reason)

    # Receiving

    def _receive_until_lost(self, current: Session) -> TokenDead | None:
        """Receive until halted, or until the token stays dead after one attempt to revive it (6.1)."""
        revived = -REVIVE_AGAIN
        while not self._halt:
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
                self._halt.wait(REVIVE_PAUSE)
        if not self._halt.stopped:
            self._session = None
            self._state.enter(Login.SCANING, login_reason="relogin")
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
        cursor, hold, pause, errors = self._intake.cursor(current), HOLD, 0.0, 0
        while not self._halt:
            asked = time.monotonic()
            self.pulse.within(hold)
            try:
                reply = self._wire.get_updates(current.base_url, current.token, cursor, hold)
            except TransportTimeout:
                continue
            except TokenDead:
                raise
            except (TransportError, ApiError) as ex:
                if self._halt:
                    return
                errors += 1
                pause = longer(pause, RETRY_FIRST, RETRY_MOST)
                if isinstance(ex, Throttled):
                    pause = max(pause, ex.retry_after)
                logger.warning("poll failed", extra={"action": "poll", "reason": str(ex), "retry_in": pause})
                self._state.note(poll_errors=errors, last_error={"errmsg": str(ex), "at": int(time.time())})
                self.pulse.within(2 * pause)
                self._halt.wait(pause * random.uniform(0.8, 1.2))
                continue
            pause, hold = 0.0, _hold(reply, hold)
            self._state.note(last_poll_at=int(time.time()))
            cursor = string(reply.get("get_updates_buf")) or cursor
            received = objects(reply.get("msgs"))
            self._insist("messages", functools.partial(self._keep, current, cursor, received))
            if not received and time.monotonic() - asked < POLL_FLOOR:
                self._halt.wait(POLL_FLOOR)  # a server that does not hold its polls must not be flooded

    def _keep(self, current: Session, cursor: str, received: list[dict[str, Any]]) -> None:
        senders = self._intake.keep(current, cursor, received)
        if senders:
            self._state.note(last_inbound_at=int(time.time()))
        for sender in senders:
            self.heard(sender)

    def _insist(self, what: str, act: Callable[[], None]) -> None:
        """Do what needs the disk, trying again until it is done or we are stopped; meanwhile nothing goes on."""
        pause = 0.0
        while True:  # once at least: what has happened is to be kept also by a client that stops
            try:
                act()
            except (sqlite3.Error, OSError) as ex:
                if self._halt.stopped:
                    return
                pause = longer(pause, RETRY_FIRST, RETRY_MOST)
                logger.error("cannot be kept", extra={"action": "keep", "what": what, "reason": str(ex)})
                self._trouble(f"{what} cannot be kept: {ex}")
                self.pulse.within(pause)
                self._halt.pause(pause)  # also who wishes a new login waits: without a disk there is none
            else:
                if pause:
                    self._trouble("")
                return

    def _trouble(self, text: str) -> None:
        """Say in the state what keeps us from going on, "" for nothing; at once, and on whatever disk there is."""
        error = {"last_error": {"errmsg": text, "at": int(time.time())}} if text else {}
        self._state.enter(self._state.current, trouble=text, **error)

    def _current(self) -> Session:
        if self._session is None:
            raise NotLoggedIn(state=self._state.current.value)
        return self._session


def _hold(reply: dict[str, Any], before: float) -> float:
    hint = reply.get("longpolling_timeout_ms")
    if not isinstance(hint, int) or hint <= 0:
        return before
    return min(max(hint, HOLD_LEAST * 1000), HOLD_MOST * 1000) / 1000
