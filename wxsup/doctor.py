"""Look whether a controller could do its work with these settings, and say what is in the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from wxsup.access import open_tokens, refuse_exposure
from wxsup.controller import open_controller
from wxsup.errors import TokensUnreadable, WxsupError
from wxsup.registry import post_key
from wxsup.settings import Settings
from wxsup.tokens import Tokens


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what is wrong with it, "" if nothing is.

    `vital` is what a controller cannot be started without; with the rest it answers, and says what is wrong.
    """

    what: str
    problem: str = ""
    vital: bool = False


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for the folders, for each record that cannot be read, secret, tokens, addresses, supervisor."""
    controller = open_controller(settings)
    yield _finding(f"folders: {settings.state_dir}, {settings.run_dir}", controller.prepare, vital=True)
    for folder in (settings.state_dir, settings.backend_path, settings.run_dir):
        if folder.is_dir() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            yield Finding(f"folder {folder}", "it cannot be read and written by the user that this runs as", vital=True)
    yield from (Finding(f"record of {record.slug}", record.reason) for record in controller.broken())
    yield Finding(f"records: {len(controller.clients())} in {settings.backend_path}")
    if path := settings.post_secret_path:
        yield _finding(f"secret of the posts: {path}", lambda: post_key(path))
    tokens = open_tokens(settings)
    yield _finding(f"tokens: {settings.tokens_path}", tokens.read)
    addresses = ", ".join(map(str, settings.listen))
    yield _finding(f"addresses: {addresses}", lambda: _look_at_exposure(settings, tokens), vital=True)
    yield _finding(f"supervisor: {settings.supervisor}", controller.ask)


def _look_at_exposure(settings: Settings, tokens: Tokens) -> None:
    with suppress(TokensUnreadable):  # which is a finding of its own, and lets nobody in
        refuse_exposure(settings.listen, tokens)


def _finding(what: str, look: Callable[[], object], *, vital: bool = False) -> Finding:
    try:
        look()
    except (WxsupError, OSError) as ex:
        return Finding(what, str(ex), vital)
    return Finding(what, vital=vital)
