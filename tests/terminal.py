"""A command at a terminal, as a person sees it: what is on the screen, in which colours, and keys to press."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pexpect
import pyte
import zxingcpp
from PIL import Image

from tests.deadline import eventually
from tests.installation import SCRIPTS

MODULE = 4  # pixels
BLOCKS = {"█": (True, True), "▀": (True, False), "▄": (False, True), " ": (False, False)}


class Terminal:
    """`wxsup` with `words` at a terminal of its own, `columns` wide."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        columns: int = 100,
        lines: int = 50,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self._process = pexpect.spawn(
            str(SCRIPTS / "wxsup"),
            list(words),
            cwd=str(folder),
            env={**kept, "TERM": "xterm-256color", **(environment or {})},
            dimensions=(lines, columns),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close(force=True)

    @property
    def pid(self) -> int:
        """The process number of the command."""
        number: int = self._process.pid
        return number

    def type(self, text: str) -> None:
        """Press keys."""
        self._process.send(text)

    def text(self) -> str:
        """Return what is on the screen now."""
        self._read()
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def until(self, text: str) -> str:
        """Wait until a text is on the screen, and return all of it."""
        return eventually(self.text, holds=lambda shown: text in shown, what=f"{text!r} on the screen")

    def colour(self, text: str) -> str:
        """Return the colour of a text on the screen."""
        self._read()
        for number in range(self.screen.lines):
            cells = [self.screen.buffer[number][column] for column in range(self.screen.columns)]
            shown = [cell for cell in cells if cell.data]  # behind a wide character there is an empty one
            if text in (line := "".join(cell.data for cell in shown)):
                return str(shown[line.index(text)].fg)
        raise AssertionError(f"{text!r} is not on the screen")

    def end(self) -> int:
        """Wait until the command has ended, and return its exit status."""
        eventually(lambda: self._read() or not self._process.isalive(), what="the end of the command")
        self._read()
        self._process.wait()
        assert self._process.exitstatus is not None, f"killed by {self._process.signalstatus}"
        status: int = self._process.exitstatus
        return status

    def scanned(self) -> str:
        """Return what a phone reads that is held before the screen, "" if there is no code on it."""
        self._read()
        rows: list[list[bool]] = []
        for line in range(self.screen.lines):
            cells = [self.screen.buffer[line][column] for column in range(self.screen.columns)]
            halves = [_light(cell) for cell in cells]
            rows += [[top for top, _ in halves], [low for _, low in halves]]
        return read(rows)

    def _read(self) -> bool:
        while True:
            try:
                self._stream.feed(self._process.read_nonblocking(65536, timeout=0))
            except (pexpect.TIMEOUT, pexpect.EOF):
                return False


def scanned(text: str) -> str:
    """Return what a phone reads in block characters that are printed."""
    lines = [line for line in text.splitlines() if line and set(line) <= set(BLOCKS)]
    return read([[BLOCKS[character][half] for character in line] for line in lines for half in (0, 1)])


def read(rows: Sequence[Sequence[bool]]) -> str:
    """Return what the code says whose light modules are True in `rows`."""
    if not rows:
        return ""
    width = max(map(len, rows))
    picture = Image.new("L", (width, len(rows)), 0)
    for y, row in enumerate(rows):
        for x, light in enumerate(row):
            picture.putpixel((x, y), 255 * light)
    found = zxingcpp.read_barcodes(picture.resize((MODULE * width, MODULE * len(rows)), Image.Resampling.NEAREST))
    return found[0].text if found else ""


def _light(cell: pyte.screens.Char) -> tuple[bool, bool]:
    """Tell of a cell whether its halves are light: drawn in a light colour, or left out on a light ground."""
    top, low = BLOCKS.get(cell.data, (False, False))
    ink, ground = cell.fg not in ("black", "000000"), cell.bg in ("brightwhite", "white", "ffffff")
    return (ink if top else ground), (ink if low else ground)
