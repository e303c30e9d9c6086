"""Bytes under names that nobody can guess, each in a file of its own; the oldest are not kept for ever."""

from __future__ import annotations

import re
import secrets
import tempfile
import threading
from pathlib import Path

from wxsup import errors, files

MOST_BLOBS = 1000
MOST_BYTES = 256 * 1024 * 1024

NAME = re.compile("[A-Za-z0-9_-]{32}")  # of characters that need no escape in an address


class Lost(Exception):
    """There is nothing under this name, or no more."""


class Blobs:
    """What lies in `folder`; without one it is gone at close().

    Raises Refusal when the folder is of no use.
    """

    def __init__(self, folder: Path | None = None, *, most: int = MOST_BLOBS, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._sizes: dict[str, int] = {}
        if folder:
            try:
                self._sizes = _found(files.private_directory(folder))
                self._shrink(folder)
            except OSError as ex:
                raise errors.Refusal(f"the sandbox folder {folder} cannot be used: {ex.strerror}") from ex

    def put(self, content: bytes) -> str:
        """Keep `content` and return its name."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            if self._folder is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="wxsandbox-")
                self._folder = Path(self._temporary.name)
            files.replace(self._folder / name, content, mode=0o600, durable=False)
            self._sizes[name] = len(content)
            self._shrink(self._folder)
        return name

    def get(self, name: str) -> bytes:
        """Return what was put under `name`; raises Lost."""
        if self._folder is None or not NAME.fullmatch(name):
            raise Lost("there is no such name")
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError as ex:
            raise Lost("there is nothing under this name") from ex

    def close(self) -> None:
        """Delete what has no folder to stay in."""
        with self._lock:
            if self._temporary:
                self._temporary.cleanup()

    def _shrink(self, folder: Path) -> None:
        """Forget the oldest while there is too much."""
        while len(self._sizes) > self._most or sum(self._sizes.values()) > self._most_bytes:
            name = next(iter(self._sizes))
            (folder / name).unlink(missing_ok=True)
            del self._sizes[name]


def _found(folder: Path) -> dict[str, int]:
    """Return the sizes of what is in `folder`, oldest first, and clear away what a kill left half written."""
    found = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            path.unlink(missing_ok=True)
        elif NAME.fullmatch(path.name):
            about = path.stat()
            found.append((about.st_mtime_ns, path.name, about.st_size))
    return {name: size for _, name, size in sorted(found)}
