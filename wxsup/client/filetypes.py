"""What a file is: told by its content, whatever it is called; and what WeChat takes it for."""

from __future__ import annotations

from dataclasses import dataclass


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

#: How content begins: each part at its offset, then type and extension.
_MAGIC = (
    ({0: b"\x89PNG\r\n\x1a\n"}, "image/png", "png"),
    ({0: b"\xff\xd8\xff"}, "image/jpeg", "jpg"),
    ({0: b"GIF8"}, "image/gif", "gif"),
    ({0: b"BM", 6: b"\0\0\0\0"}, "image/bmp", "bmp"),
    ({0: b"RIFF", 8: b"WEBP"}, "image/webp", "webp"),
    ({0: b"RIFF", 8: b"WAVE"}, "audio/wav", "wav"),
    ({4: b"ftypavif"}, "image/avif", "avif"),
    ({4: b"ftyphei"}, "image/heic", "heic"),
    ({4: b"ftypmif1"}, "image/heif", "heif"),
    ({4: b"ftypM4A "}, "audio/mp4", "m4a"),
    ({4: b"ftyp"}, "video/mp4", "mp4"),
    ({0: b"\x1aE\xdf\xa3"}, "video/webm", "webm"),
    ({0: b"ID3"}, "audio/mpeg", "mp3"),
    ({0: b"\xff\xfb"}, "audio/mpeg", "mp3"),
    ({0: b"OggS"}, "audio/ogg", "ogg"),
    ({0: b"#!AMR"}, "audio/amr", "amr"),
    ({0: b"#!SILK"}, "audio/silk", "silk"),
    ({1: b"#!SILK"}, "audio/silk", "silk"),
    ({0: b"%PDF-"}, "application/pdf", "pdf"),
    ({0: b"PK\x03\x04"}, "application/zip", "zip"),
)
_UNKNOWN = ("application/octet-stream", "dat")
HEAD = 16  # bytes that are enough to tell


def sniffed(head: bytes) -> tuple[str, str]:
    """Return type and extension of content by its first bytes."""
    for parts, mime, ext in _MAGIC:
        if all(head[at : at + len(part)] == part for at, part in parts.items()):
            return mime, ext
    return _UNKNOWN


def of_code(code: str | None) -> Kind | None:
    """Return the kind with this media_code, None if there is none."""
    return next((kind for kind in KINDS if code and str(kind.code) == code), None)


def of_type(type_: str) -> Kind | None:
    """Return the kind with this media_type, None if there is none."""
    return next((kind for kind in KINDS if kind.type == type_), None)


def of_mime(mime: str) -> Kind:
    """Return the kind that content of this type is sent as (ilink-protocol.md 9.1)."""
    if mime == "image/gif":
        return EMOTICON
    return {"image": IMAGE, "video": VIDEO}.get(mime.partition("/")[0], FILE)
