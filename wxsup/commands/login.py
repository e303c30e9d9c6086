"""The command wxsup qr: the login code in the terminal, until somebody has scanned it."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wxsup import files, qrcode, values
from wxsup.commands.clients import is_parked, trouble
from wxsup.errors import ContentRejected, NotLoggedIn
from wxsup.flags import Target, name_argument, parsed, with_target
from wxsup.terminal import Output, clean
from wxsup.usage import Exit, command

if TYPE_CHECKING:
    from rich.live import Live

    from wxsup.sdk import Controller

POLL = 0.5
PARKED_POLLS = 6  # between two codes there is none either, for a moment
WAITS = {
    "init": "starting ...",
    "loading": "trying the login that it has ...",
    "scaning": "Scan the code with WeChat.",
    "confirming": "Scanned. Confirm on the phone.",
    "updating": "Logged in ...",
}
DIGITS = "The phone shows digits. Type them here: "
WRONG = "These were not the digits. Type those that the phone shows now: "
SENT_POLLS = 3  # until digits that were typed are looked at


@command(
    examples=[
        ("wxsup qr demo", "draw the code, follow the login, end when the client is running"),
        ("wxsup qr demo --new", "ask for a new code first, where too many were not scanned, or for another phone"),
        ("wxsup qr demo --save code.png --timeout 5m", "also keep the picture in a file; give up after five minutes"),
    ]
)
@name_argument
@click.option("--new", is_flag=True, help="ask for a new code first, as relogin does")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="also write the picture to this file")
@click.option("--invert", is_flag=True, help="for a light terminal without colours")
@click.option("--timeout", metavar="TIME", callback=parsed(values.duration), help="give up after so long, as 90s or 5m")
@with_target
def qr(
    target: Target, output: Output, name: str, new: bool, save: Path | None, invert: bool, timeout: float | None
) -> None:
    """Show the login code of a client and follow the login.

    It ends when the client is running.

    It asks for the digits that the phone shows, if it shows any. A client that is logged in has no code.
    """
    deadline = time.monotonic() + timeout if timeout else float("inf")
    with target.controller() as wx:
        if new:
            wx.call(name, "relogin")
        follow = _Follow(wx, output, name, save=save, invert=invert, new=new)
        status = follow.until(deadline)
    output.say(follow.sentence)
    if status is not Exit.DONE:
        click.echo(f"Error: {clean(name)}: {clean(follow.sentence)}", err=True)
    raise click.exceptions.Exit(status)


class _Follow:
    """Follows one login; `sentence` is what there is to say of it in the end."""

    def __init__(
        self, wx: Controller, output: Output, name: str, *, save: Path | None, invert: bool, new: bool
    ) -> None:
        self._wx = wx
        self._output = output
        self._name = name
        self._save = save
        self._invert = invert
        self._codeless = -PARKED_POLLS if new else PARKED_POLLS  # polls since there was a code
        self._told: tuple[object, ...] = ()
        self._sent = 0  # polls that digits which were typed still have
        self._tried = False
        self._live: Live | None = None
        self.sentence = ""

    def until(self, deadline: float) -> Exit:
        """Show how it goes on until it has come to an end, or the time is over."""
        if not self._output.for_people:
            return self._steps(deadline)
        with self._output.live() as self._live:  # a code that is used up does not stay
            return self._steps(deadline)

    def _steps(self, deadline: float) -> Exit:
        while (status := self._step()) is None:
            if time.monotonic() > deadline:
                self.sentence = "the time is over"
                return Exit.TIMEOUT
        return status

    def _step(self) -> Exit | None:
        (entry,) = self._wx.check(self._name)
        state = str(entry["state"])
        picture = self._wx.qrcode(self._name) if state in ("scaning", "confirming") else None
        self._codeless = 0 if picture else self._codeless + 1
        self._sent = max(0, self._sent - 1) if entry.get("verify_code_needed") else 0
        if not self._sent:
            self._show(entry, state, picture)
        if state == "running":
            self.sentence = "running"
            return Exit.DONE
        if entry["process"] in ("stopped", "failed") and not entry.get("pid"):
            self.sentence = f"it does not run ({trouble(entry) or entry['process']}); wxsup start NAME starts it"
            return Exit.NOT_LOGGED_IN
        if is_parked(entry) and self._codeless > PARKED_POLLS:
            self.sentence = "it shows no codes any more, since nobody scanned them; wxsup qr --new asks for one"
            return Exit.NOT_LOGGED_IN
        if entry.get("verify_code_needed") and not self._sent and not self._output.as_json:
            self._ask()
        else:
            time.sleep(POLL)
        return None

    def _show(self, entry: dict[str, Any], state: str, picture: bytes | None) -> None:
        """Say where it stands and draw the code, if that is news."""
        wanted = bool(entry.get("verify_code_needed"))
        waits = WAITS.get(state, state)
        sentence = (WRONG if self._tried else DIGITS) if wanted else str(entry.get("error") or waits)
        if (news := (state, sentence, picture)) == self._told:
            return
        self._told = news
        if self._output.as_json:
            self._output.document(entry)
        elif self._live:
            self._live.update(self._drawn(None if wanted else picture, sentence), refresh=True)
        else:
            click.echo("\n".join([*self._lines(picture), clean(sentence)]))
        if self._save and picture:
            files.replace(self._save.absolute(), picture)

    def _lines(self, picture: bytes | None) -> list[str]:
        if picture is None:
            return []
        try:
            return qrcode.drawn(qrcode.modules(picture), invert=self._invert)
        except ValueError as ex:
            return [f"The code cannot be drawn here ({ex}); --save FILE keeps the picture."]

    def _drawn(self, picture: bytes | None, sentence: str) -> Any:
        from rich.console import Group
        from rich.text import Text

        style = "black on bright_white" if self._invert else "bright_white on black"
        code = [Text(line, style, no_wrap=True, overflow="ignore") for line in self._lines(picture)]
        return Group(*code, Text(clean(sentence)))

    def _ask(self) -> None:
        """Take the digits from whoever sits at the keyboard, without waiting for them longer than for news."""
        ready, _, _ = select.select([sys.stdin], [], [], POLL)
        digits = sys.stdin.readline().strip() if ready else ""
        if not ready:
            return
        if not digits:  # nobody sits there
            time.sleep(POLL)
            return
        try:
            self._wx.call(self._name, "submit_verify_code", code=digits)
            self._sent, self._tried = SENT_POLLS, True
        except (ContentRejected, NotLoggedIn) as ex:  # the phone will show others, or a new code comes
            click.echo(f"Error: {clean(str(ex))}", err=True)
        self._told = ()
        if self._live:  # what was typed has moved the lines: go on below them
            self._live.stop()
            self._live.start()
