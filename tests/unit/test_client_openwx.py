"""The single-account API: which call gets which answer in which state, over a driver that only remembers."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.account import options
from wxsup.client import openwx as module
from wxsup.client.drivers import Driver
from wxsup.client.events import Events
from wxsup.client.openwx import NOT_YET, Openwx
from wxsup.client.server import Reply, Request
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.errors import NotLoggedIn, QuotaUsed
from wxsup.model import Exit

OWNER = {"id": "o1@im.wechat", "account": "o1@im.wechat", "name": "owner", "displayname": "owner", "markname": ""}
ANNE = {"id": "a1@im.wechat", "account": "a1@im.wechat", "name": "Anne", "displayname": "Änne 安妮", "markname": "安妮"}

LOGGED_IN = ["get_user_info", "get_friend_info", "search_friend", "send_friend_message"]


class Remembering(Driver):
    """A driver of an account with two friends, that remembers what it was told to do."""

    name = "remembering"
    capabilities = ("text",)

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.digits: list[str] = []

    def run(self) -> Exit:
        return Exit.STOPPED

    def stop(self) -> None: ...

    def user(self) -> dict[str, Any]:
        return {"id": "b1@im.bot"}

    def friends(self) -> list[dict[str, Any]]:
        return [OWNER, ANNE]

    def send_text(self, friend: dict[str, Any], content: str) -> dict[str, Any]:
        if content == "one too many":
            raise QuotaUsed(sends_left=0)
        if content == "defect":
            raise RuntimeError("a defect")
        self.sent.append((friend["name"], content))
        return {"id": "m1", "msg_id": "m1"}

    def submit_verify_code(self, code: str) -> None:
        if code == "unwanted":
            raise NotLoggedIn("no digits are wanted")
        self.digits.append(code)


@dataclass
class Api:
    """The API of a logged-in account, asked without HTTP."""

    openwx: Openwx
    driver: Remembering
    state: LoginState
    events: Events
    stopped: threading.Event

    def reply(self, call: str, method: str = "GET", form: str | bytes = "", **query: str) -> Reply:
        body = form.encode() if isinstance(form, str) else form
        return self.openwx.answer(Request(method, f"/openwx/{call}", urlencode(query), body))

    def ask(self, call: str, **query: str) -> Any:
        reply = self.reply(call, **query)
        assert (reply.status, reply.content_type) == (200, "application/json")
        return json.loads(reply.body)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    yield from make(tmp_path)


@pytest.fixture
def owner_api(tmp_path: Path) -> Iterator[Api]:
    yield from make(tmp_path, ilink_filehelper="owner")


def make(folder: Path, **given: str) -> Iterator[Api]:
    chosen = options(folder, account="微信一号", **given)
    state = LoginState(chosen.state_path, {})
    state.enter(Login.RUNNING)
    store = Store(folder / "account.sqlite")
    driver, events, stopped = Remembering(), Events(store, chosen), threading.Event()
    yield Api(Openwx(chosen, state, driver, events, stop=stopped.set), driver, state, events, stopped)
    store.close()


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("call", NOT_YET)
def test_what_is_not_there_yet_says_so_in_every_state(api: Api, call: str, method: str) -> None:
    for login in (Login.RUNNING, Login.STOP):
        api.state.enter(login)
        reply = api.reply(call, method)
        assert (reply.status, json.loads(reply.body)) == (200, {"code": -20, "status": f"not implemented yet: {call}"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/openwx/"),
        ("GET", "/openwx/no_such_call"),
        ("GET", "/openwx/get_user_info/"),
        ("GET", "/get_user_info"),
        ("GET", "/openwx/__init__"),
        ("PUT", "/openwx/get_user_info"),
        ("DELETE", "/openwx/stop_client"),
        ("OPTIONS", "/openwx/get_user_info"),
    ],
)
def test_an_unknown_path_or_method_is_no_api(api: Api, method: str, path: str) -> None:
    reply = api.openwx.answer(Request(method, path))
    assert (reply.status, json.loads(reply.body)) == (403, {"code": -1, "status": "api not found"})


@pytest.mark.parametrize("login", [login for login in Login if login is not Login.RUNNING])
@pytest.mark.parametrize("call", LOGGED_IN)
def test_account_calls_need_a_login(api: Api, call: str, login: Login) -> None:
    api.state.enter(login)
    answer = api.ask(call, id=ANNE["id"], content="hello")
    assert (answer["code"], answer["status"], answer["state"]) == (-25, "not logged in", login.value)
    assert api.driver.sent == []


@pytest.mark.parametrize("login", list(Login))
def test_get_client_info_answers_in_every_state(api: Api, login: Login) -> None:
    api.state.enter(login, last_poll_at=5)
    info = api.ask("get_client_info")
    assert (info["code"], info["account"], info["state"], info["last_poll_at"]) == (0, "微信一号", login.value, 5)
    assert info["capabilities"] == ["text"]


def test_answers_are_plain_json_with_sorted_keys(api: Api) -> None:
    reply = api.reply("search_friend", markname="安妮")
    assert reply.body == json.dumps([ANNE], ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"id": ANNE["id"]}, [ANNE]),
        ({"name": "owner"}, [OWNER]),
        ({"markname": ""}, [OWNER]),
        ({"displayname": "Änne 安妮", "markname": "安妮"}, [ANNE]),
        ({"name": "Anne", "datatype": "json", "client": "微信一号"}, [ANNE]),
    ],
)
def test_search_friend_returns_all_that_match_everything(
    api: Api, wanted: dict[str, str], found: list[dict[str, str]]
) -> None:
    assert api.ask("search_friend", **wanted) == found


@pytest.mark.parametrize(
    "wanted", [{}, {"name": "ann"}, {"name": "Anne", "markname": ""}, {"send_text": "x"}, {"client": "微信一号"}]
)
def test_search_friend_finds_nobody_by_anything_else(api: Api, wanted: dict[str, str]) -> None:
    assert api.ask("search_friend", **wanted) == {"code": 100, "status": "object not found"}


@pytest.mark.parametrize(
    "wanted", [{"id": ANNE["id"]}, {"account": ANNE["id"]}, {"displayname": "Änne 安妮"}, {"markname": "安妮"}]
)
def test_a_message_goes_to_the_friend_who_matches(api: Api, wanted: dict[str, str]) -> None:
    answer = api.ask("send_friend_message", content="你好", **wanted)
    assert answer == {"code": 0, "status": "success", "id": "m1", "msg_id": "m1"}
    assert api.driver.sent == [("Anne", "你好")]


@pytest.mark.parametrize(
    "form",
    [
        "content=你好 😀&id=a1@im.wechat",
        "content=" + quote("你好 😀") + "&id=a1%40im.wechat",
        "id=a1@im.wechat&content=你好+😀",
    ],
    ids=["as it is", "encoded", "plus"],
)
def test_a_form_may_be_encoded_or_not(api: Api, form: str) -> None:
    assert api.reply("send_friend_message", "POST", form).status == 200
    assert api.driver.sent == [("Anne", "你好 😀")]


def test_query_and_form_are_one(api: Api) -> None:
    api.reply("send_friend_message", "POST", "content=hello", id=ANNE["id"])
    assert api.driver.sent == [("Anne", "hello")]


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ({"content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"id": "x", "content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"id": "filehelper", "content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"name": "Anne", "content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"id": ANNE["id"]}, {"code": -24, "status": "content rejected", "reason": "content is missing"}),
        ({"id": ANNE["id"], "media_path": "/etc/passwd"}, {"code": -20, "status": "not implemented yet: media"}),
        ({"id": ANNE["id"], "content": "one too many"}, {"code": -23, "status": "send quota used", "sends_left": 0}),
    ],
)
def test_what_cannot_be_sent_is_refused(api: Api, parameters: dict[str, str], answer: dict[str, Any]) -> None:
    assert api.ask("send_friend_message", **parameters) == answer
    assert api.driver.sent == []


def test_filehelper_is_the_owner_where_that_is_set(owner_api: Api) -> None:
    owner_api.ask("send_friend_message", id="filehelper", content="hello")
    assert owner_api.driver.sent == [("owner", "hello")]


@pytest.mark.parametrize(
    ("query", "form", "reason"),
    [
        ("id=a&id=b", b"", "id is given more than once"),
        ("client=a", b"client=a", "client is given more than once"),
        ("id=%ff", b"", "the parameters are not UTF-8"),
        ("", b"content=\xff", "the parameters are not UTF-8"),
        ("", b"&".join(b"p%d=" % number for number in range(300)), "there are more than 200 parameters"),
    ],
)
def test_parameters_that_make_no_sense_are_a_bad_request(api: Api, query: str, form: bytes, reason: str) -> None:
    reply = api.openwx.answer(Request("POST", "/openwx/send_friend_message", query, form))
    assert (reply.status, json.loads(reply.body)["reason"]) == (400, reason)


@pytest.mark.parametrize("login", [Login.SCANING, Login.CONFIRMING])
def test_digits_are_handed_on(api: Api, login: Login) -> None:
    api.state.enter(login)
    assert api.ask("submit_verify_code", code="123456") == {"code": 0, "status": "success"}
    assert api.driver.digits == ["123456"]


@pytest.mark.parametrize(
    ("code", "answer"), [("", -24), ("12 34", -24), ("１２", -24), ("1" * 17, -24), ("unwanted", -25)]
)
def test_what_are_no_digits_or_not_wanted_is_refused(api: Api, code: str, answer: int) -> None:
    assert api.ask("submit_verify_code", code=code)["code"] == answer
    assert api.driver.digits == []


def test_check_event_delivers_once(api: Api) -> None:
    api.events.message({"content": "你好"})
    first = api.reply("check_event")
    assert json.loads(first.body) == [{"content": "你好"}]
    first.written(True)
    api.events.message({"content": "more"})
    assert api.ask("check_event") == [{"content": "more"}]


def test_check_event_whose_answer_was_not_written_delivers_again(api: Api) -> None:
    api.events.message({"content": "你好"})
    api.reply("check_event").written(False)
    assert api.ask("check_event") == [{"content": "你好"}]


def test_stop_client_answers_before_it_stops(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_DELAY", 0.3)
    answer = api.ask("stop_client")
    assert (answer["code"], answer["account"]) == (0, "微信一号")
    assert not api.stopped.is_set()
    assert api.stopped.wait(20)


def test_a_defect_is_an_internal_error_and_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    reply = api.reply("send_friend_message", id=ANNE["id"], content="defect")
    assert (reply.status, json.loads(reply.body)) == (500, {"code": -1, "status": "internal error"})
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
