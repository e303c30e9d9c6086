"""Reports of what was sent, whatever the driver (openwx-api.md 6.3)."""

from __future__ import annotations

import time
from typing import Any

from wxsup.errors import CallFailed

SENT, NOT_SENT = "发送成功", "发送失败"


def sent(
    id_: str, uid: str, content: str, sender: dict[str, Any], receiver: dict[str, Any], failure: CallFailed | None
) -> dict[str, Any]:
    """Return the report of a text that went out through us, or did not."""
    return {
        **(failure.fields if failure else {}),
        "post_type": "send_message",
        "class": "send",
        "type": "friend_message",
        "format": "text",
        "id": id_,
        "uid": uid,
        "time": int(time.time()),
        "content": content,
        "source": "local",
        "from": "api",
        "code": failure.code if failure else "",
        "msg": NOT_SENT if failure else SENT,
        "info": failure.status if failure else "success",
        **person("sender", sender),
        **person("receiver", receiver),
        "receiver_category": receiver["category"],
    }


def person(role: str, person: dict[str, Any]) -> dict[str, Any]:
    """Return what a message says of its sender or receiver."""
    return {
        role: person["displayname"],
        **{f"{role}_{name}": person[name] for name in ("id", "uid", "account", "name", "markname")},
    }


def party(report: dict[str, Any], role: str) -> dict[str, Any]:
    """Return who the sender or receiver of a report is, as person() takes them."""
    found = {name: report.get(f"{role}_{name}", "") for name in ("id", "uid", "account", "name", "markname")}
    return {**found, "displayname": report.get(role, ""), "category": report.get(f"{role}_category", "")}
