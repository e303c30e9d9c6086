"""The sandbox misbehaving as it is told, over real HTTP (ilink-protocol.md 15)."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.deadline import eventually
from tests.phone import DEAD, PATIENCE, Bot, Clock, Phone, answered, ask, heard, text_of
from wxsup.sandbox.app import Sandbox
from wxsup.sandbox.faults import MOST_FAULTS
from wxsup.sandbox.journal import MOST_ENTRIES, MOST_KEPT
from wxsup.sandbox.world import WINDOW

HOLD = 0.2
HTML = "<html>A timeout occurred</html>"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def phone(clock: Clock) -> Iterator[Phone]:
    with Sandbox(hold=HOLD, clock=clock) as sandbox:
        yield Phone(sandbox)


@pytest.fixture
def bot(phone: Phone) -> Bot:
    return phone.login()


class Connection(http.client.HTTPConnection):
    """A bot's connection for calls whose answers are not as they should be."""

    def __init__(self, bot: Bot) -> None:
        super().__init__(urlsplit(bot.url).netloc, timeout=PATIENCE)
        self._headers = {"Authorization": f"Bearer {bot.login['bot_token']}"}

    def post(self, call: str, **body: object) -> http.client.HTTPResponse:
        self.request("POST", f"/ilink/bot/{call}", json.dumps(body), self._headers)
        return self.getresponse()


@pytest.fixture
def connection(bot: Bot) -> Iterator[Connection]:
    connection = Connection(bot)
    yield connection
    connection.close()


def a_text(bot: Bot, text: str, context: str) -> dict[str, object]:
    """Return the body of a sendmessage."""
    items = [{"type": 1, "text_item": {"text": text}}]
    return {"msg": {"to_user_id": bot.login["ilink_user_id"], "context_token": context, "item_list": items}}


def shown(phone: Phone) -> list[str]:
    """Return what the phone shows of the bot."""
    return [message["text"] for message in phone.chat() if message["direction"] == "to_user"]


# What is answered instead


def test_an_answer_once_and_then_the_truth(phone: Phone, bot: Bot) -> None:
    phone.say("one")
    phone.do("misbehave", call="getupdates", answer={"ret": -1, "errmsg": "busy", "extra": [1]})
    assert bot.poll() == {"ret": -1, "errmsg": "busy", "extra": [1]}
    assert bot.texts() == ["one"]


@pytest.mark.parametrize("errmsg", ["prepare failed", "rate limited", "unknown error", ""])
def test_a_refusal_with_any_errmsg_has_no_effect(phone: Phone, bot: Bot, errmsg: str) -> None:
    context = heard(phone, bot)
    phone.do("misbehave", call="sendmessage", answer={"ret": -2, "errmsg": errmsg})
    assert bot.send("refused", context) == {"ret": -2, "errmsg": errmsg}
    assert (shown(phone), phone.account()["sends_left"]) == ([], 10)


def test_an_answer_though_the_call_took_effect(phone: Phone, bot: Bot) -> None:
    context = heard(phone, bot)
    phone.do("misbehave", call="sendmessage", answer={"ret": -2}, effect=True)
    assert bot.send("taken", context) == {"ret": -2}
    assert (shown(phone), phone.account()["sends_left"]) == (["taken"], 9)


@pytest.mark.parametrize("dead", [{"errcode": -14}, {"ret": -14}, {"ret": -14, "errcode": -14}])
def test_a_token_is_dead_once_and_alive_again(phone: Phone, bot: Bot, dead: dict[str, int]) -> None:
    phone.do("misbehave", call="notifystart", answer=dead)
    assert [bot.call("msg/notifystart") for _ in range(2)] == [dead, {"ret": 0}]


def test_so_many_times_and_lasting(phone: Phone, bot: Bot) -> None:
    phone.do("misbehave", call="notifystart", answer={"ret": 1}, times=0)
    phone.do("misbehave", call="notifystart", answer={"ret": 2}, times=2)
    phone.do("misbehave", call="notifystart", answer={"ret": 3})
    phone.do("misbehave", call="notifystart", answer={"ret": 4}, times=0)
    assert [bot.call("msg/notifystart")["ret"] for _ in range(6)] == [2, 2, 3, 4, 4, 4]
    assert bot.call("msg/notifystop")["ret"] == 0
    phone.do("behave")
    assert bot.call("msg/notifystart")["ret"] == 0


def test_of_one_user_only(phone: Phone, bot: Bot) -> None:
    other = phone.login("bob")
    phone.do("misbehave", call="notifystart", user="bob", answer={"ret": 1})
    assert [each.call("msg/notifystart")["ret"] for each in (bot, other, other)] == [0, 1, 0]


def test_a_login_code_is_of_who_scanned_it(phone: Phone) -> None:
    phone.do("misbehave", call="get_qrcode_status", user="alice", answer={"status": "from_the_future"})
    key = phone.code()
    assert phone.status(key)["status"] == "wait"
    phone.do("scan", key=key, user="alice")
    assert [phone.status(key)["status"] for _ in range(2)] == ["from_the_future", "scaned"]


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (524, HTML, {}),
        (429, "", {"Retry-After": "7"}),
        (200, "", {}),
        (200, "{", {"Content-Type": "application/json"}),
        (502, "网关", {"X-Error": "a b"}),
        (204, "", {}),
    ],
)
def test_any_status_and_body(
    phone: Phone, connection: Connection, status: int, body: str, headers: dict[str, str]
) -> None:
    phone.do("misbehave", call="getupdates", status=status, body=body, headers=headers)
    reply = connection.post("getupdates")
    assert (reply.status, reply.read().decode()) == (status, body)
    assert reply.getheader("Content-Type") == headers.get("Content-Type", "text/html")
    assert {name: reply.getheader(name) for name in headers} == headers
    assert connection.post("msg/notifystart").read() == b'{"ret": 0}', "the connection is good for more"


def test_fields_of_the_true_answer_can_be_changed(phone: Phone, bot: Bot) -> None:
    context = heard(phone, bot)
    phone.do("misbehave", call="sendmessage", change={"ret": 0, "message_id": None})
    assert bot.send("kept", context) == {"ret": 0}
    assert shown(phone) == ["kept"]
    phone.do("misbehave", call="getupdates", change={"longpolling_timeout_ms": 5000}, times=0)
    assert [bot.poll()["longpolling_timeout_ms"] for _ in range(2)] == [5000, 5000]


@pytest.mark.parametrize("name", ["ilink_bot_id", "bot_token", "baseurl", "ilink_user_id"])
def test_a_confirmation_can_lack_a_field(phone: Phone, name: str) -> None:
    key = phone.code()
    phone.do("scan", key=key, user="alice")
    phone.do("confirm", key=key)
    phone.do("misbehave", call="get_qrcode_status", change={name: None})
    lacking, whole = phone.status(key), phone.status(key)
    assert lacking == {field: value for field, value in whole.items() if field != name}
    assert name in whole


# How it is answered


@pytest.mark.parametrize("effect", [True, False])
@pytest.mark.parametrize("close", ["before", "middle"])
def test_an_answer_that_is_lost(phone: Phone, bot: Bot, connection: Connection, close: str, effect: bool) -> None:
    context = heard(phone, bot)
    phone.do("misbehave", call="sendmessage", close=close, effect=effect)
    if close == "before":
        with pytest.raises(http.client.RemoteDisconnected):
            connection.post("sendmessage", **a_text(bot, "hello", context))
    else:
        reply = connection.post("sendmessage", **a_text(bot, "hello", context))
        with pytest.raises(http.client.IncompleteRead) as lost:
            reply.read()
        assert reply.status == 200 and lost.value.partial
    assert shown(phone) == (["hello"] if effect else [])


def test_an_answer_that_is_lost_has_no_effect_unless_that_is_said(
    phone: Phone, bot: Bot, connection: Connection
) -> None:
    context = heard(phone, bot)
    phone.do("misbehave", call="sendmessage", close="before")
    with pytest.raises(http.client.RemoteDisconnected):
        connection.post("sendmessage", **a_text(bot, "hello", context))
    assert shown(phone) == []


@pytest.mark.parametrize("body", ["", "x", HTML])
def test_any_answer_can_break_off(phone: Phone, connection: Connection, body: str) -> None:
    phone.do("misbehave", call="getupdates", status=524, body=body, close="middle")
    reply = connection.post("getupdates")
    with pytest.raises(http.client.IncompleteRead) as lost:
        reply.read()
    assert (reply.status, lost.value.partial.decode()) == (524, body[: len(body) // 2])


def test_messages_whose_answer_is_lost_come_again(phone: Phone, bot: Bot, connection: Connection) -> None:
    phone.say("one")
    phone.do("misbehave", call="getupdates", close="middle", effect=True)
    with pytest.raises(http.client.IncompleteRead):
        connection.post("getupdates", get_updates_buf="").read()
    assert bot.texts("") == ["one"]


def test_a_lost_call_with_effect_acknowledges_and_one_without_does_not(phone: Phone, bot: Bot) -> None:
    old = bot.poll()["get_updates_buf"]
    phone.say("one")
    new = bot.poll(old)["get_updates_buf"]
    phone.do("misbehave", call="getupdates", answer={})
    assert bot.poll(new) == {}
    assert bot.texts(old) == ["one"]
    phone.do("misbehave", call="getupdates", answer={}, effect=True)
    assert bot.poll(new) == {}
    assert bot.texts(old) == []


def test_an_answer_that_comes_late_after_its_effect(phone: Phone, bot: Bot) -> None:
    context = heard(phone, bot)
    phone.do("misbehave", call="sendmessage", hold=0.3)
    before = time.monotonic()
    assert "message_id" in bot.send("late", context)
    assert time.monotonic() - before >= 0.3
    assert shown(phone) == ["late"]


def test_an_answer_byte_by_byte(phone: Phone, connection: Connection) -> None:
    phone.do("misbehave", call="notifystart", drip=0.05)
    reply = connection.post("msg/notifystart")
    times = {time.monotonic(): reply.read(1) for _ in range(len(b'{"ret": 0}'))}
    assert b"".join(times.values()) == b'{"ret": 0}'
    assert max(times) - min(times) >= 0.05 * (len(times) - 2)


@pytest.mark.parametrize("manner", [{"hold": 600}, {"drip": 600}])
def test_who_does_not_wait_for_a_late_answer_is_not_waited_for(
    phone: Phone, bot: Bot, manner: dict[str, object]
) -> None:
    context = heard(phone, bot)
    phone.do("misbehave", call="sendmessage", **manner)
    connection = Connection(bot)
    connection.request("POST", "/ilink/bot/sendmessage", json.dumps(a_text(bot, "x", context)), connection._headers)
    eventually(lambda: shown(phone) == ["x"])
    connection.close()
    eventually(lambda: not phone.sandbox._first._connections)


def test_a_sandbox_that_drips_ends_at_once(tmp_path: Path) -> None:
    with Sandbox(hold=HOLD) as sandbox:
        phone = Phone(sandbox)
        phone.do("misbehave", call="notifystart", hold=600)
        connection = Connection(phone.login())
        connection.request("POST", "/ilink/bot/msg/notifystart", b"{}", connection._headers)
        eventually(lambda: ask(phone.url, "GET", "/sandbox/requests?call=notifystart")["requests"])
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()


# Time


def test_the_hold_can_be_changed(phone: Phone, bot: Bot) -> None:
    phone.do("hold", seconds=0.6)
    before = time.monotonic()
    answer = bot.poll()
    assert time.monotonic() - before >= 0.6
    assert answer["longpolling_timeout_ms"] >= 600, "a client that goes by the hint does not lose the race"
    phone.do("hold", seconds=0)
    before = time.monotonic()
    bot.poll()
    assert time.monotonic() - before < 0.6


def test_the_clock_can_be_moved(phone: Phone, bot: Bot, clock: Clock) -> None:
    context = heard(phone, bot)
    assert phone.do("clock", advance=WINDOW + 1) == {"now": clock.now + WINDOW + 1}
    assert bot.send("too late", context)["ret"] == -2
    phone.do("clock", advance=-2.5)
    assert "message_id" in bot.send("just in time", context)
    assert phone.chat()[-1]["time"] == int(clock.now + WINDOW - 1.5)
    key = phone.code()
    phone.do("clock", advance=120)
    assert phone.status(key)["status"] == "expired"


# Dead tokens and strange messages


@pytest.mark.parametrize(
    ("death", "answer"),
    [
        ("errcode", DEAD),
        ("ret", {"ret": -14, "errmsg": "session timeout"}),
        ("both", {"ret": -14, "errcode": -14, "errmsg": "session timeout"}),
    ],
)
def test_a_dead_token_is_said_in_each_form_also_after_a_restart(
    tmp_path: Path, death: str, answer: dict[str, object]
) -> None:
    state = tmp_path / "state.json"
    with Sandbox(hold=HOLD, state=state) as sandbox:
        phone = Phone(sandbox)
        bot = phone.login()
        phone.do("drop", user="alice", death=death)
        assert bot.poll() == bot.call("msg/notifystart") == answer
    with Sandbox(hold=HOLD, state=state) as sandbox:
        bot.url = sandbox.url
        assert bot.poll() == answer


def received(bot: Bot) -> dict[str, Any]:
    """Return the one message that waits, and acknowledge it."""
    answer = bot.poll()
    bot.cursor = answer["get_updates_buf"]
    (message,) = answer["msgs"]
    assert isinstance(message, dict)
    return message


@pytest.mark.parametrize("message_id", [2**53 + 1, 2**64 - 1, str(2**64 - 1), 7, "abc"])
def test_ids_and_seq_of_any_kind(phone: Phone, bot: Bot, message_id: object) -> None:
    told = phone.do("say", user="alice", text="hello", message={"message_id": message_id, "seq": 3})
    message = received(bot)
    assert (message["message_id"], message["seq"], text_of(message)) == (message_id, 3, "hello")
    assert told["message_id"] == phone.chat()[0]["message_id"] == str(message_id)


def test_a_message_without_an_id(phone: Phone, bot: Bot) -> None:
    assert phone.do("say", user="alice", text="x", message={"message_id": None})["message_id"] == ""
    assert "message_id" not in received(bot)
    assert phone.chat()[0]["message_id"] == ""


def test_items_of_any_kind_and_quotes(phone: Phone, bot: Bot) -> None:
    items = [
        {"type": 1, "text_item": {"text": "a"}, "ref_msg": {"svr_id": "5", "title": "t"}},
        {"type": 2, "image_item": {}},
        {"type": 99, "new_item": {"deep": [{}]}},
    ]
    phone.do("say", user="alice", text="a, a picture, and more", message={"item_list": items, "run_id": "r"})
    message = received(bot)
    assert (message["item_list"], message["run_id"]) == (items, "r")
    assert phone.chat()[0]["text"] == "a, a picture, and more"


def test_what_the_user_did_not_write_to_the_bot_does_not_open_the_conversation(phone: Phone, bot: Bot) -> None:
    for message in ({"from_user_id": "stranger@im.wechat"}, {"message_type": 2}, {"group_id": "g"}):
        phone.do("say", user="alice", text="x", message=message)
        got = received(bot)
        assert got["context_token"] and message.items() <= got.items()
        assert bot.send("x", got["context_token"])["ret"] == -2
    assert phone.account()["sends_left"] == 0
    phone.do("say", user="alice", text="x", message={"from_user_id": bot.login["ilink_user_id"]})
    assert "message_id" in bot.send("x", received(bot)["context_token"])


def test_a_message_comes_again_after_it_was_acknowledged(phone: Phone, bot: Bot) -> None:
    said = phone.do("say", user="alice", text="once")
    first, chat = received(bot), phone.chat()
    assert bot.texts() == []
    assert phone.do("say_again", user="alice", n=said["n"])["message_id"] == said["message_id"]
    assert bot.texts() == ["once"]
    assert received(bot) == first
    assert bot.texts() == []
    assert phone.chat() == chat, "the phone shows it once"
    phone.say("next")
    assert [message["n"] for message in phone.chat("user=alice&after=1")] == [3]
    assert answered(phone.url, "POST", "/sandbox/say_again", {"user": "alice", "n": 9})[0] == 404


def test_what_the_bot_said_does_not_come_back(phone: Phone, bot: Bot) -> None:
    bot.send("hello", heard(phone, bot))
    assert answered(phone.url, "POST", "/sandbox/say_again", {"user": "alice", "n": 2})[0] == 404


def test_strange_messages_survive_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with Sandbox(hold=HOLD, state=state) as sandbox:
        phone = Phone(sandbox)
        bot = phone.login()
        phone.do("say", user="alice", text="x", message={"message_id": "7", "new": [{"a": 1.5}]})
        phone.do("say_again", user="alice", n=1)
        before, chat = bot.poll("")["msgs"], phone.chat()
    with Sandbox(hold=HOLD, state=state) as sandbox:
        bot.url = sandbox.url
        assert bot.poll("")["msgs"] == before
        assert Phone(sandbox).chat() == chat


def test_a_state_file_from_before_is_read(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with Sandbox(hold=HOLD, state=state) as sandbox:
        phone = Phone(sandbox)
        bot = phone.login()
        phone.say("hello")
    kept = json.loads(state.read_text())
    for message in kept["phones"]["alice"]["messages"]:
        del message["raw"], message["again"]
    del kept["phones"]["alice"]["bot"]["death"]
    state.write_text(json.dumps(kept))
    with Sandbox(hold=HOLD, state=state) as sandbox:
        bot.url = sandbox.url
        assert bot.texts("") == ["hello"]


# What clients sent


def requests(phone: Phone, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(phone.url, "GET", f"/sandbox/requests?{query}")["requests"]
    return found


def test_requests_are_remembered_as_they_came(phone: Phone, clock: Clock) -> None:
    bot = phone.login()
    begin = requests(phone)[-1]["n"]
    phone.do("misbehave", call="sendmessage", answer={"ret": 7})
    bot.send("你好", "token")
    (sent,) = requests(phone, f"after={begin}")
    assert (sent["call"], sent["method"], sent["user"], sent["fault"]) == ("sendmessage", "POST", "alice", True)
    assert (sent["time"], sent["query"]) == (clock.now, {})
    assert sent["headers"]["authorization"] == f"Bearer {bot.login['bot_token']}"
    assert sent["body"]["msg"]["item_list"] == [{"type": 1, "text_item": {"text": "你好"}}]
    assert requests(phone, f"call=getupdates&after={begin}") == []
    (status,) = requests(phone, "call=get_qrcode_status")
    assert (status["user"], status["query"]["qrcode"], status["body"]) == ("alice", status["query"]["qrcode"], "")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"{", "{"),
        (b"\xff", "\ufffd"),
        (b'{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        (b'{"a": NaN}', '{"a": NaN}'),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", '{"a": ' + "[" * 500 + "]" * 500 + "}"),
        (b"x" * (MOST_KEPT + 1), "x" * MOST_KEPT),
    ],
)
def test_requests_of_any_kind_are_remembered(phone: Phone, bot: Bot, body: bytes, shown: str) -> None:
    headers = {"Authorization": f"Bearer {bot.login['bot_token']}"}
    assert answered(phone.url, "POST", "/ilink/bot/getupdates", body, headers)[0] == 400
    assert requests(phone, "call=getupdates")[-1]["body"] == shown


def test_no_more_requests_are_remembered_than_that(phone: Phone, bot: Bot) -> None:
    for _ in range(MOST_ENTRIES + 1):
        bot.call("msg/notifystart")
    found = requests(phone)
    assert [entry["n"] for entry in found] == list(range(found[-1]["n"] - MOST_ENTRIES + 1, found[-1]["n"] + 1))


# The page about it

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "sandbox.md"
EXAMPLES = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("    {")]


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_the_page_shows_can_be_done(phone: Phone, bot: Bot, example: str) -> None:
    body = json.loads(example)
    phone.do("misbehave" if "call" in body else "say", **body)


# Hostile input

ONCE = {"call": "getupdates"}


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("misbehave", {}),
        ("misbehave", {"answer": {}}),
        ("misbehave", ONCE),
        ("misbehave", {"call": "format_disk", "answer": {}}),
        ("misbehave", {"call": "", "answer": {}}),
        ("misbehave", {**ONCE, "user": 1, "answer": {}}),
        ("misbehave", {**ONCE, "answer": []}),
        ("misbehave", {**ONCE, "answer": {}, "change": {}}),
        ("misbehave", {**ONCE, "answer": {}, "status": 200}),
        ("misbehave", {**ONCE, "answer": {}, "body": "x"}),
        ("misbehave", {**ONCE, "headers": {}, "close": "before"}),
        ("misbehave", {**ONCE, "status": 99}),
        ("misbehave", {**ONCE, "status": 100}),
        ("misbehave", {**ONCE, "status": 600}),
        ("misbehave", {**ONCE, "status": True}),
        ("misbehave", {**ONCE, "status": 204, "body": "x"}),
        ("misbehave", {**ONCE, "status": 200, "body": {}}),
        ("misbehave", {**ONCE, "status": 200, "headers": {"A": 1}}),
        ("misbehave", {**ONCE, "status": 200, "headers": {"A": "b\r\nC: d"}}),
        ("misbehave", {**ONCE, "status": 200, "headers": {"A": "é"}}),
        ("misbehave", {**ONCE, "status": 200, "headers": {"A:B": "c"}}),
        ("misbehave", {**ONCE, "status": 200, "headers": {"content-Length": "1"}}),
        ("misbehave", {**ONCE, "status": 200, "headers": {"": "1"}}),
        ("misbehave", {**ONCE, "answer": {}, "times": -1}),
        ("misbehave", {**ONCE, "answer": {}, "times": 1.5}),
        ("misbehave", {**ONCE, "answer": {}, "times": True}),
        ("misbehave", {**ONCE, "answer": {}, "times": 10**400}),
        ("misbehave", {**ONCE, "close": "after"}),
        ("misbehave", {**ONCE, "close": ""}),
        ("misbehave", {**ONCE, "close": "before", "effect": 1}),
        ("misbehave", {**ONCE, "effect": True}),
        ("misbehave", {**ONCE, "hold": 1, "effect": False}),
        ("misbehave", {**ONCE, "change": {}, "effect": False}),
        ("misbehave", {**ONCE, "hold": -1}),
        ("misbehave", {**ONCE, "hold": "1"}),
        ("misbehave", {**ONCE, "drip": 1e9}),
        ("misbehave", b'{"call": "getupdates", "hold": NaN}'),
        ("misbehave", b'{"call": "getupdates", "hold": 1e999}'),
        ("misbehave", b'{"call": "getupdates", "answer": {"a": ' + b"[" * 200 + b"]" * 200 + b"}}"),
        ("behave", {"call": "getupdates"}),
        ("hold", {}),
        ("hold", {"seconds": -1}),
        ("hold", {"seconds": False}),
        ("hold", {"seconds": 1e9}),
        ("clock", {"advance": "1"}),
        ("clock", {"advance": 1e30}),
        ("drop", {"user": "alice", "death": "slow"}),
        ("drop", {"user": "alice", "death": ["ret"]}),
        ("say", {"user": "alice", "text": "x", "message": []}),
        ("say", b'{"user": "alice", "text": "x", "message": {"message_id": ' + b"9" * 5000 + b"}}"),
        ("say_again", {"user": "alice"}),
        ("say_again", {"user": "alice", "n": "1"}),
        ("say_again", {"user": "alice", "n": True}),
    ],
)
def test_bad_bodies(phone: Phone, bot: Bot, call: str, body: object) -> None:
    status, answer = answered(phone.url, "POST", f"/sandbox/{call}", body)
    assert status == 400
    assert set(answer) == {"error"} and answer["error"]
    assert bot.call("getupdates", get_updates_buf="")["ret"] == 0, "nothing came of it"


@pytest.mark.parametrize("query", ["call=no", "call=", "after=-1", "after=x", "user=alice", "after=" + "9" * 5000])
def test_bad_queries(phone: Phone, query: str) -> None:
    assert answered(phone.url, "GET", f"/sandbox/requests?{query}")[0] == (200 if query == "call=" else 400)


def test_misbehaviour_is_bounded(phone: Phone) -> None:
    for _ in range(MOST_FAULTS):
        phone.do("misbehave", call="notifystop", answer={})
    assert answered(phone.url, "POST", "/sandbox/misbehave", {"call": "notifystop", "answer": {}})[0] == 400
    phone.do("behave")
    phone.do("misbehave", call="notifystop", answer={})


@pytest.mark.parametrize("call", ["misbehave", "behave", "hold", "clock", "say_again"])
def test_other_sites_may_not_act(phone: Phone, call: str) -> None:
    body = {"call": "getupdates", "answer": {}, "seconds": 1, "advance": 1}
    assert answered(phone.url, "POST", f"/sandbox/{call}", body, {"Sec-Fetch-Site": "cross-site"})[0] == 403
