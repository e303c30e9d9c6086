"""The single-account API: which call gets which answer in which state, over a driver that only remembers."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.account import ANNE, OWNER, FragileStore, Remembering, options
from tests.deadline import eventually
from wxsup.client import events, openwx
from wxsup.client.calls import ABILITIES, Upload, control, reporting, table
from wxsup.client.calls.uploads import Uploads
from wxsup.client.download import Download
from wxsup.client.events import Events
from wxsup.client.fetching import Fetcher
from wxsup.client.journal import Journal
from wxsup.client.letters import Part
from wxsup.client.media import Folder, Media, media_folder
from wxsup.client.openwx import Openwx
from wxsup.client.sendqueue import SendQueue
from wxsup.client.server import Reply, Request
from wxsup.client.state import Login, LoginState
from wxsup.errors import WxsupError

#: openwx-api.md 3, and what we add to it.
IN_EVERY_STATE = [
    "check_event",
    "get_client_info",
    "stop_client",
    "upload_media",
    "get_media",
    "submit_verify_code",
    "relogin",
    "get_log",
    "get_dead_letters",
    "replay_dead_letters",
]
LOGGED_IN = [
    "get_user_info",
    "get_friend_info",
    "get_group_info",
    "get_group_basic_info",
    "get_avatar",
    "search_friend",
    "search_group",
    "set_markname",
    "set_friend_markname",
    "send_friend_message",
    "send_group_message",
    "consult",
    "send_typing",
]
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50


@dataclass
class Api:
    """The API of a logged-in account, asked without HTTP."""

    openwx: Openwx
    driver: Remembering
    state: LoginState
    events: Events
    store: FragileStore
    queue: SendQueue
    folder: Folder
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
    folder_of_media = media_folder(chosen, driver.name)
    fetcher = Fetcher(store, taken, folder_of_media, lambda source, sink: driver.fetch(source, sink))
    taken.held_back = fetcher.wake
    uploads = Uploads(folder_of_media, Download("https?://.*", (), resolve=lambda host, port: ["127.0.0.1"]))
    queue.fetch = uploads.from_url
    journal = Journal()
    logging.getLogger("wxsup").addHandler(journal)
    calls = table.calls(chosen, state, driver, queue, taken, uploads, journal, store=store, stop=stopped.set)
    door = Openwx(chosen.account, calls, secret=secret)
    yield Api(door, driver, state, taken, store, queue, folder_of_media, stopped)
    store.broken = ""
    queue.stop(grace=20)
    fetcher.stop(grace=20)
    logging.getLogger("wxsup").removeHandler(journal)
    taken.stop(grace=5)
    store.close()


def message(content: str) -> dict[str, str]:
    return {"post_type": "receive_message", "content": content}


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("call", ABILITIES)
def test_what_the_driver_cannot_do_says_so_in_every_state(api: Api, call: str, method: str) -> None:
    for login in (Login.RUNNING, Login.STOP):
        api.state.enter(login)
        reply = api.reply(call, method)
        status = f"unsupported by driver remembering: {call}"
        assert (reply.status, json.loads(reply.body)) == (200, {"code": -20, "status": status})


def test_all_calls_of_the_original_are_there_and_some_more(api: Api) -> None:
    original = (
        "get_user_info get_friend_info get_group_info get_group_basic_info get_avatar search_friend search_group"
        " create_group invite_friend kick_group_member set_group_displayname set_markname set_friend_markname stick"
        " make_friend accept_friend_request send_friend_message send_group_message revoke_message upload_media consult"
        " check_event get_client_info stop_client"
    ).split()
    assert len(original) == 24
    calls = api.openwx._calls.keys()
    assert set(original) <= calls
    assert calls == {*IN_EVERY_STATE, *LOGGED_IN, *ABILITIES}


@pytest.mark.parametrize("login", [login for login in Login if login is not Login.RUNNING])
@pytest.mark.parametrize("call", [call for call in IN_EVERY_STATE if call != "check_event"])
def test_these_answer_in_every_state(api: Api, call: str, login: Login) -> None:
    api.state.enter(login)
    expected = {"submit_verify_code": -24, "get_media": 100, "upload_media": -24, "replay_dead_letters": -1}
    assert api.ask(call)["code"] == expected.get(call, 0)


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
        (
            {"id": ANNE["id"]},
            {"code": -24, "status": "content rejected", "reason": "there is neither content nor media"},
        ),
        (
            {"id": ANNE["id"], "media_path": "/etc/passwd"},
            {
                "code": -24,
                "status": "content rejected",
                "reason": "invaild media_path: there is no such file in the media folder",
            },
        ),
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
    assert (api.driver.sent, api.store.letterbox.count()) == ([], 0)


@pytest.mark.parametrize("waits", [{}, {"async": "1"}], ids=["waits", "async"])
def test_a_refusal_says_what_the_driver_said(api: Api, waits: dict[str, str]) -> None:
    api.driver.quota = 0
    answer = api.ask("send_friend_message", id=ANNE["id"], content="one too many", **waits)
    assert answer.pop("id") == answer.pop("client_id", None), "the local id, none where it never became a message"
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


# Files


def upload(api: Api, content: bytes = PNG, **query: str) -> dict[str, Any]:
    found: dict[str, Any] = api.ask("upload_media", media_data=base64.b64encode(content).decode(), **query)
    return found


def test_a_file_is_stored_and_told_in_the_form_of_the_original(api: Api) -> None:
    found = upload(api, media_name="a photo.png")
    digest = hashlib.sha256(PNG).hexdigest()
    path = found.pop("media_path")
    assert Path(path).read_bytes() == PNG
    assert found.pop("media_mtime") > 0
    assert found == {
        "media_id": f"remembering-{digest}:3",
        "media_code": "3",
        "media_type": "image",
        "media_name": "a photo.png",
        "media_size": len(PNG),
        "media_mime": "image/png",
        "media_ext": "png",
    }


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"media_id": "remembering-" + "0" * 64 + ":3"},
        {"media_id": "../../etc/passwd"},
        {"media_data": "not base64!"},
        {"media_data": "AAAA", "media_type": "hologram"},
        {"media_path": "/etc/passwd"},
        {"media_path": "../account.sqlite"},
        {"media_path": "."},
        {"media_path": "no\0such"},
        {"media_path": "http://127.0.0.1:1/"},
        {"media_path": "file:///etc/passwd"},
    ],
)
def test_a_file_that_cannot_be_had_is_null_and_says_why(api: Api, query: dict[str, str]) -> None:
    found = api.ask("upload_media", **query)
    assert (found["media_id"], found["code"]) == (None, -24)
    assert found["reason"]
    answer = api.ask("send_friend_message", id=ANNE["id"], content="with it", **query)
    assert answer["code"] == (-24 if query else 0)
    assert api.driver.sent == ([] if query else [(ANNE["id"], "with it")])


def test_a_link_out_of_the_media_folder_is_not_followed(api: Api) -> None:
    folder = Path(upload(api)["media_path"]).parent
    (folder / "link").symlink_to("/etc/hostname")
    (folder / "loop").symlink_to("loop")
    for name in ("link", "loop", str(folder / "link")):
        assert api.ask("upload_media", media_path=name)["media_id"] is None


@pytest.mark.parametrize("how", ["media_id", "media_path", "absolute"])
def test_a_file_that_is_kept_is_sent_again_as_it_was(api: Api, how: str) -> None:
    kept = upload(api)
    path = Path(kept["media_path"])
    query = {"media_id": {"media_id": kept["media_id"]}, "media_path": {"media_path": path.name}}.get(
        how, {"media_path": str(path)}
    )
    answer = api.ask("send_friend_message", id=ANNE["id"], media_name="again.png", **query)
    assert (answer["code"], answer["media_id"], answer["parts"]) == (0, kept["media_id"], 1)
    assert api.driver.sent == [(ANNE["id"], "again.png")]


def test_a_text_goes_out_before_the_file_that_came_with_it(api: Api) -> None:
    data = base64.b64encode(PNG).decode()
    answer = api.ask("send_friend_message", id=ANNE["id"], content="look", media_data=data, media_name="a.png")
    assert (answer["code"], answer["parts"]) == (0, 2)
    assert api.driver.sent_to(ANNE) == ["look", "a.png"]
    reports = [report for report in api.ask("check_event") if report["post_type"] == "send_message"]
    assert [(report["format"], report["content"][:4]) for report in reports] == [("text", "look"), ("media", "[图片]")]
    assert base64.b64decode(reports[1]["media_data"]) == PNG


def test_files_are_not_put_into_reports_where_that_is_not_wanted(tmp_path: Path) -> None:
    for api in make(tmp_path, plugin_openwx_post_media_data="0"):
        api.ask("send_friend_message", id=ANNE["id"], media_data=base64.b64encode(PNG).decode())
        (report,) = api.ask("check_event")
        assert report["media_size"] == len(PNG) and "media_data" not in report


def test_a_file_comes_in_a_form_as_it_is(api: Api) -> None:
    content = bytes(range(256)) * 4 + b"\r\n--edge\r\n"
    form = (
        b'--edge-1\r\nContent-Disposition: form-data; name="content"\r\n\r\n' + "你好".encode() + b"\r\n--edge-1\r\n"
        b'Content-Disposition: form-data; name="media_data"; filename="a.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--edge-1--\r\n"
    )
    query = urlencode({"id": ANNE["id"]})
    request = Request("POST", "/openwx/send_friend_message", query, form, "multipart/form-data; boundary=edge-1")
    answer = json.loads(api.openwx.answer(request).body)
    assert answer["code"] == 0
    assert api.driver.sent_to(ANNE) == ["你好", "a.bin"]
    assert api.reply("get_media", media_id=answer["media_id"]).file.read_bytes() == content  # type: ignore[union-attr]


def steps(api: Api, parts: int) -> int:
    """Return how many calls of functions it takes to refuse a form of so many parts."""
    part = b'--e\r\nContent-Disposition: form-data; name="p%d"\r\n\r\n\r\n'
    form = b"".join(part % number for number in range(parts)) + b"--e--\r\n"
    request = Request("POST", "/openwx/send_friend_message", "", form, "multipart/form-data; boundary=e")
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        assert api.openwx.answer(request).status == 400
    finally:
        sys.setprofile(None)
    return calls


def test_a_form_of_many_parts_costs_no_more_than_one_of_a_few_too_many(api: Api) -> None:
    assert steps(api, 50_000) <= 1.1 * steps(api, openwx.MAX_FIELDS + 1)


@given(st.binary(max_size=300), st.text(max_size=20))
def test_no_form_whatsoever_is_a_defect(form: bytes, boundary: str) -> None:
    for content in (form, b'--e\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + form + b"\r\n--e--"):
        request = Request("POST", "/openwx/x", "", content, f"multipart/form-data; boundary={boundary or 'e'}")
        try:
            openwx._call(request)
        except WxsupError as ex:
            assert ex.http_status == 400


@given(st.binary(max_size=300))
def test_a_file_in_a_form_is_what_was_sent(content: bytes) -> None:
    head = b'Content-Disposition: form-data; name="media_data"; filename="' + "照片.png".encode() + b'"'
    form = b"--e-d-g-e\r\n" + head + b"\r\n\r\n" + content + b"\r\n--e-d-g-e--\r\n"
    if b"\r\n--e-d-g-e" not in content:
        call = openwx._call(Request("POST", "/x", "", form, 'multipart/form-data; boundary="e-d-g-e"'))
        assert call.uploads["media_data"] == Upload("照片.png", content)


def test_a_url_is_fetched_after_the_answer_where_nobody_waits(api: Api) -> None:
    free = threading.Event()

    def fetch(part: Part) -> Media:
        free.wait(20)
        return api.folder.keep(lambda sink: sink(PNG), name=part.name)

    api.queue.fetch = fetch
    url = "http://files.example/a.png"
    answer = api.ask("send_friend_message", id=ANNE["id"], media_path=url, media_name="b.png", **{"async": "1"})
    assert (answer["code"], api.driver.sent) == (0, [])
    free.set()
    eventually(lambda: api.driver.sent == [(ANNE["id"], "b.png")])


@pytest.mark.parametrize("form", [b"", b"--edge-1\r\n", b"--edge-1\r\n\r\nno name\r\n--edge-1--\r\n", b"x" * 1000])
def test_a_form_that_is_none_is_refused(api: Api, form: bytes) -> None:
    request = Request("POST", "/openwx/send_friend_message", "", form, "multipart/form-data; boundary=edge-1")
    assert api.openwx.answer(request).status == 400


def test_a_file_is_given_out_for_saving_and_nothing_else(api: Api) -> None:
    kept = upload(api, b"<script>alert(1)</script>")
    reply = api.reply("get_media", media_id=kept["media_id"], media_name='a"b\n照片.html')
    assert reply.content_type == "application/octet-stream"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a%22b%E7%85%A7%E7%89%87.html"
    assert api.ask("get_media", media_id="remembering-x")["code"] == 100


def test_a_received_file_holds_back_its_conversation_until_it_is_there(api: Api) -> None:
    source = {"content": "the file"}
    file = {**message("[文件]"), "format": "media", "media_code": 6, "media_name": "a.txt"}
    api.events.message(file, "anne", source=source)
    api.events.message(message("after it"), "anne")
    found = api.ask("check_event", after="")
    while len(found) < 2:
        found += api.ask("check_event", after=found[-1]["event_id"])
    assert [report["content"][:4] for report in found] == ["[文件]", "afte"]
    assert Path(found[0]["media_path"]).read_text() == "the file"
    assert base64.b64decode(found[0]["media_data"]) == b"the file"
    assert "source" not in json.dumps(found)


# To all, and to nobody


def test_all_who_may_be_written_to_are_sent_it(api: Api) -> None:
    api.driver.claims[OWNER["id"]] = api.driver.quota
    answer = api.ask("send_friend_message", id="@all", content="hello")
    assert answer == {"id": 0, "code": 0, "status": "request already executed", "queued": 1, "skipped": 1}
    eventually(lambda: api.driver.sent == [(ANNE["id"], "hello")])


@pytest.mark.parametrize("query", [{}, {"id": "@@group"}, {"displayname": "a group"}])
def test_there_are_no_groups(api: Api, query: dict[str, str]) -> None:
    nobody = {"id": None, "code": 100, "status": "object not found"}
    assert api.ask("send_group_message", content="hello", **query) == nobody
    assert api.ask("search_group", **query) == {"code": 100, "status": "object not found"}
    assert api.ask("get_group_info") == api.ask("get_group_basic_info") == []
    assert api.ask("get_avatar", id=ANNE["id"]) == nobody


def test_a_friend_gets_a_markname_here(api: Api) -> None:
    answer = api.ask("set_markname", id=ANNE["id"], new_markname="小安")
    assert answer == {"code": 0, "status": "success", "local": True}
    api.ask("set_friend_markname", id=ANNE["id"])
    assert api.driver.marknames == [(ANNE["id"], "小安"), (ANNE["id"], "")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"id": "nobody", "new_markname": "x"}, {"code": 100, "status": "object not found"}),
        ({"group_id": "g", "id": ANNE["id"], "new_markname": "x"}, {"code": 100, "status": "group not found"}),
        (
            {"id": ANNE["id"], "new_markname": "a\nb"},
            {
                "code": -24,
                "status": "content rejected",
                "reason": "new_markname: control characters are not allowed",
            },
        ),
    ],
)
def test_a_markname_that_cannot_be_given_is_refused(
    api: Api, query: dict[str, str], expected: dict[str, object]
) -> None:
    assert api.ask("set_markname", **query) == expected
    assert api.driver.marknames == []


@pytest.mark.parametrize(("status", "typing"), [({}, True), ({"status": "1"}, True), ({"status": "2"}, False)])
def test_typing_is_shown(api: Api, status: dict[str, str], typing: bool) -> None:
    assert api.ask("send_typing", id=ANNE["id"], **status) == {"code": 0, "status": "success"}
    assert api.driver.typing == [(ANNE["id"], typing)]
    assert api.ask("send_typing", id=ANNE["id"], status="3")["code"] == -24


# Asking for an answer


def test_a_consultation_ends_with_the_next_message_of_the_friend(api: Api) -> None:
    def answer(friend_id: str, text: str) -> None:
        for who in (OWNER["id"], ANNE["id"]):
            api.events.message({**message(f"from {who[:2]}"), "id": "77"}, who)

    api.events.message(message("before it was asked"), ANNE["id"])
    api.driver.sending = answer
    found = api.ask("consult", id=ANNE["id"], content="how are you?")
    assert found == {"reply": "from a1", "id": "77", "msg_id": "77", "code": None, "status": None}


def test_a_file_that_came_before_the_question_is_no_answer(api: Api) -> None:
    file = {**message("[文件]"), "id": "1", "media_code": 6, "media_name": "a.txt"}
    free = threading.Event()
    fetch = api.driver.fetch
    api.driver.fetch = lambda source, sink: (free.wait(20), fetch(source, sink))[1]  # type: ignore[method-assign]
    api.events.message(file, ANNE["id"], source={"content": "the file"})

    def answer(friend_id: str, text: str) -> None:
        api.events.message({**message("the answer"), "id": "2"}, ANNE["id"])
        free.set()

    api.driver.sending = answer
    assert api.ask("consult", id=ANNE["id"], content="how are you?")["reply"] == "the answer"


def test_a_consultation_without_an_answer_says_so(api: Api) -> None:
    found = api.ask("consult", id=ANNE["id"], content="how are you?", timeout="0.05")
    assert (found["reply"], found["reply_status"], found["id"], found["code"]) == (None, "reply timeout", "m1", 0)


@pytest.mark.parametrize(
    ("query", "code"), [({"id": "nobody"}, 100), ({"id": ANNE["id"], "timeout": "soon"}, -24), ({"id": "x" * 9}, 100)]
)
def test_a_consultation_that_cannot_begin_is_refused(api: Api, query: dict[str, str], code: int) -> None:
    assert api.ask("consult", content="hello", **query)["code"] == code
    assert api.driver.sent == []


def test_a_consultation_that_could_not_be_sent_does_not_wait(api: Api) -> None:
    api.driver.quota = 0
    assert api.ask("consult", id=ANNE["id"], content="hello")["code"] == -23


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
    monkeypatch.setattr(reporting, "DEAD_LETTERS", 3)
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


def test_the_log_is_told_from_the_newest_line_on(api: Api) -> None:
    logger = logging.getLogger("wxsup.test")
    for number in range(5):
        logger.warning("line", extra={"action": "test", "number": number})
    found = api.ask("get_log", lines="2")
    assert [line["text"] for line in found["lines"]] == ["line action=test number=3", "line action=test number=4"]
    assert [line["level"] for line in found["lines"]] == ["WARNING"] * 2
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(api.ask, "get_log", after=str(found["next"]))
        logger.warning("another", extra={"action": "test"})
        assert [line["text"] for line in waiting.result(20)["lines"]] == ["another action=test"]
    assert api.ask("get_log", lines="many")["code"] == -24


def test_stop_client_answers_before_it_stops(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "STOP_DELAY", 0.3)
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
