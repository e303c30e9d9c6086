from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.ports import free_port
from tests.unit.test_docs import errors
from tests.unit.upstream import Connection, Request, Upstream, reply, replying
from wxsup import sdk
from wxsup.errors import (
    ClientUnknown,
    ClientUnreachable,
    ControllerUnreachable,
    NotWrittenYet,
    ParameterRefused,
    RateLimited,
    TokensUnreadable,
    TooManyFailures,
    Unauthorized,
    WxsupError,
)
from wxsup.sdk import Controller, EventsMissed, verify_webhook

PAGE = Path(__file__).parent.parent.parent / "docs/reference/sdk.md"


def answer(body: object, status: str = "200 OK", *headers: str) -> bytes:
    return reply(json.dumps(body).encode(), status=status, headers=("Content-Type: application/json", *headers))


@contextmanager
def served(*answers: bytes, token: str | None = None) -> Iterator[tuple[Controller, list[Request]]]:
    """A controller whose server gives these answers, and the requests that it got."""
    with Upstream(replying(*answers)) as server, Controller("http://{}:{}/".format(*server.address), token) as wx:
        yield wx, server.requests


OK = answer({"code": 0, "status": "success"})

CALLS: dict[str, tuple[Callable[[Controller], Any], str, bytes]] = {
    "start": (
        lambda wx: wx.start("微 1", log_level="debug", fresh=True, send_interval=2.5, post_api=None),
        "POST /openwx/start_client?client=%E5%BE%AE+1 HTTP/1.1",
        b"log_level=debug&fresh=1&send_interval=2.5",
    ),
    "stop": (lambda wx: wx.stop("a"), "POST /openwx/stop_client?client=a HTTP/1.1", b""),
    "restart": (lambda wx: wx.restart("a"), "POST /openwx/restart_client?client=a HTTP/1.1", b""),
    "change": (
        lambda wx: wx.change("a", log_level="debug"),
        "POST /openwx/restart_client?client=a HTTP/1.1",
        b"log_level=debug&replace=1",
    ),
    "remove": (lambda wx: wx.remove("a", purge=True), "POST /openwx/remove_client?client=a HTTP/1.1", b"purge=1"),
    "the log": (lambda wx: wx.log("a"), "GET /openwx/get_log?client=a&lines=200 HTTP/1.1", b""),
    "the log from where it was read": (
        lambda wx: wx.log("a", lines=5, after=17),
        "GET /openwx/get_log?client=a&lines=5&after=17 HTTP/1.1",
        b"",
    ),
    "send": (
        lambda wx: wx.send("a", "你&好", id="u1"),
        "POST /openwx/send_friend_message?client=a HTTP/1.1",
        b"id=u1&content=%E4%BD%A0%26%E5%A5%BD",
    ),
    "send without waiting": (
        lambda wx: wx.send("a", "x", displayname="d", markname="m", account="b", wait=False),
        "POST /openwx/send_friend_message?client=a HTTP/1.1",
        b"account=b&displayname=d&markname=m&content=x&async=1",
    ),
    "a call that reads": (
        lambda wx: wx.call("a", "search_friend", name="n o"),
        "GET /openwx/search_friend?client=a&name=n+o HTTP/1.1",
        b"",
    ),
    "a call that acts": (
        lambda wx: wx.call("a", "submit_verify_code", code=12),
        "POST /openwx/submit_verify_code?client=a HTTP/1.1",
        b"code=12",
    ),
}


@pytest.mark.parametrize(("make", "line", "body"), CALLS.values(), ids=CALLS)
def test_a_call_is_the_request_that_it_should_be(make: Callable[[Controller], Any], line: str, body: bytes) -> None:
    with served(OK) as (wx, asked):
        assert make(wx) == {"code": 0, "status": "success"}
    (request,) = asked
    assert (request.line, request.body) == (line, body)
    assert request.all("Authorization") == []


def test_check_returns_the_states() -> None:
    with served(answer({"code": 0, "client": [{"account": "a"}]})) as (wx, asked):
        assert wx.check() == wx.check("a") == [{"account": "a"}]
    assert [request.line.split()[1] for request in asked] == ["/openwx/check_client", "/openwx/check_client?client=a"]


def test_a_login_code_is_a_picture_or_none() -> None:
    with served(reply(b"\x89PNG", headers=("Content-Type: image/png",))) as (wx, _):
        assert wx.qrcode("a") == b"\x89PNG"
    with served(reply(b"", status="404 Not Found", headers=("Content-Type: text/html",))) as (wx, _):
        assert wx.qrcode("a") is None
    with served(answer({"code": 1, "status": "client not exists"})) as (wx, _), pytest.raises(ClientUnknown):
        wx.qrcode("a")


def test_what_is_no_json_comes_as_bytes() -> None:
    with served(reply(b"\xff\xd8", headers=("Content-Type: image/jpg",))) as (wx, _):
        assert wx.call("a", "get_avatar") == b"\xff\xd8"


@pytest.mark.parametrize("told", [[], [{"id": "1"}], {"id": "1", "name": "n"}, {"code": None, "status": None}])
def test_what_has_no_code_is_the_answer(told: object) -> None:
    with served(answer(told)) as (wx, _):
        assert wx.call("a", "get_user_info") == told


def test_the_token_goes_into_the_header_and_not_to_where_an_answer_leads() -> None:
    with Upstream(replying(OK)) as other:
        moved = answer({}, "302 Found", "Location: http://{}:{}/".format(*other.address))
        with served(moved, token="wxsup_x") as (wx, asked), pytest.raises(ControllerUnreachable, match="status 302"):
            wx.check()
    assert asked[0].all("Authorization") == ["Bearer wxsup_x"]
    assert "wxsup_x" not in asked[0].line
    assert other.requests == []


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login u password p\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with served(answer({"code": 0, "client": []})) as (wx, asked):
        assert wx.check() == []
    assert asked[0].all("Authorization") == []


def test_a_session_of_ones_own_stays_ones_own() -> None:
    class Session(requests.Session):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    session = Session()
    with Upstream(replying(answer({"code": 0, "client": []}))) as server:
        with Controller("http://{}:{}".format(*server.address), "wxsup_x", session) as wx:
            assert wx.check() == []
        assert not session.closed
        assert "Authorization" not in session.headers
        session.close()


# Errors


@pytest.mark.parametrize("kind", [kind for kind in errors() if kind.http_status != 500], ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_is_raised_as_itself_or_as_what_it_cannot_be_told_from(kind: type[WxsupError]) -> None:
    error = kind.__new__(kind)
    WxsupError.__init__(error, "because", client="a")
    with served(answer(error.body(), f"{kind.http_status} X")) as (wx, _), pytest.raises(WxsupError) as raised:
        wx.call("a", "x")
    found = raised.value
    assert issubclass(kind, type(found)) and type(found) is not WxsupError
    assert (found.code, found.http_status, found.status) == (kind.code, kind.http_status, kind.status)
    assert (found.reason, found.fields, str(found)) == ("because", {"client": "a"}, "because")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("401 X", {"code": -6, "status": "auth failure"}, Unauthorized),
        ("429 X", {"code": -6, "status": "auth failure", "retry_after": 3}, TooManyFailures),
        ("503 X", {"code": -6, "status": "auth failure"}, TokensUnreadable),
        ("400 X", {"code": 6, "status": "parameter not allowed: x"}, ParameterRefused),
        ("503 X", {"code": 9, "status": "client unreachable"}, ClientUnreachable),
        ("503 X", {"code": -26, "status": "rate limited"}, RateLimited),
        ("200 OK", {"code": -21, "status": "a text of the future"}, NotWrittenYet),
        ("200 OK", {"code": 4711}, WxsupError),
        ("418 X", {"code": -1, "status": "x"}, WxsupError),
        ("500 X", {"code": -1, "status": "internal error"}, WxsupError),
    ],
)
def test_an_error_is_told_by_code_status_and_text(status: str, body: dict[str, Any], kind: type[WxsupError]) -> None:
    with served(answer(body, status)) as (wx, _), pytest.raises(WxsupError) as raised:
        wx.call("a", "x")
    assert type(raised.value) is kind
    assert raised.value.body() == {"status": "", **body}


def test_an_error_without_words_is_still_readable() -> None:
    with served(answer({"code": 1, "status": "client not exists"})) as (wx, _), pytest.raises(ClientUnknown) as raised:
        wx.stop("a")
    assert str(raised.value) == "client not exists"


@pytest.mark.parametrize(
    "told",
    [
        reply(b"<html>", status="502 Bad Gateway", headers=("Content-Type: text/html",)),
        reply(b"<html>", headers=("Content-Type: text/html",)),
        reply(b"{", headers=("Content-Type: application/json",)),
        answer([]),
        answer({"code": "five"}, "400 X"),
        b"nonsense",
        b"",
    ],
)
def test_what_is_no_controller_is_said_to_be_none(told: bytes) -> None:
    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(told)

    with Upstream(handle) as server, Controller("http://{}:{}".format(*server.address)) as wx:
        with pytest.raises(ControllerUnreachable):
            wx.stop("a")


def test_nobody_there_is_an_error_of_its_own() -> None:
    with Controller(f"http://127.0.0.1:{free_port()}") as wx, pytest.raises(ControllerUnreachable):
        wx.check()


# Events


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk, "FIRST_RETRY", 0.001)
    monkeypatch.setattr(sdk, "LAST_RETRY", 0.01)


def events(*ids: str) -> bytes:
    return answer([{"event_id": id_} for id_ in ids])


def taken(wx: Controller, count: int, after: str | None = None) -> list[str]:
    found = wx.events("a", after)
    return [next(found)["event_id"] for _ in range(count)]


def test_events_come_one_by_one_each_poll_after_the_last() -> None:
    with served(events("1", "2"), events(), events("3")) as (wx, asked):
        assert taken(wx, 3) == ["1", "2", "3"]
    assert [request.line.split()[1].partition("?")[2] for request in asked] == [
        "client=a&after=",
        "client=a&after=2",
        "client=a&after=2",
    ]


def test_events_begin_after_the_one_that_is_named() -> None:
    with served(events("x-9")) as (wx, asked):
        assert taken(wx, 1, "x-8") == ["x-9"]
    assert asked[0].line.endswith("after=x-8 HTTP/1.1")


@pytest.mark.parametrize(
    "trouble",
    [
        answer({"code": 9, "status": "client unreachable"}, "502 X"),
        answer({"code": 9, "status": "client unreachable"}, "503 X"),
        answer({"code": 9, "status": "client unreachable"}, "504 X"),
        answer({"code": 7, "status": "supervisor unreachable"}, "503 X"),
        answer({"code": -6, "status": "auth failure"}, "503 X"),
        reply(b"<html>", status="502 Bad Gateway", headers=("Content-Type: text/html",)),
    ],
)
def test_events_go_on_where_they_were_once_the_trouble_is_over(trouble: bytes) -> None:
    with served(events("1"), *[trouble] * 5, events("2")) as (wx, asked):
        assert taken(wx, 2) == ["1", "2"]
    assert [request.line.rpartition("after=")[2] for request in asked] == [" HTTP/1.1"] + ["1 HTTP/1.1"] * 6


def test_events_wait_for_a_controller_that_is_not_there_and_for_one_that_hangs_up() -> None:
    port = free_port()
    with Controller(f"http://127.0.0.1:{port}") as wx:
        found = wx.events("a")

        def handle(connection: Connection) -> None:
            connection.request()
            if connection.number > 1:
                connection.send(events("1"))

        came: list[Any] = []
        reader = threading.Thread(target=lambda: came.append(next(found)))
        reader.start()
        with Upstream(handle, port=port):
            reader.join(20)
        assert came == [{"event_id": "1"}]


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (answer({"code": 1, "status": "client not exists"}), ClientUnknown),
        (answer({"code": -6, "status": "auth failure"}, "401 X"), Unauthorized),
        (answer({"code": -6, "status": "auth failure", "retry_after": 9}, "429 X"), TooManyFailures),
        (answer({"code": 0}), ControllerUnreachable),
        (reply(b"<html>", status="404 X", headers=("Content-Type: text/html",)), ControllerUnreachable),
    ],
)
def test_events_end_with_what_no_waiting_helps_against(told: bytes, kind: type[WxsupError]) -> None:
    with served(told) as (wx, asked), pytest.raises(kind):
        next(wx.events("a"))
    assert len(asked) == 1


def test_an_address_that_is_none_is_not_waited_for() -> None:
    with Controller("nonsense") as wx, pytest.raises(ControllerUnreachable, match="nonsense"):
        next(wx.events("a"))


def test_events_that_are_missing_are_a_warning_that_can_be_made_an_error() -> None:
    missed = answer([{"event_id": "9"}], "200 OK", "X-Events-Missed: 1")
    with served(missed) as (wx, _):
        with pytest.warns(EventsMissed, match="a: some events after 1 are not kept any more"):
            assert taken(wx, 1, "1") == ["9"]
        with warnings.catch_warnings():
            warnings.simplefilter("error", EventsMissed)
            with pytest.raises(EventsMissed):
                taken(wx, 1, "1")


def test_a_client_that_does_not_hold_polls_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(sdk, "FIRST_RETRY", 5.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    with served(events(), events(), events("1")) as (wx, _):
        assert taken(wx, 1) == ["1"]
    assert pauses == [5.0, 5.0]


# Webhooks


def signed(secret: bytes, body: bytes, *, age: float = 0) -> dict[str, str]:
    timestamp = str(int(time.time() - age))
    signature = hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return {"X-Timestamp": timestamp, "X-Signature": signature}


def test_a_signed_report_is_known_by_any_spelling_of_its_headers() -> None:
    headers = signed(b"a secret", b"{}")
    assert verify_webhook("a secret", headers, b"{}")
    assert verify_webhook(b"a secret\n", {name.lower(): value for name, value in headers.items()}, b"{}")
    assert not verify_webhook("another", headers, b"{}")
    assert not verify_webhook("a secret", headers, b"{} ")
    assert not verify_webhook("a secret", {}, b"{}")


@pytest.mark.parametrize(
    ("age", "limit", "good"), [(301, 300, False), (-301, 300, False), (200, 300, True), (9e8, None, True)]
)
def test_an_old_report_is_refused(age: float, limit: float | None, good: bool) -> None:
    assert verify_webhook("s", signed(b"s", b"x", age=age), b"x", limit) is good


@given(
    st.dictionaries(st.sampled_from(["X-Timestamp", "x-signature", "X-Signature"]), st.text(max_size=70)), st.binary()
)
def test_whatever_comes_is_refused_and_no_defect(headers: dict[str, str], body: bytes) -> None:
    assert not verify_webhook("s", headers, body)


@given(st.text(max_size=10))
def test_a_time_that_is_none_is_refused_though_signed(timestamp: str) -> None:
    raw = timestamp.encode(errors="replace")
    signature = hmac.new(b"s", raw + b".x", hashlib.sha256).hexdigest()
    assert not verify_webhook("s", {"X-Timestamp": timestamp, "X-Signature": signature}, b"x")


# Documentation


def test_every_public_thing_is_documented_as_it_is_called() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", page, re.MULTILINE))
    public = {name: method for name, method in vars(Controller).items() if not name.startswith("_")}
    wanted = {**public, "verify_webhook": verify_webhook, "Controller": Controller.__init__}
    assert rows.keys() == wanted.keys()
    for name, function in wanted.items():
        parameters = list(inspect.signature(function).parameters.values())
        shown = [str(item.replace(annotation=inspect.Parameter.empty)) for item in parameters if item.name != "self"]
        named = [item.kind is inspect.Parameter.KEYWORD_ONLY for item in parameters if item.name != "self"]
        if any(named):
            shown.insert(named.index(True), "*")
        assert rows[name].replace('"', "'") == ", ".join(shown), name
        assert function.__doc__ or name == "Controller"
    assert all(name in page for name in sdk.__all__)


@pytest.mark.parametrize("token", ["wxsup_a\n", "wxsup_a b", "wxsup_秘密", "\udcff"])
def test_what_is_no_token_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match=r"^that is no token$"):
        Controller(token=token)


def test_a_password_in_the_url_is_in_no_error() -> None:
    with Controller("http://me:secret@127.0.0.1:9") as wx, pytest.raises(ControllerUnreachable) as caught:
        wx.check()
    assert str(caught.value).startswith("http://127.0.0.1:9: ")


def test_a_name_that_no_encoding_has_is_refused_before_anything_is_asked() -> None:
    with Controller("http://127.0.0.1:9") as wx, pytest.raises(ParameterRefused, match="client: it is not UTF-8"):
        wx.check("\udcff")
