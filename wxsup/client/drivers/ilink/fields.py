"""Reading what a server says, which may be anything (ilink-protocol.md 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def string(value: Any) -> str:
    """Return a text, "" for all else."""
    return value if isinstance(value, str) else ""


def text_of(value: Any) -> str:
    """Return a text, or a whole number as text with all its digits, "" for all else."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else string(value)


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in what should be a list of objects."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def object_of(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object under a name, an empty one for all else."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}
