"""What the commands print: a table for people in a terminal, TSV for programs in a pipe, JSON for both who ask for it.

Nothing that a client tells of itself can steer a terminal: control characters are shown as U+FFFD.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wxsup import names
from wxsup.errors import WxsupError
from wxsup.usage import Exit, exit_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.live_render import VerticalOverflowMethod
    from rich.table import Table

Item = TypeVar("Item")
Row = Mapping[str, Any]

AMPLE = 10_000  # columns
# They turn the order of what follows on a line (UAX #9).
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Column:
    """A column: its title, the key of its value in a row, and how that is shown to people and to programs."""

    title: str
    key: str
    show: Callable[[Any], str] = str
    plain: Callable[[Any], str] = str
    style: Callable[[Any], str] = field(default=lambda value: "")
    folds: bool = False


class Output:
    """Standard output; `as_json` is what --json asks for."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def for_people(self) -> bool:
        """Whether it is a terminal that shows it."""
        return sys.stdout is not None and sys.stdout.isatty() and not self.as_json

    @property
    def colours(self) -> bool:
        """Whether it shows colours (no-color.org)."""
        return self.for_people and not os.environ.get("NO_COLOR")

    def styled(self, text: str, colour: str) -> str:
        """Return `text` in that colour, where colours are shown."""
        return click.style(text, fg=colour) if self.colours else text

    def console(self) -> Console:
        """Return rich's console, which knows widths, colours and NO_COLOR."""
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False)

    def document(self, told: Any) -> None:
        """Print one JSON document in a line."""
        # Half a surrogate pair, which a client may tell of itself, only JSON's own escape can say.
        text = json.dumps(told, ensure_ascii=False, sort_keys=True)
        click.echo(text.encode(errors="backslashreplace").decode())

    def rows(self, columns: Sequence[Column], rows: Iterable[Row]) -> None:
        """Print rows, as a table or as TSV."""
        if self.for_people:
            console = self.console()
            console.print(table(console, columns, rows))
            return
        for row in rows:
            click.echo("\t".join(plain(column, row) for column in columns))

    def say(self, sentence: str) -> None:
        """Print a sentence for people; programs have no use for it."""
        if self.for_people:
            click.echo(clean(sentence))

    def hint(self, sentence: str) -> None:
        """Say on standard error what may be done next, to people."""
        if self.for_people and sys.stderr and sys.stderr.isatty():
            click.echo(clean(sentence), err=True)

    def trouble(self, error: Exception, what: str = "", **fields: Any) -> Exit:
        """Say what went wrong with `what`, in JSON with `fields` too; return the exit status that says so."""
        if self.as_json:
            with suppress(OSError):  # it may be what the trouble is about
                self.document({**fields, **body(error)})
        click.echo(clean(f"Error: {what}: {error}" if what else f"Error: {error}"), err=True)
        return exit_of(error)

    def progress(self, items: Sequence[Item], doing: str) -> Iterator[Item]:
        """Yield `items`, showing on a terminal how far that is."""
        if len(items) < 2 or not (sys.stderr and sys.stderr.isatty()):
            yield from items
            return
        from rich.console import Console
        from rich.progress import track

        yield from track(items, doing, console=Console(stderr=True), transient=True)

    def live(self, *, screen: bool = False) -> Live:
        """Return rich's display of one thing in place of the one before, to be entered; nothing of it stays."""
        from rich.live import Live

        overflow: VerticalOverflowMethod = "ellipsis" if screen else "visible"
        return Live(
            console=self.console(), screen=screen, transient=True, auto_refresh=False, vertical_overflow=overflow
        )


def table(console: Console, columns: Sequence[Column], rows: Iterable[Row]) -> RenderableType:
    """Return rich's table of `rows`; where `console` is too narrow, with the columns that fold in lines below it."""
    from rich.console import Group
    from rich.text import Text

    shown = list(rows)
    whole = _table(columns, shown)
    if console.measure(whole, options=console.options.update(width=AMPLE)).maximum <= console.width:
        return whole
    name, folding = columns[0], [column for column in columns if column.folds]
    told = [(row, column, row[column.key]) for row in shown for column in folding if row.get(column.key)]
    lines = [Text(clean(f"{name.show(row.get(name.key))}: {column.show(value)}")) for row, column, value in told]
    return Group(_table([column for column in columns if not column.folds], shown), *lines)


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.title, no_wrap=not column.folds, overflow="fold" if column.folds else "ellipsis")
    for row in rows:
        values = [row.get(column.key) for column in columns]
        made.add_row(
            *(
                Text("-", "dim") if value in (None, "") else Text(clean(column.show(value)), column.style(value))
                for column, value in zip(columns, values, strict=True)
            )
        )
    return made


def plain(column: Column, row: Row) -> str:
    """Return a value of `row` for TSV, "" if there is none."""
    value = row.get(column.key)
    return "" if value is None else clean(column.plain(value))


def body(error: Exception) -> dict[str, object]:
    """Return what JSON says of `error`: what the API would, with a sentence in any case."""
    told = error.body() if isinstance(error, WxsupError) else {"code": -1, "status": "failure"}
    return {**told, "reason": told.get("reason") or str(error)}


def clean(text: str) -> str:
    """Return `text` on one line, without anything that could steer a terminal."""
    return "".join("\ufffd" if names.has_control(character) or character in _BIDI else character for character in text)


def ago(moment: float) -> str:
    """Say how long ago that was, to people."""
    seconds = max(0, int(time.time() - moment))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def stamp(moment: float) -> str:
    """Return a time for programs (RFC 3339)."""
    return datetime.fromtimestamp(int(moment), UTC).isoformat().replace("+00:00", "Z")


def size(count: float) -> str:
    """Say so many bytes, to people."""
    return f"{count / 1048576:.1f} MiB"
