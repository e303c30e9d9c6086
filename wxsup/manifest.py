"""A file that says which clients there are to be, and what that takes, given those that there are.

[defaults]
log_level = "info"

[clients.shop]

[clients."客服02"]
log_level = "debug"
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from wxsup import names, options
from wxsup.errors import SettingInvalid, WxsupError

Params = dict[str, str]
TABLES = ("defaults", "clients")
ANY_URL = ".*"  # whether the controller takes it is for the controller to say
DOWN = ("stopped", "failed", "stopping")


class Action(Enum):
    """What is to be done with a client."""

    START = "started"
    CHANGE = "changed"
    REMOVE = "removed"
    NOTHING = "unchanged"
    STRAY = "not in the file"


@dataclass(frozen=True)
class Step:
    """What is to be done with the client `name`: `changes` are the parameters that differ, as (old, new)."""

    name: str
    action: Action
    params: Params = field(default_factory=dict)
    changes: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)


def load(path: Path, *, post_api_allow: str = ANY_URL) -> dict[str, Params]:
    """Return the start parameters of each client in the file; raise SettingInvalid, naming what is wrong, if any is."""
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except (OSError, ValueError) as ex:
        raise SettingInvalid(f"{path}: {ex}") from ex
    for title in found.keys() - set(TABLES):
        raise SettingInvalid(
            f"{path}: there is no table [{title}]{near(title, TABLES)}; see [defaults], [clients.NAME]"
        )
    clients = _table(path, "clients", found.get("clients", {}))
    defaults = _params(path, "defaults", found.get("defaults", {}), post_api_allow)
    return {name: defaults | _client(path, name, table, post_api_allow) for name, table in clients.items()}


def plan(wanted: Mapping[str, Params], entries: Iterable[Mapping[str, Any]], *, prune: bool) -> list[Step]:
    """Return what makes `wanted` of the clients that check_client shows; those to be removed first, to make room."""
    known = {str(entry["account"]): entry for entry in entries}
    stray = Action.REMOVE if prune else Action.STRAY
    steps = [Step(name, stray) for name in known if name not in wanted]
    for name, params in wanted.items():
        entry = known.get(name)
        if entry is None:
            steps.append(Step(name, Action.START, params, _changes({}, params)))
            continue
        changes = _changes(entry.get("params", {}), params)
        down = entry["process"] in DOWN
        action = Action.CHANGE if changes else Action.START if down else Action.NOTHING
        steps.append(Step(name, action, params, changes))
    return steps


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    both = {name: (old.get(name), new.get(name)) for name in sorted({*old, *new})}
    return {name: (before, after) for name, (before, after) in both.items() if before != after}


def _client(path: Path, name: str, table: Any, post_api_allow: str) -> Params:
    try:
        names.slug(name)
        if name in ("", "0"):
            raise ValueError('it may not be empty, nor "0"')
    except (WxsupError, ValueError) as ex:
        raise SettingInvalid(f"{path}: {name!r} cannot be the name of a client: {ex}") from ex
    return _params(path, f"clients.{name}", table, post_api_allow)


def _params(path: Path, title: str, table: Any, post_api_allow: str) -> Params:
    given = {name: _text(path, title, name, value) for name, value in _table(path, title, table).items()}
    try:
        return options.accept(given, post_api_allow=post_api_allow)
    except WxsupError as ex:
        wrong = next((name for name in given if name in getattr(ex, "status", "")), "")
        raise SettingInvalid(f"{path}: [{title}]: {ex}{near(wrong, options.http_names())}") from ex


def _table(path: Path, title: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingInvalid(f"{path}: {title} must be a table")
    return value


def _text(path: Path, title: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (str, int, float)):
        return str(value)
    raise SettingInvalid(f"{path}: [{title}]: {name} must be a text, a number, true or false")


def near(name: str, known: Iterable[str]) -> str:
    """Return a hint at the one of `known` that was meant by `name`, "" if there is none nearly called so."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]}?" if found and name not in found else ""
