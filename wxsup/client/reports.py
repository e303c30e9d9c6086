"""Reports of what was sent, whatever the driver (openwx-api.md 6.3)."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wxsup.client.letters import Part
from wxsup.client.media import Media
from wxsup.errors import CallFailed

DATA_MOST = 4 * 1024 * 1024  # characters of base64 in one report; larger files are asked for with get_media
SENT, NOT_SENT = "发送成功", "发送失败"


def sent(
    id_: str,
    uid: str,
    parts: Sequence[Part],
    sender: dict[str, Any],
    receiver: dict[str, Any],
    failure: CallFailed | None,
) -> dict[str, Any]:
    """Return the report of what went out through us, or did not."""
    file = next((part.media for part in parts if part.media), None)
    return {
        **(failure.fields if failure else {}),
        **(file.fields() if file else {}),
        "post_type": "send_message",
        "class": "send",
        "type": "friend_message",
        "format": "media" if file else "text",
        "id": id_,
        "uid": uid,
        "time": int(time.time()),
        "content": "".join(part.content for part in parts),
        "source": "local",
        "from": "api",
        "code": failure.code if failure else "",
        "msg": NOT_SENT if failure else SENT,
        "info": failure.status if failure else "success",
        **person("sender", sender),
        **person("receiver", receiver),
        "receiver_category": receiver["category"],
    }


def fetched(body: dict[str, Any], media: Media) -> dict[str, Any]:
    """Return the report of a received message once its file is there."""
    label = media.kind.label
    content = str(body["content"]).replace(label, f"{label}({media.path})", 1)
    return {**body, **media.fields(), "content": content}


def dressed(body: dict[str, Any], most: int) -> dict[str, Any]:
    """Return a report with the content of its file in base64, in lines of 76 as MIME has them (openwx-api.md 6.3).

    Without it where that would have more than `most` characters, or the file is not kept any more.
    """
    path, size = body.get("media_path"), body.get("media_size")
    if not path or not isinstance(size, int) or size * 4 / 3 * 77 / 76 > most:
        return body
    try:
        return {**body, "media_data": base64.encodebytes(Path(path).read_bytes()).decode()}
    except OSError:
        return body


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
