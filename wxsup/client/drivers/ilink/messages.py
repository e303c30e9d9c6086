"""iLink messages to openwx messages and back (ilink-protocol.md 7, 8.5, 13.6, 13.7)."""

from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from typing import Any

from wxsup.client import reports
from wxsup.client.store import Friend

FROM_USER, FROM_BOT = 1, 2
TEXT = 1
ZERO_WIDTH_JOINER = "\u200d"
LABELS = {2: "[图片]", 3: "[语音]", 4: "[文件]", 5: "[视频]"}


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in what should be a list of objects."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def key_of(message: dict[str, Any]) -> str:
    """Return what tells this message from every other of its account (5.3)."""
    sender = message.get("from_user_id")
    if message.get("message_id") not in (None, "", 0):
        return f"id:{message['message_id']}"
    if message.get("client_id"):
        return f"client:{sender}:{message['client_id']}"
    if message.get("seq"):
        return f"seq:{sender}:{message['seq']}"
    content = json.dumps([sender, message.get("create_time_ms"), message.get("item_list")], sort_keys=True)
    return "hash:" + hashlib.sha256(content.encode()).hexdigest()


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


def received(message: dict[str, Any], sender: dict[str, Any], receiver: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one openwx message for each item of an inbound message."""
    items = objects(message.get("item_list")) or [{"type": TEXT}]  # nothing at all is something, too
    base_id = str(message.get("message_id") or key_of(message))
    created = message.get("create_time_ms")
    when = created // 1000 if isinstance(created, int) and created > 0 else int(time.time())
    return [
        {
            "post_type": "receive_message",
            "class": "recv",
            "type": "friend_message",
            "format": "media" if _label(item) else "text",
            "id": base_id if number == 1 else f"{base_id}-{number}",
            "time": when,
            "content": _content(item),
            "source": "outer",
            "from": "none",
            **reports.person("sender", sender),
            "sender_category": sender["category"],
            **reports.person("receiver", receiver),
        }
        for number, item in enumerate(items, 1)
    ]


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


def _content(item: dict[str, Any]) -> str:
    kind = item.get("type")
    if kind == TEXT:
        text = item.get("text_item")
        return str(text.get("text") or "") if isinstance(text, dict) else ""
    return _label(item) or f"[未知消息类型 {kind}]"


def _label(item: dict[str, Any]) -> str:
    kind = item.get("type")
    return LABELS.get(kind, "") if isinstance(kind, int) else ""
