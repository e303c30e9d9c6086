"""WeChat's CDN: what is encrypted how, what is tried again, and what is no file of ours (ilink-protocol.md 9)."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.account import options
from tests.unit.upstream import Connection, Handler, Upstream, reply, replying
from wxsup.client.drivers import FileLost
from wxsup.client.drivers.ilink import cdn as module
from wxsup.client.drivers.ilink.cdn import CHUNK, Cdn, Decrypted, cipher_size, encrypted, key_of
from wxsup.client.drivers.ilink.wire import Wire
from wxsup.client.http import TransportError
from wxsup.errors import MediaUploadFailed

HEX = "00112233445566778899aabbccddeeff"
KEY = bytes.fromhex(HEX)
RAW_IN_BASE64, HEX_IN_BASE64 = "ABEiM0RVZneImaq7zN3u/w==", "MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmY="
#: ilink-protocol.md 9.3
VECTORS = [
    (b"", "00657ea140655a44782747705d422fad"),
    (b"hello", "9d86c8612e085e93a235794a708af7a9"),
    (b"0123456789abcdef", "aebdd39b144089d5e31cacd35b7a113a00657ea140655a44782747705d422fad"),
]


def cipher(path: Path, content: bytes) -> bytes:
    path.write_bytes(content)
    return b"".join(encrypted(path, KEY))


def plain(content: bytes, size: int = CHUNK) -> bytes:
    found: list[bytes] = []
    decrypted = Decrypted(KEY, found.append)
    for begin in range(0, len(content), size):
        decrypted.feed(content[begin : begin + size])
    decrypted.end()
    return b"".join(found)


@pytest.mark.parametrize(("content", "expected"), VECTORS)
def test_the_vectors(tmp_path: Path, content: bytes, expected: str) -> None:
    assert cipher(tmp_path / "file", content).hex() == expected
    assert cipher_size(len(content)) == len(expected) // 2
    assert plain(bytes.fromhex(expected)) == content


@given(st.binary(max_size=200), st.integers(1, 50))
def test_whatever_was_encrypted_comes_back_in_pieces_of_any_size(content: bytes, size: int) -> None:
    path = Path(f"/dev/shm/wx-test-{os.getpid()}")
    try:
        assert plain(cipher(path, content), size) == content
    finally:
        path.unlink()


@given(st.binary(max_size=100))
def test_what_was_never_encrypted_with_the_key_is_lost_or_something_and_stops_nothing(content: bytes) -> None:
    try:
        assert len(plain(content)) < len(content)
    except FileLost:
        pass


@pytest.mark.parametrize(
    ("media", "hexadecimal"),
    [
        ({"aes_key": RAW_IN_BASE64}, None),
        ({"aes_key": HEX_IN_BASE64}, ""),
        ({"aes_key": "nonsense"}, HEX),  # that of an image wins
        ({}, HEX.upper()),
    ],
)
def test_each_form_of_a_key_is_read(media: dict[str, Any], hexadecimal: str | None) -> None:
    assert key_of(media, hexadecimal) == KEY


@pytest.mark.parametrize("media", [{}, {"aes_key": ""}, {"aes_key": None}, {"aes_key": 5}])
def test_without_a_key_there_is_none(media: dict[str, Any]) -> None:
    assert key_of(media) is None


@pytest.mark.parametrize(
    ("media", "hexadecimal"),
    [
        ({"aes_key": "not base64!"}, None),
        ({"aes_key": "AAAA"}, None),
        ({"aes_key": "你好"}, None),
        ({}, "zz"),
        ({}, "00"),
    ],
)
def test_a_key_that_is_none_is_said(media: dict[str, Any], hexadecimal: str | None) -> None:
    with pytest.raises(FileLost, match="key"):
        key_of(media, hexadecimal)


# Uploads


def upload(
    path: Path, server: Upstream, place: dict[str, Any], waits: list[float] | None = None, patience: float = 20.0
) -> Any:
    chosen = options(path, ilink_base="http://127.0.0.1:1", ilink_cdn="http://{}:{}/c2c".format(*server.address))
    (path / "file").write_bytes(b"hello")
    told: list[dict[str, Any]] = []

    def ticket(fields: dict[str, Any]) -> dict[str, Any]:
        told.append(fields)
        return place

    cdn = Cdn(Wire(chosen), chosen, ([] if waits is None else waits).append)
    return cdn.upload(path / "file", ticket, time.monotonic() + patience), told[0]


TAKEN = reply(headers=("x-encrypted-param: p-1_2",))


def test_a_file_goes_to_the_cdn_as_it_was_announced(tmp_path: Path) -> None:
    with Upstream(replying(TAKEN)) as server:
        uploaded, told = upload(tmp_path, server, {"upload_param": "a/b+c"})
    (request,) = server.requests
    assert request.line == f"POST /c2c/upload?encrypted_query_param=a%2Fb%2Bc&filekey={told['filekey']} HTTP/1.1"
    assert request.all("Content-Type") == ["application/octet-stream"]
    assert (told["rawsize"], told["rawfilemd5"]) == (5, hashlib.md5(b"hello", usedforsecurity=False).hexdigest())
    assert told["filesize"] == len(request.body) == uploaded.size == 16
    assert uploaded.media["encrypt_query_param"] == "p-1_2"
    key = key_of(uploaded.media)
    found: list[bytes] = []
    assert key is not None and key.hex() == told["aeskey"] != HEX
    decrypted = Decrypted(key, found.append)
    decrypted.feed(request.body)
    decrypted.end()
    assert b"".join(found) == b"hello"


def test_the_full_url_is_taken_where_its_host_is_allowed(tmp_path: Path) -> None:
    with Upstream(replying(TAKEN)) as server:
        for host, expected in (("127.0.0.1", "/full"), ("evil.example", "/c2c/upload")):
            full = f"http://{host}:{server.address[1]}/full"
            upload(tmp_path, server, {"upload_param": "p", "upload_full_url": full})
            assert server.requests[-1].line.split()[1].startswith(expected)


def failing(times: int, answer: bytes) -> Handler:
    count = 0

    def handle(connection: Connection) -> None:
        nonlocal count
        while connection.request() is not None:
            count += 1
            connection.send(answer if count <= times else TAKEN)

    return handle


@pytest.mark.parametrize(
    "answer", [reply(status="500 Oops"), reply(status="201 Created", headers=("x-encrypted-param: p",)), reply()]
)
def test_a_cdn_that_fails_is_tried_three_times(tmp_path: Path, answer: bytes) -> None:
    waits: list[float] = []
    with Upstream(failing(2, answer)) as server:
        upload(tmp_path, server, {"upload_param": "p"}, waits)
        assert (len(server.requests), waits) == (3, list(module.PAUSES))
    with Upstream(failing(3, answer)) as server, pytest.raises(MediaUploadFailed) as caught:
        upload(tmp_path, server, {"upload_param": "p"}, waits)
    assert len(server.requests) == 3
    assert caught.value.fields["retryable"] is True


def test_a_cdn_that_takes_it_slowly_is_given_up_in_time(tmp_path: Path) -> None:
    free = threading.Event()

    def slow(connection: Connection) -> None:
        connection.head()
        free.wait(20)

    (tmp_path / "large").write_bytes(os.urandom(20_000_000))
    with Upstream(slow) as server:
        chosen = options(tmp_path, ilink_base="http://127.0.0.1:1", ilink_cdn="http://{}:{}".format(*server.address))
        cdn = Cdn(Wire(chosen), chosen, lambda seconds: None)
        began = time.monotonic()
        try:
            with pytest.raises(MediaUploadFailed):
                cdn.upload(tmp_path / "large", lambda fields: {"upload_param": "p"}, time.monotonic() + 0.5)
            assert time.monotonic() - began < 5
        finally:
            free.set()


def test_a_cdn_that_refuses_is_not_tried_again_and_quoted(tmp_path: Path) -> None:
    refusal = reply(status="403 Forbidden", headers=("x-error-message: too big",))
    with Upstream(replying(refusal)) as server, pytest.raises(MediaUploadFailed, match="too big") as caught:
        upload(tmp_path, server, {"upload_param": "p"})
    assert len(server.requests) == 1
    assert caught.value.fields["retryable"] is False


@pytest.mark.parametrize(
    "place", [{}, {"upload_param": ""}, {"upload_param": 5}, {"upload_full_url": "http://evil.example/"}]
)
def test_without_a_place_there_is_no_upload(tmp_path: Path, place: dict[str, Any]) -> None:
    with Upstream(replying(TAKEN)) as server, pytest.raises(MediaUploadFailed, match="no place"):
        upload(tmp_path, server, place)
    assert server.connections == []


# Downloads


def download(path: Path, server: Upstream, media: dict[str, Any], key: bytes | None = KEY) -> bytes:
    chosen = options(path, ilink_base="http://127.0.0.1:1", ilink_cdn="http://{}:{}/c2c".format(*server.address))
    found: list[bytes] = []
    Cdn(Wire(chosen), chosen, lambda seconds: None).download(media, key, found.append)
    return b"".join(found)


def test_a_file_comes_from_the_cdn_decrypted(tmp_path: Path) -> None:
    with Upstream(replying(reply(bytes.fromhex(VECTORS[1][1])))) as server:
        assert download(tmp_path, server, {"encrypt_query_param": "a/b"}) == b"hello"
        assert server.requests[0].line == "GET /c2c/download?encrypted_query_param=a%2Fb HTTP/1.1"
        full = "http://{}:{}/full?x=1".format(*server.address)
        assert download(tmp_path, server, {"encrypt_query_param": "p", "full_url": full}) == b"hello"
        assert server.requests[1].line == "GET /full?x=1 HTTP/1.1"


def test_a_full_url_elsewhere_is_not_followed(tmp_path: Path) -> None:
    with Upstream(replying(reply(b"plain"))) as server:
        media = {"encrypt_query_param": "p", "full_url": f"http://evil.example:{server.address[1]}/"}
        assert download(tmp_path, server, media, None) == b"plain"
        assert server.requests[0].line.startswith("GET /c2c/download")
        with pytest.raises(FileLost):
            download(tmp_path, server, {"full_url": "http://evil.example/"})


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (reply(status="404 Not Found"), FileLost),
        (reply(b"not encrypted"), FileLost),
        (reply(b"x" * 32), FileLost),
        (reply(b""), FileLost),
        (reply(status="500 Oops"), TransportError),
        (reply(status="206 Partial Content"), TransportError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", TransportError),
    ],
)
def test_what_does_not_come_is_lost_or_to_be_tried_again(
    tmp_path: Path, answer: bytes, failure: type[Exception]
) -> None:
    def once(connection: Connection) -> None:
        connection.request()
        connection.send(answer)

    with Upstream(once) as server, pytest.raises(failure):
        download(tmp_path, server, {"encrypt_query_param": "p"})
