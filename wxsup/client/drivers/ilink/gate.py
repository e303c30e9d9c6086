"""WeChat's rules for writing to a friend, and what a refusal means (ilink-protocol.md 8.3, 8.4)."""

from __future__ import annotations

import time
from typing import Any

from wxsup.client.drivers.ilink.wire import ApiError, TokenDead
from wxsup.client.store import Store
from wxsup.client.store.people import Friend
from wxsup.errors import CallFailed, NotLoggedIn, NotWrittenYet, QuotaUsed, RateLimited, RemoteRefusal, WindowClosed
from wxsup.options import Options

WINDOW = 24 * 3600.0
QUOTA = 10
REFUSED = -2
RETRY_AFTER = (10, 30, 90, 270, 600)
SURE = 2  # refusals in a row that are no matter of seconds


class Gate:
    """Counts sends per friend in the store; in mode `try` it only counts."""

    def __init__(self, store: Store, options: Options) -> None:
        self._store = store
        self._strict = options.ilink_gate == "strict"
        self._refusals: dict[str, int] = {}  # for each friend, in a row

    def outlook(self, friend: Friend) -> dict[str, Any]:
        """Return whether, how often and until when the friend can be written to."""
        window_ends = int(friend.last_inbound + WINDOW) if friend.last_inbound else 0
        sends_left = max(0, QUOTA - friend.sent_since) if friend.context_token else 0
        can_send = sends_left > 0 and time.time() < window_ends
        return {"can_send": can_send, "sends_left": sends_left, "window_ends": window_ends}

    def admit(self, friend: Friend, count: int) -> None:
        """Raise what forbids so many sends now."""
        if self._strict:
            forbidden = self._forbidden(friend, count)
            if forbidden:
                raise forbidden

    def claim(self, bot: str, friend_id: str) -> None:
        """Count a send."""
        self._store.people.claim(bot, friend_id, 1)

    def give_back(self, bot: str, friend_id: str) -> None:
        """Take back a claim of which nothing came."""
        self._store.people.claim(bot, friend_id, -1)

    def open(self, friend_id: str) -> None:
        """Note that the server does not limit us now: it took a message, or the friend has written."""
        self._refusals.pop(friend_id, None)

    def refusal(self, bot: str, friend: Friend, ex: ApiError, client_id: str) -> CallFailed:
        """Return what a refusal by the server most likely means; `friend` is as before the claim."""
        said: dict[str, Any] = {"ret": ex.ret, "errmsg": ex.errmsg, "client_id": client_id}
        if isinstance(ex, TokenDead):
            return NotLoggedIn("the login is lost", retryable=False, **said)
        if ex.ret != REFUSED:
            return RemoteRefusal(retryable=False, **said)
        forbidden = self._forbidden(friend, 1)
        if forbidden:
            forbidden.fields.update(said)
            return forbidden
        refusals = self._refusals[friend.id] = self._refusals.get(friend.id, 0) + 1
        if refusals >= SURE:
            # It counts otherwise than we do: a send that crossed the friend's message, say. Its count is what matters.
            self._store.people.exhaust(bot, friend.id, QUOTA + 1)  # of which the present claim is given back
        pause = RETRY_AFTER[min(refusals, len(RETRY_AFTER)) - 1]
        return RateLimited(retryable=True, retry_after=pause, **said)

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
