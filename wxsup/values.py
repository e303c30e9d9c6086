"""Text to typed values, for the settings of the server and the options of a client alike.

Each parser takes the text and returns the value, or raises ValueError with the end of the sentence
"NAME is VALUE: …".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import Field, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from wxsup.names import has_control

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Parser = Callable[[str], Any]
Table = TypeVar("Table", bound="DataclassInstance")

LOG_LEVELS = ("debug", "info", "msg", "warn", "error", "fatal")

_REFERENCE = re.compile(r"\{([a-z_]+)\}")
# What a section or unit would read as more than a name: quotes, comment signs, separators (supervisord conf).
_UNSAFE_IN_PATH = re.compile(r"""["';#,\\$`]""")


def declare(default: str, parse: Parser, help_: str, *, http: bool = False) -> Any:
    """Declare one field of a table: its default as text, its parser, one line of help.

    A default may refer to an earlier field as ``{name}``. `http` marks what a caller of start_client may set.
    """
    return field(metadata={"default": default, "parse": parse, "help": help_, "http": http})


def read(table: type[Table], given: Mapping[str, str]) -> Table:
    """Return a `table`, a dataclass made of declared fields, from text values; absent ones take their default.

    Raises ValueError "NAME is VALUE: reason". Names the table does not have are the caller's business.
    """
    texts: dict[str, str] = {}
    for item in fields(table):
        default = _REFERENCE.sub(lambda match: texts[match[1]], item.metadata["default"])
        texts[item.name] = given.get(item.name, default)
    return table(**{item.name: parse(item, texts[item.name]) for item in fields(table)})


def parse(item: Field[Any], value: str) -> Any:
    """Return the value of one declared field; raise ValueError "NAME is VALUE: reason"."""
    try:
        return item.metadata["parse"](value)
    except ValueError as ex:
        raise ValueError(f"{item.name} is {value!r}: {ex}") from ex


def text(value: str) -> str:
    """Take any text without control characters."""
    if has_control(value):
        raise ValueError("control characters are not allowed")
    return value


def flag(value: str) -> bool:
    """Take 1/0, true/false, yes/no, on/off."""
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("it must be 1 or 0")


def integer(low: int, high: int) -> Parser:
    """Take a whole number from `low` to `high`."""

    def take(value: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", value) or not low <= int(value) <= high:
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return int(value)

    return take


def seconds(low: float, high: float) -> Parser:
    """Take a number of seconds from `low` to `high`."""

    def take(value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not low <= float(value) <= high:
            raise ValueError(f"it must be a number of seconds from {low:g} to {high:g}")
        return float(value)

    return take


def duration(value: str) -> float:
    """Take a time such as 90s, 15m, 12h, 30d or 4w, and return its seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    if not re.fullmatch(r"[1-9][0-9]{0,4}[smhdw]", value):
        raise ValueError("it must be a time such as 12h, 30d, 15m or 90s")
    return float(int(value[:-1]) * units[value[-1]])


def choice(*allowed: str) -> Parser:
    """Take one of a few words."""

    def take(value: str) -> str:
        if value not in allowed:
            raise ValueError("it must be one of " + ", ".join(allowed))
        return value

    return take


def url(value: str) -> str:
    """Take an absolute http or https URL, or nothing."""
    if not value:
        return ""
    parts = urlsplit(text(value))
    if parts.scheme not in ("http", "https") or not parts.hostname or " " in value or not value.isascii():
        raise ValueError("it must be an http or https URL, in ASCII (%E4%BD%A0 and the like for the rest)")
    if "@" in parts.netloc:
        raise ValueError("it must not hold a user name or password")
    _ = parts.port  # raises ValueError by itself when it is not a number
    return value


def many(one: Parser, *, least: int = 0) -> Parser:
    """Take a comma-separated list of `least` entries or more."""

    def take(value: str) -> tuple[Any, ...]:
        found = tuple(one(part.strip()) for part in value.split(",") if part.strip())
        if len(found) < least:
            raise ValueError(f"it must have {least} entry or more")
        return found

    return take


def path(value: str) -> Path:
    """Take a path that can stand in a supervisor section without being read as more, and make it absolute."""
    try:
        found = Path(value).expanduser().absolute()
    except RuntimeError as ex:
        raise ValueError("there is no such home directory") from ex
    if not value or has_control(str(found)) or _UNSAFE_IN_PATH.search(str(found)):
        raise ValueError(
            "a path may not be empty nor hold quotes, commas, control characters or any of ; # $ ` \\"
            f" (in full it is {str(found)!r})"
        )
    return found


def optional(one: Parser) -> Parser:
    """Take what `one` takes, or nothing (None)."""

    def take(value: str) -> Any:
        return one(value) if value else None

    return take


def command(value: str) -> str:
    """Take a command line as the shell would split it, or nothing."""
    try:
        shlex.split(text(value))
    except ValueError as ex:
        raise ValueError(f"it is not a command line ({ex})") from ex
    return value


def pattern(value: str) -> str:
    """Take a regular expression, or nothing."""
    try:
        re.compile(value)
    except re.error as ex:
        raise ValueError(f"it is not a regular expression ({ex})") from ex
    return value


def matches(allowed: str, value: str) -> bool:
    """Tell whether the whole `value` matches the pattern `allowed`; an empty pattern matches nothing."""
    return bool(allowed) and re.fullmatch(allowed, value) is not None


def version(value: str) -> str:
    """Take MAJOR.MINOR.PATCH."""
    if not re.fullmatch(r"\d{1,3}\.\d{1,3}\.\d{1,3}", value, re.ASCII):
        raise ValueError("it must look like 2.4.9")
    return value
