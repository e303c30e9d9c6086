"""What goes out: one message at a time, spaced out, in order per receiver (openwx-api.md 4, ilink-protocol.md 8).

A letter whose caller waits lives in memory, and is never sent once its caller has given up. One that was only promised
lies in the store until its fate is known, and is tried again where it is certain that it did not go out.
"""

from __future__ import annotations

import logging
import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import Any

from wxsup.client import reports
from wxsup.client.backoff import longer
from wxsup.client.drivers import Driver
from wxsup.client.events import Events
from wxsup.client.letters import Letter, Part, new_id
from wxsup.client.media import Media
from wxsup.client.pulse import Pulse
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.errors import CallFailed, ContentRejected, DeliveryUnknown, Expired, NotLoggedIn, RateLimited
from wxsup.options import Options

logger = logging.getLogger(__name__)

PATIENCE = 100.0  # of a caller who waits; the controller gives up after 150 s
MOST_LETTERS = 1000
SEND_TIMEOUT = 30.0
FETCH_TIMEOUT = 90.0
UPLOAD_TIMEOUT, UPLOAD_SPEED = 60.0, 100_000.0  # and so many bytes a second, below which an upload is given up
FOREVER = math.inf
RETRY_FIRST, RETRY_MOST = 2.0, 30.0
MOST_REFUSALS = 1  # by WeChat's rate limit, before it is told to the user (ilink-protocol.md 8.4)


class SendQueue:
    """The send queue of one account; any thread may put something in, one takes it out.

    `fetch(part)` brings the file of a part that has only a URL; it raises CallFailed.
    """

    def __init__(self, store: Store, events: Events, driver: Driver, state: LoginState, options: Options) -> None:
        self._store = store
        self._events = events
        self._driver = driver
        self._state = state
        self._options = options
        self._letters: list[Letter] = []
        self._broken_off: list[Letter] = []  # by the death of an earlier process
        self._held: dict[str, float] = {}  # friends whose first letter waits to be tried again, and until when
        self._changed = threading.Condition()
        self._stopping = False
        self._sent_at = -options.send_interval
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self.fetch: Callable[[Part], Media] = _nothing_fetched
        self.pulse = Pulse()
        self._take_over()  # before anything new can be among them

    def start(self) -> None:
        """Begin to send, with what an earlier process left."""
        self._thread.start()

    def stop(self, *, grace: float) -> None:
        """Begin nothing more, and give what is being sent at most `grace` seconds; what was promised stays."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(grace)

    def send(self, receiver: dict[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
        """Send something and return the fields of the reply; raise CallFailed unless all of it was sent."""
        letter = self.enclose(self._driver.user(), receiver, parts)
        letter.waited, letter.deadline = True, time.monotonic() + PATIENCE
        self._check_way(letter)
        self.put(letter)
        try:
            return letter.answer.result(PATIENCE)
        except NotInTime:
            if letter.answer.cancel():
                raise _too_slow(PATIENCE) from None
            return letter.answer.result()  # its turn has come just now

    def promise(self, receiver: dict[str, Any], parts: Sequence[Part]) -> str:
        """Keep what is to be sent and return its client_id.

        Raises CallFailed when it could not be sent as things are, or cannot be kept.
        """
        letter = self.enclose(self._driver.user(), receiver, parts)
        self._driver.admit(letter.to, len(letter.parts))
        try:
            self.keep(letter)
        except sqlite3.Error as ex:
            raise CallFailed(f"it cannot be kept: {ex}", retryable=True) from ex
        self.put(letter)
        return letter.client_id

    def files(self) -> list[Path]:
        """Return the files that are still to be sent."""
        return [part.media.path for letter in list(self._letters) for part in letter.unsent if part.media]

    def wake(self, friend_id: str = "") -> None:
        """Try at once what waits to be tried again; what WeChat limits, only to `friend_id`, who has just written."""
        with self._changed:
            for letter in self._letters:
                if not letter.refused or letter.to == friend_id:
                    letter.due = 0.0
            self._changed.notify_all()

    def enclose(self, sender: dict[str, Any], receiver: dict[str, Any], parts: Sequence[Part]) -> Letter:
        """Return a letter that is nowhere yet; raise RateLimited when too many wait."""
        if len(self._letters) >= MOST_LETTERS:
            raise RateLimited(f"{MOST_LETTERS} messages wait already", retryable=True, retry_after=60)
        return Letter(new_id(), sender, receiver, list(parts))

    def keep(self, letter: Letter) -> None:
        """Keep a letter in the store; raises sqlite3.Error."""
        letter.number = self._store.letterbox.add(letter.body())

    def put(self, letter: Letter) -> None:
        """Let a letter wait for its turn; one that is kept only once that is committed."""
        with self._changed:
            if self._stopping and letter.waited:
                raise _stopped()
            self._letters.append(letter)
            self._changed.notify_all()

    def _take_over(self) -> None:
        """Take up what an earlier process promised; what it was sending when it died is not sent twice."""
        try:
            kept = self._store.letterbox.all()
        except sqlite3.Error as ex:
            logger.error("letters not read", extra={"action": "send", "reason": str(ex)})
            return
        for number, body, sent, under_way, refused in kept:
            try:
                letter = Letter.restored(body, number=number, sent=sent, under_way=under_way, refused=refused)
            except (TypeError, KeyError, ValueError) as ex:  # of another version: it stays for that one
                logger.error("letter not understood", extra={"action": "send", "letter": number, "reason": repr(ex)})
                continue
            (self._broken_off if under_way or letter.waited else self._letters).append(letter)

    def _run(self) -> None:
        for broken_off in self._broken_off:
            unknown = DeliveryUnknown("the client died while sending", retryable=False)
            self._end(broken_off, unknown if broken_off.under_way else _stopped())
        while (letter := self._next()) is not None:
            try:
                self._attempt(letter)
            except CallFailed as ex:
                self._failed(letter, ex)
            except sqlite3.Error as ex:
                self._failed(letter, CallFailed(f"the store: {ex}", retryable=True))
            except Exception:  # a defect must not stop all other letters
                logger.exception("send failed", extra={"action": "send"})
                self._end(letter, CallFailed("internal error", retryable=False))

    def _next(self) -> Letter | None:
        """Wait for a letter whose turn it is, and for the interval after the one before; None when we stop."""
        self.pulse.rest()
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                letter, later = self._first(now)
                begin = self._sent_at + self._options.send_interval
                if letter and now >= begin:
                    return letter
                until = begin if letter else later
                self._changed.wait(None if until == FOREVER else until - now)
        for letter in [letter for letter in self._letters if letter.waited]:
            if letter.sent:  # not all of it is: to be said as such
                self._end(letter, _stopped())
            elif letter.answer.set_running_or_notify_cancel():
                letter.answer.set_exception(_stopped())
        return None

    def _first(self, now: float) -> tuple[Letter | None, float]:
        """Return the first letter whose turn it is, or when the next one's may be.

        Letters to one friend never overtake one another, so that one which waits to be tried again holds back others.
        """
        self._letters = [letter for letter in self._letters if not letter.answer.cancelled()]
        self._held = {}
        for letter in self._letters:
            if letter.to in self._held:
                continue
            if letter.due <= now:
                return letter, now
            self._held[letter.to] = letter.due
        return None, min(self._held.values(), default=FOREVER)

    def _attempt(self, letter: Letter) -> None:
        """Send the next part of a letter; raise what prevents it, with the claim given back if it did not go out."""
        if letter.waited and not letter.answer.running() and not letter.answer.set_running_or_notify_cancel():
            return
        left = len(letter.parts) - letter.sent
        self._check_time(letter, left)
        self._prepare(letter)
        with self._store.transaction():
            self._driver.claim(letter.to, left)
            # Also one that is waited for: its fate is to be reported whatever becomes of us.
            number = letter.number or self._store.letterbox.add(letter.body())
            self._store.letterbox.mark(number, sent=letter.sent, under_way=True, refused=letter.refused)
        letter.number = number
        self.pulse.within(SEND_TIMEOUT)
        self._sent_at = time.monotonic()
        try:
            reply = self._driver.send_part(letter.to, letter.next, letter.client_id)
        except CallFailed as ex:
            if not isinstance(ex, DeliveryUnknown):
                self._take_back(letter)
            raise
        self._arrived(letter, reply)

    def _prepare(self, letter: Letter) -> None:
        """Do what takes long while it is certain that nothing was sent yet."""
        if (part := letter.next).url:
            self.pulse.within(FETCH_TIMEOUT)
            part = letter.parts[letter.sent] = Part(media=self.fetch(part))
        if part.media:
            patience = UPLOAD_TIMEOUT + part.media.size / UPLOAD_SPEED
            self.pulse.within(patience)
            deadline = time.monotonic() + patience
            self._driver.prepare(letter.to, part, min(deadline, letter.deadline) if letter.waited else deadline)
            self._check_time(letter, len(letter.parts) - letter.sent)

    def _check_time(self, letter: Letter, left: int) -> None:
        """Refuse what would still be sent when its caller has given up, and perhaps has sent it again."""
        needed = (left - 1) * self._options.send_interval
        if not letter.waited and self._store.letterbox.age(letter.number) > self._options.send_max_age:
            raise Expired
        if letter.waited and letter.sent == 0 and time.monotonic() + needed > letter.deadline:
            raise _too_slow(needed)

    def _check_way(self, letter: Letter) -> None:
        """Refuse at once what would wait for an earlier letter for longer than its caller does."""
        wait = self._held.get(letter.to, 0.0) - time.monotonic()
        if wait > PATIENCE:
            raise _too_slow(wait)

    def _take_back(self, letter: Letter) -> None:
        """Note that a part did not go out; what became of it is told also when the store is not."""
        try:
            with self._store.transaction():
                self._driver.give_back(letter.to)
                self._store.letterbox.mark(letter.number, sent=letter.sent, under_way=False, refused=letter.refused)
        except sqlite3.Error as ex:
            logger.error("claim not given back", extra={"action": "send", "reason": str(ex)})

    def _arrived(self, letter: Letter, reply: dict[str, Any]) -> None:
        part, client_id = letter.next, letter.client_id
        letter.sent += 1
        letter.pause, letter.refused = 0.0, 0
        self._state.note(last_outbound_at=int(time.time()))
        logger.info("message sent", extra={"action": "send", "receiver": letter.to[:8]})
        last = letter.sent == len(letter.parts)
        report = reports.sent(reply["id"], client_id, [part], letter.sender, letter.receiver, None)

        def answer() -> None:
            if last and letter.waited and not letter.answer.done():
                file = {"media_id": part.media.id} if part.media else {}
                letter.answer.set_result({**reply, "parts": len(letter.parts), **file})

        self._note(letter, report, ended=last, answer=answer)

    def _failed(self, letter: Letter, ex: CallFailed) -> None:
        """Try a kept letter again where it is certain that it did not go out; tell of all others."""
        if letter.waited or not self._worth_another_try(letter, ex):
            self._end(letter, ex)
            return
        letter.pause = longer(letter.pause, RETRY_FIRST, RETRY_MOST)
        pause = max(letter.pause * random.uniform(0.8, 1.2), float(str(ex.fields.get("retry_after") or 0)))
        letter.due = time.monotonic() + pause
        logger.warning("not sent yet", extra={"action": "send", "reason": str(ex), "retry_in": pause})

    def _worth_another_try(self, letter: Letter, ex: CallFailed) -> bool:
        if isinstance(ex, RateLimited):
            letter.refused += 1
            return letter.refused <= MOST_REFUSALS
        return isinstance(ex, NotLoggedIn) or ex.fields.get("retryable") is True

    def _end(self, letter: Letter, ex: CallFailed) -> None:
        """Give up a letter."""
        logger.warning("not sent", extra={"action": "send", "receiver": letter.to[:8], "reason": str(ex)})
        ex.fields.setdefault("client_id", letter.client_id)
        ex.fields.setdefault("id", letter.client_id)
        if letter.sent:
            ex.fields["parts_sent"] = letter.sent
        report = reports.sent(letter.client_id, letter.client_id, letter.unsent, letter.sender, letter.receiver, ex)

        def answer() -> None:
            if letter.waited and not letter.answer.done():
                letter.answer.set_exception(ex)

        self._note(letter, report, ended=True, answer=answer)

    def _note(self, letter: Letter, report: dict[str, Any], *, ended: bool, answer: Callable[[], None]) -> None:
        """Report what became of a letter or a part of it, and forget one that is ended; wait for a full disk with that.

        Who waits for an `answer` does not wait for the disk.
        """
        if ended:
            self._drop(letter)
        while not self._noted(letter, report, ended=ended):
            answer()
            self.pulse.within(RETRY_FIRST)
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping, RETRY_FIRST):
                    return  # it is still under way for the next process, which says that its fate is not known
        answer()
        self._events.announce()

    def _noted(self, letter: Letter, report: dict[str, Any], *, ended: bool) -> bool:
        try:
            with self._store.transaction():
                if ended:
                    self._store.letterbox.remove(letter.number)
                else:
                    self._store.letterbox.mark(letter.number, sent=letter.sent, under_way=False, refused=letter.refused)
                self._events.message(report, letter.to)
        except sqlite3.Error as ex:
            logger.error("cannot be kept", extra={"action": "send", "what": "letter", "reason": str(ex)})
            return False
        return True

    def _drop(self, letter: Letter) -> None:
        with self._changed:
            self._letters = [other for other in self._letters if other is not letter]


def _nothing_fetched(part: Part) -> Media:
    raise ContentRejected("nothing is fetched here")


def _stopped() -> CallFailed:
    return NotLoggedIn("the client is stopping", state=Login.STOP.value)


def _too_slow(wait: float) -> CallFailed:
    return RateLimited("its turn would come too late", retryable=True, retry_after=int(wait) + 1)
