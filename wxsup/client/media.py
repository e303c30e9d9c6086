"""The files of one account, received and to be sent: kept under their content, never under a name somebody chose."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wxsup import files
from wxsup.client.filetypes import FILE, HEAD, Kind, of_code, of_mime, sniffed
from wxsup.errors import CallFailed, ContentRejected
from wxsup.options import Options

Sink = Callable[[bytes], None]
_OURS = re.compile(r"[0-9a-f]{64}\.[a-z0-9]+")

UNFINISHED = ".part-"
TRIM_EVERY = 600.0


class TooLarge(ContentRejected):
    """The file is larger than media_size_max."""


class NotKept(CallFailed):
    """The disk did not take the file."""


@dataclass(frozen=True)
class Media:
    """A file that is kept; `name` is only shown to people, `id` is what the API calls it."""

    id: str
    kind: Kind
    name: str
    mime: str
    ext: str
    size: int
    mtime: int
    path: Path

    def fields(self) -> dict[str, Any]:
        """Return what a report or a reply says of it (openwx-api.md 6.3)."""
        return {
            "media_id": self.id,
            "media_code": self.kind.code,
            "media_type": self.kind.type,
            "media_name": self.name,
            "media_size": self.size,
            "media_mime": self.mime,
            "media_ext": self.ext,
            "media_mtime": self.mtime,
            "media_path": str(self.path),
        }

    def kept(self) -> dict[str, Any]:
        """Return what restored() takes, as JSON has it."""
        return {**asdict(self), "kind": self.kind.code, "path": str(self.path)}

    @classmethod
    def restored(cls, kept: dict[str, Any]) -> Media:
        """Return what kept() was made of."""
        return cls(**{**kept, "kind": of_code(str(kept["kind"])) or FILE, "path": Path(kept["path"])})


class Folder:
    """The media folder of an account; any thread may call it. Ids begin with `prefix`.

    Files of more than `most` bytes are refused. Ours are forgotten after `keep` seconds without use, and the oldest
    before that where all together have more than `total` bytes, but for those that are `needed()`. What else lies in
    the folder is its owner's.
    """

    def __init__(self, path: Path, prefix: str, *, most: int, keep: float, total: int) -> None:
        self.path = path
        self.most = most
        self._id = re.compile(re.escape(prefix) + r"-([0-9a-f]{64})(?::([0-9]{1,3}))?", re.ASCII)
        self._prefix = prefix
        self._keep = keep
        self._total = total
        self.needed: Callable[[], Collection[Path]] = list
        self._guard = threading.Lock()
        self._trimmed = -TRIM_EVERY
        self._size = 0  # of all files, as far as it is known
        for left in path.glob(f"{UNFINISHED}*"):  # by the death of an earlier process
            with suppress(OSError):
                left.unlink()

    def keep(self, write: Callable[[Sink], str | None], *, name: str = "", kind: Kind | None = None) -> Media:
        """Keep what `write` puts into the sink that it is given; it may return a name, for when none is said.

        The kind is guessed from the content if not said.
        Raises TooLarge, NotKept, and what `write` raises; then nothing is left behind.
        """
        unfinished = self.path / f"{UNFINISHED}{secrets.token_hex(8)}"
        head, size, digest = b"", 0, hashlib.sha256()
        try:
            files.private_directory(self.path)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:

                def sink(chunk: bytes) -> None:
                    nonlocal head, size
                    head, size = (head + chunk)[:HEAD], size + len(chunk)
                    if size > self.most:
                        raise TooLarge(f"media size exceed, maximum size is {self.most} bytes")
                    digest.update(chunk)
                    try:
                        file.write(chunk)
                    except OSError as ex:  # not to be taken for a failure of where it comes from
                        raise NotKept(f"the file cannot be kept: {ex.strerror}", retryable=True) from ex

                told = write(sink)
                file.flush()
                os.fsync(file.fileno())
            mime, ext = sniffed(head)
            path = self.path / f"{digest.hexdigest()}.{ext}"
            os.replace(unfinished, path)
            files.sync_directory(self.path)
            self._trim(size)
        except OSError as ex:
            raise NotKept(f"the file cannot be kept: {ex.strerror}", retryable=True) from ex
        finally:
            with suppress(OSError):
                unfinished.unlink()
        return self._media(path, digest.hexdigest(), kind or of_mime(mime), mime, name or told or "")

    def find(self, id_: str, *, name: str = "", kind: Kind | None = None) -> Media | None:
        """Return the file that the API calls `id_`, None if it is not kept any more or the id is none of ours."""
        match = self._id.fullmatch(id_)
        if match is None:
            return None
        for path in self.path.glob(f"{match[1]}.*"):
            with suppress(FileNotFoundError):
                os.utime(path)  # it is in use
                with open(path, "rb") as file:
                    mime, _ = sniffed(file.read(HEAD))
                return self._media(path, match[1], kind or of_code(match[2]) or of_mime(mime), mime, name)
        return None

    def _media(self, path: Path, digest: str, kind: Kind, mime: str, name: str) -> Media:
        found = path.stat()
        shown = shown_name(name) or f"{digest[:12]}{path.suffix}"
        ext = Path(shown).suffix[1:].lower() or path.suffix[1:]
        id_ = f"{self._prefix}-{digest}:{kind.code}"
        return Media(id_, kind, shown, mime, ext, found.st_size, int(found.st_mtime), path)

    def _trim(self, added: int) -> None:
        """Forget what is old, now and then, and what is too much, at once."""
        with self._guard:
            self._size += added
            if self._size <= self._total and time.monotonic() - self._trimmed < TRIM_EVERY:
                return
            self._trimmed, self._size = time.monotonic(), 0
            newest_first = sorted(self._ours(), key=lambda entry: entry[0].st_mtime, reverse=True)
            needed = {*map(str, self.needed()), *(path for _, path in newest_first[:1])}
            for found, path in newest_first:
                old = found.st_mtime < time.time() - self._keep
                if (old or self._size + found.st_size > self._total) and path not in needed:
                    with suppress(OSError):
                        os.unlink(path)
                else:
                    self._size += found.st_size

    def _ours(self) -> list[tuple[os.stat_result, str]]:
        entries = [entry for entry in os.scandir(self.path) if _OURS.fullmatch(entry.name)]
        return [(entry.stat(), entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]


def media_folder(options: Options, prefix: str) -> Folder:
    """Return the media folder of a client."""
    return Folder(
        options.media_dir,
        prefix,
        most=options.media_size_max,
        keep=options.media_max_age,
        total=options.media_total_max,
    )


def shown_name(name: str) -> str:
    """Return what of a file's `name` can be shown and saved under: the last part, printable, 255 bytes at most."""
    last = re.split(r"[/\\]", name)[-1]
    clean = "".join(character for character in last if character.isprintable()).strip(" .")
    while len(clean.encode()) > 255:
        stem, dot, ext = clean.rpartition(".")
        clean = f"{stem[:-1]}{dot}{ext}" if stem else ext[:-1]
    return clean
