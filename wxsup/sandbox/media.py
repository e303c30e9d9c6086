"""Pictures, voice, video and files: what a phone knows of them; their bytes lie encrypted at the CDN."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from wxsup.sandbox import cipher
from wxsup.sandbox.blobs import Lost

#: Every kind, and the name of what comes without one.
NAMES = {"image": "image", "voice": "voice.silk", "file": "file", "video": "video.mp4"}

#: What the pictures that a browser shows begin with, and are called.
PICTURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}

Get = Callable[[str], bytes]  # of the CDN; raises Lost
Put = Callable[[bytes], str]


@dataclass(frozen=True)
class Media:
    """One item; its cipher lies at the CDN under `param`, or the bytes themselves when there is no `key`.

    `error` says why the phone has nothing to show of what a bot sent.
    """

    kind: str
    name: str
    size: int = 0
    md5: str = ""
    param: str = ""
    key: str = ""
    milliseconds: int = 0
    transcript: str = ""
    error: str = ""


@dataclass(frozen=True)
class Shot:
    """What a person is about to send; `plain` leaves the bytes as they are, which an image may be (9.2)."""

    kind: str
    content: bytes
    name: str = ""
    milliseconds: int = 0
    transcript: str = ""
    plain: bool = False

    def put(self, put: Put) -> Media:
        """Bring it to the CDN, under a key of its own."""
        key = b"" if self.plain else secrets.token_bytes(cipher.BLOCK)
        param = put(cipher.encrypt(self.content, key) if key else self.content)
        about = (name_of(self.kind, self.content, self.name), len(self.content), md5_of(self.content))
        return Media(self.kind, *about, param, key.hex(), self.milliseconds, self.transcript)


def content(media: Media, get: Get) -> bytes:
    """Return the bytes that the phone shows; raises Lost when there are none, or none any more."""
    if media.error:
        raise Lost(media.error)
    kept = get(media.param)
    return cipher.decrypt(kept, bytes.fromhex(media.key)) if media.key else kept


def picture_type(content: bytes) -> str:
    """Return the kind of picture that this is, such as png; "" for what no browser shows."""
    return next((name for begin, name in PICTURES.items() if content.startswith(begin)), "")


def name_of(kind: str, content: bytes, name: str = "") -> str:
    """Return `name`, or one for what comes without."""
    ending = picture_type(content) if kind == "image" else ""
    return name or (f"{NAMES[kind]}.{ending}" if ending else NAMES[kind])


def md5_of(content: bytes) -> str:
    """Return the md5 in hex, by which media are checked (9.1)."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
