"""iLink messages to openwx messages and back (ilink-protocol.md 7, 8.5, 13.6, 13.7)."""

from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from dataclasses import dataclass
from typing import Any

from wxsup.client import filetypes, reports
from wxsup.client.drivers.ilink import quotes
from wxsup.client.drivers.ilink.fields import object_of, objects, text_of
from wxsup.client.drivers.ilink.quotes import Said
from wxsup.client.filetypes import Kind
from wxsup.client.media import shown_name
from wxsup.client.store.people import Friend

FROM_USER, FROM_BOT = 1, 2
TEXT = 1
ZERO_WIDTH_JOINER = "\u200d"
MOST_KEY = 200  # characters of an id that are kept as they are


@dataclass(frozen=True)
class _File:
    """How items of one type carry a file; `item` is their sub-object."""

    item: str
    kind: Kind


_FILES = {
    2: _File("image_item", filetypes.IMAGE),
    3: _File("voice_item", filetypes.VOICE),
    4: _File("file_item", filetypes.FILE),
    5: _File("video_item", filetypes.VIDEO),
}


@dataclass(frozen=True)
class Received:
    """An openwx message made of an inbound item; `source` says where its file is to be had, None without one.

    The source holds the key of the file and must not be reported.
    """

    body: dict[str, Any]
    source: dict[str, Any] | None


def key_of(message: dict[str, Any]) -> str:
    """Return what tells this message from every other of its account (5.3)."""
    sender = message.get("from_user_id")
    if (id_ := text_of(message.get("message_id"))) not in ("", "0"):
        return _short(f"id:{id_}")
    if client_id := text_of(message.get("client_id")):
        return _short(f"client:{sender}:{client_id}")
    if seq := text_of(message.get("seq")):
        return _short(f"seq:{sender}:{seq}")
    content = json.dumps([sender, message.get("create_time_ms"), message.get("item_list")], sort_keys=True)
    return "hash:" + hashlib.sha256(content.encode()).hexdigest()


def _short(key: str) -> str:
    return key if len(key) <= MOST_KEY else "hash:" + hashlib.sha256(key.encode()).hexdigest()


def id_of(message: dict[str, Any]) -> str:
    """Return what the API calls this message."""
    return key_of(message).removeprefix("id:")


def uid(id_: str) -> int:
    """Return a number for an id: synthetic, stable, below 2**53."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:6])


def friend_object(friend: Friend) -> dict[str, Any]:
    """Return a friend as openwx-api.md 2 has it."""
    return {
        "id": friend.id,
        "uid": uid(friend.id),
        "account": friend.id,
        "name": friend.name,
        "markname": friend.markname,
        "displayname": friend.markname or friend.name,
        "category": "好友",
        **dict.fromkeys(("display", "sex", "province", "city", "signature"), ""),
    }


def user_object(id_: str, name: str) -> dict[str, Any]:
    """Return the account itself as openwx-api.md 2 has it."""
    return {
        "id": id_,
        "uid": uid(id_),
        "account": id_,
        "name": name,
        "displayname": name,
        **dict.fromkeys(("display", "markname", "sex", "province", "city", "signature"), ""),
    }


def received(message: dict[str, Any], sender: dict[str, Any], receiver: dict[str, Any], said: Said) -> list[Received]:
    """Return one openwx message for each item of an inbound message; `said` looks up what it quotes."""
    items = objects(message.get("item_list")) or [{"type": TEXT}]  # nothing at all is something, too
    base_id = id_of(message)
    created = message.get("create_time_ms")
    when = created // 1000 if isinstance(created, int) and created > 0 else int(time.time())
    common = {
        "post_type": "receive_message",
        "class": "recv",
        "type": "friend_message",
        "time": when,
        "source": "outer",
        "from": "none",
        **reports.person("sender", sender),
        "sender_category": sender["category"],
        **reports.person("receiver", receiver),
        "ilink_seq": text_of(message.get("seq")),
        "session_id": text_of(message.get("session_id")),
    }
    found = []
    for number, item in enumerate(items, 1):
        file = _file(item)
        body = {
            **common,
            "id": base_id if number == 1 else f"{base_id}-{number}",
            "format": "media" if file else "text",
            "content": content(item),
            **(_file_fields(item, file) if file else {}),
            **quotes.quote(item, said, content),
        }
        found.append(Received(body, _source(item, file) if file else None))
    return found


def content(item: dict[str, Any]) -> str:
    """Return how an item reads: its text, or a label with the transcript of what was spoken."""
    kind = item.get("type")
    if kind == TEXT and not isinstance(kind, bool):
        return text_of(object_of(item, "text_item").get("text"))
    if file := _file(item):
        return file.kind.label + _transcript(item)
    return f"[未知消息类型 {str(kind)[:20]}]"


def _file(item: dict[str, Any]) -> _File | None:
    kind = item.get("type")
    return _FILES.get(kind) if isinstance(kind, int) and not isinstance(kind, bool) else None


def _transcript(item: dict[str, Any]) -> str:
    return text_of(object_of(item, "voice_item").get("text")) if item.get("type") == 3 else ""


def _file_fields(item: dict[str, Any], file: _File) -> dict[str, Any]:
    """Return what is known of a file before it is fetched."""
    told = object_of(item, file.item)
    size = text_of(told.get("len"))
    fields: dict[str, Any] = {
        "media_id": "",
        "media_code": file.kind.code,
        "media_type": file.kind.type,
        "media_name": shown_name(text_of(told.get("file_name"))),
        "media_size": int(size) if size.isascii() and size.isdigit() and len(size) < 16 else "",
    }
    if file.kind is filetypes.VOICE:
        length = told.get("playtime")
        fields |= {"voice_text": _transcript(item), "voice_ms": length if isinstance(length, int) else ""}
    return fields


def _source(item: dict[str, Any], file: _File) -> dict[str, Any] | None:
    told = object_of(item, file.item)
    place = object_of(told, "media")
    if not (text_of(place.get("encrypt_query_param")) or text_of(place.get("full_url"))):
        return None
    key = text_of(told.get("aeskey")) if file.kind is filetypes.IMAGE else ""
    if not (key or text_of(place.get("aes_key")) or file.kind is filetypes.IMAGE):
        return None  # what has no key cannot be read; only an image may come plain (9.2)
    names = ("encrypt_query_param", "full_url", "aes_key")
    return {"media": {name: place[name] for name in names if name in place}, "aeskey": key}


def split(text: str, limit: int) -> list[str]:
    """Cut `text` into parts of at most `limit` characters: at a line end, else a space, never inside a character.

    A character is what the eye takes for one: a letter and its combining marks, a joined emoji.
    """
    parts = []
    while len(text) > limit:
        cut = text.rfind("\n", 1, limit) + 1 or text.rfind(" ", 1, limit) + 1 or _boundary(text, limit)
        parts.append(text[:cut])
        text = text[cut:]
    return [*parts, text]


def _boundary(text: str, limit: int) -> int:
    for cut in range(limit, limit // 2, -1):
        # Marks include what makes an emoji of the character before (U+FE0F).
        mark = unicodedata.category(text[cut]).startswith("M") or "\U0001f3fb" <= text[cut] <= "\U0001f3ff"
        if not mark and ZERO_WIDTH_JOINER not in text[cut - 1 : cut + 1]:
            return cut
    return limit
