from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.deadline import TIMEOUT
from tests.unit.conftest import HOSTILE_NAMES, World
from tests.unit.test_api import served
from tests.unit.upstream import reply
from wxsup import local
from wxsup.errors import ClientUnknown, ClientUnreachable, NameInvalid
from wxsup.local import Application
from wxsup.sdk import Controller


@pytest.fixture
def wx(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    monkeypatch.setattr(local, "open_controller", lambda settings: world.controller)
    with local.controller(world.settings, prepare=True) as found:
        yield found


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_a_client_from_its_start_to_its_end_under_any_name(wx: Controller, world: World, name: str) -> None:
    assert wx.start(name, log_level="debug")["log_level"] == "debug"
    world.tell(name, state="running")
    assert [entry["state"] for entry in wx.check()] == ["running"]
    assert wx.qrcode(name) is None
    assert wx.change(name, log_level="warn")["log_level"] == "warn"
    assert wx.remove(name, purge=True)["purged"] is True
    with pytest.raises(ClientUnknown):
        wx.check(name)


def test_no_token_is_asked_for_though_there_are_tokens(wx: Controller, world: World) -> None:
    world.settings.tokens_path.write_text('{"schema": 1, "tokens": []}')
    assert wx.check() == []


def test_what_is_refused_is_the_same_error_as_over_the_network(wx: Controller, world: World) -> None:
    with pytest.raises(NameInvalid):
        wx.start("a\nb")
    wx.start("a")
    world.supervisor.end("a")
    with pytest.raises(ClientUnreachable):
        wx.call("a", "get_friend_info")


def test_a_call_is_passed_on_with_all_that_it_says(wx: Controller, world: World) -> None:
    wx.start("a")
    with served(world, "a", reply(b'{"code":0,"status":"success"}', headers=("Content-Type: application/json",))) as up:
        assert wx.send("a", "你&好=?", id="u 1")["code"] == 0
    (request,) = [request for request in up.requests if b"" != request.body]
    assert request.line.startswith("POST /openwx/send_friend_message?client=a ")
    assert request.body.decode() == f"id=u+1&content={quote('你&好=?')}"


def test_an_application_is_given_what_a_server_would_and_closed_when_it_has_answered() -> None:
    seen: dict[str, Any] = {}

    class Body:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            yield from (b"a", b"", b"b")

        def close(self) -> None:
            Body.closed += 1

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        seen.update(environ, body=environ["wsgi.input"].read())
        start_response("418 I'm a teapot", [("X-A", "1"), ("Content-Type", "text/plain")])
        return Body()

    with requests.Session() as session, closing(Application(app)) as adapter:
        session.mount(local.URL, adapter)
        answer = session.post(f"{local.URL}/openwx/x%20y?client=%E5%AE%A2", data=b"form", timeout=TIMEOUT)
    assert (answer.status_code, answer.content, answer.headers["X-A"], Body.closed) == (418, b"ab", "1", 1)
    assert (seen["PATH_INFO"], seen["QUERY_STRING"], seen["body"]) == ("/openwx/x y", "client=%E5%AE%A2", b"form")
    assert (seen["CONTENT_LENGTH"], seen["HTTP_HOST"]) == ("4", "localhost")


def test_what_an_application_raises_is_heard_and_it_is_closed(wx: Controller) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise ClientUnreachable("in the middle")

    with requests.Session() as session:
        session.mount(local.URL, Application(app))
        with pytest.raises(ClientUnreachable, match="in the middle"):
            session.get(local.URL, timeout=TIMEOUT)
