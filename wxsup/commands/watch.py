"""The command wxsup watch: what every client does, kept up to date on the screen."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from wxsup import values
from wxsup.commands.clients import STATES, row
from wxsup.errors import WxsupError
from wxsup.flags import Target, interruptible, parsed, with_target
from wxsup.terminal import Output, body, clean, table
from wxsup.usage import command

if TYPE_CHECKING:
    from wxsup.sdk import Controller

QUIT = b"qQ\x03\x04"


@command(
    examples=[
        ("wxsup watch", "all clients, every two seconds; q or Ctrl-C ends it"),
        ("wxsup watch --interval 10 --url https://wx.example.com", "a controller elsewhere, less often"),
        ("wxsup watch --json | jq -c '.client[].state'", "a line of JSON each time"),
    ]
)
@click.option("--interval", default="2", callback=parsed(values.seconds(0.1, 3600)), show_default=True, help="seconds")
@with_target
def watch(target: Target, output: Output, interval: float) -> None:
    """Show the state of all clients, live; q or Ctrl-C ends it."""
    if not (output.for_people or output.as_json):
        raise click.UsageError("watch needs a terminal; try wxsup status, or wxsup watch --json")
    with target.controller() as wx, interruptible():
        if output.as_json:
            while True:
                output.document({"code": 0, "client": wx.check()})
                time.sleep(interval)
        _watch(wx, output, interval)


def _watch(wx: Controller, output: Output, interval: float) -> None:
    from rich.console import Group
    from rich.text import Text

    with _keys(), output.live(screen=True) as live:
        while True:
            heading = Text(f"{time.strftime('%H:%M:%S')}  every {interval:g} s, q ends\n", "dim")
            try:
                live.update(Group(heading, table(live.console, STATES, map(row, wx.check()))), refresh=True)
            except WxsupError as ex:
                live.update(Group(heading, Text(clean(str(body(ex)["reason"])), "red")), refresh=True)
            if _asked_to_quit(interval):
                return


@contextmanager
def _keys() -> Iterator[None]:
    """Let each key be read at once, and not be shown (termios(3))."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _asked_to_quit(seconds: float) -> bool:
    """Wait, and tell whether meanwhile a key said that it is enough; a terminal that is gone says so too."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready and os.read(sys.stdin.fileno(), 1) in QUIT:  # b"", the end of all input, is too
            return True
    return False
