"""The client's HTTP server over real connections."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import unquote

import pytest

from tests.deadline import eventually
from wxsup.client import server as module
from wxsup.client.server import Reply, Request, Server

Answer = Callable[[Request], Reply]

HALF = module.BODY_LIMIT // 2


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, int]]:
    server = Server(("127.0.0.1", 0), answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield ("127.0.0.1", server.server_port)
    server.close()
    thread.join(20)
    assert not thread.is_alive()


class Seen(list[Request]):
    """Answers every request and remembers it."""

    def __call__(self, request: Request) -> Reply:
        self.append(request)
        return Reply(200, b'{"code":0}')


def ask(address: tuple[str, int], method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(address: tuple[str, int], data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes and return everything that comes until the server hangs up."""
    with socket.create_connection(address, timeout=20) as channel:
        channel.sendall(data)
        if half_close:
            channel.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: channel.recv(65536), b""))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_every_method_is_for_the_api_to_judge(method: str) -> None:
    seen = Seen()
    with serving(seen) as address:
        assert ask(address, method, "/openwx/x?a=%20b", b"c=d") == (200, b'{"code":0}')
    assert [(request.method, request.path, request.query, request.form) for request in seen] == [
        (method, "/openwx/x", "a=%20b", b"c=d")
    ]


def test_many_requests_share_a_connection() -> None:
    with serving(lambda request: Reply(200, request.query.encode())) as address:
        connection = http.client.HTTPConnection(*address, timeout=20)
        answers = []
        for number in range(3):
            connection.request("GET", f"/?{number}")
            answers.append(connection.getresponse().read())
        connection.close()
    assert answers == [b"0", b"1", b"2"]


def test_a_head_gets_the_head_alone_and_counts_as_not_delivered() -> None:
    told: list[bool] = []
    with serving(lambda request: Reply(200, b"body", written=told.append)) as address:
        assert ask(address, "HEAD", "/") == (200, b"")
        assert ask(address, "GET", "/") == (200, b"body")
        eventually(lambda: told == [False, True])


def test_unencoded_utf8_in_the_query_arrives_as_it_was_sent() -> None:
    seen = Seen()
    with serving(seen) as address:
        raw(address, "GET /x?content=你好 HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    assert unquote(seen[0].query) == "content=你好"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: abc", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: ²", 400),
        ("Content-Length: " + "9" * 5000, 400),
        (f"Content-Length: {module.BODY_LIMIT + 1}", 413),
        ("Transfer-Encoding: gzip, chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", 400),
        ("Content-Length: 3\r\nContent-Length: 4", 400),
    ],
    ids=["letters", "negative", "superscript", "endless", "too long", "another coding", "both", "two lengths"],
)
def test_a_bad_length_is_refused_and_the_connection_closed(headers: str, status: int) -> None:
    seen = Seen()
    with serving(seen) as address:
        answer = raw(address, f"POST /x HTTP/1.1\r\n{headers}\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == -1
    assert not seen


def test_a_body_of_the_greatest_length_is_taken() -> None:
    seen = Seen()
    with serving(seen) as address:
        assert ask(address, "POST", "/x", b"x" * module.BODY_LIMIT)[0] == 200
    assert len(seen[0].form) == module.BODY_LIMIT


def test_a_chunked_body_is_taken_and_the_connection_goes_on() -> None:
    seen = Seen()
    request = (
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n"
    )
    with serving(seen) as address:
        raw(address, request + b"GET /next HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert [(found.path, found.form) for found in seen] == [("/x", b"abc0123456789"), ("/next", b"")]


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        (b"zz\r\n", 400),
        (b"-1\r\n", 400),
        (b"3\nabc\r\n0\r\n\r\n", 400),
        (b"2\r\nabc\r\n0\r\n\r\n", 400),
        (b"f" * 5000, 400),
        (b"FFFFFFFF\r\n", 413),
        (b"%x\r\n" % HALF + b"x" * HALF + b"\r\n%x\r\n" % (HALF + 1), 413),
    ],
    ids=["letters", "negative", "bare line feed", "longer than it says", "endless", "too long", "too long together"],
)
def test_bad_chunks_are_refused_and_the_connection_closed(chunks: bytes, status: int) -> None:
    seen = Seen()
    with serving(seen) as address:
        answer = raw(address, b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert not seen


def test_a_chunked_body_that_breaks_off_is_never_acted_upon() -> None:
    seen = Seen()
    half = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    with serving(seen) as address:
        assert raw(address, half, half_close=True) == b""
    assert not seen


def test_a_body_that_breaks_off_is_never_acted_upon() -> None:
    seen = Seen()
    with serving(seen) as address:
        assert raw(address, b"POST /x HTTP/1.1\r\nContent-Length: 100\r\n\r\ncontent=hal", half_close=True) == b""
    assert not seen


@pytest.mark.parametrize("line", [b"GET http://[ HTTP/1.1", b"nonsense", b"GET /x HTTP/9.9"])
def test_what_is_no_http_gets_an_error_and_harms_nothing(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    with serving(seen) as address:
        assert b"400" in raw(address, line + b"\r\n\r\n") or line.endswith(b"9.9")
        assert ask(address, "GET", "/x")[0] == 200
    assert len(seen) == 1
    assert not caplog.records


def test_the_api_can_tell_whether_the_caller_is_still_there() -> None:
    asked, may_look = threading.Event(), threading.Event()
    there: list[bool] = []

    def answer(request: Request) -> Reply:
        there.append(request.still_there())
        asked.set()
        may_look.wait(20)
        there.append(request.still_there())
        return Reply(200, b"")

    with serving(answer) as address:
        with socket.create_connection(address, timeout=20) as channel:
            channel.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert asked.wait(20)
        may_look.set()
        eventually(lambda: len(there) == 2)
    assert there == [True, False]


def test_a_defect_is_logged_and_the_next_connection_served(caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/defect":
            raise RuntimeError("a defect")
        return Reply(200, b"fine")

    with serving(answer) as address:
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(address, "GET", "/defect")
        assert ask(address, "GET", "/") == (200, b"fine")
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.ERROR, "connection broke")]


def test_a_taken_port_is_an_error() -> None:
    with serving(Seen()) as address, pytest.raises(OSError, match="in use"):
        Server(address, Seen())


def test_nothing_of_a_request_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(Seen()) as address:
        ask(address, "POST", "/x?content=secret", b"content=secret")
        raw(address, b"GET /secret HTTP/secret\r\n\r\n")
    assert "secret" not in caplog.text


def test_too_many_connections_are_told_so_and_a_free_place_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 2)
    with serving(Seen()) as address:
        held = [socket.create_connection(address, timeout=20) for _ in range(2)]
        told = raw(address, b"")
        assert told.startswith(b"HTTP/1.1 503 ")
        assert json.loads(told.partition(b"\r\n\r\n")[2])["reason"] == "too many connections"
        held.pop().close()
        eventually(lambda: raw(address, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 "), what="a free place")
        held.pop().close()
