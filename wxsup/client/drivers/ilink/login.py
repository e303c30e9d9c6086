"""The login walk: a code is shown, scanned, confirmed (ilink-protocol.md 3)."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wxsup import files
from wxsup.client.drivers.ilink.halt import Halt
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, Wire
from wxsup.client.http import TransportError
from wxsup.client.pulse import Pulse
from wxsup.client.state import Login, LoginState
from wxsup.errors import NotLoggedIn
from wxsup.options import Options

logger = logging.getLogger(__name__)

POLL_PAUSE = 1.0
POLL_TIMEOUT = 45.0
DIGITS_PAUSE, DIGITS_POLL_TIMEOUT = 5.0, 5.0  # while digits are wanted a held poll would keep them back
CODE_LIFE = 120.0
CODE_LIFE_MOST = 300.0  # without a word from the server
RETRY_FIRST, RETRY_MOST = 2.0, 30.0


@dataclass
class _Code:
    """A login code on show."""

    key: str
    shown: float
    base: str | None = None
    digits: str = ""
    unknown: str = ""
    finished: bool = False


class QrLogin:
    """Shows codes until one is confirmed; `shown(path, picture)` and `digits_wanted()` are told to the world.

    `halt` ends it and its waits, `pulse` is told of its steps. Nothing of the code but its picture leaves this object.
    """

    def __init__(self, wire: Wire, state: LoginState, options: Options, halt: Halt, pulse: Pulse) -> None:
        self._pulse = pulse
        self._wire = wire
        self._state = state
        self._options = options
        self._halt = halt
        self._digits = ""
        self._digits_given = threading.Condition()
        self.shown: Callable[[Path, bytes], None] = lambda path, picture: None
        self.digits_wanted: Callable[[], None] = lambda: None
        self.refused: Callable[[str], None] = lambda reason: None

    def run(self, old: Session | None, owner: str) -> Session | None:
        """Return the session that a scan led to, None when halted or when nobody scanned qrcode_count_max codes.

        Where only the same WeChat user may scan, that is the one with the hash `owner`; "" is nobody yet.
        """
        try:
            for count in range(1, self._options.qrcode_count_max + 1):
                code = self._show(old, count)
                while code and not code.finished and not self._halt:
                    session = self._step(code, old, owner)
                    if session:
                        return session
                if self._halt:
                    return None
            return None
        finally:
            self._options.qrcode_path.unlink(missing_ok=True)
            self._state.note(verify_code_needed=False, qrcode_expires_at=None)

    def submit(self, digits: str) -> None:
        """Take the digits that the phone shows; raise NotLoggedIn when none are wanted."""
        if not self._state.detail("verify_code_needed"):
            raise NotLoggedIn("no digits are wanted")
        with self._digits_given:
            self._digits = digits
            self._digits_given.notify_all()

    def wake(self) -> None:
        """Let a wait for digits end, because of a stop."""
        with self._digits_given:
            self._digits_given.notify_all()

    def _show(self, old: Session | None, count: int) -> _Code | None:
        """Fetch a code and draw it, trying again while the network or the disk fails us; the one before it is dead."""
        self._state.note(qrcode_expires_at=None)
        pause = RETRY_FIRST
        while not self._halt:
            try:
                self._options.qrcode_path.unlink(missing_ok=True)
                key, picture = self._fetch(old)
                files.replace(self._options.qrcode_path, picture, mode=0o640, durable=False)
            except (TransportError, ApiError, OSError) as ex:
                logger.warning("no login code", extra={"action": "login", "reason": str(ex), "retry_in": pause})
                error = {"errmsg": str(ex), "at": int(time.time())}
                self._state.enter(Login.SCANING, last_error=error, parked=False)
                self._pulse.within(pause)
                self._halt.wait(pause)
                pause = min(2 * pause, RETRY_MOST)
                continue
            with self._digits_given:
                self._digits = ""
            expires_at = int(time.time() + CODE_LIFE)
            self._state.enter(
                Login.SCANING,
                qrcode_count=count,
                qrcode_expires_at=expires_at,
                verify_code_needed=False,
                parked=False,
            )
            logger.info("login code shown", extra={"action": "login", "count": count})
            self.shown(self._options.qrcode_path, picture)
            return _Code(key, time.monotonic())
        return None

    def _fetch(self, old: Session | None) -> tuple[str, bytes]:
        reply = self._wire.get_bot_qrcode([old.token] if old else [])
        key, content = reply.get("qrcode"), reply.get("qrcode_img_content")
        if not (isinstance(key, str) and key and isinstance(content, str) and content):
            raise TransportError("the answer has no code")
        try:
            return key, draw(content)
        except ValueError as ex:
            raise TransportError("the code cannot be drawn") from ex

    def _step(self, code: _Code, old: Session | None, owner: str) -> Session | None:
        """Ask once how the code stands, and do what the answer calls for (3.2)."""
        wanted = bool(self._state.detail("verify_code_needed"))
        if wanted:
            self._await_digits(code)
        began = time.monotonic()
        self._pulse.within(POLL_TIMEOUT)
        timeout = DIGITS_POLL_TIMEOUT if wanted and not code.digits else POLL_TIMEOUT
        try:
            reply = self._wire.get_qrcode_status(code.base, code.key, code.digits, timeout=timeout)
        except TransportError as ex:
            logger.debug("login poll failed", extra={"action": "login", "reason": str(ex)})
            reply = {}
        status = reply.get("status") or "unchanged"
        if status == "confirmed":
            code.finished = True
            return self._confirmed(reply, owner)
        if status == "binded_redirect":
            code.finished = True
            if old:
                logger.info("login confirmed, still bound", extra={"action": "login"})
            return old
        self._walk(code, status, reply)
        if began - code.shown > CODE_LIFE_MOST:
            code.finished = True
        elif not code.finished and status != "need_verifycode":
            self._halt.wait(max(0.0, POLL_PAUSE - (time.monotonic() - began)))
        return None

    def _walk(self, code: _Code, status: str, reply: dict[str, Any]) -> None:
        if status in ("expired", "verify_code_blocked"):
            code.finished = True
            self._state.enter(Login.SCANING, verify_code_needed=False)
        elif status == "wait":
            self._state.enter(Login.SCANING, verify_code_needed=False)
        elif status == "scaned":
            code.digits = ""
            self._state.enter(Login.CONFIRMING, verify_code_needed=False)
        elif status == "scaned_but_redirect":
            host = reply.get("redirect_host")
            code.base = (self._wire.redirected(str(host)) if host else None) or code.base
            self._state.enter(Login.CONFIRMING)
        elif status == "need_verifycode":
            self._want_digits(code)
        elif status not in ("unchanged", code.unknown):
            code.unknown = status
            logger.info("unknown login status", extra={"action": "login", "status": str(status)[:40]})

    def _want_digits(self, code: _Code) -> None:
        if code.digits:
            logger.warning("wrong digits", extra={"action": "login"})
            code.digits = ""
        if not self._state.detail("verify_code_needed"):
            self._state.enter(Login.CONFIRMING, verify_code_needed=True)
            self.digits_wanted()

    def _await_digits(self, code: _Code) -> None:
        """Wait for digits, but not for long: the code may expire meanwhile."""
        with self._digits_given:
            self._digits_given.wait_for(lambda: self._digits or self._halt, DIGITS_PAUSE)
            code.digits, self._digits = self._digits, ""
        if code.digits:
            self._state.enter(Login.CONFIRMING, verify_code_needed=False)

    def _confirmed(self, reply: dict[str, Any], owner: str) -> Session | None:
        fields = {
            name: str(reply.get(name) or "") for name in ("bot_token", "ilink_bot_id", "ilink_user_id", "baseurl")
        }
        base = fields["baseurl"].rstrip("/") or self._options.ilink_base.rstrip("/")
        if not (fields["bot_token"] and fields["ilink_bot_id"] and fields["ilink_user_id"]):
            self.refused("the confirmation is incomplete")
        elif not self._wire.allows(base):
            self.refused("the confirmation names a server that ilink_allow_hosts does not allow")
        else:
            found = Session(fields["bot_token"].strip(), base, fields["ilink_bot_id"], fields["ilink_user_id"])
            if owner in ("", found.owner_hash) or self._options.ilink_owner == "any":
                return found
            self.refused("other user")
        return None


def draw(content: str) -> bytes:
    """Return a PNG of the QR code that says `content`."""
    import segno  # here: a client whose session is kept never needs it

    picture = io.BytesIO()
    segno.make(content, error="m").save(picture, kind="png", scale=8, border=4)
    return picture.getvalue()
