"""The commands that change which clients there are, and the one that shows them."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from wxsup import manifest, options
from wxsup.errors import ParameterRefused, Refusal, WxsupError
from wxsup.flags import Target, clients_of, name_argument, names_argument, with_target
from wxsup.terminal import Column, Output, ago, clean, size, stamp
from wxsup.usage import Exit, command

Entry = dict[str, Any]
Told = TypeVar("Told")

COLOURS = {
    **dict.fromkeys(("running", "success"), "green"),
    **dict.fromkeys(("init", "loading", "scaning", "confirming", "updating", "starting", "stopping"), "yellow"),
    **dict.fromkeys(("failed", "unknown"), "red"),
}
ANSWERS = (
    Column("NAME", "client"),
    Column("STATUS", "status", style=lambda value: COLOURS.get(str(value), "")),
    Column("PID", "pid"),
    Column("PORT", "port"),
)
STATES = (
    Column("NAME", "account"),
    Column("PROCESS", "process", style=lambda value: COLOURS.get(str(value), "")),
    Column("LOGIN", "state", style=lambda value: COLOURS.get(str(value), "")),
    Column("SINCE", "since", show=ago, plain=stamp),
    Column("RESTARTS", "restarts"),
    Column("MEMORY", "memory", show=size),
    Column("LAST MESSAGE", "last_inbound_at", show=ago, plain=stamp),
    Column("REASON", "reason", folds=True),
)
_NUMBERS = ("since", "restarts", "memory", "last_inbound_at")


@command(
    examples=[
        ("wxsup start demo", "start it, or leave it alone if it runs; then: wxsup qr demo"),
        ("wxsup start demo log_level=debug", "with a start parameter; docs/reference/api.md lists them"),
        ("wxsup start 客服02 --url https://wx.example.com", "on a controller elsewhere; the token is in $WXSUP_TOKEN"),
    ]
)
@name_argument
@click.argument("parameters", nargs=-1, metavar="[PARAMETER=VALUE]...")
@with_target
def start(target: Target, output: Output, name: str, parameters: tuple[str, ...]) -> None:
    """Start a client; one that runs is left alone.

    It answers when its process exists, not when it is logged in: that is what wxsup qr follows.
    """
    pairs = [parameter.partition("=") for parameter in parameters]
    for parameter, equals, _ in pairs:
        if not equals:
            raise click.UsageError(f"a parameter is PARAMETER=VALUE, but {parameter!r} has no =")
    given = {parameter: value for parameter, _, value in pairs}
    with target.controller(acting=True) as wx:
        try:
            reply = wx.start(name, **given)
        except ParameterRefused as ex:
            raise _with_hint(ex, given) from ex
    _print(output, [reply])
    output.hint(f"Next: wxsup qr {'-- ' if name.startswith('-') else ''}{shlex.quote(name)}")


@command(
    examples=[
        ("wxsup stop demo", "its session stays: a later start needs no scan"),
        ("wxsup stop a b c", "several"),
    ]
)
@names_argument
@with_target
def stop(target: Target, output: Output, names: tuple[str, ...]) -> None:
    """Stop clients and forget them; their sessions stay."""
    with target.controller(acting=True) as wx:
        _each(output, names, wx.stop, "stopping")


@command(
    examples=[
        ("wxsup restart demo", "on its port, with its parameters; so that it follows changed settings,"),
        ("wxsup refresh && wxsup restart demo", "bring its record up to them first"),
    ]
)
@names_argument
@with_target
def restart(target: Target, output: Output, names: tuple[str, ...]) -> None:
    """Stop and start clients, as they are and each on its port.

    One that is down is started.
    """
    with target.controller(acting=True) as wx:
        _each(output, names, wx.restart, "restarting")


@command(
    examples=[
        ("wxsup remove demo --purge", "also its session and messages, for good: a later start needs a scan"),
        ("wxsup remove demo --purge --yes", "without being asked"),
    ]
)
@names_argument
@click.option("--purge", is_flag=True, help="also delete their sessions, for good; also of clients that were stopped")
@click.option("--yes", is_flag=True, help="do not ask before that")
@with_target
def remove(target: Target, output: Output, names: tuple[str, ...], purge: bool, yes: bool) -> None:
    """Stop clients and forget them; with --purge also what they have kept.

    It does so whatever has become of them: they may be down, and their records broken. With --purge they may have been
    stopped and forgotten before.
    """
    if purge and not yes and sys.stdin and sys.stdin.isatty():
        sessions = clean(", ".join(names))
        if not click.confirm(f"Delete the sessions of {sessions} for good?", err=True):
            raise Refusal("nothing was removed")
    with target.controller(acting=True) as wx:
        _each(output, names, lambda name: wx.remove(name, purge=purge), "removing")


@command(
    examples=[
        (
            "wxsup status",
            "all clients; in a pipe as TSV: name, process, login, since, restarts, memory, message, reason",
        ),
        ("wxsup status demo", "one; exits with 0 if it is logged in, with 5 if not"),
        ("wxsup status --json | jq -r '.client[].account'", "what check_client answers"),
    ]
)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=clients_of)
@with_target
def status(target: Target, output: Output, names: tuple[str, ...]) -> None:
    """Show the state of all clients, or of some.

    PROCESS is what the supervisor says, LOGIN what the client does: a running process may wait for a scan.
    """
    with target.controller() as wx:
        checks, failures = _tried(names, wx.check) if names else ([wx.check()], [])
    found = [entry for entries in checks for entry in entries]
    if output.as_json:
        output.document({"code": 0, "client": found})
    else:
        output.rows(STATES, map(row, found))
        if not (names or found):
            output.say("There are no clients yet; wxsup start NAME starts one.")
    _fail(output, failures)
    if names and any(entry["state"] != "running" for entry in found):
        raise click.exceptions.Exit(Exit.NOT_LOGGED_IN)


def row(entry: Entry) -> Entry:
    """Return what is shown of an entry of check_client; what is no number where one should be is left out."""
    shown = {name: value for name, value in entry.items() if name not in _NUMBERS or _is_number(value)}
    return {**shown, "reason": trouble(entry)}


def trouble(entry: Entry) -> str:
    """Say what is wrong with a client, or what it waits for, "" if nothing."""
    if is_parked(entry):
        waits = "nobody scanned; wxsup qr --new asks for a new code"
    else:
        waits = "wants the digits that the phone shows; wxsup qr" if entry.get("verify_code_needed") else ""
    return next((str(told) for name in ("reason", "error", "trouble") if (told := entry.get(name))), waits)


def is_parked(entry: Entry) -> bool:
    """Tell whether a client shows no codes any more, since nobody scanned them."""
    return bool(entry.get("parked")) and not entry.get("qrcode_expires_at")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1e11


def _each(output: Output, names: Iterable[str], act: Callable[[str], Entry], doing: str) -> None:
    """Do something to each client, and print what came of it."""
    replies, failures = _tried(output.progress(list(dict.fromkeys(names)), doing), act)
    _print(output, replies)
    _fail(output, failures)


def _tried(names: Iterable[str], act: Callable[[str], Told]) -> tuple[list[Told], list[tuple[str, WxsupError]]]:
    """Return what was told of each client, and what went wrong; that with one keeps no other from its turn."""
    told, failures = [], []
    for name in names:
        try:
            told.append(act(name))
        except WxsupError as ex:
            failures.append((name, ex))
    return told, failures


def _fail(output: Output, failures: Iterable[tuple[str, WxsupError]]) -> None:
    """Say what went wrong, if anything did, and end with the status of the first."""
    statuses = [output.trouble(ex, name, client=name) for name, ex in failures]
    if statuses:
        raise click.exceptions.Exit(statuses[0])


def _print(output: Output, replies: list[Entry]) -> None:
    if output.as_json:
        for reply in replies:
            output.document(reply)
    elif replies:
        output.rows(ANSWERS, replies)


def _with_hint(error: ParameterRefused, given: Iterable[str]) -> WxsupError:
    """Return `error` with the parameter that was meant, if one is nearly called so."""
    known = options.http_names()
    wrong = next((name for name in given if name not in known and name in error.status), "")
    hint = manifest.near(wrong, known)
    return ParameterRefused(wrong, f"{error.reason or error.status}{hint}") if hint else error
