"""What outlives a restart: the phones, the bot bound to each, what was said; and the file that remembers it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from wxsup import errors, files
from wxsup.sandbox.media import Media

VERSION = 1

TO_BOT = "to_bot"
TO_USER = "to_user"

USER_MESSAGE = 1  # the message_type of what a user writes (7.1)

Kept = TypeVar("Kept", "Message", "Bot", Media)


@dataclass(frozen=True)
class Message:
    """One thing said; `number` counts from 1 on each phone, whichever bot was bound to it at the time.

    `raw` holds fields that the bot gets in place of ordinary ones, null for none. `again` marks a repetition, which
    the bot gets and the phone does not show. `media` is what it holds besides or in place of text.
    """

    number: int
    direction: str
    text: str
    message_id: int
    client_id: str
    time_ms: int
    bot_id: str
    raw: dict[str, Any] = field(default_factory=dict)
    again: bool = False
    media: Media | None = None

    @property
    def shown_id(self) -> str:
        """Return the message_id as the bot gets it; "" if it gets none."""
        shown = self.raw.get("message_id", self.message_id)
        return "" if shown is None else str(shown)


@dataclass
class Bot:
    """A binding: the bot contact of one user, and their conversation.

    Everything up to the message `acknowledged` was covered by a cursor and is never delivered again (5.3). `fresh`
    says that no cursor has come since the last empty one. Once dead, `death` is where -14 stands in the answers:
    "errcode", "ret" or "both". Fields without init belong to the running server only.
    """

    bot_id: str
    token: str
    acknowledged: int
    fresh: bool = True
    alive: bool = True
    context_token: str = ""
    heard: float = 0.0
    sends_left: int = 0
    death: str = "errcode"
    pollers: int = field(default=0, init=False)
    most_pollers: int = field(default=0, init=False)
    typing_until: float = field(default=0.0, init=False)


@dataclass
class Phone:
    """A WeChat user who has confirmed a code at least once, with the newest bot (3.4: one user, one bot)."""

    user: str
    bot: Bot
    messages: list[Message] = field(default_factory=list)


def user_id(user: str) -> str:
    """Return the WeChat id of a user: stable, and the same in every sandbox."""
    return f"o9cq8{hashlib.sha256(user.encode()).hexdigest()[:23]}@im.wechat"


def new_bot(acknowledged: int) -> Bot:
    """Make a binding that begins after the message `acknowledged`."""
    bot_id = f"{secrets.token_hex(6)}@im.bot"
    return Bot(bot_id, f"{bot_id}:{secrets.token_hex(16)}", acknowledged)


def write(path: Path, phones: dict[str, Phone]) -> None:
    """Replace the state file; it holds tokens, so only we may read it."""
    state = {
        phone.user: {"bot": _kept(phone.bot), "messages": [_kept(message) for message in phone.messages]}
        for phone in phones.values()
    }
    document = json.dumps({"version": VERSION, "phones": state}, ensure_ascii=False)
    files.replace(path, document, mode=0o600, durable=False)


def read(path: Path) -> dict[str, Phone]:
    """Return the phones that the state file remembers; none when there is no file yet."""
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != VERSION:
            raise errors.Refusal(f"the sandbox state file {path} is of version {document['version']}, not {VERSION}")
        return {user: _phone(user, state) for user, state in document["phones"].items()}
    except FileNotFoundError:
        return {}
    except OSError as ex:
        raise errors.Refusal(f"the sandbox state file {path} cannot be read: {ex.strerror}") from ex
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as ex:
        raise errors.Refusal(
            f"the sandbox state file {path} is broken: delete it to begin with an empty sandbox"
        ) from ex


def _kept(thing: Message | Bot | Media) -> dict[str, object]:
    kept = {each.name: getattr(thing, each.name) for each in dataclasses.fields(thing) if each.init}
    return {name: _kept(value) if isinstance(value, Media) else value for name, value in kept.items()}


def _message(kept: dict[str, Any]) -> Message:
    media = kept.pop("media", None)
    return replace(_restored(Message, kept), media=None if media is None else _restored(Media, media))


def _phone(user: str, state: dict[str, Any]) -> Phone:
    messages = [_message(kept) for kept in state["messages"]]
    # A message is found by its number (World.chat), so that a gap would show the wrong ones.
    if [message.number for message in messages] != list(range(1, len(messages) + 1)):
        raise ValueError("messages are not numbered from 1")
    return Phone(user, _restored(Bot, state["bot"]), messages)


def _restored(kind: type[Kept], kept: dict[str, object]) -> Kept:
    """Build a `kind` of what was kept, each field of exactly the declared type."""
    types = get_type_hints(kind)
    for name, value in kept.items():
        if type(value) is not (get_origin(types[name]) or types[name]):
            raise TypeError(f"{name} is not a {types[name].__name__}")
    return kind(**kept)  # type: ignore[arg-type]
