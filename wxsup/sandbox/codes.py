"""Login codes and their way from `wait` to `confirmed` (ilink-protocol.md 3.1, 3.2)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from wxsup.sandbox.news import Glance, News, stay

logger = logging.getLogger(__name__)

LIFE = 120.0  # seconds a code can be used
MOST_CODES = 1000  # the oldest are forgotten, as the real server does some day
MOST_WRONG_DIGITS = 3  # then the code is blocked

#: The statuses that a code never leaves by itself.
FINAL = frozenset({"confirmed", "binded_redirect", "expired", "verify_code_blocked"})


class Unknown(Exception):
    """There is no such code, user or bot."""


class Unfit(Exception):
    """What was asked cannot be, or cannot be now."""


@dataclass(frozen=True)
class Credentials:
    """What a confirmed login hands out (3.3)."""

    bot_id: str
    token: str
    user_id: str


@dataclass(frozen=True)
class Code:
    """One login code; `told` is the status that a poll was last answered with, which need not be said again at once."""

    key: str
    created: float
    local_tokens: frozenset[str]
    status: str = "wait"
    told: str = "wait"
    user: str = ""
    digits: str = ""
    wrong: frozenset[str] = frozenset()
    redirected: bool = False
    credentials: Credentials | None = None


class Codes:
    """All login codes, under the lock of the world."""

    def __init__(self, news: News, clock: Callable[[], float]) -> None:
        self._news = news
        self._clock = clock
        self._codes: dict[str, Code] = {}

    def new(self, local_tokens: Iterable[str] = ()) -> Code:
        """Hand out a code to somebody who holds `local_tokens` already."""
        with self._news:
            code = Code(secrets.token_hex(16), self._clock(), frozenset(local_tokens))
            self._codes[code.key] = code
            if len(self._codes) > MOST_CODES:
                del self._codes[next(iter(self._codes))]
            logger.info("code handed out", extra={"action": "code"})
            return code

    def all(self) -> list[Code]:
        """Return every code, newest last."""
        with self._news:
            return [self.get(key) for key in list(self._codes)]

    def get(self, key: str) -> Code:
        """Return a code as it is now: time alone makes it expire."""
        with self._news:
            code = self._codes.get(key)
            if code is None:
                raise Unknown("there is no such code")
            if code.status not in FINAL and self._clock() - code.created >= LIFE:
                return self._turn(replace(code, status="expired"))
            return code

    def poll(
        self, key: str, digits: str = "", *, redirecting: bool = False, hold: float = 0.0, glance: Glance = stay
    ) -> Code:
        """Return the code once its status is news to the poller, or as it is when the hold is over.

        A server that is `redirecting` never tells the truth about a redirected code: that is the other one's business.
        """
        with self._news:
            code = self.get(key)
            if digits and code.status == "need_verifycode" and not (redirecting and code.redirected):
                return self._try(code, digits)

            def is_news() -> bool:
                code = self.get(key)
                return (redirecting and code.redirected) or code.status in FINAL or code.status != code.told

            self._news.hold(is_news, hold, glance)
            code = self.get(key)
            if redirecting and code.redirected:
                return replace(code, status="scaned_but_redirect", credentials=None)
            self._codes[key] = replace(code, told=code.status)
            return code

    def scan(self, key: str, user: str, *, digits: bool = False) -> Code:
        """Let `user` point the phone at a code; with `digits` the phone shows some that must be typed at the bot."""
        check_user(user)
        with self._news:
            code = self.get(key)
            if code.status != "wait":
                raise Unfit(f"this code does not wait for a scan: its status is {code.status}")
            logger.info("code scanned", extra={"action": "scan", "user": user})
            if digits:
                shown = f"{secrets.randbelow(10**6):06}"
                return self._turn(replace(code, status="need_verifycode", user=user, digits=shown))
            return self._turn(replace(code, status="scaned", user=user))

    def confirm(self, key: str, bind: Callable[[Code], Credentials | None]) -> Code:
        """Let the user who scanned agree; `bind` says what comes of it, None being a bot that is bound already."""
        with self._news:
            code = self.get(key)
            if code.status != "scaned" or not code.user:
                raise Unfit(f"this code does not wait for a confirmation: its status is {code.status}")
            logger.info("code confirmed", extra={"action": "confirm", "user": code.user})
            credentials = bind(code)
            status = "confirmed" if credentials else "binded_redirect"
            return self._turn(replace(code, status=status, credentials=credentials))

    def end(self, key: str, status: str) -> Code:
        """Let a code that is still of use come to nothing: expired or verify_code_blocked."""
        with self._news:
            return self._turn(replace(self._usable(key), status=status))

    def redirect(self, key: str) -> Code:
        """Move a code to the other data centre: from now on only the second server tells its status."""
        with self._news:
            return self._turn(replace(self._usable(key), redirected=True))

    def set_status(self, key: str, status: str) -> Code:
        """Give a code any status, also one that nobody has heard of yet."""
        with self._news:
            return self._turn(replace(self.get(key), status=status))

    # Below here the lock is held.

    def _usable(self, key: str) -> Code:
        code = self.get(key)
        if code.status in FINAL:
            raise Unfit(f"this code is used up: its status is {code.status}")
        return code

    def _try(self, code: Code, digits: str) -> Code:
        """Compare typed digits; they come with every poll until accepted, so a repeat is no other try."""
        if digits == code.digits:
            return self._turn(replace(code, status="scaned", told="scaned"))
        wrong = code.wrong | {digits}
        status = "verify_code_blocked" if len(wrong) >= MOST_WRONG_DIGITS else "need_verifycode"
        return self._turn(replace(code, status=status, told=status, wrong=wrong))

    def _turn(self, code: Code) -> Code:
        self._codes[code.key] = code
        self._news.notify_all()
        return code


def check_user(user: str) -> None:
    """Refuse a name that could not be shown."""
    if not (user.isprintable() and user.strip() and len(user) <= 64):
        raise Unfit("a user is 1 to 64 printable characters")
