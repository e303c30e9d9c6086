"""The tokens that a request shows, taken out of it before anybody who logs it or passes it on can see them.

They come as ``Authorization: Bearer TOKEN`` (RFC 6750 2.1), or, from callers that have nothing but an address, as
``?token=TOKEN``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

PARAMETER = "token"
SCHEME = "bearer"


@dataclass(frozen=True)
class Credentials:
    """What a request shows, in its header and in its address."""

    header: tuple[str, ...] = ()
    query: tuple[str, ...] = ()


def take(environ: dict[str, Any]) -> Credentials:
    """Return the tokens of the WSGI request `environ`, which has neither them nor an Authorization any more."""
    scheme, _, header = environ.pop("HTTP_AUTHORIZATION", "").partition(" ")
    environ["QUERY_STRING"], query = _split(environ.get("QUERY_STRING", ""))
    if "RAW_URI" in environ:  # gunicorn's, as the caller encoded it
        target, mark, raw = environ["RAW_URI"].partition("?")
        rest, _ = _split(raw)
        environ["RAW_URI"] = target + (mark + rest if rest or not raw else "")
    return Credentials((header.strip(),) if scheme.lower() == SCHEME else (), query)


def forget(environ: dict[str, Any], secret: str) -> None:
    """Drop every header in which `secret` stands: a Referer, or where a proxy in front notes the whole address."""
    for name in [name for name, value in environ.items() if name.startswith("HTTP_") and secret in value]:
        del environ[name]


def _split(query: str) -> tuple[str, tuple[str, ...]]:
    """Return a query without its tokens, else as it was, and the tokens."""
    kept, found = [], []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote_plus(name) == PARAMETER:
            found.append(unquote_plus(value))
        else:
            kept.append(part)
    return "&".join(kept), tuple(found)
