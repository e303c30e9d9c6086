"""What bots send: null is read as absent (ilink-protocol.md 2.3), and what is there must be of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wxsup.sandbox.server import BadRequest

Body = Mapping[str, Any]


def text_in(body: Body, name: str) -> str:
    """Return a text, "" if there is none."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} is not a text")
    return value


def list_in(body: Body, name: str) -> list[Any]:
    """Return a list, an empty one if there is none."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"{name} is not a list")
    return value


def object_in(body: Body, name: str) -> dict[str, Any]:
    """Return an object that must be there."""
    value = body.get(name)
    if not isinstance(value, dict):
        raise BadRequest(f"{name} is not an object")
    return value


def size_in(body: Body, name: str) -> int:
    """Return a number of bytes that must be there."""
    value = body.get(name)
    if type(value) is not int or value < 0:
        raise BadRequest(f"{name} is not a number of bytes")
    return value
