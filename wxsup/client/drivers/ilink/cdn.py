"""WeChat's CDN: files go there and come from there, encrypted with AES-128-ECB (ilink-protocol.md 9)."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wxsup.client.drivers import FileLost
from wxsup.client.drivers.ilink.wire import Wire
from wxsup.client.http import Answer, Http, TransportError
from wxsup.client.media import Sink
from wxsup.errors import MediaUploadFailed
from wxsup.options import Options

BLOCK = 16
CHUNK = 65536
PAUSES = (1.0, 2.0)  # between attempts to upload (6)
DOWNLOAD_TIMEOUT = 120.0


@dataclass(frozen=True)
class Uploaded:
    """A file at the CDN: what a message says of it, and its size there."""

    media: dict[str, Any]
    size: int


class Cdn:
    """Transfers for one account, one at a time in each direction; `wait(seconds)` pauses between attempts."""

    def __init__(self, wire: Wire, options: Options, wait: Callable[[float], None]) -> None:
        self._wire = wire
        self._base = options.ilink_cdn.rstrip("/")
        self._wait = wait
        self._uploads, self._downloads = Http(), Http()

    def close(self) -> None:
        """End for good; transfers under way fail at once."""
        self._uploads.close()
        self._downloads.close()

    def upload(self, path: Path, ticket: Callable[[dict[str, Any]], dict[str, Any]], deadline: float) -> Uploaded:
        """Bring a file to the CDN until the `deadline` (time.monotonic); `ticket(fields)` asks for the place.

        Raises MediaUploadFailed, TransportError and what `ticket` raises.
        """
        plain, md5 = _measured(path)
        size = cipher_size(plain)
        key, filekey = os.urandom(BLOCK), os.urandom(BLOCK).hex()
        place = ticket(
            {
                "filekey": filekey,
                "rawsize": plain,
                "rawfilemd5": md5,
                "filesize": size,
                "no_need_thumb": True,
                "aeskey": key.hex(),
            }
        )
        param = self._put(self._upload_url(place, filekey), path, key, size, deadline)
        aes_key = base64.b64encode(key.hex().encode()).decode()
        return Uploaded({"encrypt_query_param": param, "aes_key": aes_key, "encrypt_type": 1}, size)

    def download(self, media: dict[str, Any], key: bytes | None, sink: Sink) -> None:
        """Bring a file from the CDN, decrypted with `key` if there is one, into `sink`.

        Raises TransportError, FileLost, and what `sink` raises.
        """
        url, param = media.get("full_url"), media.get("encrypt_query_param")
        if not (isinstance(url, str) and url and self._wire.allows(url)):
            if not (isinstance(param, str) and param):
                raise FileLost("the message does not say where its file is")
            url = f"{self._base}/download?encrypted_query_param={quote(param, safe='')}"
        decrypted = Decrypted(key, sink) if key else None
        answer = self._downloads.request(
            "GET", url, headers={}, timeout=DOWNLOAD_TIMEOUT, sink=decrypted.feed if decrypted else sink
        )
        if 400 <= answer.status < 500:
            raise FileLost(_message(answer))
        if answer.status != 200:
            raise TransportError(f"HTTP {answer.status}")
        if decrypted:
            decrypted.end()

    def _upload_url(self, place: dict[str, Any], filekey: str) -> str:
        url, param = place.get("upload_full_url"), place.get("upload_param")
        if isinstance(url, str) and url and self._wire.allows(url):
            return url
        if isinstance(param, str) and param:
            return f"{self._base}/upload?encrypted_query_param={quote(param, safe='')}&filekey={filekey}"
        raise MediaUploadFailed("WeChat gave no place for it", ret=None, errmsg=None, retryable=True)

    def _put(self, url: str, path: Path, key: bytes, size: int, deadline: float) -> str:
        """Upload what is in `path` and return the parameter that it can be had under; the CDN fails now and then."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        failure = ""
        for pause in (*PAUSES, None):
            try:
                answer = self._uploads.request(
                    "POST", url, body=encrypted(path, key), headers=headers, timeout=deadline - time.monotonic()
                )
                if 400 <= answer.status < 500:
                    raise MediaUploadFailed(_message(answer), ret=None, errmsg=None, retryable=False)
                param = answer.headers.get("x-encrypted-param")
                if answer.status == 200 and param:
                    return param
                failure = f"HTTP {answer.status}"
            except TransportError as ex:
                failure = str(ex)
            if pause is None or time.monotonic() + pause > deadline:
                break
            self._wait(pause)
        raise MediaUploadFailed(failure, ret=None, errmsg=None, retryable=True)


def cipher_size(plain: int) -> int:
    """Return the size of `plain` bytes once encrypted: PKCS#7 always pads (RFC 5652 6.3)."""
    return (plain // BLOCK + 1) * BLOCK


def encrypted(path: Path, key: bytes) -> Iterator[bytes]:
    """Yield what is in a file, encrypted with AES-128-ECB and PKCS#7."""
    encryptor = _cipher(key).encryptor()
    with open(path, "rb") as file:
        size = 0
        while chunk := file.read(CHUNK):
            size += len(chunk)
            yield encryptor.update(chunk)
    pad = BLOCK - size % BLOCK
    yield encryptor.update(bytes([pad]) * pad) + encryptor.finalize()


class Decrypted:
    """Decrypts what is fed to it into `sink`, without the padding at its end."""

    def __init__(self, key: bytes, sink: Sink) -> None:
        self._decryptor = _cipher(key).decryptor()
        self._sink = sink
        self._held = b""

    def feed(self, chunk: bytes) -> None:
        """Take some of it."""
        found = self._held + self._decryptor.update(chunk)
        self._held = found[-BLOCK:]
        if found[:-BLOCK]:
            self._sink(found[:-BLOCK])

    def end(self) -> None:
        """Take its end; raise FileLost when that is none."""
        try:
            found = self._held + self._decryptor.finalize()
        except ValueError as ex:
            raise FileLost("the file is cut off") from ex
        pad = found[-1] if found else 0
        if not 1 <= pad <= BLOCK or found[-pad:] != bytes([pad]) * pad:
            raise FileLost("the key does not fit the file")
        if found[:-pad]:
            self._sink(found[:-pad])


def key_of(media: dict[str, Any], hexadecimal: object = None) -> bytes | None:
    """Return the key of a received file, None where it has none; raise FileLost for one that is no key (9.3)."""
    try:
        if isinstance(hexadecimal, str) and hexadecimal:
            key = bytes.fromhex(hexadecimal)
        elif isinstance(encoded := media.get("aes_key"), str) and encoded:
            key = base64.b64decode(encoded, validate=True)
            if len(key) == 2 * BLOCK:
                key = bytes.fromhex(key.decode("ascii"))
        else:
            return None
    except ValueError as ex:
        raise FileLost("the key is none") from ex
    if len(key) != BLOCK:
        raise FileLost("the key is none")
    return key


def _cipher(key: bytes) -> Any:
    # Here: it takes megabytes, and most clients see no file for days.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES(key), modes.ECB())  # WeChat's choice, not ours


def _measured(path: Path) -> tuple[int, str]:
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _message(answer: Answer) -> str:
    said = str(answer.headers.get("x-error-message") or "")
    return said if said.isprintable() and 0 < len(said) <= 200 else f"HTTP {answer.status}"
