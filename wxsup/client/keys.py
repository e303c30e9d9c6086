"""The secrets of one client, as the controller leaves them beside its record, never in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wxsup import files


@dataclass(frozen=True)
class Keys:
    """`hop` is what a call must carry, `post` signs what is posted; "" for neither."""

    hop: str = field(default="", repr=False)
    post: str = field(default="", repr=False)


def read(path: Path, *, handed_over: bool = False) -> Keys:
    """Return the keys in a file: the first line is the hop's, the second, which may be missing, that of the posts.

    Raises OSError, with `handed_over` as files.read_plain() does, and ValueError.
    """
    hop, _, post = files.read_plain(path, handed_over=handed_over).decode().strip("\n").partition("\n")
    if not hop:
        raise ValueError(f"{path} is empty")
    return Keys(hop, post)
