"""The picture of a login code, as get_qrcode gives it, drawn with the characters of a terminal.

A PNG (w3.org/TR/png-3) of black and white squares, as we draw them; not the pictures of others.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NONE, UP = 0, 2
MOST = 4096  # pixels in each direction
FINDER = 7  # modules that a finder pattern is wide (ISO/IEC 18004, 6.3.3)
QUIET = 2  # light modules around it; 4 are the norm, but lines of a terminal are scarce
#: Two modules, one above the other: those to be drawn as True.
_HALVES = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}

Modules = list[list[bool]]


def modules(picture: bytes) -> Modules:
    """Return the rows of the code in `picture`, dark modules as True; raise ValueError if it is none of ours."""
    pixels = _pixels(picture)
    top = next((number for number, row in enumerate(pixels) if True in row), None)
    if top is None:
        raise ValueError("it is empty")
    left = pixels[top].index(True)
    finder = (pixels[top] + [False]).index(False, left) - left
    size, rest = divmod(finder, FINDER)
    count, odd = divmod(len(pixels) - 2 * top, size or 1)
    if rest or odd or not size or len(pixels) != len(pixels[0]) or (count - 21) % 4 or not 21 <= count <= 177:
        raise ValueError("it is no code")
    middle = [left + size * number + size // 2 for number in range(count)]
    return [[pixels[y][x] for x in middle] for y in middle]


def drawn(code: Modules, *, invert: bool = False) -> list[str]:
    """Return `code` in lines of block characters, two rows in each; they are light ones, or if you `invert` dark."""
    width = len(code) + 2 * QUIET
    light = [[True] * width for _ in range(QUIET)]
    rows = [*light, *([True] * QUIET + [not dark for dark in row] + [True] * QUIET for row in code), *light]
    rows.append([True] * width)  # their number is odd
    shown = [[module ^ invert for module in row] for row in rows]
    pairs = zip(shown[::2], shown[1::2], strict=True)
    return ["".join(_HALVES[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs]


def _pixels(picture: bytes) -> list[list[bool]]:
    """Return the rows of a PNG with one bit of grey for each pixel, dark ones as True."""
    header, data = b"", b""
    try:
        for kind, content in _chunks(picture):
            header = content if kind == b"IHDR" else header
            data += content if kind == b"IDAT" else b""
        width, height, *form = struct.unpack(">IIBBBBB", header)
        if form != [1, 0, 0, 0, 0] or not (0 < width <= MOST and 0 < height <= MOST):
            raise ValueError("it is no picture of ours")
        line = 1 + (width + 7) // 8
        lines = zlib.decompressobj().decompress(data, line * height)
    except (struct.error, zlib.error) as ex:
        raise ValueError("it is no PNG, or broken") from ex
    if len(lines) != line * height:
        raise ValueError("it is broken")
    rows: list[bytes] = [bytes(line - 1)]
    for at in range(0, line * height, line):
        rows.append(_unfiltered(lines[at], lines[at + 1 : at + line], rows[-1]))
    return [[not row[x // 8] >> (7 - x % 8) & 1 for x in range(width)] for row in rows[1:]]


def _unfiltered(kind: int, row: bytes, above: bytes) -> bytes:
    """Return a row as it was before the filter `kind` (PNG, 9.2): none, or Up, which makes zeros of equal rows."""
    if kind == NONE:
        return row
    if kind == UP:
        return bytes((new + old) & 0xFF for new, old in zip(row, above, strict=True))
    raise ValueError("it is no picture of ours")


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not picture.startswith(SIGNATURE):
        raise ValueError("it is no PNG")
    at = len(SIGNATURE)
    while at < len(picture):
        length, kind = struct.unpack_from(">I4s", picture, at)
        yield kind, picture[at + 8 : at + 8 + length]
        at += 12 + length
