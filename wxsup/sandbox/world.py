"""The pretend world: who is bound to which bot, and what people and bots say to one another. Nothing of HTTP."""

from __future__ import annotations

import base64
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wxsup import errors, files
from wxsup.sandbox import phones
from wxsup.sandbox.codes import Code, Codes, Credentials, Unfit, Unknown, check_user
from wxsup.sandbox.media import Media
from wxsup.sandbox.news import Glance, News, stay
from wxsup.sandbox.phones import Bot, Message, Phone

logger = logging.getLogger(__name__)

WINDOW = 24 * 3600.0  # a bot may answer for so long after the user's last message (8.3) ...
QUOTA = 10  # ... and so many times (8.3)
TYPING = 10.0  # a bot that types says so every 5 s (10); one that has died is not shown typing for ever


class DeadToken(Exception):
    """This bot token was replaced, dropped, or never valid; `death` is where -14 stands in the answer."""

    def __init__(self, death: str = "errcode") -> None:
        super().__init__("this token is dead")
        self.death = death


class SendRefused(Exception):
    """The bot may not send this now; the text is the errmsg beside ret -2."""


@dataclass(frozen=True)
class Updates:
    """What getupdates found in the conversation of a user and a bot."""

    messages: list[Message]
    cursor: str
    context_token: str
    user_id: str
    bot_id: str


@dataclass(frozen=True)
class Account:
    """A user's newest binding, without its secrets."""

    user: str
    user_id: str
    bot_id: str
    alive: bool
    pollers: int
    most_pollers: int
    sends_left: int
    typing: bool


class World:
    """Everything there is, behind one lock; held calls wait for its news, always with a deadline."""

    def __init__(self, *, state: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._clock = clock
        self._news = News()
        self._closed = False
        self.codes = Codes(self._news, clock)
        self._phones = phones.read(state) if state else {}
        self._bound = {phone.bot.token: phone for phone in self._phones.values() if phone.bot.alive}
        self._last_id = 0
        if state:
            try:
                files.private_directory(state.parent)
                self._save()
            except OSError as ex:
                raise errors.Refusal(f"the sandbox state file {state} cannot be written: {ex.strerror}") from ex

    def close(self) -> None:
        """Wake every held call and write no more: another world may have the state file from now on."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    # The bot's side

    def updates(self, token: str, cursor: str, *, hold: float = 0.0, glance: Glance = stay) -> Updates:
        """Return what was said after `cursor`, waiting for something; the cursor acknowledges all before it (5.3).

        What is returned here can be asked for again with the same cursor, so that a reply which gets lost on the way
        loses nothing.
        """
        with self._news:
            phone = self._phone_of(token)
            bot = phone.bot
            self._acknowledge(phone, cursor)
            bot.pollers += 1
            bot.most_pollers = max(bot.most_pollers, bot.pollers)
            try:
                self._news.hold(lambda: not bot.alive or bool(_pending(phone)), hold, glance)
            finally:
                bot.pollers -= 1
            if not bot.alive:
                raise DeadToken(bot.death)
            messages = _pending(phone)
            upto = messages[-1].number if messages else bot.acknowledged
            return Updates(messages, _cursor(bot, upto), bot.context_token, phones.user_id(phone.user), bot.bot_id)

    def send(
        self,
        token: str,
        to_user_id: str,
        context_token: str,
        text: str,
        client_id: str = "",
        media: Media | None = None,
    ) -> Message:
        """Say something to the user, if the bot may do so just now (8.3)."""
        with self._news:
            phone = self._phone_of(token)
            bot = phone.bot
            if not context_token or context_token != bot.context_token or to_user_id != phones.user_id(phone.user):
                raise SendRefused("prepare failed")
            if self._window_closed(bot):
                raise SendRefused("prepare failed")
            if not bot.sends_left:
                raise SendRefused("rate limited")
            bot.sends_left -= 1
            bot.typing_until = 0.0
            return self._write(phone, self._message(phone, phones.TO_USER, text, client_id, media))

    def has_conversation(self, token: str, user_id: str) -> bool:
        """Tell whether that user has written to the bot yet."""
        with self._news:
            phone = self._phone_of(token)
            return bool(phone.bot.context_token) and user_id == phones.user_id(phone.user)

    def is_user(self, token: str, user_id: str) -> bool:
        """Tell whether that is the user of the bot."""
        with self._news:
            return user_id == phones.user_id(self._phone_of(token).user)

    def type(self, token: str, typing: bool) -> None:
        """Let the phone show for a while that the bot types, or no more."""
        with self._news:
            self._phone_of(token).bot.typing_until = float(self._clock()) + TYPING if typing else 0.0

    def check(self, token: str) -> None:
        """Raise DeadToken unless the token is that of a live bot."""
        with self._news:
            self._phone_of(token)

    def user_of(self, token: str) -> str:
        """Return the user whose live bot has that token, "" if there is none."""
        with self._news:
            phone = self._bound.get(token)
            return phone.user if phone else ""

    # The phone's side

    def confirm(self, key: str) -> Code:
        """Let the user who scanned agree: a new bot, unless the asker holds the token of the live one (3.2, 3.4)."""

        def bind(code: Code) -> Credentials | None:
            phone = self._phones.get(code.user)
            if phone and phone.bot.alive and phone.bot.token in code.local_tokens:
                return None
            bot = self._bind(code.user)
            return Credentials(bot.bot_id, bot.token, phones.user_id(code.user))

        return self.codes.confirm(key, bind)

    def say(self, user: str, text: str, raw: Mapping[str, Any] | None = None, media: Media | None = None) -> Message:
        """Let the user write to the bot: the conversation is open again, with a full quota.

        The fields in `raw` are what the bot gets in place of ordinary ones. They can make it a message of somebody
        else, of the bot itself or to a group, which does not open this conversation.
        """
        check_user(user)
        with self._news:
            phone = self._live(user)
            bot = phone.bot
            message = self._message(phone, phones.TO_BOT, text, f"phone-{secrets.token_hex(8)}", media)
            if _is_own(user, raw or {}):
                bot.context_token = bot.context_token or secrets.token_urlsafe(24)
                bot.heard, bot.sends_left = float(self._clock()), QUOTA
                return self._write(phone, replace(message, raw=dict(raw or {})))
            return self._write(phone, replace(message, raw={"context_token": secrets.token_urlsafe(24), **(raw or {})}))

    def say_again(self, user: str, number: int) -> Message:
        """Let the bot get a message of the user once more, the same in everything, whether acknowledged or not."""
        check_user(user)
        with self._news:
            phone = self._live(user)
            said = {message.number: message for message in phone.messages if message.direction == phones.TO_BOT}
            if number not in said:
                raise Unknown("the user has said no such thing")
            first = said[number]
            raw = {"seq": first.number, **first.raw}
            return self._write(phone, replace(first, number=len(phone.messages) + 1, raw=raw, again=True))

    def chat(self, user: str, after: int = 0, *, hold: float = 0.0, glance: Glance = stay) -> list[Message]:
        """Return what was said to and by the user after message number `after`, waiting for something."""
        check_user(user)

        def said() -> list[Message]:
            phone = self._phones.get(user)
            return [message for message in phone.messages[after:] if not message.again] if phone else []

        with self._news:
            self._news.hold(lambda: bool(said()), hold, glance)
            return said()

    def message(self, user: str, number: int) -> Message:
        """Return one message of the user's phone."""
        with self._news:
            phone = self._phones.get(user)
            if phone is None or not 1 <= number <= len(phone.messages):
                raise Unknown("there is no such message")
            return phone.messages[number - 1]

    def check_user(self, user: str) -> None:
        """Raise Unknown unless the user has a live bot."""
        check_user(user)
        with self._news:
            self._live(user)

    def drop(self, user: str, death: str = "errcode") -> Bot:
        """Let the token of the user's bot die; `death` is where -14 stands from now on."""
        check_user(user)
        with self._news:
            bot = self._live(user).bot
            bot.death = death
            self._kill(bot)
            self._save()
            logger.info("bot dropped", extra={"action": "drop", "user": user})
            return bot

    def rebind(self, user: str) -> Bot:
        """Bind the user to a new bot, as a login elsewhere does; the token before is dead."""
        check_user(user)
        with self._news:
            self._live(user)
            return self._bind(user)

    def accounts(self) -> list[Account]:
        """Return each user's newest binding."""
        with self._news:
            return [self._account(phone) for phone in self._phones.values()]

    # Below here the lock is held.

    def _account(self, phone: Phone) -> Account:
        bot = phone.bot
        sends_left = 0 if self._window_closed(bot) else bot.sends_left
        user_id = phones.user_id(phone.user)
        typing = bot.alive and self._clock() < bot.typing_until
        return Account(phone.user, user_id, bot.bot_id, bot.alive, bot.pollers, bot.most_pollers, sends_left, typing)

    def _bind(self, user: str) -> Bot:
        phone = self._phones.get(user)
        if phone is None:
            phone = self._phones[user] = Phone(user, phones.new_bot(acknowledged=0))
        else:
            self._kill(phone.bot)
            phone.bot = phones.new_bot(acknowledged=len(phone.messages))
        self._bound[phone.bot.token] = phone
        self._save()
        return phone.bot

    def _kill(self, bot: Bot) -> None:
        bot.alive = False
        self._bound.pop(bot.token, None)
        self._news.notify_all()

    def _phone_of(self, token: str) -> Phone:
        phone = self._bound.get(token)
        if phone is None:
            dead = next((phone.bot for phone in self._phones.values() if phone.bot.token == token), None)
            raise DeadToken(dead.death) if dead else DeadToken
        return phone

    def _live(self, user: str) -> Phone:
        phone = self._phones.get(user)
        if phone is None or not phone.bot.alive:
            raise Unknown("this user has no live bot: scan and confirm a code first")
        return phone

    def _acknowledge(self, phone: Phone, cursor: str) -> None:
        """Take the caller's word that all up to `cursor` is safe.

        "" means from now on (5.1). After another "" it means the same place again, or a poll that is given up before
        it brought the first cursor would lose what was said meanwhile.
        """
        bot = phone.bot
        if cursor:
            position = min(_position(bot, cursor), len(phone.messages))
        else:
            position = bot.acknowledged if bot.fresh else len(phone.messages)
        before = (bot.acknowledged, bot.fresh)
        bot.acknowledged, bot.fresh = max(bot.acknowledged, position), not cursor
        if before != (bot.acknowledged, bot.fresh):
            self._save()

    def _window_closed(self, bot: Bot) -> bool:
        return self._clock() - bot.heard > WINDOW

    def _message(self, phone: Phone, direction: str, text: str, client_id: str, media: Media | None = None) -> Message:
        # Nanoseconds are above 2**53, where careless clients lose digits, and new after a restart too (2.3).
        self._last_id = max(self._last_id + 1, time.time_ns())
        number, milliseconds = len(phone.messages) + 1, int(self._clock() * 1000)
        bot_id = phone.bot.bot_id
        return Message(number, direction, text, self._last_id, client_id, milliseconds, bot_id, media=media)

    def _write(self, phone: Phone, message: Message) -> Message:
        phone.messages.append(message)
        self._save()
        self._news.notify_all()
        fields = {"action": "message", "user": phone.user, "direction": message.direction}
        logger.info("message written", extra=fields)
        return message

    def _save(self) -> None:
        if self._state and not self._closed:
            phones.write(self._state, self._phones)


def _pending(phone: Phone) -> list[Message]:
    return [message for message in phone.messages[phone.bot.acknowledged :] if message.direction == phones.TO_BOT]


def _is_own(user: str, raw: Mapping[str, Any]) -> bool:
    """Tell whether a message with these fields is one of the user to the bot alone."""
    ordinary = {"from_user_id": phones.user_id(user), "message_type": phones.USER_MESSAGE, "group_id": None}
    return all(raw.get(name, value) == value for name, value in ordinary.items())


def _cursor(bot: Bot, number: int) -> str:
    """Return the cursor that covers everything up to message `number`; clients must not look inside (5.1)."""
    return base64.urlsafe_b64encode(f"{bot.bot_id}:{number}".encode()).decode()


def _position(bot: Bot, cursor: str) -> int:
    try:
        bot_id, _, number = base64.urlsafe_b64decode(cursor).decode().rpartition(":")
        if bot_id == bot.bot_id and int(number) >= 0:
            return int(number)
    except ValueError:
        pass
    raise Unfit("this cursor is not one of this bot's")
