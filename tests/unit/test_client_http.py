"""The HTTP client against real sockets: what it sends, repeats, gives up, and how it is broken off."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import certifi
import pytest

from tests.deadline import eventually
from tests.ports import free_port
from tests.tls import needs_openssl, serving
from tests.unit.upstream import Connection, Handler, Upstream, reply, replying
from wxsup.client import http as module
from wxsup.client.http import Answer, Http, NotConnected, TransportError, TransportTimeout

SECRET = "s3cr3t"


def url(server: Upstream, path: str = "/path") -> str:
    return "http://{}:{}".format(*server.address) + path


def ask(http: Http, address: str, *, timeout: float = 20.0, body: bytes | None = None) -> Answer:
    return http.request("POST" if body else "GET", address, body=body, headers={"X-Test": "1"}, timeout=timeout)


def sending(data: bytes) -> Handler:
    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(data)

    return handle


def test_a_call_brings_status_and_body_and_leaves_the_query_as_it_is() -> None:
    with Upstream(replying(reply("你好".encode(), status="404 Not Found"))) as server:
        answer = ask(Http(), url(server, "/a?b=%2F&c"), body=b"content")
    assert (answer.status, answer.body.decode(), answer.headers["content-length"]) == (404, "你好", "6")
    (request,) = server.requests
    assert request.line == "POST /a?b=%2F&c HTTP/1.1"
    assert (request.all("X-Test"), request.body) == (["1"], b"content")


@pytest.mark.parametrize(("keep", "connections"), [(True, 1), (False, 3)])
def test_a_connection_is_kept_when_that_is_wanted(keep: bool, connections: int) -> None:
    http = Http(keep=keep)
    with Upstream(replying(reply())) as server:
        for _ in range(3):
            ask(http, url(server))
        assert len(server.connections) == connections
        http.close()


def test_a_call_is_repeated_on_a_new_connection_when_the_kept_one_is_closed() -> None:
    http = Http(keep=True)
    with Upstream(sending(reply())) as server:  # closes after each answer, without saying so
        assert [ask(http, url(server)).body for _ in range(3)] == [b"ok"] * 3
        assert len(server.connections) == 3
        http.close()


def test_a_call_on_a_fresh_connection_is_never_repeated() -> None:
    with Upstream(sending(b"")) as server:
        with pytest.raises(TransportError):
            ask(Http(), url(server))
        assert len(server.connections) == 1


def test_another_server_gets_another_connection_and_the_first_is_closed() -> None:
    http = Http(keep=True)
    with Upstream(replying(reply(b"one"))) as one, Upstream(replying(reply(b"two"))) as two:
        assert [ask(http, url(server)).body for server in (one, two, two)] == [b"one", b"two", b"two"]
        eventually(lambda: one.connections[0].channel.fileno() == -1, what="the end of the first connection")
        assert len(two.connections) == 1
        http.close()


def test_close_ends_a_kept_connection_for_good() -> None:
    http = Http(keep=True)
    with Upstream(replying(reply())) as server:
        ask(http, url(server))
        http.close()
        eventually(lambda: server.connections[0].channel.fileno() == -1, what="the end of the connection")
        with pytest.raises(NotConnected):
            ask(http, url(server))
        assert len(server.connections) == 1


def test_close_breaks_off_a_held_call_at_once() -> None:
    http = Http(keep=True)
    failures: list[TransportError] = []
    done = threading.Event()

    def call() -> None:
        try:
            ask(http, url(server))
        except TransportError as ex:
            failures.append(ex)

    with Upstream(lambda connection: held(connection, done)) as server:
        caller = threading.Thread(target=call)
        caller.start()
        eventually(lambda: server.requests, what="the request")
        http.close()
        caller.join(2)
        assert not caller.is_alive()
        assert len(failures) == 1
        assert len(server.connections) == 1
        done.set()


def held(connection: Connection, done: threading.Event) -> None:
    connection.request()
    done.wait(20)


def test_a_server_that_says_nothing_is_a_timeout() -> None:
    done = threading.Event()
    with Upstream(lambda connection: held(connection, done)) as server:
        with pytest.raises(TransportTimeout):
            ask(Http(), url(server), timeout=0.1)
        done.set()


def trickling_head(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    trickle(connection)


def trickling_body(connection: Connection) -> None:
    connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
    trickle(connection)


def trickle(connection: Connection) -> None:
    while True:  # until the other side hangs up
        connection.send(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize("handler", [trickling_head, trickling_body])
def test_a_trickle_of_bytes_does_not_put_off_the_deadline(handler: Handler) -> None:
    with Upstream(handler) as server, pytest.raises(TransportTimeout):
        ask(Http(), url(server), timeout=0.3)


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_LIMIT", 1000)
    with Upstream(replying(reply(b"x" * 1000), reply(b"x" * 1001))) as server:
        http = Http(keep=True)
        assert len(ask(http, url(server)).body) == 1000
        with pytest.raises(TransportError, match="more than 1000"):
            ask(http, url(server))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
    ids=["nothing", "cut off", "bad chunk", "not HTTP", "too many headers"],
)
def test_what_is_no_whole_answer_is_a_transport_error(answer: bytes) -> None:
    with Upstream(sending(answer)) as server, pytest.raises(TransportError):
        ask(Http(), url(server))


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{}/".format,
        "http://127.0.0.1:0{}x/".format,
        "http://127.0.0.1:9{}9/".format,
        "http://[::1/{}".format,
        "http://name.invalid:{}/".format,
        f"http://{'x' * 70}.de:{{}}/".format,
        "https://127.0.0.1:{}/".format,
    ],
    ids=["refused", "no number", "beyond 65535", "bracket", "no such host", "label too long", "TLS"],
)
def test_an_address_that_leads_nowhere_is_a_transport_error(address: Callable[[int], str]) -> None:
    with pytest.raises(TransportError):
        ask(Http(), address(free_port()))


def test_a_refused_connection_says_that_nothing_was_sent() -> None:
    with pytest.raises(NotConnected, match="refused"):
        ask(Http(), f"http://127.0.0.1:{free_port()}/")


def test_a_connection_that_does_not_come_about_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        # Linux takes two for a backlog of none; all further ones get no answer.
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=5)]
        began = time.monotonic()
        try:
            while True:
                waiting.append(socket.create_connection(("127.0.0.1", port), timeout=0.2))
        except TimeoutError:
            pass
        with pytest.raises(NotConnected):
            ask(Http(), f"http://127.0.0.1:{port}/", timeout=0.3)
        assert time.monotonic() - began < 5
        for channel in waiting:
            channel.close()


@pytest.mark.parametrize(
    ("path", "headers"),
    [(f"/?key={SECRET} x", {}), (f"/?key={SECRET}é", {}), ("/", {"Authorization": f"Bearer {SECRET}\nx"})],
)
def test_an_error_never_repeats_what_was_called(path: str, headers: dict[str, str]) -> None:
    with Upstream(replying(reply())) as server, pytest.raises(TransportError) as caught:
        Http().request("GET", url(server, path), headers=headers, timeout=20)
    assert SECRET not in str(caught.value)


def test_a_redirect_is_not_followed() -> None:
    with Upstream(replying(reply(status="302 Found", headers=("Location: http://127.0.0.1:1/",)))) as server:
        assert ask(Http(), url(server)).status == 302
        assert len(server.requests) == 1


class Secure(BaseHTTPRequestHandler):
    """Answers over TLS."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def own_trust(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let a test say whom we trust."""
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    module._trust.cache_clear()
    yield monkeypatch
    module._trust.cache_clear()


@needs_openssl
def test_a_server_is_trusted_whose_authority_is(tmp_path: Path, own_trust: pytest.MonkeyPatch) -> None:
    with serving(Secure, tmp_path) as (server, certificate):
        own_trust.setenv("SSL_CERT_FILE", str(certificate))
        assert ask(Http(), server.url).body == b"ok"
        with pytest.raises(NotConnected):  # it has no certificate for that name
            ask(Http(), f"https://localhost:{server.server_port}")


@needs_openssl
def test_any_other_server_is_not(tmp_path: Path, own_trust: pytest.MonkeyPatch) -> None:
    with serving(Secure, tmp_path) as (server, _), pytest.raises(NotConnected):
        own_trust.setenv("SSL_CERT_FILE", certifi.where())
        ask(Http(), server.url)


@needs_openssl
def test_whom_we_trust_is_read_once_for_all_connections(tmp_path: Path, own_trust: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        made.append(create())
        return made[-1]

    own_trust.setattr("ssl.create_default_context", counted)
    with serving(Secure, tmp_path) as (server, certificate):
        own_trust.setenv("SSL_CERT_FILE", str(certificate))
        assert [ask(Http(keep=keep), server.url).body for keep in (True, False, False)] == [b"ok"] * 3
    assert len(made) == 1
