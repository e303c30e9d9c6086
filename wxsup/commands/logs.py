"""The command wxsup logs: what a client logs, from itself, or from where its supervisor keeps it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from wxsup import names
from wxsup.errors import ApiNotFound, ClientUnreachable, ControllerUnreachable, Refusal, SupervisorUnreachable
from wxsup.flags import Target, name_argument, with_target
from wxsup.settings import Settings
from wxsup.terminal import Output, clean
from wxsup.usage import command

if TYPE_CHECKING:
    from wxsup.sdk import Controller

Line = dict[str, Any]
AGAIN = 1.0
MOST = 500  # that a client keeps
AWAY = (ClientUnreachable, SupervisorUnreachable, ControllerUnreachable)  # perhaps for a moment


@command(
    examples=[
        ("wxsup logs demo", "the newest 200 lines"),
        ("wxsup logs -f -n 20 demo", "the newest 20, then each as it comes, over restarts too"),
        ("wxsup logs --json demo | jq -r 'select(.level==\"ERROR\").text'", "a line of JSON for each"),
    ]
)
@name_argument
@click.option("-f", "--follow", is_flag=True, help="go on with what comes; Ctrl-C ends it")
@click.option("-n", "--lines", type=click.IntRange(1, MOST), default=200, show_default=True, help="how many lines")
@with_target
def logs(target: Target, output: Output, name: str, follow: bool, lines: int) -> None:
    """Show the log of a client.

    The client is asked for it. One that cannot be reached has it where its supervisor keeps it: here that is shown
    instead, by tail(1) or journalctl(1).
    """
    with target.controller() as wx:
        try:
            for line in _read(wx, name, lines, follow=follow):
                _print(output, line)
            return
        except (ClientUnreachable, SupervisorUnreachable, ApiNotFound) as ex:
            with suppress(SupervisorUnreachable):
                wx.check(name)  # of a client that there is not, nothing is kept
            if target.remote:
                raise Refusal(f"{name} cannot be reached ({ex}), and its log is on the machine that it runs on") from ex
            click.echo(
                f"{clean(name)} cannot be reached ({clean(str(ex))}); this is what was kept of its log:", err=True
            )
    words = kept(target.here(), name, follow=follow, lines=lines)
    os.execvp(words[0], words)


def kept(settings: Settings, name: str, *, follow: bool, lines: int) -> list[str]:
    """Return the command that shows what the supervisor keeps of a client's log; raise Refusal if nothing does."""
    slug = names.slug(name)
    if settings.supervisor == "systemd":
        if not shutil.which("journalctl"):
            raise Refusal("there is no journalctl here")
        user = ["--user"] if settings.systemd_scope == "user" else []
        unit = f"wxclient@{slug}.service"
        return ["journalctl", *user, "--no-pager", f"--unit={unit}", f"--lines={lines}", *(["-f"] if follow else [])]
    path = settings.log_dir / f"{names.program(slug)}.log"
    if not path.exists():
        raise Refusal(f"there is no {path}")
    return ["tail", f"--lines={lines}", *(["-F"] if follow else []), "--", str(path)]


def _read(wx: Controller, name: str, lines: int, *, follow: bool) -> Iterator[Line]:
    """Yield lines; those to come as well, also those of a client that is started again meanwhile."""
    told = wx.log(name, lines=lines)
    last = 0.0
    while True:
        for line in told["lines"]:
            last = line["time"]
            yield line
        if not follow:
            return
        try:
            told = _next(wx, name, told["next"], last)
        except AWAY:
            told = _when_back(wx, name, last)


def _next(wx: Controller, name: str, after: int, last: float) -> dict[str, Any]:
    """Return the lines behind number `after`; where another process counts by now, those since `last`."""
    told = wx.log(name, lines=MOST, after=after)
    if told["lines"]:
        return told
    newest = wx.log(name, lines=MOST)
    return _since(newest, last) if newest["next"] < after else told


def _when_back(wx: Controller, name: str, last: float) -> dict[str, Any]:
    """Wait until the client answers again, and return its lines since `last`: a new process counts them anew."""
    while True:
        time.sleep(AGAIN)
        with suppress(*AWAY):
            return _since(wx.log(name, lines=MOST), last)


def _since(told: dict[str, Any], last: float) -> dict[str, Any]:
    return {**told, "lines": [line for line in told["lines"] if line["time"] > last]}


def _print(output: Output, line: Line) -> None:
    if output.as_json:
        output.document(line)
    else:
        moment = datetime.fromtimestamp(line["time"]).isoformat(" ", "milliseconds")
        click.echo(f"{moment} {clean(str(line['level'])):7} {clean(str(line['text']))}")
