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

from tests.account import ANNE, OWNER, FragileStore, Remembering, options
from wxsup.client import events
from wxsup.client import openwx as module
from wxsup.client.events import Events
from wxsup.client.openwx import NOT_YET, Openwx
from wxsup.client.sendqueue import SendQueue
from wxsup.client.server import Reply, Request
from wxsup.client.state import Login, LoginState

LOGGED_IN = ["get_user_info", "get_friend_info", "search_friend", "send_friend_message"]


@dataclass
class Api:
    """The API of a logged-in account, asked without HTTP."""

    openwx: Openwx
    driver: Remembering
    state: LoginState
    events: Events
    store: FragileStore
    queue: SendQueue
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


def make(folder: Path, *, secret: str = "", **given: str) -> Iterator[Api]:
    chosen = options(folder, account="微信一号", **given)
    state = LoginState(chosen.state_path, {})
    state.enter(Login.RUNNING)
    store = FragileStore(folder / "account.sqlite")
    driver, taken, stopped = Remembering(), Events(store, chosen), threading.Event()
    queue = SendQueue(store, taken, driver, state, chosen)
    queue.start()
    openwx = Openwx(chosen, state, driver, queue, taken, store=store, secret=secret, stop=stopped.set)
    yield Api(openwx, driver, state, taken, store, queue, stopped)
    store.broken = ""
    queue.stop(grace=20)
    taken.stop(grace=5)
    store.close()


def message(content: str) -> dict[str, str]:
    return {"post_type": "receive_message", "content": content}


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
    assert answer.pop("client_id").startswith("wx-")
    assert answer == {"code": 0, "status": "success", "id": "m1", "msg_id": "m1", "parts": 1}
    assert api.driver.sent == [(ANNE["id"], "你好")]


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
    assert api.driver.sent == [(ANNE["id"], "你好 😀")]


def test_query_and_form_are_one(api: Api) -> None:
    api.reply("send_friend_message", "POST", "content=hello", id=ANNE["id"])
    assert api.driver.sent == [(ANNE["id"], "hello")]


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ({"content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"id": "x", "content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"id": "filehelper", "content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"name": "Anne", "content": "hello"}, {"id": None, "code": 100, "status": "object not found"}),
        ({"id": ANNE["id"]}, {"code": -24, "status": "content rejected", "reason": "content is missing"}),
        ({"id": ANNE["id"], "media_path": "/etc/passwd"}, {"code": -20, "status": "not implemented yet: media"}),
        (
            {"id": ANNE["id"], "content": ""},
            {"code": -24, "status": "content rejected", "reason": "the content is empty"},
        ),
    ],
)
@pytest.mark.parametrize("waits", [{}, {"async": "1"}], ids=["waits", "async"])
def test_what_cannot_be_sent_is_refused(
    api: Api, parameters: dict[str, str], answer: dict[str, Any], waits: dict[str, str]
) -> None:
    assert api.ask("send_friend_message", **parameters, **waits) == answer
    assert (api.driver.sent, api.store.count("letter")) == ([], 0)


@pytest.mark.parametrize("waits", [{}, {"async": "1"}], ids=["waits", "async"])
def test_a_refusal_says_what_the_driver_said(api: Api, waits: dict[str, str]) -> None:
    api.driver.quota = 0
    answer = api.ask("send_friend_message", id=ANNE["id"], content="one too many", **waits)
    answer.pop("client_id", None)
    expected = {"code": -23, "status": "send quota used", "sends_left": 0, "parts": 1, "retryable": False}
    assert answer == expected


@pytest.mark.parametrize("flag", ["1", "yes", "true"])
def test_a_send_with_async_is_promised_at_once_and_made_later(api: Api, flag: str) -> None:
    free = threading.Event()
    api.driver.sending = lambda friend_id, text: free.wait(20)
    answer = api.ask("send_friend_message", id=ANNE["id"], content="hello", **{"async": flag})
    assert (answer["code"], answer["status"]) == (0, "request already in execution")
    assert api.driver.sent == []
    assert api.ask("get_client_info")["sends_pending"] == 1
    free.set()
    (report,) = api.ask("check_event")
    assert (report["uid"], report["content"], report["code"]) == (answer["client_id"], "hello", "")
    assert api.ask("get_client_info")["sends_pending"] == 0


@pytest.mark.parametrize("flag", ["", "0"])
def test_a_send_with_async_off_is_waited_for(api: Api, flag: str) -> None:
    answer = api.ask("send_friend_message", id=ANNE["id"], content="hello", **{"async": flag})
    assert (answer["status"], api.driver.sent) == ("success", [(ANNE["id"], "hello")])


def test_a_send_that_the_disk_does_not_take_is_neither_promised_nor_a_defect(api: Api) -> None:
    api.store.broken = "write"
    for waits in ({}, {"async": "1"}):
        answer = api.ask("send_friend_message", id=ANNE["id"], content="hello", **waits)
        assert (answer["code"], answer["retryable"]) == (-1, True)
    assert api.driver.sent == []


def test_filehelper_is_the_owner_where_that_is_set(owner_api: Api) -> None:
    owner_api.ask("send_friend_message", id="filehelper", content="hello")
    assert owner_api.driver.sent == [(OWNER["id"], "hello")]


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


def contents(found: list[dict[str, Any]]) -> list[str]:
    return [report["content"] for report in found]


def test_check_event_delivers_once(api: Api) -> None:
    api.events.message(message("你好"), "anne")
    first = api.reply("check_event")
    assert contents(json.loads(first.body)) == ["你好"]
    first.written(True)
    api.events.message(message("more"), "anne")
    assert contents(api.ask("check_event")) == ["more"]


def test_check_event_whose_answer_was_not_written_delivers_again(api: Api) -> None:
    api.events.message(message("你好"), "anne")
    api.reply("check_event").written(False)
    assert contents(api.ask("check_event")) == ["你好"]


def test_check_event_with_a_cursor_delivers_to_every_reader_whether_written_or_not(api: Api) -> None:
    for number in range(3):
        api.events.message(message(str(number)), "anne")
    for done in (True, False):
        reply = api.reply("check_event", after="")
        reply.written(done)
        assert dict(reply.headers) == {}
        found = json.loads(reply.body)
        assert contents(found) == ["0", "1", "2"]
    assert contents(api.ask("check_event", after=found[0]["event_id"])) == ["1", "2"]
    assert contents(api.ask("check_event")) == ["0", "1", "2"], "the shared list is another"


def test_check_event_says_when_a_reader_may_have_missed_something(api: Api) -> None:
    api.events.message(message("hello"), "anne")
    reply = api.reply("check_event", after="00000000-5")
    assert dict(reply.headers) == {"X-Events-Missed": "1"}
    assert contents(json.loads(reply.body)) == ["hello"]


def test_a_wait_in_vain_is_an_empty_list_never_null(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HOLD", 0.05)
    assert api.reply("check_event").body == api.reply("check_event", after="").body == b"[]"


# Dead letters


@pytest.fixture
def posting_api(tmp_path: Path) -> Iterator[Api]:
    """An API whose receiver takes nothing: its poster has not begun."""
    yield from make(tmp_path, plugin_openwx_post_api="http://127.0.0.1:1/", post_max_size="2")


def test_dead_letters_are_listed_counted_and_replayed(posting_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api = posting_api
    assert api.ask("get_dead_letters") == {"code": 0, "status": "success", "total": 0, "dead_letters": []}
    for number in range(6):
        api.events.message(message(str(number)), "anne")
    info = api.ask("get_client_info")
    assert (info["inbox_pending"], info["dead_letters"]) == (2, 4)
    monkeypatch.setattr(module, "DEAD_LETTERS", 3)
    first = api.ask("get_dead_letters")
    assert (first["total"], contents(first["dead_letters"])) == (4, ["0", "1", "2"])
    letter = first["dead_letters"][2]
    assert (letter["post_type"], letter["dead_reason"]) == ("receive_message", "too many reports waited")
    second = api.ask("get_dead_letters", after=letter["event_id"])
    assert (second["total"], contents(second["dead_letters"])) == (4, ["3"])
    one = api.ask("replay_dead_letters", event_id=letter["event_id"])
    assert one == {"code": 0, "status": "success", "replayed": 1}
    assert contents(api.ask("get_dead_letters")["dead_letters"]) == ["0", "1", "3"]
    assert api.ask("replay_dead_letters")["replayed"] == 3
    assert api.ask("get_client_info")["inbox_pending"] == 6
    assert api.ask("replay_dead_letters")["replayed"] == 0


@pytest.mark.parametrize("id_", ["", "nonsense", "00000000-1", "x" * 1000])
def test_a_dead_letter_that_is_not_there_is_not_found_and_nothing_else_replayed(posting_api: Api, id_: str) -> None:
    api = posting_api
    for number in range(3):
        api.events.message(message(str(number)), "anne")
    answer = api.ask("replay_dead_letters", event_id=id_)
    assert (answer["code"], answer["reason"]) == (100, f"there is no dead letter {id_[:40]}")
    if id_:
        assert api.ask("get_dead_letters", after=id_)["code"] == 100
    assert api.ask("get_client_info")["dead_letters"] == 1


def test_dead_letters_are_there_in_every_state(posting_api: Api) -> None:
    posting_api.state.enter(Login.SCANING)
    assert posting_api.ask("get_dead_letters")["code"] == 0
    assert posting_api.ask("replay_dead_letters")["code"] == 0


# Control


@pytest.mark.parametrize("login", list(Login))
def test_relogin_is_there_in_every_state(api: Api, login: Login) -> None:
    api.state.enter(login)
    assert api.ask("relogin") == {"code": 0, "status": "success"}
    assert api.driver.relogins == 1


def test_get_client_info_says_what_is_in_the_way(api: Api) -> None:
    api.state.note(trouble="messages cannot be kept: full", last_inbound_at=5, parked=True, login_reason="relogin")
    info = api.ask("get_client_info")
    assert (info["trouble"], info["last_inbound_at"]) == ("messages cannot be kept: full", 5)
    assert (info["parked"], info["login_reason"], info["last_outbound_at"]) == (True, "relogin", None)


def test_a_call_of_our_own_is_made_like_any_other(api: Api) -> None:
    api.openwx.call_by_ourselves("/openwx/send_friend_message", f"id={ANNE['id']}&content=%E4%BD%A0")
    assert api.driver.sent_to(ANNE) == ["你"]
    api.openwx.call_by_ourselves("/openwx/no_such_call", "")
    api.openwx.call_by_ourselves("/openwx/relogin", "client=" + quote("another"))
    assert api.driver.relogins == 0


def test_a_call_of_our_own_needs_no_secret_of_its_caller(tmp_path: Path) -> None:
    for api in make(tmp_path, secret="s3cr3t"):
        assert api.reply("relogin").status == 401
        api.openwx.call_by_ourselves("/openwx/relogin", "")
        assert api.driver.relogins == 1


def test_a_call_of_our_own_takes_no_event_away(api: Api) -> None:
    api.events.message(message("hello"), "anne")
    api.openwx.call_by_ourselves("/openwx/check_event", "")
    assert contents(api.ask("check_event")) == ["hello"]


def test_stop_client_answers_before_it_stops(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_DELAY", 0.3)
    answer = api.ask("stop_client")
    assert (answer["code"], answer["account"]) == (0, "微信一号")
    assert not api.stopped.is_set()
    assert api.stopped.wait(20)


def test_a_defect_is_an_internal_error_and_logged(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.driver, "friends", lambda: 1 / 0)
    reply = api.reply("send_friend_message", id=ANNE["id"], content="hello")
    assert (reply.status, json.loads(reply.body)) == (500, {"code": -1, "status": "internal error"})
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
