"""The sandbox over real HTTP, held against shared/spec/ilink-protocol.md (sections in brackets)."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.phone import DEAD, PATIENCE, Bot, Clock, Phone, answered, ask, heard, text_of
from wxsup.errors import Refusal
from wxsup.sandbox.app import Sandbox
from wxsup.sandbox.codes import LIFE
from wxsup.sandbox.world import WINDOW

HOLD = 0.4

T = TypeVar("T")


def until(question: Callable[[], T]) -> T:
    """Ask again until the answer is true."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)
    return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[Sandbox]:
    with Sandbox(("127.0.0.1", 0), hold=HOLD, clock=clock) as sandbox:
        yield sandbox


@pytest.fixture
def patient() -> Iterator[Sandbox]:
    """A sandbox whose held calls end by what happens, not by the clock."""
    with Sandbox(("127.0.0.1", 0), hold=PATIENCE) as sandbox:
        yield sandbox


@pytest.fixture
def phone(sandbox: Sandbox) -> Phone:
    return Phone(sandbox)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


# Login [3]


def test_code_is_the_address_of_the_phone_page(phone: Phone) -> None:
    answer = ask(phone.url, "POST", "/ilink/bot/get_bot_qrcode?bot_type=3", {"local_token_list": []})
    assert answer["ret"] == 0
    assert answer["qrcode_img_content"] == f"{phone.url}/phone?code={answer['qrcode']}"


def test_code_by_get_without_body(phone: Phone) -> None:
    answer = ask(phone.url, "GET", "/ilink/bot/get_bot_qrcode?bot_type=3")
    assert phone.status(answer["qrcode"])["status"] == "wait"


def test_other_bot_types_are_refused(phone: Phone) -> None:
    assert ask(phone.url, "POST", "/ilink/bot/get_bot_qrcode?bot_type=4", {})["ret"] == 2


def test_status_is_held_until_there_is_news(patient: Sandbox, pool: ThreadPoolExecutor) -> None:
    phone = Phone(patient)
    key = phone.code()
    poll = pool.submit(phone.status, key)
    phone.do("scan", key=key, user="alice")
    assert poll.result(PATIENCE)["status"] == "scaned"
    poll = pool.submit(phone.status, key)
    phone.do("confirm", key=key)
    assert poll.result(PATIENCE)["status"] == "confirmed"


def test_status_without_news_is_told_again_after_the_hold(phone: Phone) -> None:
    key = phone.code()
    before = time.monotonic()
    assert phone.status(key) == {"ret": 0, "status": "wait"}
    assert time.monotonic() - before >= HOLD
    phone.do("scan", key=key, user="alice")
    assert [phone.status(key)["status"] for _ in range(2)] == ["scaned", "scaned"]


def test_confirmed_brings_all_four_fields(phone: Phone) -> None:
    login = phone.login().login
    assert login["status"] == "confirmed"
    assert login["bot_token"].startswith(login["ilink_bot_id"] + ":")
    assert login["ilink_bot_id"].endswith("@im.bot")
    assert login["ilink_user_id"].startswith("o9cq8") and login["ilink_user_id"].endswith("@im.wechat")
    assert login["baseurl"] == phone.url


def test_user_id_belongs_to_the_name(phone: Phone) -> None:
    first, other, again = phone.login("张三").login, phone.login("bob").login, phone.login("张三").login
    assert first["ilink_user_id"] == again["ilink_user_id"] != other["ilink_user_id"]
    assert first["ilink_bot_id"] != again["ilink_bot_id"]


def test_addresses_are_those_the_client_used(phone: Phone) -> None:
    port = urlsplit(phone.url).port
    headers = {"Host": f"sandbox.example:{port}"}
    answer = ask(phone.url, "GET", "/ilink/bot/get_bot_qrcode?bot_type=3", headers=headers)
    assert answer["qrcode_img_content"].startswith(f"http://sandbox.example:{port}/phone?")
    answer = ask(phone.url, "GET", "/ilink/bot/get_bot_qrcode?bot_type=3", headers={"Host": '"><script>'})
    assert answer["qrcode_img_content"].startswith(phone.url)


def test_right_digits(phone: Phone) -> None:
    key = phone.code()
    shown = phone.do("scan", key=key, user="alice", digits=True)
    assert shown["status"] == "need_verifycode" and len(shown["digits"]) == 6 and shown["digits"].isdecimal()
    assert phone.status(key)["status"] == "need_verifycode"
    assert phone.status(key, shown["digits"])["status"] == "scaned"
    phone.do("confirm", key=key)
    assert phone.status(key, shown["digits"])["status"] == "confirmed"


def test_wrong_digits_block_the_code_and_repeats_do_not_count(phone: Phone) -> None:
    key = phone.code()
    right = phone.do("scan", key=key, user="alice", digits=True)["digits"]
    wrong = [f"{(int(right) + n) % 10**6:06}" for n in (1, 2, 3)]
    tries = [wrong[0], wrong[0], wrong[0], wrong[1], wrong[0], wrong[1]]
    assert [phone.status(key, digits)["status"] for digits in tries] == ["need_verifycode"] * 6
    assert phone.status(key, wrong[2])["status"] == "verify_code_blocked"
    assert phone.status(key, right)["status"] == "verify_code_blocked"


def test_digits_of_an_older_code_do_no_harm_before_the_scan(phone: Phone) -> None:
    key = phone.code()
    assert phone.status(key, "000000")["status"] == "wait"
    phone.do("scan", key=key, user="alice")
    assert phone.status(key, "000000")["status"] == "scaned"


def test_confirmation_needs_a_scan_and_the_digits(phone: Phone) -> None:
    key = phone.code()
    assert answered(phone.url, "POST", "/sandbox/confirm", {"key": key})[0] == 400
    phone.do("scan", key=key, user="alice", digits=True)
    assert answered(phone.url, "POST", "/sandbox/confirm", {"key": key})[0] == 400
    assert answered(phone.url, "POST", "/sandbox/scan", {"key": key, "user": "bob"})[0] == 400


def test_bound_already(phone: Phone) -> None:
    bot = phone.login()
    key = phone.code("another", bot.login["bot_token"])
    phone.do("scan", key=key, user="alice")
    assert phone.do("confirm", key=key) == {"status": "binded_redirect"}
    assert phone.status(key) == {"ret": 0, "status": "binded_redirect"}
    assert bot.call("msg/notifystart") == {"ret": 0}


def test_token_of_somebody_else_is_not_bound_already(phone: Phone) -> None:
    bot = phone.login("alice")
    key = phone.code(bot.login["bot_token"])
    phone.do("scan", key=key, user="bob")
    assert phone.do("confirm", key=key) == {"status": "confirmed"}


@pytest.mark.parametrize(("call", "status"), [("ignore", "expired"), ("expire", "expired")])
def test_expired(phone: Phone, call: str, status: str) -> None:
    key = phone.code()
    phone.do("scan", key=key, user="alice")
    phone.do(call, key=key)
    assert phone.status(key) == {"ret": 0, "status": status}
    assert answered(phone.url, "POST", "/sandbox/block", {"key": key})[0] == 400


def test_blocked(phone: Phone) -> None:
    key = phone.code()
    assert phone.do("block", key=key) == {"status": "verify_code_blocked"}
    assert phone.status(key)["status"] == "verify_code_blocked"


def test_code_expires_by_itself_also_under_a_held_poll(pool: ThreadPoolExecutor, clock: Clock) -> None:
    with Sandbox(("127.0.0.1", 0), hold=PATIENCE, clock=clock) as sandbox:
        phone = Phone(sandbox)
        old, confirmed = phone.code(), phone.code()
        phone.do("scan", key=confirmed, user="alice")
        phone.do("confirm", key=confirmed)
        clock.now += LIFE - 1
        poll = pool.submit(phone.status, old)
        clock.now += 1
        assert poll.result(PATIENCE)["status"] == "expired"
        assert phone.status(confirmed)["status"] == "confirmed"


def test_unknown_code_is_expired(phone: Phone) -> None:
    assert phone.status("nothing")["status"] == "expired"
    assert answered(phone.url, "POST", "/sandbox/scan", {"key": "nothing", "user": "alice"})[0] == 404


def test_redirect(phone: Phone, sandbox: Sandbox) -> None:
    key, other = phone.code(), sandbox.redirect_url
    phone.do("scan", key=key, user="alice")
    phone.do("redirect", key=key)
    first = phone.status(key)
    assert first["status"] == "scaned_but_redirect"
    assert first["redirect_host"] == urlsplit(other).netloc
    assert phone.status(key, url=other)["status"] == "scaned"
    phone.do("confirm", key=key)
    assert "bot_token" not in phone.status(key)
    login = phone.status(key, url=other)
    assert (login["status"], login["baseurl"]) == ("confirmed", other)
    assert Bot(other, login).call("msg/notifystart") == Bot(phone.url, login).call("msg/notifystart") == {"ret": 0}


@pytest.mark.parametrize("status", ["from_the_future", "confirmed", "scaned_but_redirect", "未来"])
def test_any_status(phone: Phone, status: str) -> None:
    key = phone.code()
    phone.do("status", key=key, status=status)
    assert phone.status(key) == {"ret": 0, "status": status}


def test_codes_are_listed_newest_last(phone: Phone, clock: Clock) -> None:
    first, last = phone.code(), phone.code()
    phone.do("scan", url=f"{phone.url}/phone?code={first}", user="alice")
    assert ask(phone.url, "GET", "/sandbox/codes")["codes"] == [
        {"key": key, "url": f"{phone.url}/phone?code={key}", "status": status, "created": clock.now, "user": user}
        for key, status, user in [(first, "scaned", "alice"), (last, "wait", "")]
    ]


# Messages to the bot [5]


def test_message_has_what_clients_read(phone: Phone, clock: Clock) -> None:
    bot = phone.login()
    message_id = phone.say("你好 <b>")
    answer = bot.poll()
    assert answer["ret"] == 0
    assert answer["longpolling_timeout_ms"] >= HOLD * 1000
    (message,) = answer["msgs"]
    assert isinstance(message["message_id"], int) and message["message_id"] >= 2**53
    assert str(message["message_id"]) == message_id
    assert message["from_user_id"] == bot.login["ilink_user_id"]
    assert message["to_user_id"] == bot.login["ilink_bot_id"]
    assert (message["message_type"], message["message_state"]) == (1, 2)
    assert message["create_time_ms"] == int(clock.now * 1000)
    assert message["context_token"] and text_of(message) == "你好 <b>"


def test_fresh_binding_begins_at_the_confirmation(phone: Phone) -> None:
    phone.login()
    phone.say("to the old bot")
    bot = phone.login()
    phone.say("before the first poll")
    assert bot.texts("") == ["before the first poll"]


def test_same_cursor_brings_the_same_messages(phone: Phone) -> None:
    bot = phone.login()
    bot.cursor = bot.poll()["get_updates_buf"]
    phone.say("one")
    assert bot.poll() == bot.poll()
    phone.say("two")
    assert bot.texts() == ["one", "two"]


def test_new_cursor_acknowledges_and_an_older_one_shows_the_loss(phone: Phone) -> None:
    bot = phone.login()
    old = bot.poll()["get_updates_buf"]
    phone.say("one")
    new = bot.poll(old)["get_updates_buf"]
    assert new != old
    phone.say("two")
    assert bot.texts(new) == ["two"]
    assert bot.texts(old) == ["two"]


def test_empty_cursor_twice_loses_nothing_but_after_a_reset_it_is_from_now_on(phone: Phone) -> None:
    bot = phone.login()
    phone.say("one")
    assert bot.texts("") == bot.texts("") == ["one"]
    bot.poll(bot.poll("")["get_updates_buf"])
    phone.say("missed")
    assert bot.texts("") == []
    phone.say("two")
    assert bot.texts("") == bot.texts("") == ["two"]


@pytest.mark.parametrize("cursor", ["rubbish", "é", "YWxpY2U6MQ==", "0" * 5000])
def test_strange_cursor_is_an_error(phone: Phone, cursor: str) -> None:
    assert phone.login().poll(cursor)["ret"] == -1


def test_cursor_of_another_bot_is_an_error(phone: Phone) -> None:
    cursor = phone.login("alice").poll()["get_updates_buf"]
    assert phone.login("bob").poll(cursor)["ret"] == -1


def test_nothing_new_is_held(phone: Phone) -> None:
    bot = phone.login()
    for _ in range(2):
        before = time.monotonic()
        answer = bot.poll()
        assert time.monotonic() - before >= HOLD
        assert answer["msgs"] == [] and answer["get_updates_buf"]
        bot.cursor = answer["get_updates_buf"]


def test_message_ends_the_hold(patient: Sandbox, pool: ThreadPoolExecutor) -> None:
    phone = Phone(patient)
    bot = phone.login()
    poll = pool.submit(bot.texts)
    until(lambda: phone.account()["pollers"] == 1)
    phone.say("now")
    assert poll.result(PATIENCE) == ["now"]


def test_pollers_are_counted(patient: Sandbox, pool: ThreadPoolExecutor) -> None:
    phone = Phone(patient)
    bot = phone.login()
    polls = [pool.submit(bot.texts) for _ in range(2)]
    until(lambda: phone.account()["pollers"] == 2)
    phone.say("both")
    assert [poll.result(PATIENCE) for poll in polls] == [["both"], ["both"]]
    account = phone.account()
    assert (account["pollers"], account["most_pollers"]) == (0, 2)


def held_poll(bot: Bot) -> socket.socket:
    """Begin a getupdates and return its connection."""
    address = urlsplit(bot.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {bot.login['bot_token']}"}
    connection.request("POST", "/ilink/bot/getupdates", json.dumps({"get_updates_buf": bot.cursor}), headers)
    assert connection.sock is not None
    return connection.sock


def test_poller_that_went_away_is_freed_and_loses_nothing(patient: Sandbox) -> None:
    phone = Phone(patient)
    bot = phone.login()
    with held_poll(bot):
        until(lambda: phone.account()["pollers"] == 1)
    until(lambda: phone.account()["pollers"] == 0)
    with held_poll(bot):
        until(lambda: phone.account()["pollers"] == 1)
        phone.say("handed to nobody")
    assert bot.texts() == ["handed to nobody"]


def test_hundreds_of_held_polls(patient: Sandbox) -> None:
    phone = Phone(patient)
    count = 300
    bots = [phone.login(f"user{n}") for n in range(count)]
    connections = [held_poll(bot) for bot in bots]
    try:
        until(lambda: sum(account.pollers for account in patient.world.accounts()) == count)
        for n, connection in enumerate(connections):
            phone.say(f"hello {n}", f"user{n}")
            with connection.makefile("rb") as reply:
                assert reply.readline() == b"HTTP/1.1 200 OK\r\n"
    finally:
        for connection in connections:
            connection.close()


# Dead tokens [3.4, 6]


def test_rebinding_kills_the_old_token_and_wakes_its_poll(patient: Sandbox, pool: ThreadPoolExecutor) -> None:
    phone = Phone(patient)
    old = phone.login()
    poll = pool.submit(old.poll)
    until(lambda: phone.account()["pollers"] == 1)
    new = phone.login()
    assert poll.result(PATIENCE) == DEAD
    assert old.poll() == DEAD
    account = phone.account()
    assert (account["bot_id"], account["alive"]) == (new.login["ilink_bot_id"], True)


def test_dropped_token_is_dead_for_every_call(phone: Phone) -> None:
    bot = phone.login()
    phone.say("hello")
    context = bot.poll()["msgs"][0]["context_token"]
    phone.do("drop", user="alice")
    assert phone.account()["alive"] is False
    assert bot.send("x", context) == DEAD
    for call in ("getupdates", "getconfig", "sendtyping", "sendmessage", "msg/notifystart", "msg/notifystop"):
        assert bot.call(call) == DEAD
    for call in ("say", "drop"):
        body = {"user": "alice", "text": "x"} if call == "say" else {"user": "alice"}
        assert answered(phone.url, "POST", f"/sandbox/{call}", body)[0] == 404


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer nonsense", "Basic YTpi", "Bearer"])
def test_unknown_or_missing_token_is_dead(phone: Phone, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    assert ask(phone.url, "POST", "/ilink/bot/getupdates", {"get_updates_buf": ""}, headers) == DEAD


# Messages from the bot [8], typing [10], start and stop [4]


def test_send(phone: Phone, clock: Clock) -> None:
    bot = phone.login()
    context = heard(phone, bot)
    answer = bot.send("你好", context)
    assert set(answer) == {"message_id"} and answer["message_id"] >= 2**53
    assert phone.chat("user=alice&after=1") == [
        {
            "n": 2,
            "direction": "to_user",
            "text": "你好",
            "message_id": str(answer["message_id"]),
            "client_id": "test-你好",
            "time": int(clock.now),
        }
    ]
    assert bot.texts() == [], "the bot's own message is no update"


@pytest.mark.parametrize("context", [None, "", "another"])
def test_send_needs_the_context_token(phone: Phone, context: str | None) -> None:
    bot = phone.login()
    refusal = {"ret": -2, "errmsg": "prepare failed"}
    assert bot.send("too early", context) == refusal
    heard(phone, bot)
    assert bot.send("wrong token", context) == refusal
    assert phone.account()["sends_left"] == 10


def test_context_token_is_of_one_conversation(phone: Phone) -> None:
    alice, bob = phone.login("alice"), phone.login("bob")
    context = heard(phone, alice)
    phone.say("hello", "bob")
    assert bob.send("x", context)["ret"] == -2
    assert alice.send("x", context, to_user_id=bob.login["ilink_user_id"])["ret"] == -2


def test_ten_sends_until_the_user_speaks_again(phone: Phone) -> None:
    bot = phone.login()
    assert phone.account()["sends_left"] == 0
    context = heard(phone, bot)
    for left in range(10, 0, -1):
        assert phone.account()["sends_left"] == left
        assert "message_id" in bot.send(str(left), context)
    assert bot.send("too many", context)["ret"] == -2
    assert "message_id" in bot.send("again", heard(phone, bot))


def test_window_of_a_day(phone: Phone, clock: Clock) -> None:
    bot = phone.login()
    context = heard(phone, bot)
    clock.now += WINDOW
    assert "message_id" in bot.send("just in time", context)
    clock.now += 1
    assert bot.send("too late", context)["ret"] == -2
    assert phone.account()["sends_left"] == 0
    assert "message_id" in bot.send("open again", heard(phone, bot))


def test_any_items_are_accepted(phone: Phone) -> None:
    bot = phone.login()
    context = heard(phone, bot)
    items = [
        {"type": 1, "text_item": {"text": "caption"}},
        {"type": 2, "image_item": {}},
        {"type": 11, "tool_call_start_item": {"tool_name": "x"}},
    ]
    assert "message_id" in bot.send("", context, item_list=items, run_id="r")
    assert "message_id" in bot.send("", context, item_list=None)
    assert [message["text"] for message in phone.chat()[1:]] == ["caption\n[image]\n[item of type 11]", ""]


def test_typing(phone: Phone) -> None:
    bot = phone.login()
    user = bot.login["ilink_user_id"]
    assert bot.call("getconfig", ilink_user_id=user)["ret"] == -4, "no conversation yet"
    context = heard(phone, bot)
    answer = bot.call("getconfig", ilink_user_id=user, context_token=context)
    assert answer["ret"] == 0 and answer["typing_ticket"]
    for status in (1, 2):
        typing = {"ilink_user_id": user, "typing_ticket": answer["typing_ticket"], "status": status}
        assert bot.call("sendtyping", **typing) == {"ret": 0}
    assert phone.account()["sends_left"] == 10


def test_start_and_stop(phone: Phone) -> None:
    bot = phone.login()
    assert bot.call("msg/notifystart") == bot.call("msg/notifystop") == {"ret": 0}


# The phone's calls


def test_chat_waits_for_something_new(patient: Sandbox, pool: ThreadPoolExecutor) -> None:
    phone = Phone(patient)
    bot = phone.login()
    phone.say("one")
    assert phone.chat("user=alice&after=1") == []
    waiting: Future[list[dict[str, Any]]] = pool.submit(phone.chat, "user=alice&after=1&wait=20")
    bot.send("two", bot.poll()["msgs"][0]["context_token"])
    assert [message["text"] for message in waiting.result(PATIENCE)] == ["two"]
    before = time.monotonic()
    assert phone.chat("user=alice&after=2&wait=0.2") == []
    assert time.monotonic() - before >= 0.2


def test_accounts_and_chat_tell_no_secrets(phone: Phone) -> None:
    bot = phone.login()
    context = heard(phone, bot)
    login = bot.login
    assert phone.account() == {
        "user": "alice",
        "user_id": login["ilink_user_id"],
        "bot_id": login["ilink_bot_id"],
        "alive": True,
        "pollers": 0,
        "most_pollers": 1,
        "sends_left": 10,
        "typing": False,
    }
    told = json.dumps([phone.chat(), ask(phone.url, "GET", "/sandbox/codes")])
    assert login["bot_token"] not in told and context not in told


def test_chat_of_nobody_is_empty(phone: Phone) -> None:
    assert phone.chat("user=nobody") == []


# Restart


def test_accounts_and_messages_survive_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state.json"
    with Sandbox(hold=HOLD, state=state) as sandbox:
        phone = Phone(sandbox)
        bot, dropped = phone.login(), phone.login("bob")
        phone.do("drop", user="bob")
        phone.say("one")
        cursor = bot.poll("")["get_updates_buf"]
        phone.say("two")
        context = bot.poll(cursor)["msgs"][0]["context_token"]
        bot.send("three", context)
        chat, account = phone.chat(), phone.account()
    assert stat.S_IMODE(os.stat(state).st_mode) == 0o600
    with Sandbox(hold=HOLD, state=state) as sandbox:
        phone = Phone(sandbox)
        bot.url = dropped.url = sandbox.url
        assert phone.chat() == chat
        assert phone.account() == {**account, "most_pollers": 0}
        assert dropped.poll() == DEAD
        assert bot.texts("") == []
        assert bot.texts(cursor) == []
        assert "message_id" in bot.send("four", context)
        phone.say("five")
        assert bot.texts(cursor) == ["five"]


STATE = (
    b'{"version": 1, "phones": {"a": {"bot": {"bot_id": "x", "token": "x", "acknowledged": 0}, "messages": [{'
    b'"number": 1, "direction": "to_bot", "text": "", "message_id": 1, "client_id": "", "time_ms": 1, '
    b'"bot_id": "x", %b}]}}}'
)


def test_state_file_of_a_sandbox_that_knew_no_media(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_bytes(STATE % b'"again": false')
    with Sandbox(hold=HOLD, state=state) as sandbox:
        (message,) = Phone(sandbox).chat("user=a")
        assert "media" not in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"version": 1}',
        b'{"version": 2, "phones": {}}',
        b'{"version": 1, "phones": []}',
        b'{"version": 1, "phones": {"a": {}}}',
        b'{"version": 1, "phones": {"a": {"bot": {"bot_id": 1}, "messages": []}}}',
        b'{"version": 1, "phones": {"a": {"bot": {"bot_id": "x"}, "messages": []}}}',
        STATE % b'"media": {}',
        STATE % b'"media": {"kind": 2, "name": "x"}',
        STATE % b'"media": "x"',
    ],
)
def test_broken_state_file_is_named(tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "state.json"
    state.write_bytes(content)
    with pytest.raises(Refusal, match=str(state)):
        Sandbox(state=state)
    assert state.read_bytes() == content


def test_state_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=str(tmp_path)):
        Sandbox(state=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match="file/state.json"):
        Sandbox(state=tmp_path / "file" / "state.json")


def test_nothing_is_left_of_a_sandbox_that_ended() -> None:
    with Sandbox(hold=PATIENCE) as sandbox:
        phone, address = Phone(sandbox), urlsplit(sandbox.url)
        idle = socket.create_connection((address.hostname, address.port), PATIENCE)
        held = held_poll(phone.login())
        until(lambda: phone.account()["pollers"] == 1)
    with idle, held:
        assert idle.recv(1) == held.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        answered(sandbox.url, "GET", "/sandbox/accounts")


def listens(port: int) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_at_once_on_a_signal(tmp_path: Path, end: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = f"from wxsup.sandbox.app import serve; serve(('127.0.0.1', {port}), state=None)"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: listens(port) or process.poll() is not None)
        key = ask(url, "GET", "/ilink/bot/get_bot_qrcode?bot_type=3")["qrcode"]
        ask(url, "POST", "/sandbox/scan", {"key": key, "user": "alice"})
        ask(url, "POST", "/sandbox/confirm", {"key": key})
        login = ask(url, "GET", f"/ilink/bot/get_qrcode_status?qrcode={key}")
        with held_poll(Bot(url, login)):
            until(lambda: ask(url, "GET", "/sandbox/accounts")["accounts"][0]["pollers"])
            process.send_signal(end)
            _, complaints = process.communicate(timeout=PATIENCE)  # less than the hold
        assert (process.returncode, complaints) == (0, b"")
    finally:
        process.kill()
        process.communicate()


def test_address_of_the_sixth_version() -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this machine has no IPv6")
    with Sandbox(("::1", 0), hold=HOLD) as sandbox:
        phone = Phone(sandbox)
        key = phone.code()
        phone.do("redirect", key=key)
        assert sandbox.url.startswith("http://[::1]:")
        assert phone.status(key)["redirect_host"] == urlsplit(sandbox.redirect_url).netloc


def test_taken_port_is_one_sentence(sandbox: Sandbox) -> None:
    port = urlsplit(sandbox.url).port
    assert port
    with pytest.raises(Refusal, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
        Sandbox(("127.0.0.1", port))
    with pytest.raises(Refusal, match="cannot listen on 127.0.0.1 port 70000"):
        Sandbox(("127.0.0.1", 70000))


# Hostile input

SCAN = {"key": "k", "user": "alice"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sandbox/scan", b"{"),
        ("/sandbox/scan", b"\xff"),
        ("/sandbox/scan", b"[" * 60_000),
        ("/sandbox/scan", b'"text"'),
        ("/sandbox/scan", b'{"key": "\\ud800", "user": "alice"}'),
        ("/sandbox/scan", b'{"key": "k", "user": "alice", "digits": NaN}'),
        ("/sandbox/scan", {}),
        ("/sandbox/scan", {"user": "alice"}),
        ("/sandbox/scan", {**SCAN, "url": "u"}),
        ("/sandbox/scan", {"user": "alice", "url": "http://["}),
        ("/sandbox/scan", {"user": "alice", "url": "http://x/?code="}),
        ("/sandbox/scan", {**SCAN, "digits": 1}),
        ("/sandbox/scan", {**SCAN, "more": 1}),
        ("/sandbox/scan", {**SCAN, "user": ""}),
        ("/sandbox/scan", {**SCAN, "user": "a\nb"}),
        ("/sandbox/scan", {**SCAN, "user": "a" * 65}),
        ("/sandbox/scan", {**SCAN, "user": None}),
        ("/sandbox/say", {"user": "alice", "text": ""}),
        ("/sandbox/say", {"user": "alice", "text": "x" * 64 * 1024}),
        ("/sandbox/say", {"user": "alice", "text": ["x"]}),
        ("/sandbox/confirm", b"x" * 3_000_000),
        ("/ilink/bot/get_bot_qrcode?bot_type=3", {"local_token_list": "x"}),
        ("/ilink/bot/get_bot_qrcode?bot_type=3", {"local_token_list": [1]}),
        ("/ilink/bot/get_bot_qrcode?bot_type=3&bot_type=3", {}),
    ],
)
def test_bad_bodies(phone: Phone, path: str, body: object) -> None:
    status, answer = answered(phone.url, "POST", path, body)
    assert status == 400
    assert set(answer) == {"error"} and answer["error"]


@pytest.mark.parametrize(
    "query",
    ["", "user=alice&x=1", "user=", "user=a&user=b", "user=a&after=-1", "user=a&after=x", "user=a&wait=nan"]
    + ["user=a&wait=inf", "user=a&wait=1e9", "user=a&after=" + "9" * 5000, "user=%00"],
)
def test_bad_queries(phone: Phone, query: str) -> None:
    assert answered(phone.url, "GET", f"/sandbox/chat?{query}")[0] == 400


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("getupdates", b"{"),
        ("getupdates", {"get_updates_buf": 1}),
        ("sendmessage", {}),
        ("sendmessage", {"msg": []}),
        ("sendmessage", {"msg": {"to_user_id": 1}}),
        ("sendmessage", {"msg": {"item_list": {}}}),
        ("sendmessage", {"msg": {"item_list": ["x"]}}),
        ("sendmessage", {"msg": {"item_list": [{"type": "1"}]}}),
        ("sendmessage", {"msg": {"item_list": [{"type": 1}]}}),
        ("sendmessage", {"msg": {"item_list": [{"type": 1, "text_item": {"text": 1}}]}}),
        ("sendtyping", {"status": 3}),
        ("getconfig", {"ilink_user_id": 1}),
    ],
)
def test_bad_bodies_of_a_bot(phone: Phone, call: str, body: object) -> None:
    headers = {"Authorization": f"Bearer {phone.login().login['bot_token']}"}
    status, answer = answered(phone.url, "POST", f"/ilink/bot/{call}", body, headers)
    assert (status, set(answer)) == (400, {"error"})


@pytest.mark.parametrize(("method", "path"), [("GET", "/no"), ("POST", "/sandbox/codes"), ("GET", "/ilink/bot/..")])
def test_unknown_calls(phone: Phone, method: str, path: str) -> None:
    assert answered(phone.url, method, path)[0] == 404


def test_other_sites_may_not_act(phone: Phone) -> None:
    body = {"key": phone.code(), "user": "alice"}
    for site, status in [("cross-site", 403), ("same-site", 403), ("same-origin", 200)]:
        assert answered(phone.url, "POST", "/sandbox/scan", body, {"Sec-Fetch-Site": site})[0] == status
    headers = {"Content-Type": "text/plain"}
    assert answered(phone.url, "POST", "/sandbox/confirm", {"key": body["key"]}, headers)[0] == 400


@pytest.mark.parametrize(
    "request_text",
    [
        b"rubbish\r\n\r\n",
        b"GET /secret HTTP/9.9\r\n\r\n",
        b"DELETE / HTTP/1.1\r\n\r\n",
        b"POST /sandbox/say HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /sandbox/say HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ],
)
def test_no_http_is_answered_in_json(phone: Phone, request_text: bytes) -> None:
    address = urlsplit(phone.url)
    with socket.create_connection((address.hostname, address.port), PATIENCE) as connection:
        connection.sendall(request_text)
        reply = connection.recv(65536)
    assert b'{"error": "' in reply and b"secret" not in reply


def test_connection_is_kept_after_an_error(phone: Phone) -> None:
    address = urlsplit(phone.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    for path, status in [("/no", 404), ("/sandbox/say", 400), ("/ilink/bot/get_bot_qrcode?bot_type=3", 200)]:
        connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        assert (reply.status, reply.will_close) == (status, False)
    connection.close()


def test_phone_page_is_served(phone: Phone) -> None:
    address = urlsplit(phone.url)
    for path in ("/", "/phone?code=x"):
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
        connection.request("GET", path)
        reply = connection.getresponse()
        assert reply.status == 200 and b"<!doctype html>" in reply.read()
        assert "default-src 'none'" in str(reply.getheader("Content-Security-Policy"))
        connection.close()


def test_no_secret_reaches_a_log(phone: Phone, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = phone.code()
    digits = phone.do("scan", key=key, user="alice", digits=True)["digits"]
    phone.status(key, digits)
    phone.do("confirm", key=key)
    bot = Bot(phone.url, phone.status(key))
    context = heard(phone, bot)
    bot.send("secret words", context)
    answered(phone.url, "GET", f"/no?code={key}")
    address = urlsplit(phone.url)
    with socket.create_connection((address.hostname, address.port), PATIENCE) as connection:
        connection.sendall(f"GET /?code={key} HTTP/9.9\r\n\r\n".encode())
        connection.recv(65536)
    actions = {getattr(record, "action", "") for record in caplog.records}
    assert actions >= {"code", "scan", "confirm", "message", "request"}
    logged = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    for secret in (key, digits, bot.login["bot_token"], context, bot.cursor, "secret words", "qrcode="):
        assert secret not in logged


def test_lost_connection_is_no_complaint(patient: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    phone = Phone(patient)
    bot = phone.login()
    with held_poll(bot) as connection:
        until(lambda: phone.account()["pollers"] == 1)
        # A reset instead of an orderly end (socket(7), SO_LINGER).
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: phone.account()["pollers"] == 0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
