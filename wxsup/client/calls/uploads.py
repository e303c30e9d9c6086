"""Files that come with a call, and files that are asked for (openwx-api.md 3.3, 3.6)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from wxsup.client.calls import Call
from wxsup.client.download import Download
from wxsup.client.filetypes import Kind, of_code, of_type
from wxsup.client.letters import Part
from wxsup.client.media import Folder, Media, Sink
from wxsup.client.server import Reply
from wxsup.errors import ContentRejected, ObjectNotFound

CHUNK = 65536


class Uploads:
    """Takes files from media_id, media_data or media_path, in this order, into the media folder."""

    def __init__(self, folder: Folder, download: Download) -> None:
        self._folder = folder
        self._download = download

    def media(self, call: Call) -> Media | None:
        """Return the file that a call is about, None if it is about none; raise CallFailed for one it cannot have."""
        name, kind = call.get("media_name"), _kind(call.parameters)
        if id_ := call.get("media_id"):
            found = self._folder.find(id_, name=name, kind=kind)
            if found is None:
                raise ContentRejected("invaild media: there is no such media_id, or not any more")
            return found
        if upload := call.uploads.get("media_data"):
            return self._folder.keep(lambda sink: sink(upload.content), name=name or upload.name, kind=kind)
        if data := call.get("media_data"):
            content = _decoded(data)
            return self._folder.keep(lambda sink: sink(content), name=name, kind=kind)
        if path := call.get("media_path"):
            return self._from_path(path, name, kind)
        return None

    def get_media(self, call: Call) -> Reply:
        """Return a file that is kept, as it is; a caller may not be able to read it at its media_path."""
        found = self._folder.find(call.get("media_id"), name=call.get("media_name"))
        if found is None:
            raise ObjectNotFound("there is no such media_id, or not any more")
        disposition = f"attachment; filename*=UTF-8''{quote(found.name, safe='')}"
        headers = {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff"}
        return Reply(200, b"", found.mime, headers, file=found.path)

    def from_url(self, part: Part) -> Media:
        """Return the file of a part that has only a URL; raise CallFailed where it cannot be had."""
        kind = of_code(str(part.code))
        return self._folder.keep(lambda sink: self._download.fetch(part.url, sink), name=part.name, kind=kind)

    def part(self, call: Call, *, later: bool) -> Part | None:
        """Return the file that a call wants sent, one to be fetched `later` as its URL alone; None if it is none."""
        path = call.get("media_path")
        if later and is_url(path) and not (call.get("media_id") or call.get("media_data") or call.uploads):
            self._download.check(path)
            kind = _kind(call.parameters)
            return Part(url=path, name=call.get("media_name"), code=kind.code if kind else 0)
        media = self.media(call)
        return Part(media=media) if media else None

    def _from_path(self, path: str, name: str, kind: Kind | None) -> Media:
        if is_url(path):
            return self.from_url(Part(url=path, name=name, code=kind.code if kind else 0))
        local = self._inside(path)
        return self._folder.keep(lambda sink: _read(local, sink), name=name or local.name, kind=kind)

    def _inside(self, path: str) -> Path:
        """Return a path in the media folder, whatever links it goes through; refuse all others."""
        folder = self._folder.path.resolve()
        try:
            found = (folder / path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as ex:  # not there, a NUL, a loop of links
            raise ContentRejected("invaild media_path: there is no such file in the media folder") from ex
        if not found.is_relative_to(folder) or not found.is_file():
            raise ContentRejected("invaild media_path: there is no such file in the media folder")
        return found


def is_url(path: str) -> bool:
    """Tell whether a media_path is the address of a file."""
    return path.partition("://")[0].lower() in ("http", "https") and "://" in path


def _read(path: Path, sink: Sink) -> None:
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                sink(chunk)
    except OSError as ex:
        raise ContentRejected(f"media file read error: {ex.strerror}") from ex


def _decoded(data: str) -> bytes:
    try:
        # Blanks may be line ends of MIME's base64, or a + that a form has made one.
        return base64.b64decode("".join(data.replace(" ", "+").split()), validate=True)
    except (binascii.Error, ValueError) as ex:
        raise ContentRejected("media_data must be base64, or a file in a multipart form") from ex


def _kind(parameters: Mapping[str, str]) -> Kind | None:
    """Return the kind that media_code or media_type asks for, None when neither does."""
    code, type_ = parameters.get("media_code", ""), parameters.get("media_type", "")
    found = of_code(code) or of_type(type_)
    if found is None and (code or type_):
        raise ContentRejected("invaild media: there is no such media_code or media_type")
    return found
