"""The files of one account, received and to be sent: kept under their content, never under a name somebody chose."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wxsup import files
from wxsup.errors import CallFailed, ContentRejected
from wxsup.options import Options

Sink = Callable[[bytes], None]

DATA_MOST = 4 * 1024 * 1024  # characters of base64 in one report; larger files are asked for with get_media
UNFINISHED = ".part-"
TRIM_EVERY = 600.0


@dataclass(frozen=True)
class Kind:
    """What a file is to WeChat; `code` is its number in the API (openwx-api.md 3.3), `label` stands for it in texts."""

    code: int
    type: str
    label: str


IMAGE = Kind(3, "image", "[图片]")
FILE = Kind(6, "file", "[文件]")
VOICE = Kind(34, "voice", "[语音]")
VIDEO = Kind(43, "video", "[视频]")
EMOTICON = Kind(47, "emoticon", "[图片]")
MICROVIDEO = Kind(62, "microvideo", "[视频]")
KINDS = (IMAGE, FILE, VOICE, VIDEO, EMOTICON, MICROVIDEO)

#: How content begins: offset, bytes, type, extension. A file is what it holds, whatever it is called.
_MAGIC = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png", "png"),
    (0, b"\xff\xd8\xff", "image/jpeg", "jpg"),
    (0, b"GIF8", "image/gif", "gif"),
    (0, b"BM", "image/bmp", "bmp"),
    (8, b"WEBP", "image/webp", "webp"),
    (4, b"ftyp", "video/mp4", "mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm", "webm"),
    (0, b"ID3", "audio/mpeg", "mp3"),
    (0, b"\xff\xfb", "audio/mpeg", "mp3"),
    (0, b"OggS", "audio/ogg", "ogg"),
    (8, b"WAVE", "audio/wav", "wav"),
    (0, b"#!AMR", "audio/amr", "amr"),
    (0, b"#!SILK", "audio/silk", "silk"),
    (1, b"#!SILK", "audio/silk", "silk"),
    (0, b"%PDF-", "application/pdf", "pdf"),
    (0, b"PK\x03\x04", "application/zip", "zip"),
)
_UNKNOWN = ("application/octet-stream", "dat")
HEAD = 16  # bytes that are enough to tell


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

    Files of more than `most` bytes are refused. They are forgotten after `keep` seconds without use, and the oldest
    before that where all together have more than `total` bytes.
    """

    def __init__(self, path: Path, prefix: str, *, most: int, keep: float, total: int) -> None:
        self.path = path
        self.most = most
        self._id = re.compile(re.escape(prefix) + r"-([0-9a-f]{64})(?::([0-9]{1,3}))?", re.ASCII)
        self._prefix = prefix
        self._keep = keep
        self._total = total
        self._guard = threading.Lock()
        self._trimmed = -TRIM_EVERY
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
            self._trim()
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
        except OSError as ex:
            raise NotKept(f"the file cannot be kept: {ex.strerror}", retryable=True) from ex
        finally:
            with suppress(OSError):
                unfinished.unlink()
        return self._media(path, digest.hexdigest(), kind or _kind(mime), mime, name or told or "")

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
                return self._media(path, match[1], kind or of_code(match[2]) or _kind(mime), mime, name)
        return None

    def _media(self, path: Path, digest: str, kind: Kind, mime: str, name: str) -> Media:
        found = path.stat()
        shown = shown_name(name) or f"{digest[:12]}{path.suffix}"
        ext = Path(shown).suffix[1:].lower() or path.suffix[1:]
        id_ = f"{self._prefix}-{digest}:{kind.code}"
        return Media(id_, kind, shown, mime, ext, found.st_size, int(found.st_mtime), path)

    def _trim(self) -> None:
        """Forget what is old or too much; now and then, and never what is being written."""
        with self._guard:
            if time.monotonic() - self._trimmed < TRIM_EVERY or not self.path.is_dir():
                return
            self._trimmed = time.monotonic()
            kept = [(entry.stat(), entry.path) for entry in os.scandir(self.path) if entry.name[0] != "."]
            total = 0
            for found, path in sorted(kept, key=lambda entry: entry[0].st_mtime, reverse=True):
                total += found.st_size
                if total > self._total or found.st_mtime < time.time() - self._keep:
                    with suppress(FileNotFoundError):
                        os.unlink(path)


def media_folder(options: Options, prefix: str) -> Folder:
    """Return the media folder of a client."""
    return Folder(
        options.media_dir,
        prefix,
        most=options.media_size_max,
        keep=options.media_max_age,
        total=options.media_total_max,
    )


def with_data(body: dict[str, Any], most: int) -> dict[str, Any]:
    """Return a report with the content of its file in base64, in lines of 76 as MIME has them (openwx-api.md 6.3).

    Without it where that would have more than `most` characters, or the file is not kept any more.
    """
    path, size = body.get("media_path"), body.get("media_size")
    if not path or not isinstance(size, int) or size * 4 / 3 * 77 / 76 > most:
        return body
    try:
        return {**body, "media_data": base64.encodebytes(Path(path).read_bytes()).decode()}
    except OSError:
        return body


def sniffed(head: bytes) -> tuple[str, str]:
    """Return type and extension of content by its first bytes."""
    for offset, magic, mime, ext in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return mime, ext
    return _UNKNOWN


def shown_name(name: str) -> str:
    """Return what of a file's `name` can be shown and saved under: the last part, printable, 255 bytes at most."""
    last = re.split(r"[/\\]", name)[-1]
    clean = "".join(character for character in last if character.isprintable()).strip(" .")
    while len(clean.encode()) > 255:
        stem, dot, ext = clean.rpartition(".")
        clean = f"{stem[:-1]}{dot}{ext}" if stem else ext[:-1]
    return clean


def of_code(code: str | None) -> Kind | None:
    """Return the kind with this media_code, None if there is none."""
    return next((kind for kind in KINDS if code and str(kind.code) == code), None)


def of_type(type_: str) -> Kind | None:
    """Return the kind with this media_type, None if there is none."""
    return next((kind for kind in KINDS if kind.type == type_), None)


def _kind(mime: str) -> Kind:
    if mime == "image/gif":
        return EMOTICON
    return {"image": IMAGE, "video": VIDEO}.get(mime.partition("/")[0], FILE)
