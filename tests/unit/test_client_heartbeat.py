"""The heartbeat: it asks poll_api for ever, and follows redirects to our own API alone."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.account import options
from tests.deadline import eventually
from tests.ports import free_port
from tests.unit.upstream import Connection, Upstream, reply, replying
from wxsup.client.heartbeat import Heartbeat, own_call

PORT = 3007

MakeHeartbeat = Callable[..., Heartbeat]


@pytest.fixture
def called() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def begin(tmp_path: Path, called: list[tuple[str, str]]) -> Iterator[MakeHeartbeat]:
    begun: list[Heartbeat] = []

    def note(path: str, query: str) -> None:
        called.append((path, query))

    def begin(url: str, call: Callable[[str, str], None] = note) -> Heartbeat:
        chosen = options(tmp_path, plugin_openwx_poll_api=url, plugin_openwx_port=PORT)
        heartbeat = Heartbeat(dataclasses.replace(chosen, plugin_openwx_poll_interval=0.02), call)
        heartbeat.start()
        begun.append(heartbeat)
        return heartbeat

    yield begin
    for heartbeat in begun:
        heartbeat.stop()
    eventually(lambda: not beating(), what="the end of the heartbeat")


def beating() -> bool:
    return any(thread.name == "heartbeat" for thread in threading.enumerate())


def url(server: Upstream) -> str:
    return "http://{}:{}/poll?client=alice".format(*server.address)


def redirect(location: str, status: str = "302 Found") -> bytes:
    return reply(status=status, headers=(f"Location: {location}",))


def test_it_asks_again_and_again_and_needs_no_answer(begin: MakeHeartbeat, called: list[tuple[str, str]]) -> None:
    answers = (reply(b"<html>"), reply(status="500 Oops"), reply(status="204 No Content"))
    with Upstream(replying(*answers)) as server:
        begin(url(server))
        eventually(lambda: len(server.requests) >= 4)
    assert {request.line for request in server.requests} == {"GET /poll?client=alice HTTP/1.1"}
    assert called == []


def test_without_a_poll_api_there_is_none(begin: MakeHeartbeat) -> None:
    begin("")
    assert not beating()


def test_it_keeps_the_interval(tmp_path: Path) -> None:
    times: list[float] = []

    def handle(connection: Connection) -> None:
        connection.request()
        times.append(time.monotonic())
        connection.send(reply())

    with Upstream(handle) as server:
        heartbeat = Heartbeat(
            options(tmp_path, plugin_openwx_poll_api=url(server), plugin_openwx_poll_interval="1"), print
        )
        heartbeat.start()
        eventually(lambda: len(times) == 2)
        heartbeat.stop()
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_to_our_own_api_is_a_call_of_it(
    begin: MakeHeartbeat, called: list[tuple[str, str]], status: str
) -> None:
    location = f"http://127.0.0.1:{PORT}/openwx/send_friend_message?id=a%26b&content=%E4%BD%A0"
    with Upstream(replying(redirect(location, status), reply())) as server:
        begin(url(server))
        eventually(lambda: len(server.requests) >= 3)
    assert called == [("/openwx/send_friend_message", "id=a%26b&content=%E4%BD%A0")] * len(server.connections)


def test_a_redirect_to_anywhere_else_is_not_followed(
    begin: MakeHeartbeat, called: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    with Upstream(replying(reply())) as other:
        location = "http://{}:{}/openwx/stop_client?key=secret".format(*other.address)
        with Upstream(replying(redirect(location))) as server:
            begin(url(server))
            eventually(lambda: len(server.requests) >= 2)
        assert (other.connections, called) == ([], [])
    assert "redirect not followed" in caplog.messages
    assert "secret" not in "".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("location", ["", "http://[", "\tnonsense", "/openwx/stop_client"])
def test_a_redirect_that_makes_no_sense_does_no_harm(
    begin: MakeHeartbeat, called: list[tuple[str, str]], location: str
) -> None:
    with Upstream(replying(redirect(location))) as server:
        begin(url(server))
        eventually(lambda: len(server.requests) >= 3)
    assert called == []


def test_a_call_that_fails_does_not_end_it(begin: MakeHeartbeat, caplog: pytest.LogCaptureFixture) -> None:
    def fail(path: str, query: str) -> None:
        raise RuntimeError("a defect")

    with Upstream(replying(redirect(f"http://127.0.0.1:{PORT}/openwx/x"))) as server:
        begin(url(server), fail)
        eventually(lambda: len(server.requests) >= 3)
    assert "heartbeat failed" in caplog.messages


def test_a_server_that_is_down_is_asked_again(begin: MakeHeartbeat) -> None:
    port = free_port()
    begin(f"http://127.0.0.1:{port}/poll")
    with Upstream(lambda connection: None, port=port) as hanging_up:
        eventually(lambda: len(hanging_up.connections) >= 3)
    with Upstream(replying(reply()), port=port) as server:
        eventually(lambda: server.requests)


def test_a_stop_ends_a_held_call(begin: MakeHeartbeat) -> None:
    done = threading.Event()

    def hold(connection: Connection) -> None:
        connection.request()
        done.wait(20)

    with Upstream(hold) as server:
        heartbeat = begin(url(server))
        eventually(lambda: server.requests)
        heartbeat.stop()
        eventually(lambda: not beating(), timeout=5, what="the end of the heartbeat")
        done.set()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("location", "call"),
    [
        ("http://127.0.0.1:3007/openwx/get_user_info", ("/openwx/get_user_info", "")),
        ("HTTP://LOCALHOST:3007/openwx/a?b=c&d=%26#fragment", ("/openwx/a", "b=c&d=%26")),
        ("http://127.0.0.1:3007/openwx/", ("/openwx/", "")),
        ("https://127.0.0.1:3007/openwx/a", None),
        ("//127.0.0.1:3007/openwx/a", None),
        ("/openwx/a", None),
        ("http://127.0.0.1/openwx/a", None),
        ("http://127.0.0.1:3008/openwx/a", None),
        ("http://127.0.0.1:80/openwx/a", None),
        ("http://127.0.0.2:3007/openwx/a", None),
        ("http://127.1:3007/openwx/a", None),
        ("http://[::1]:3007/openwx/a", None),
        ("http://192.168.0.1:3007/openwx/a", None),
        ("http://evil.example:3007/openwx/a", None),
        ("http://127.0.0.1:3007@evil.example/openwx/a", None),
        ("http://evil@127.0.0.1:3007/openwx/a", None),
        ("http://127.0.0.1:3007.evil.example/openwx/a", None),
        ("http://127.0.0.1:3007/", None),
        ("http://127.0.0.1:3007/openwx", None),
        ("http://127.0.0.1:3007/OPENWX/a", None),
        ("http://127.0.0.1:3007/x/openwx/a", None),
        ("http://127.0.0.1:3007//openwx/a", None),
        ("http://127.0.0.1:port/openwx/a", None),
        ("http://127.0.0.1:99999/openwx/a", None),
        ("http://[127.0.0.1:3007/openwx/a", None),
        ("file:///openwx/a", None),
        ("", None),
    ],
)
def test_only_a_call_on_our_own_port_is_our_own(location: str, call: tuple[str, str] | None) -> None:
    assert own_call(location, PORT) == call
