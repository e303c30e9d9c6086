"""The secrets of one client, as the controller leaves them beside its record, never in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Keys:
    """`hop` is what a call must carry, `post` signs what is posted; "" for neither."""

    hop: str = field(default="", repr=False)
    post: str = field(default="", repr=False)


def read(path: Path) -> Keys:
    """Return the keys in a file: the first line is the hop's, the second, which may be missing, that of the posts.

    Raises OSError and ValueError.
    """
    hop, _, post = path.read_text(encoding="utf-8").strip("\n").partition("\n")
    if not hop:
        raise ValueError(f"{path} is empty")
    return Keys(hop, post)
