"""The proxy against real servers on the loopback interface."""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.deadline import TIMEOUT, eventually
from tests.ports import free_port
from tests.unit.upstream import Connection, Handler, Upstream, reply, replying
from wxsup import connections
from wxsup.errors import (
    ClientNotListening,
    ClientTimeout,
    ClientUnreachable,
    PollEnded,
    RequestBroken,
    SupervisorUnreachable,
    WxsupError,
)
from wxsup.proxy import Answer, Proxy

LARGE = bytes(range(256)) * 1024  # more than is read at once


@pytest.fixture
def over() -> Iterator[Proxy]:
    with closing(Proxy()) as made:
        yield made


def forward(
    over: Proxy,
    address: tuple[str, int],
    *,
    alive: Callable[[], bool] = lambda: True,
    body: bytes | io.RawIOBase = b"",
    **changes: Any,
) -> Answer:
    """Forward a request like gunicorn would hand it over."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/openwx/get_user_info",
        "QUERY_STRING": "client=a",
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body,
    }
    if isinstance(body, bytes) and body:
        environ["CONTENT_LENGTH"] = str(len(body))
    return over.forward(address, {**environ, **changes}, alive=alive)


def read(answer: Answer) -> bytes:
    return b"".join(answer.body)


def failed(call: Callable[[], object], kind: type[WxsupError]) -> tuple[int, object]:
    """Return HTTP status and code of a call that fails in this way and no other."""
    with pytest.raises(kind) as found:
        call()
    assert type(found.value) is kind
    return found.value.http_status, found.value.body()["code"]


def test_status_headers_and_body_pass_unchanged(over: Proxy) -> None:
    headers = ("X-One: 1", "Content-Type: text/x-own", "Set-Cookie: a=1", "Set-Cookie: b=2")
    with Upstream(replying(reply("微信".encode(), status="299 Fine", headers=headers))) as client:
        answer = forward(over, client.address)
        assert read(answer) == "微信".encode()
    assert (answer.status, answer.length) == ("299 Fine", 6)
    assert answer.headers == [tuple(header.split(": ")) for header in headers]


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "500 Oops", "302 Found"])
def test_an_answer_of_the_client_is_passed_on_whatever_it_says(over: Proxy, status: str) -> None:
    with Upstream(replying(reply(b"no", status=status))) as client:
        answer = forward(over, client.address)
        assert (answer.status, read(answer)) == (status, b"no")


@pytest.mark.parametrize(
    ("environ", "target"),
    [
        ({"RAW_URI": "/openwx/x?client=%E5%BE%AE+b&a=%2F"}, "/openwx/x?client=%E5%BE%AE+b&a=%2F"),
        ({"RAW_URI": "/openwx//a%2Fb?"}, "/openwx//a%2Fb?"),
        ({"RAW_URI": "http://host/openwx/x", "PATH_INFO": "/openwx/x", "QUERY_STRING": ""}, "/openwx/x"),
        ({"PATH_INFO": "/openwx/x y", "QUERY_STRING": "a=%20"}, "/openwx/x%20y?a=%20"),
        ({"PATH_INFO": "/openwx/微".encode().decode("latin-1"), "QUERY_STRING": ""}, "/openwx/%E5%BE%AE"),
    ],
)
def test_the_target_is_encoded_as_the_caller_encoded_it(over: Proxy, environ: dict[str, Any], target: str) -> None:
    with Upstream(replying(reply())) as client:
        forward(over, client.address, **environ)
    assert client.requests[0].line == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_the_method_passes(over: Proxy, method: str) -> None:
    with Upstream(replying(reply())) as client:
        forward(over, client.address, REQUEST_METHOD=method)
    assert client.requests[0].line.split()[0] == method


def test_headers_pass_and_the_host_is_the_client(over: Proxy) -> None:
    with Upstream(replying(reply())) as client:
        given: dict[str, Any] = {
            "HTTP_X_OWN": "1",
            "HTTP_COOKIE": "a=b",
            "HTTP_HOST": "public.example",
            "CONTENT_TYPE": "text/x",
        }
        forward(over, client.address, **given)
    assert sorted(client.requests[0].headers) == [
        ("Content-Type", "text/x"),
        ("Cookie", "a=b"),
        ("Host", "{}:{}".format(*client.address)),
        ("X-Own", "1"),
    ]


HOP_BY_HOP = {
    "Connection": "close, X-Named",
    "Keep-Alive": "timeout=5",
    "Proxy-Authenticate": "Basic",
    "Proxy-Authorization": "Basic eDp5",
    "Proxy-Connection": "close",
    "TE": "trailers",
    "Trailer": "X-Later",
    "Upgrade": "h2c",
    "X-Named": "1",
}


def test_no_header_of_one_hop_reaches_the_client(over: Proxy) -> None:
    with Upstream(replying(reply())) as client:
        environ: dict[str, Any] = {
            "HTTP_" + name.upper().replace("-", "_"): value for name, value in HOP_BY_HOP.items()
        }
        forward(over, client.address, **environ, HTTP_EXPECT="100-continue", HTTP_X_KEPT="1")
    assert {name for name, _ in client.requests[0].headers} == {"Host", "X-Kept"}


def test_no_header_of_one_hop_comes_back(over: Proxy) -> None:
    headers = tuple(f"{name}: {value}" for name, value in HOP_BY_HOP.items())
    with Upstream(replying(reply(headers=(*headers, "X-Kept: 1")))) as client:
        assert forward(over, client.address).headers == [("X-Kept", "1")]


def test_a_body_of_known_length_passes(over: Proxy) -> None:
    with Upstream(replying(reply())) as client:
        forward(over, client.address, REQUEST_METHOD="POST", body=LARGE)
    (request,) = client.requests
    assert request.body == LARGE
    assert (request.all("Content-Length"), request.all("Transfer-Encoding")) == ([str(len(LARGE))], [])


def test_a_post_without_a_body_says_so(over: Proxy) -> None:
    """RFC 9110 8.6: or a client would wait for one."""
    with Upstream(replying(reply())) as client:
        forward(over, client.address, REQUEST_METHOD="POST")
        forward(over, client.address)
    assert [request.all("Content-Length") for request in client.requests] == [["0"], []]


class Trickle(io.RawIOBase):
    """A body that gives one part at a time, each when `gate` opens."""

    def __init__(self, parts: list[bytes], gate: threading.Semaphore) -> None:
        self._parts = iter(parts)
        self._gate = gate

    def read(self, size: int = -1) -> bytes:
        assert self._gate.acquire(timeout=TIMEOUT)
        return next(self._parts, b"")


def test_a_chunked_body_passes_chunk_by_chunk_as_it_comes(over: Proxy) -> None:
    gate, received = threading.Semaphore(1), []

    def handle(connection: Connection) -> None:
        assert (request := connection.head())
        assert (request.all("Transfer-Encoding"), request.all("Content-Length")) == (["chunked"], [])
        while chunk := connection.chunk():
            received.append(chunk)
            gate.release()
        connection.send(reply())

    with Upstream(handle) as client:
        body = Trickle([b"one", b"two" * 1000, b"3"], gate)
        answer = forward(over, client.address, REQUEST_METHOD="POST", HTTP_TRANSFER_ENCODING="chunked", body=body)
        assert read(answer) == b"ok"
    assert received == [b"one", b"two" * 1000, b"3"]


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def test_a_chunked_answer_passes_without_its_framing(over: Proxy) -> None:
    with Upstream(replying(chunked(b"one", LARGE, b"2", end=b"0\r\nX-Later: 1\r\n\r\n"))) as client:
        answer = forward(over, client.address)
        assert read(answer) == b"one" + LARGE + b"2"
    assert (answer.length, answer.headers) == (None, [])


@pytest.mark.parametrize(
    "head", [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 200000\r\n", b"Connection: close\r\n"]
)
def test_an_answer_is_passed_on_while_it_still_comes(over: Proxy, head: bytes) -> None:
    """Nothing is collected first: an endless answer would never end."""
    go_on = threading.Event()

    def handle(connection: Connection) -> None:
        framed = b"Transfer-Encoding" in head
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + (b"5\r\nfirst\r\n" if framed else b"first"))
        assert go_on.wait(TIMEOUT)
        rest = b"x" * 199_995
        connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if framed else rest)

    with Upstream(handle) as client:
        body = iter(forward(over, client.address).body)
        assert next(body) == b"first"
        go_on.set()
        assert b"".join(body) == b"x" * 199_995


def test_an_answer_without_a_length_ends_with_its_connection(over: Proxy) -> None:
    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.0 200 OK\r\n\r\nall")

    with Upstream(handle) as client:
        answer = forward(over, client.address)
        assert (answer.length, read(answer)) == (None, b"all")


@pytest.mark.parametrize(
    ("head", "length"),
    [("Content-Length: 12345", 12345), ("Content-Length: 0", 0), ("Transfer-Encoding: chunked", None), ("X: y", None)],
)
def test_the_answer_to_head_has_the_length_of_the_whole_and_no_body(over: Proxy, head: str, length: int | None) -> None:
    with Upstream(replying(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())) as client:
        for _ in range(2):
            answer = forward(over, client.address, REQUEST_METHOD="HEAD")
            assert (answer.status, answer.length, read(answer)) == ("200 OK", length, b"")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_never_has_a_body_has_no_length_either(over: Proxy, status: str) -> None:
    with Upstream(replying(f"HTTP/1.1 {status}\r\nETag: 1\r\n\r\n".encode())) as client:
        for _ in range(2):
            answer = forward(over, client.address)
            assert (answer.status, answer.length, read(answer)) == (status, None, b"")
        assert len(client.connections) == 1


def test_an_empty_answer_is_an_answer(over: Proxy) -> None:
    with Upstream(replying(reply(b""))) as client:
        answer = forward(over, client.address)
        assert (answer.status, answer.length, read(answer)) == ("200 OK", 0, b"")


# What goes wrong


def test_a_refused_connection_is_a_502_at_once(over: Proxy) -> None:
    assert failed(lambda: forward(over, ("127.0.0.1", free_port()), alive=lambda: False), ClientUnreachable) == (502, 9)


def test_a_client_that_binds_late_is_waited_for(over: Proxy) -> None:
    port = free_port()
    asked = threading.Event()
    found: list[bytes] = []

    def alive() -> bool:
        asked.set()
        return True

    caller = threading.Thread(target=lambda: found.append(read(forward(over, ("127.0.0.1", port), alive=alive))))
    caller.start()
    assert asked.wait(TIMEOUT)
    with Upstream(replying(reply(b"late")), port=port):
        caller.join(TIMEOUT)
    assert found == [b"late"]


def test_a_client_that_never_listens_is_a_503() -> None:
    assert failed(lambda: forward(Proxy(bind_timeout=0.1), ("127.0.0.1", free_port())), ClientNotListening) == (503, 9)


def test_a_client_that_ends_while_it_is_waited_for_is_a_502(over: Proxy) -> None:
    answers = iter([True, True, False])
    call = lambda: forward(over, ("127.0.0.1", free_port()), alive=lambda: next(answers))  # noqa: E731
    assert failed(call, ClientUnreachable) == (502, 9)


def test_a_supervisor_that_cannot_be_asked_is_not_taken_for_an_end(over: Proxy) -> None:
    def alive() -> bool:
        raise SupervisorUnreachable

    assert failed(lambda: forward(over, ("127.0.0.1", free_port()), alive=alive), SupervisorUnreachable) == (503, 7)


def silent(connection: Connection) -> None:
    """Read a request and wait until the other side gives up."""
    connection.request()
    connection.channel.recv(1)


def half(data: bytes) -> Handler:
    """Send the start of an answer, and close."""

    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(data)

    return handle


def test_a_slow_client_is_a_504() -> None:
    with Upstream(silent) as client:
        assert failed(lambda: forward(Proxy(answer_timeout=0.1), client.address), ClientTimeout) == (504, 9)


def test_an_answer_that_stalls_is_a_504() -> None:
    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        connection.channel.recv(1)

    with Upstream(handle) as client:
        assert failed(lambda: forward(Proxy(answer_timeout=0.1), client.address), ClientTimeout) == (504, 9)


EARLY = {
    "nothing": b"",
    "head": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
    "garbage": b"SSH-2.0-OpenSSH\r\n",
}


@pytest.mark.parametrize("sent", EARLY.values(), ids=EARLY)
def test_a_client_that_closes_early_is_a_502_and_never_an_empty_200(over: Proxy, sent: bytes) -> None:
    with Upstream(half(sent)) as client:
        assert failed(lambda: read(forward(over, client.address)), ClientUnreachable) == (502, 9)


CUT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + LARGE[:100_000],
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfir",
    "between": chunked(b"first", end=b""),
    "size": chunked(b"first", end=b"zz\r\n"),
}


@pytest.mark.parametrize("sent", CUT.values(), ids=CUT)
def test_a_long_answer_that_is_cut_short_is_not_taken_for_the_whole(over: Proxy, sent: bytes) -> None:
    with Upstream(half(sent)) as client:
        answer = forward(over, client.address)
        assert failed(lambda: read(answer), ClientUnreachable) == (502, 9)


def test_a_long_answer_that_stalls_does_not_hold_its_caller_for_ever() -> None:
    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(chunked(b"first", end=b""))
        connection.channel.recv(1)

    with Upstream(handle) as client:
        answer = forward(Proxy(answer_timeout=0.1), client.address)
        assert failed(lambda: read(answer), ClientTimeout) == (504, 9)


def test_a_body_that_breaks_off_is_the_callers_error_and_closes_the_connection(over: Proxy) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError("the caller went away")

    closed = threading.Event()

    def handle(connection: Connection) -> None:
        connection.head()
        if connection.channel.recv(1) == b"":
            closed.set()

    with Upstream(handle) as client:
        assert failed(
            lambda: forward(over, client.address, REQUEST_METHOD="POST", CONTENT_LENGTH="5", body=Broken()),
            RequestBroken,
        ) == (400, -1)
        assert closed.wait(TIMEOUT)


# Polls that are held


def test_held_polls_end_when_the_worker_is_to_end_and_other_calls_go_on(over: Proxy) -> None:
    asked, go_on = threading.Barrier(3), threading.Event()
    ended: list[object] = []

    def handle(connection: Connection) -> None:
        request = connection.request()
        asked.wait(TIMEOUT)
        if request and "check_event" in request.line:
            connection.channel.recv(1)
        else:
            assert go_on.wait(TIMEOUT)
            connection.send(reply())

    with Upstream(handle) as client:
        poll = lambda: forward(over, client.address, PATH_INFO="/openwx/check_event")  # noqa: E731
        caller = threading.Thread(target=lambda: ended.append(failed(poll, PollEnded)))
        other = threading.Thread(target=lambda: ended.append(read(forward(over, client.address))))
        for thread in (caller, other):
            thread.start()
        asked.wait(TIMEOUT)
        eventually(lambda: over._held)
        over.release()
        caller.join(TIMEOUT)
        go_on.set()
        other.join(TIMEOUT)
        assert failed(poll, PollEnded) == ended[0]
    assert ended == [(503, 9), b"ok"]
    assert len(client.requests) == 2


def test_a_held_poll_of_a_client_that_ends_is_a_502(over: Proxy) -> None:
    with Upstream(half(b"")) as client:
        poll = lambda: forward(over, client.address, PATH_INFO="/openwx/check_event")  # noqa: E731
        assert failed(poll, ClientUnreachable) == (502, 9)


def test_a_held_poll_is_answered(over: Proxy) -> None:
    with Upstream(replying(reply(b"[]"))) as client:
        assert read(forward(over, client.address, PATH_INFO="/openwx/check_event")) == b"[]"


# Connections that are used again


@pytest.mark.parametrize(
    "answer",
    [reply(), reply(LARGE), chunked(b"one", b"two"), reply(b"", status="204 No Content")],
    ids=["small", "large", "chunked", "empty"],
)
def test_a_connection_is_used_again_after_a_whole_answer(over: Proxy, answer: bytes) -> None:
    with Upstream(replying(answer)) as client:
        bodies = [read(forward(over, client.address)) for _ in range(4)]
        assert len(client.connections) == 1
    assert len(set(bodies)) == 1 and len(client.requests) == 4


def test_a_connection_that_the_client_wants_closed_is_not_used_again(over: Proxy) -> None:
    with Upstream(replying(reply(headers=("Connection: close",)))) as client:
        for _ in range(3):
            assert read(forward(over, client.address)) == b"ok"
        assert len(client.connections) == 3


def test_an_answer_that_nobody_read_to_its_end_gives_its_connection_up(over: Proxy) -> None:
    with Upstream(replying(reply(LARGE), reply())) as client:
        body = forward(over, client.address).body
        assert isinstance(body, Iterator)
        with closing(body):  # type: ignore[type-var]
            next(body)
        assert read(forward(over, client.address)) == LARGE
        assert len(client.connections) == 2


def test_an_idle_connection_that_the_client_closed_is_not_used(over: Proxy) -> None:
    """A client that was restarted: its next call must not fail."""
    closed = threading.Semaphore(0)

    def once(connection: Connection) -> None:
        connection.request()
        connection.send(reply(str(connection.number).encode()))
        connection.channel.shutdown(socket.SHUT_RDWR)
        closed.release()

    with Upstream(once) as client:
        for number in (b"1", b"2", b"3"):
            assert read(forward(over, client.address)) == number
            assert closed.acquire(timeout=TIMEOUT)
    assert len(client.requests) == 3


def test_an_idle_connection_with_stray_bytes_on_it_is_not_used(over: Proxy) -> None:
    """They would be taken for the next answer."""
    answered, stray = threading.Event(), threading.Event()

    def handle(connection: Connection) -> None:
        while connection.request():
            connection.send(reply())
            assert answered.wait(TIMEOUT)
            if connection.number == 1:
                connection.send(reply(b"stray"))
                stray.set()

    with Upstream(handle) as client:
        assert read(forward(over, client.address)) == b"ok"
        answered.set()
        assert stray.wait(TIMEOUT)
        assert read(forward(over, client.address)) == b"ok"
        assert len(client.connections) == 2


def test_an_old_idle_connection_is_not_used(over: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_LIMIT", 0.0)
    with Upstream(replying(reply())) as client:
        for _ in range(2):
            forward(over, client.address)
        assert len(client.connections) == 2


def test_clients_do_not_share_connections(over: Proxy) -> None:
    with Upstream(replying(reply(b"a"))) as one, Upstream(replying(reply(b"b"))) as other:
        answers = [read(forward(over, client.address)) for client in (one, other, one, other)]
    assert answers == [b"a", b"b", b"a", b"b"]


def test_callers_at_the_same_time_do_not_share_a_connection(over: Proxy) -> None:
    together = threading.Barrier(4)

    def handle(connection: Connection) -> None:
        while request := connection.request():
            together.wait(TIMEOUT)
            connection.send(reply(request.line.encode()))

    with Upstream(handle) as client:
        for _ in range(2):
            found: dict[int, bytes] = {}

            def call(number: int, found: dict[int, bytes] = found) -> None:
                found[number] = read(forward(over, client.address, RAW_URI=f"/openwx/{number}"))

            threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(TIMEOUT)
            assert found == {number: f"GET /openwx/{number} HTTP/1.1".encode() for number in range(4)}
        assert len(client.connections) == 4


def test_no_more_than_a_few_idle_connections_are_kept(over: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "POOL_SIZE", 1)
    together = threading.Barrier(2)

    def handle(connection: Connection) -> None:
        while connection.request():
            together.wait(TIMEOUT)
            connection.send(reply())

    with Upstream(handle) as client:
        threads = [threading.Thread(target=forward, args=(over, client.address)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        eventually(lambda: [each.channel.fileno() for each in client.connections].count(-1) == 1)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_may_have_arrived_is_never_sent_again(over: Proxy, method: str) -> None:
    """Or one call to send_friend_message could send two messages."""

    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(reply())
        connection.request()

    with Upstream(handle) as client:
        assert read(forward(over, client.address)) == b"ok"
        call = lambda: forward(over, client.address, REQUEST_METHOD=method, body=b"x")  # noqa: E731
        assert failed(call, ClientUnreachable) == (502, 9)
        assert (len(client.requests), len(client.connections)) == (2, 1)


def test_no_proxy_of_the_environment_comes_in_between(over: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with Upstream(replying(reply())) as client:
        assert read(forward(over, client.address)) == b"ok"


def test_small_packets_are_not_held_back(over: Proxy) -> None:
    """TCP_NODELAY: or a call with a body would wait for a delayed acknowledgement, 40 ms."""
    with Upstream(replying(reply())) as client:
        forward(over, client.address)
        ((_, connection),) = over._connections._idle[client.address]
        assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_stop_minds_no_connection_that_its_answer_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Proxy()) as proxy:
        # As a signal finds it between an answer with Connection: close and its being handed on.
        monkeypatch.setattr(proxy, "_held", {http.client.HTTPConnection("127.0.0.1")})
        proxy.release()
