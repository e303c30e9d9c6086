"""Files from the web: only from public addresses, whatever names, redirects and the DNS say."""

from __future__ import annotations

import socket
import time

import pytest

from tests.ports import free_port
from tests.unit.upstream import Connection, Upstream, reply, replying
from wxsup.client import download as module
from wxsup.client.download import Download, Refused, public
from wxsup.errors import ContentRejected

ANY = "https?://.*"


def fetched(download: Download, url: str) -> tuple[bytes, str]:
    chunks: list[bytes] = []
    name = download.fetch(url, chunks.append)
    return b"".join(chunks), name


def at(server: Upstream, path: str = "/files/%E7%85%A7%E7%89%87.png?size=1", host: str = "files.example") -> str:
    return f"http://{host}:{server.address[1]}{path}"


def here(*private: str) -> Download:
    """All names are this machine, of which `private` may be fetched from."""
    return Download(ANY, private, resolve=lambda host, port: ["127.0.0.1"])


def test_a_file_is_fetched_and_its_name_is_that_of_the_url() -> None:
    with Upstream(replying(reply(b"content"))) as server:
        assert fetched(here("files.example"), at(server)) == (b"content", "照片.png")
    assert server.requests[0].all("Host") == [f"files.example:{server.address[1]}"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "fec0::1",
        "::7f00:1",
        "::ffff:0:7f00:1",
        "192.88.99.1",
        "2001:0:808:808::80ff:fffe",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not public(address)
    for found in ([address], ["8.8.8.8", address]):  # also as one of several

        def resolve(host: str, port: int, found: list[str] = found) -> list[str]:
            return found

        with pytest.raises(Refused, match="no public address"):
            fetched(Download(ANY, (), resolve=resolve), "http://files.example/")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_a_public_address_is_not(address: str) -> None:
    assert public(address)


def test_numbers_and_forms_of_loopback_are_what_they_mean() -> None:
    for host in ("127.1", "2130706433", "0x7f000001", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(ContentRejected):
            fetched(Download(ANY, ()), f"http://{host}:{free_port()}/")


def test_a_redirect_to_a_private_address_is_refused() -> None:
    with Upstream(replying(reply(b"inner secret"))) as inner:
        location = f"Location: http://inner.example:{inner.address[1]}/"
        with Upstream(replying(reply(status="302 Found", headers=(location,)))) as outer:
            with pytest.raises(Refused, match="no public address"):
                fetched(here("files.example"), at(outer))
        assert inner.connections == []


def test_dead_addresses_have_one_deadline_together(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        told.append(timeout)
        clock[0] += 4.0
        raise TimeoutError

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(socket, "create_connection", connect)
    dead = Download(
        ANY, ("files.example",), resolve=lambda host, port: [f"127.0.0.{number}" for number in range(1, 99)]
    )
    with pytest.raises(ContentRejected, match="cannot be fetched"):
        fetched(dead, "http://files.example/")
    assert told == [10.0, 6.0, 2.0]


@pytest.mark.parametrize(
    "location", ["http://[x", "file:///etc/passwd", "ftp://files.example/x", "http://user:pw@files.example/", ""]
)
def test_a_redirect_to_what_is_no_url_of_the_web_is_refused(location: str) -> None:
    with Upstream(replying(reply(status="301 Moved", headers=(f"Location: {location}",)))) as server:
        with pytest.raises(ContentRejected):
            fetched(here("files.example"), at(server))


def test_a_redirect_is_followed_and_names_the_file() -> None:
    with Upstream(replying(reply(b"content"))) as server:
        moved = reply(status="302 Found", headers=(f"Location: {at(server, '/b/x.png')}",))
        with Upstream(replying(moved)) as first:
            assert fetched(here("files.example"), at(first)) == (b"content", "x.png")


def test_redirects_are_not_followed_for_ever() -> None:
    with Upstream(replying(reply(status="302 Found", headers=("Location: /again",)))) as circle:
        with pytest.raises(ContentRejected, match="HTTP 302"):
            fetched(here("files.example"), at(circle))
    assert len(circle.requests) == module.MOST_REDIRECTS + 1


def test_a_name_is_resolved_once_for_each_connection() -> None:
    """Else the DNS could say something else to who connects than to who looks (DNS rebinding)."""
    told: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        told.append(host)
        return ["127.0.0.1"]

    with Upstream(replying(reply(b"content"))) as server:
        fetched(Download(ANY, ("files.example",), resolve=resolve), at(server))
    assert told == ["files.example"]


@pytest.mark.parametrize(
    ("allowed", "url"),
    [("", "http://a.example/"), ("https://b\\.example/.*", "https://a.example/"), (ANY, "gopher://a/")],
)
def test_only_urls_that_the_operator_allows_are_fetched(allowed: str, url: str) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError("it was looked up")

    with pytest.raises(Refused):
        fetched(Download(allowed, (), resolve=never), url)


@pytest.mark.parametrize(
    "answer", [reply(status="404 Not Found"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b""]
)
def test_what_cannot_be_had_is_said(answer: bytes) -> None:
    def once(connection: Connection) -> None:
        connection.request()
        connection.send(answer)

    with Upstream(once) as server, pytest.raises(ContentRejected, match="cannot be fetched"):
        fetched(here("files.example"), at(server))


def test_what_the_sink_says_is_passed_on() -> None:
    def full(chunk: bytes) -> None:
        raise ContentRejected("too large")

    with Upstream(replying(reply(b"content"))) as server, pytest.raises(ContentRejected, match="too large"):
        here("files.example").fetch(at(server), full)
