"""Media on a phone over HTTP: what a person sends comes in as JSON, what the phone shows goes out as it is."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from wxsup.sandbox import media
from wxsup.sandbox.cdn import BYTES, MOST_BYTES
from wxsup.sandbox.fields import Reply, checked, one_of, within
from wxsup.sandbox.media import NAMES, Media, Shot
from wxsup.sandbox.phones import Message
from wxsup.sandbox.server import BadRequest, Page, Request

MOST_JSON = MOST_BYTES // 3 * 4 + 64 * 1024  # of a call that brings media in base64
MOST_NAME = 255
MOST_MILLISECONDS = 24 * 3600 * 1000

#: Which kinds the fields that not every kind has go with.
ONLY = {"transcript": ("voice",), "milliseconds": ("voice", "video"), "plain": ("image",)}

#: A file of a stranger's that is opened in the browser may do nothing there, nor be used by other sites.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def shot_of(given: Mapping[str, Any]) -> Shot:
    """Return what a person sends."""
    optional = {"name": str, "transcript": str, "milliseconds": int, "plain": bool}
    fields = checked(given, {"kind": str, "data": str}, optional)
    kind = one_of(fields, "kind", tuple(NAMES))
    for name, kinds in ONLY.items():
        if name in fields and kind not in kinds:
            raise BadRequest(f"{name} goes with {' and '.join(kinds)} only")
    within(fields, "milliseconds", 0, MOST_MILLISECONDS, 0)
    if len(fields.get("name", "")) > MOST_NAME:
        raise BadRequest(f"name is longer than {MOST_NAME} characters")
    try:
        content = base64.b64decode(fields.pop("data"), validate=True)
    except (ValueError, binascii.Error) as ex:
        raise BadRequest("data is not base64") from ex
    if len(content) > MOST_BYTES:
        raise BadRequest(f"data is more than {MOST_BYTES} bytes")
    return Shot(content=content, **fields)


def entry(request: Request, user: str, message: Message, shown: Media) -> Reply:
    """Return what a phone shows of a message's media."""
    about: Reply = {"kind": shown.kind, "name": shown.name}
    if shown.error:
        return {**about, "error": shown.error}
    url = f"{request.url}/sandbox/media?{urlencode({'user': user, 'n': message.number})}"
    about |= {"size": shown.size, "md5": shown.md5, "url": url}
    more = {"transcript": shown.transcript, "milliseconds": shown.milliseconds}
    return {**about, **{name: value for name, value in more.items() if value}}


def page(shown: Media, content: bytes) -> Page:
    """Return the bytes; only what is a picture for sure is shown in a browser, all else is a download."""
    picture = media.picture_type(content) if shown.kind == "image" else ""
    manner = "inline" if picture else "attachment"
    # RFC 6266 4.3: in this form any name does.
    disposition = f"{manner}; filename*=UTF-8''{quote(shown.name, safe='')}"
    kind = f"image/{picture}" if picture else BYTES
    return Page(content, kind, {**HEADERS, "Content-Disposition": disposition})
