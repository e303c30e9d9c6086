"""WeChat's rules for writing to a friend, and what a refusal means (ilink-protocol.md 8.3, 8.4)."""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Any

from wxsup.client.drivers.ilink.wire import ApiError, TokenDead
from wxsup.client.store import Friend, Store
from wxsup.errors import CallFailed, NotLoggedIn, NotWrittenYet, QuotaUsed, RateLimited, RemoteRefusal, WindowClosed
from wxsup.options import Options

logger = logging.getLogger(__name__)

WINDOW = 24 * 3600.0
QUOTA = 10
REFUSED = -2
RETRY_AFTER = 10


class Gate:
    """Counts sends per friend in the store; in mode `try` it only counts."""

    def __init__(self, store: Store, options: Options) -> None:
        self._store = store
        self._strict = options.ilink_gate == "strict"

    def outlook(self, friend: Friend) -> dict[str, Any]:
        """Return whether, how often and until when the friend can be written to."""
        window_ends = int(friend.last_inbound + WINDOW) if friend.last_inbound else 0
        sends_left = max(0, QUOTA - friend.sent_since) if friend.context_token else 0
        can_send = sends_left > 0 and time.time() < window_ends
        return {"can_send": can_send, "sends_left": sends_left, "window_ends": window_ends}

    def enter(self, bot: str, friend: Friend, count: int) -> None:
        """Claim `count` sends, all or none; raise what forbids them."""
        if self._strict:
            forbidden = self._forbidden(friend, count)
            if forbidden:
                raise forbidden
        self._store.claim(bot, friend.id, count)

    def give_back(self, bot: str, friend: Friend, count: int) -> None:
        """Return claims that were not used; what became of the send is told also when the store is not."""
        try:
            self._store.claim(bot, friend.id, -count)
        except sqlite3.Error as ex:
            logger.error("claim not given back", extra={"action": "send", "reason": str(ex)})

    def refusal(self, bot: str, friend: Friend, ex: ApiError, client_id: str) -> CallFailed:
        """Return what a refusal by the server most likely means."""
        said: dict[str, Any] = {"ret": ex.ret, "errmsg": ex.errmsg, "client_id": client_id}
        if isinstance(ex, TokenDead):
            return NotLoggedIn("the login is lost", retryable=False, **said)
        if ex.ret != REFUSED:
            return RemoteRefusal(retryable=False, **said)
        forbidden = self._forbidden(self._store.friend(bot, friend.id) or friend, 1)
        if forbidden:
            forbidden.fields.update(said)
            return forbidden
        return RateLimited(retryable=True, retry_after=RETRY_AFTER, **said)

    def _forbidden(self, friend: Friend, count: int) -> CallFailed | None:
        outlook = self.outlook(friend)
        unsaid: dict[str, Any] = {"ret": None, "errmsg": None, "retryable": False}
        if not friend.context_token:
            return NotWrittenYet(**unsaid)
        if time.time() >= outlook["window_ends"]:
            return WindowClosed(window_ends=outlook["window_ends"], **unsaid)
        if outlook["sends_left"] < count:
            return QuotaUsed(sends_left=outlook["sends_left"], parts=count, **unsaid)
        return None
