"""Our iLink driver against a sandbox that misbehaves: nothing lost, nothing doubled, the states right.

What a line between the two does wrong stands in test_driver.py; here it is the server (ilink-protocol.md 15).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.account import Line, Receiver
from tests.contract.test_driver import HOLD, Bench, Client
from tests.contract.test_driver import impatient as impatient
from tests.deadline import eventually
from wxsup.client.drivers.ilink import login, wire
from wxsup.client.state import Login
from wxsup.sandbox.app import Sandbox
from wxsup.sandbox.world import WINDOW

HTML = "<html>A timeout occurred</html>"
DEAD = {"errcode": {"errcode": -14}, "ret": {"ret": -14}, "both": {"ret": -14, "errcode": -14}}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(login, "RETRY_FIRST", 0.05)
    with Sandbox(hold=HOLD) as sandbox, Line(sandbox.url) as line, Receiver() as receiver:
        bench = Bench("ilink", tmp_path, sandbox, line, receiver)
        yield bench
        bench.close()


def polls(bench: Bench) -> int:
    return len(bench.people.sent_by_clients("getupdates"))


def faulty(bench: Bench, call: str) -> int:
    """Return how many calls have gone wrong."""
    return sum(request["fault"] for request in bench.people.sent_by_clients(call))


def ids(bench: Bench) -> list[str]:
    """Return the ids of the received messages."""
    return [report["id"] for report in bench.receiver.got if report["post_type"] == "receive_message"]


# Receiving

OUTAGES: dict[str, dict[str, object]] = {
    "gateway": {"status": 524, "body": HTML},
    "too many requests": {"status": 429, "headers": {"Retry-After": "1"}},
    "empty": {"status": 200},
    "no JSON": {"status": 200, "body": "{"},
    "a list": {"status": 200, "body": "[]"},
    "nothing new": {"answer": {}},
    "refusal": {"answer": {"ret": -1, "errmsg": "busy"}},
    "refusal in errcode": {"answer": {"errcode": 7}},
    "hang up": {"close": "before"},
    "hang up after its effect": {"close": "before", "effect": True},
    "cut off": {"close": "middle"},
    "cut off after its effect": {"close": "middle", "effect": True},
    "late": {"hold": 0.3},
    "in drips": {"drip": 0.001},
}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
def test_a_poll_that_goes_wrong_loses_and_doubles_nothing(bench: Bench, outage: dict[str, object]) -> None:
    client = bench.talking()
    before = client.told()
    bench.people.do("misbehave", call="getupdates", times=2, **outage)
    texts = ["wakes the poll", "second", "third"]
    for text in texts:
        bench.people.say("alice", text)
    eventually(lambda: faulty(bench, "getupdates") == 2)
    eventually(lambda: client.heard() == ["hello", *texts])
    bench.people.say("alice", "after")
    eventually(lambda: client.heard()[4:] == ["after"])
    assert client.told()[: len(before)] == before
    assert all(report[0] == "receive_message" for report in client.told()[len(before) :])
    assert client.state.current is Login.RUNNING
    assert bench.people.pollers("alice")[1] == 1


@pytest.mark.parametrize("death", DEAD)
def test_a_token_that_is_dead_once_changes_nothing(bench: Bench, death: str) -> None:
    client = bench.talking()
    before = client.told()
    bench.people.do("misbehave", call="getupdates", answer=DEAD[death])
    bench.people.say("alice", "wakes the poll")
    eventually(lambda: len(bench.people.sent_by_clients("notifystart")) == 2, what="the revival")
    bench.people.say("alice", "goes on")
    eventually(lambda: client.heard() == ["hello", "wakes the poll", "goes on"])
    assert client.told()[len(before) :] == [("receive_message", "wakes the poll"), ("receive_message", "goes on")]


@pytest.mark.parametrize("death", DEAD)
def test_a_token_that_is_dead_for_good_is_seen_in_every_form(bench: Bench, death: str) -> None:
    client = bench.talking()
    bench.people.do("drop", user="alice", death=death)
    client.until(Login.SCANING)
    eventually(lambda: ("login", -1, "ret -14: session timeout") in client.told())
    bench.people.login("alice", 1)
    client.until(Login.RUNNING)
    bench.people.say("alice", "back")
    eventually(lambda: client.heard() == ["hello", "back"])


@pytest.mark.parametrize("hint", [1, 10**12, -5, "soon", None])
def test_no_hint_of_the_server_keeps_us_from_polling(bench: Bench, hint: object) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="getupdates", change={"longpolling_timeout_ms": hint}, times=0)
    for number in range(3):
        bench.people.say("alice", str(number))
        eventually(lambda number=number: client.heard()[-1] == str(number))  # type: ignore[misc]
    assert client.heard() == ["hello", "0", "1", "2"]
    assert bench.people.pollers("alice")[1] == 1


def test_a_server_that_holds_nothing_is_not_flooded(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="getupdates", answer={}, times=0)
    bench.people.say("alice", "wakes the poll")
    eventually(lambda: faulty(bench, "getupdates") >= 3)
    times = [request["time"] for request in bench.people.sent_by_clients("getupdates") if request["fault"]]
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) > 0.9
    bench.people.do("behave")
    bench.people.say("alice", "goes on")
    eventually(lambda: client.heard() == ["hello", "wakes the poll", "goes on"])


# Strange messages


@pytest.mark.parametrize("kept", [3, 2, 1, 0], ids=["message_id", "client_id", "seq", "nothing"])
def test_a_message_that_comes_again_is_reported_once(bench: Bench, kept: int) -> None:
    """Known again by the first of these that it has."""
    client = bench.talking()
    without = ("message_id", "client_id", "seq")[: 3 - kept]
    said = bench.people.do("say", user="alice", text="once", message=dict.fromkeys(without))
    eventually(lambda: client.heard() == ["hello", "once"])
    before = polls(bench)
    eventually(lambda: polls(bench) > before, what="the acknowledgement")
    bench.people.do("say_again", user="alice", n=said["n"])
    bench.people.say("alice", "after")
    eventually(lambda: client.heard()[2:] == ["after"])
    assert len(set(ids(bench))) == 3 and all(ids(bench))


def test_a_message_that_comes_again_after_a_restart_is_reported_once(bench: Bench) -> None:
    first = bench.talking()
    first.end()
    bench.people.do("say_again", user="alice", n=1)
    second = bench.start()
    bench.people.say("alice", "after")
    eventually(lambda: second.heard() == ["after"])


@pytest.mark.parametrize("message_id", [1, 2**53 + 1, 2**64 - 1])
def test_an_id_keeps_all_its_digits_and_is_one_as_number_and_as_text(bench: Bench, message_id: int) -> None:
    client = bench.talking()
    for form in (message_id, str(message_id)):
        bench.people.do("say", user="alice", text="once", message={"message_id": form})
    bench.people.say("alice", "after")
    eventually(lambda: client.heard() == ["hello", "once", "after"])
    assert ids(bench)[1] == str(message_id)


def test_messages_are_reported_as_they_come_whatever_their_seq(bench: Bench) -> None:
    client = bench.talking()
    for seq in (9, 3, 5, 3):
        bench.people.do("say", user="alice", text=f"number {seq}", message={"seq": seq})
    eventually(lambda: client.heard() == ["hello", "number 9", "number 3", "number 5", "number 3"])


def test_every_item_of_a_message_is_reported(bench: Bench) -> None:
    client = bench.talking()
    quote = {"svr_id": "5", "title": "what was said"}
    items: list[dict[str, Any]] = [
        {"type": 1, "text_item": {"text": "yes"}, "ref_msg": quote},
        {"type": 2, "image_item": {}},
        {"type": 99, "new_item": {}},
        {"type": 0},
        {},
        {"type": 1},
    ]
    said = bench.people.do("say", user="alice", text="many things", message={"item_list": items})
    bench.people.say("alice", "after")
    contents = ["yes", "[图片]", "[未知消息类型 99]", "[未知消息类型 0]", "[未知消息类型 None]", "", "after"]
    eventually(lambda: client.heard()[1:] == contents)
    assert ids(bench)[1:7] == [said["message_id"], *(f"{said['message_id']}-{number}" for number in range(2, 7))]


@pytest.mark.parametrize("strange", [{"message_type": 2}, {"group_id": "g@chatroom"}, {"from_user_id": None}])
def test_what_no_friend_wrote_is_no_message_of_one(bench: Bench, strange: dict[str, object]) -> None:
    client = bench.talking()
    left = client.send("one less")["sends_left"]
    bench.people.do("say", user="alice", text="not for us", message=strange)
    before = polls(bench)
    eventually(lambda: polls(bench) > before)
    assert client.friend()["sends_left"] == left, "it opens nothing"
    bench.people.say("alice", "after")
    eventually(lambda: client.heard() == ["hello", "after"])


def test_a_stranger_becomes_a_friend_who_is_told_from_the_owner(bench: Bench) -> None:
    client = bench.talking()
    for _ in range(2):
        bench.people.do("say", user="alice", text="hi", message={"from_user_id": "stranger@im.wechat"})
    bench.people.say("alice", "after")
    eventually(lambda: client.heard() == ["hello", "hi", "hi", "after"])
    assert [report for report in client.told() if report[0] == "new_friend"][1:] == [("new_friend", "stranger")]
    senders = [report["sender_id"] for report in bench.receiver.got if report["post_type"] == "receive_message"]
    assert senders == [bench.people.id_of("alice"), *["stranger@im.wechat"] * 2, bench.people.id_of("alice")]


# Sending

LOST: dict[str, dict[str, object]] = {
    "hang up": {"close": "before"},
    "cut off": {"close": "middle"},
    "gateway": {"status": 524, "body": HTML},
    "empty": {"status": 200},
}


@pytest.mark.parametrize("effect", [True, False])
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_send_whose_answer_is_lost_is_of_unknown_fate_and_not_repeated(
    bench: Bench, lost: dict[str, object], effect: bool
) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="sendmessage", effect=effect, times=2, **lost)
    refusal = client.refused("now")
    assert (refusal.code, refusal.fields["retryable"]) == (-28, False)
    client.promise("promised")
    eventually(lambda: ("promised", -28) in client.outgoing())
    client.send("after")
    assert bench.people.read("alice") == [*(["now", "promised"] if effect else []), "after"]
    assert client.friend()["sends_left"] == 7, "what may have been sent counts"
    assert len(bench.people.sent_by_clients("sendmessage")) == 3
    assert client.state.current is Login.RUNNING


@pytest.mark.parametrize("manner", [{"hold": 600}, {"drip": 600}], ids=["late", "in drips"])
def test_a_send_whose_answer_takes_too_long_is_of_unknown_fate(
    bench: Bench, manner: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SEND_TIMEOUT", 0.3)
    client = bench.talking()
    bench.people.do("misbehave", call="sendmessage", **manner)
    refusal = client.refused("hello")
    assert (refusal.code, refusal.fields["retryable"]) == (-28, False)
    assert bench.people.read("alice") == ["hello"]


@pytest.mark.parametrize("errmsg", ["prepare failed", "rate limited", "unknown error", ""])
def test_a_limit_is_passed_on_and_nothing_was_sent(bench: Bench, errmsg: str) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="sendmessage", answer={"ret": -2, "errmsg": errmsg})
    refusal = client.refused("hello")
    assert (refusal.code, refusal.fields["ret"], refusal.fields["errmsg"]) == (-26, -2, errmsg)
    assert client.send("hello")["sends_left"] == 9
    assert bench.people.read("alice") == ["hello"]


def test_a_server_that_is_throttling_says_for_how_long_and_nothing_was_sent(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="sendmessage", status=429, headers={"Retry-After": "7"})
    refusal = client.refused("hello")
    assert (refusal.code, refusal.fields["retry_after"], refusal.fields["retryable"]) == (-26, 7, True)
    assert client.friend()["sends_left"] == 10
    assert client.send("hello")["sends_left"] == 9


def test_a_poll_is_not_repeated_before_a_throttling_server_wants_it(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="getupdates", status=429, headers={"Retry-After": "1"})
    bench.people.say("alice", "one")
    polls = eventually(
        lambda: bench.people.sent_by_clients("getupdates"),
        holds=lambda polls: any(poll["fault"] for poll in polls[:-1]),
    )
    (refused,) = [number for number, poll in enumerate(polls) if poll["fault"]]
    assert polls[refused + 1]["time"] - polls[refused]["time"] >= 0.8
    eventually(lambda: client.heard() == ["hello", "one"])
    assert client.state.detail("last_error")["errmsg"] == "HTTP 429"


@pytest.mark.parametrize("change", [{"message_id": None}, {"ret": 0, "message_id": None}, {"message_id": ""}])
def test_a_send_without_a_message_id_is_accepted(bench: Bench, change: dict[str, object]) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="sendmessage", change=change)
    answer = client.send("hello")
    assert (answer["delivery"], answer["message_id"]) == ("accepted", "")
    assert (
        answer["id"]
        == answer["client_id"]
        == bench.people.sent_by_clients("sendmessage")[0]["body"]["msg"]["client_id"]
    )
    assert bench.people.read("alice") == ["hello"]


@pytest.mark.parametrize("death", DEAD)
def test_a_send_that_finds_the_token_dead_once_is_not_lost(bench: Bench, death: str) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="sendmessage", answer=DEAD[death])
    client.promise("hello")
    eventually(lambda: client.outgoing() == [("hello", "")])
    assert bench.people.read("alice") == ["hello"]
    assert client.friend()["sends_left"] == 9


def test_a_window_that_the_server_has_closed_opens_when_the_friend_writes(bench: Bench) -> None:
    """Though by our own clock it is open."""
    client = bench.talking()
    bench.people.do("clock", advance=WINDOW + 1)
    refusal = client.refused("too late")
    assert (refusal.fields["ret"], refusal.fields["errmsg"]) == (-2, "prepare failed")
    bench.people.say("alice", "go on")
    eventually(lambda: client.heard() == ["hello", "go on"])
    client.send("thank you")
    assert bench.people.read("alice") == ["thank you"]


# Login


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
def test_a_code_that_does_not_come_is_asked_for_again(bench: Bench, outage: dict[str, object]) -> None:
    bench.people.do("misbehave", call="get_bot_qrcode", times=2, **outage)
    client = bench.start()
    eventually(lambda: client.options.qrcode_path.exists())
    bench.people.login("alice")
    client.until(Login.RUNNING)
    assert faulty(bench, "get_bot_qrcode")


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
def test_a_status_that_does_not_come_is_asked_for_again(bench: Bench, outage: dict[str, object]) -> None:
    bench.people.do("misbehave", call="get_qrcode_status", user="alice", times=2, **outage)
    client = bench.start()
    key = bench.people.next_code()
    bench.people.scan(key, "alice")
    eventually(lambda: faulty(bench, "get_qrcode_status") == 2)
    bench.people.agree(key)
    client.until(Login.RUNNING)
    assert len(bench.people.codes()) == 1
    eventually(lambda: client.told()[-1:] == [("state_change", "updating", "running")])
    assert [report for report in client.told() if report[0] == "login"] == [("login", 1)]


@pytest.mark.parametrize("outage", ["gateway", "refusal", "cut off"])
def test_a_start_that_cannot_be_announced_is_a_start(bench: Bench, outage: str) -> None:
    bench.people.do("misbehave", call="notifystart", **OUTAGES[outage])
    client = bench.running()
    bench.people.say("alice", "hello")
    eventually(lambda: client.heard() == ["hello"])
    assert faulty(bench, "notifystart") == 1


@pytest.mark.parametrize("name", ["bot_token", "ilink_bot_id", "ilink_user_id"])
def test_a_confirmation_that_lacks_something_leads_to_another_code(bench: Bench, name: str) -> None:
    client = bench.start()
    bench.people.do("misbehave", call="get_qrcode_status", user="alice", change={name: None}, times=0)
    key = bench.people.next_code()
    bench.people.scan(key, "alice")
    eventually(lambda: faulty(bench, "get_qrcode_status"), what="a poll for the confirmation")
    bench.people.agree(key)
    bench.people.next_code(1)
    eventually(lambda: ("login", -1, "the confirmation is incomplete") in client.told())
    assert not client.options.cookie_path.exists()
    bench.people.do("behave")
    bench.people.login("alice", 1)
    client.until(Login.RUNNING)


def test_a_confirmation_without_a_baseurl_means_the_server_that_we_know(bench: Bench) -> None:
    client = bench.start()
    bench.people.do("misbehave", call="get_qrcode_status", change={"baseurl": None}, times=0)
    bench.people.login("alice")
    client.until(Login.RUNNING)
    bench.people.say("alice", "hello")
    eventually(lambda: client.heard() == ["hello"])


def test_a_stop_does_not_wait_for_a_server_that_is_late(bench: Bench) -> None:
    client: Client = bench.talking()
    bench.people.do("misbehave", call="getupdates", hold=600)
    bench.people.do("misbehave", call="notifystop", hold=600)
    bench.people.say("alice", "wakes the poll")
    eventually(lambda: faulty(bench, "getupdates"))
    assert client.end() < 2


# What is sent


def test_every_call_says_who_is_calling(bench: Bench) -> None:
    client = bench.talking()
    client.send("hello")
    client.end()
    for call in ("get_bot_qrcode", "get_qrcode_status", "getupdates", "sendmessage", "notifystart", "notifystop"):
        for request in bench.people.sent_by_clients(call):
            headers = request["headers"]
            assert (headers["ilink-app-id"], headers["ilink-app-clientversion"]) == ("bot", "132105")
            assert ("authorization" in headers) == (call not in ("get_bot_qrcode", "get_qrcode_status"))
    numbers = [request["headers"]["x-wechat-uin"] for request in bench.people.sent_by_clients("getupdates")]
    assert len(set(numbers)) == len(numbers) > 1
