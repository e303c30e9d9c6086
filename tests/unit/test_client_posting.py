"""Reports to post_api: in order until each is taken, signed, given up at last, and answered at most once."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.account import FragileStore, Receiver, options
from tests.deadline import eventually
from tests.ports import free_port
from tests.unit.conftest import MakeEvents
from tests.unit.upstream import Connection, Upstream, reply, replying
from wxsup.client import posting as module
from wxsup.client.events import Events
from wxsup.client.store import Store
from wxsup.errors import CallFailed

KEY = "a secret of some length"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.02)
    monkeypatch.setattr(module, "RETRY_MOST", 0.05)


def say(events: Events, content: str, conversation: str = "anne") -> None:
    events.message({"post_type": "receive_message", "content": content}, conversation)


def served(store: Store) -> bool:
    return store.outbox.count("to_post") == 0


def dead(store: Store) -> list[tuple[str, str]]:
    return [(report.body["content"], reason) for report, reason in store.outbox.dead_letters(0, 100)]


# In order, until each is taken


def test_reports_are_posted_in_order_with_the_query_of_the_url(make_events: MakeEvents, receiver: Receiver) -> None:
    events = make_events(f"{receiver.url}?client=alice")
    for number in range(20):
        say(events, f"message {number}")
    eventually(lambda: len(receiver.got) == 20)
    assert receiver.contents() == [f"message {number}" for number in range(20)]
    assert set(receiver.queries) == {"client=alice"}


@pytest.mark.parametrize("status", [300, 400, 404, 429, 500, 503])
def test_a_report_that_is_not_taken_is_posted_again_and_holds_its_followers(
    make_events: MakeEvents, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    events = make_events(receiver.url)
    say(events, "first")
    say(events, "second")
    eventually(lambda: len(receiver.posts) == 3)
    assert {post.report["content"] for post in receiver.posts} == {"first"}
    receiver.status = 200
    eventually(lambda: len(receiver.got) == 2)
    assert receiver.contents() == ["first", "second"]


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_every_success_is_one(make_events: MakeEvents, receiver: Receiver, store: Store, status: int) -> None:
    receiver.status = status
    events = make_events(receiver.url)
    say(events, "hello")
    eventually(lambda: served(store))
    assert len(receiver.posts) == 1


def test_a_conversation_that_is_not_taken_holds_back_only_itself(
    make_events: MakeEvents, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.5)
    monkeypatch.setattr(module, "RETRY_MOST", 600.0)
    refused = ["poison"]
    receiver.answer = lambda report: 500 if report.get("content") in refused else 200
    events = make_events(receiver.url)
    for number in range(5):
        say(events, "poison" if number == 0 else f"anne {number}", "anne")
        say(events, f"mia {number}", "mia")
        events.event("new_friend", {"name": str(number)})
    eventually(lambda: len(receiver.got) == 10)
    assert receiver.contents() == [f"mia {number}" for number in range(5)]
    assert [post.report.get("content") for post in receiver.posts].count("poison") <= 2
    refused.clear()
    eventually(lambda: len(receiver.got) == 15)
    assert receiver.contents()[5:] == ["poison", *(f"anne {number}" for number in range(1, 5))]


def test_conversations_that_hang_do_not_hold_up_one_that_is_taken(
    make_events: MakeEvents, receiver: Receiver, store: FragileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POST_TIMEOUT", 0.2)
    free = threading.Event()

    def answer(report: dict[str, Any]) -> int:
        if report["content"] == "bad":
            free.wait(20)
        return 200

    receiver.answer = answer
    events = make_events(receiver.url)
    for number in range(3):
        say(events, "bad", f"bad {number}")
    eventually(lambda: len(receiver.posts) >= 6, what="all of them to have been refused")
    before = len(receiver.posts)
    with store.transaction():
        for _ in range(20):
            say(events, "good", "good")
    events.announce()
    eventually(lambda: [post.report["content"] for post in receiver.posts].count("good") == 20)
    posts = [post.report["content"] for post in receiver.posts[before:]]
    between = posts[posts.index("good") : len(posts) - posts[::-1].index("good")]
    free.set()
    assert between == ["good"] * 20


def test_one_that_hangs_gets_its_turn_although_others_are_never_done(
    make_events: MakeEvents, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.05)
    stop = threading.Event()
    receiver.answer = lambda report: 500 if report["content"] == "bad" else 200
    events = make_events(receiver.url)

    def talk() -> None:
        while not stop.wait(0.002):
            say(events, "good", "good")

    talker = threading.Thread(target=talk)
    talker.start()
    say(events, "bad", "bad")
    try:
        eventually(lambda: [post.report["content"] for post in receiver.posts].count("bad") >= 3)
    finally:
        stop.set()
        talker.join()
        receiver.answer = lambda report: 200


def test_while_nothing_is_taken_all_conversations_together_are_tried_at_intervals(
    make_events: MakeEvents, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.25)
    monkeypatch.setattr(module, "RETRY_MOST", 0.25)
    receiver.status = 503
    events = make_events(receiver.url)
    for number in range(50):
        say(events, "hello", f"friend {number}")
    eventually(lambda: len(receiver.posts) == 4)
    times = [post.at for post in receiver.posts]
    assert all(later - earlier >= 0.19 for earlier, later in zip(times, times[1:], strict=False)), times
    receiver.status = 200
    eventually(lambda: len(receiver.got) == 50)


def test_pauses_grow_up_to_a_limit_and_begin_anew_after_a_success(
    make_events: MakeEvents, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    def pauses() -> list[float]:
        return [vars(record)["retry_in"] for record in caplog.records if record.message == "report not taken"]

    receiver.status = 500
    events = make_events(receiver.url)
    say(events, "first")
    eventually(lambda: len(pauses()) >= 4)
    assert pauses()[:4] == [0.02, 0.04, 0.05, 0.05]
    receiver.status = 200
    eventually(lambda: receiver.got)
    receiver.status = 500
    caplog.clear()
    say(events, "second")
    eventually(pauses)
    assert pauses()[0] == 0.02
    receiver.status = 200


def test_pauses_differ_so_that_not_all_clients_come_back_at_once(
    make_events: MakeEvents, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 1.0

    monkeypatch.setattr(random, "uniform", uniform)
    receiver.status = 500
    events = make_events(receiver.url)
    say(events, "hello")
    eventually(lambda: len(receiver.posts) == 2)
    assert drawn and all(low < 1 < high for low, high in drawn)
    receiver.status = 200


def test_reports_wait_for_a_receiver_that_is_down(make_events: MakeEvents) -> None:
    port = free_port()
    events = make_events(f"http://127.0.0.1:{port}/reports")
    say(events, "early")
    with Receiver(port) as receiver:
        eventually(lambda: receiver.got)
        say(events, "late")
        eventually(lambda: len(receiver.got) == 2)
    assert receiver.contents() == ["early", "late"]


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed_and_the_report_not_taken(
    make_events: MakeEvents, receiver: Receiver, store: Store, status: str
) -> None:
    redirect = reply(status=status, headers=(f"Location: {receiver.url}",))
    with Upstream(replying(redirect, redirect, reply())) as server:
        events = make_events("http://{}:{}/".format(*server.address))
        say(events, "hello")
        eventually(lambda: served(store))
        assert len(server.requests) == 3
        events.stop(grace=5)
    assert receiver.posts == []


def test_a_receiver_that_breaks_off_gets_it_again(make_events: MakeEvents, store: Store) -> None:
    with Upstream(breaking_off(3)) as server:
        events = make_events("http://{}:{}/".format(*server.address))
        for number in range(3):
            say(events, f"message {number}")
        eventually(lambda: served(store))
        contents = [json.loads(request.body)["content"] for request in server.requests]
        events.stop(grace=5)
    assert list(dict.fromkeys(contents)) == ["message 0", "message 1", "message 2"]


def breaking_off(times: int) -> Callable[[Connection], None]:
    """Break off the first connections in the middle of the answer; keep the others."""

    def handle(connection: Connection) -> None:
        while connection.request() is not None:
            if connection.number <= times:
                connection.send(reply()[:-1])
                return
            connection.send(reply())

    return handle


def test_what_was_not_posted_is_posted_by_the_next_process_under_the_same_id(
    make_events: MakeEvents, receiver: Receiver, store: Store, tmp_path: Path
) -> None:
    receiver.status = 503
    first = Events(store, options(tmp_path, plugin_openwx_post_api=receiver.url))
    first.start()
    say(first, "kept")
    eventually(lambda: receiver.posts)
    first.stop(grace=5)
    receiver.status = 200
    make_events(receiver.url)
    eventually(lambda: receiver.contents() == ["kept"])
    assert len({post.headers["X-Event-Id"] for post in receiver.posts}) == 1


def test_each_report_carries_an_id_of_its_own_in_body_and_header(make_events: MakeEvents, receiver: Receiver) -> None:
    refuse = [500, 500]
    receiver.answer = lambda report: refuse.pop() if refuse else 200
    events = make_events(receiver.url)
    say(events, "hello")
    say(events, "hello")
    events.event("stop")
    eventually(lambda: len(receiver.got) == 3)
    assert {post.headers["X-Event-Id"] == post.report["event_id"] for post in receiver.posts} == {True}
    assert len({report["event_id"] for report in receiver.got}) == 3
    assert len({post.report["event_id"] for post in receiver.posts}) == 3


# Its end


def test_a_stop_posts_what_is_left_before_it_returns(make_events: MakeEvents, receiver: Receiver) -> None:
    events = make_events(receiver.url)
    for number in range(20):
        say(events, f"message {number}")
    events.event("stop")
    events.stop(grace=20)
    assert receiver.events() == [*(("receive_message", f"message {number}") for number in range(20)), ("stop",)]


def test_a_stop_does_not_wait_for_a_receiver_that_hangs(make_events: MakeEvents) -> None:
    done = threading.Event()

    def hang(connection: Connection) -> None:
        connection.request()
        done.wait(20)

    with Upstream(hang) as server:
        events = make_events("http://{}:{}/".format(*server.address))
        say(events, "unheard")
        eventually(lambda: server.requests)
        events.stop(grace=0.1)
        eventually(lambda: not any(thread.name == "post" for thread in threading.enumerate()), timeout=5)
        done.set()


def test_a_stop_does_not_wait_for_the_end_of_a_pause(
    make_events: MakeEvents, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 600.0)
    monkeypatch.setattr(module, "RETRY_MOST", 600.0)
    receiver.status = 500
    events = make_events(receiver.url)
    for number in range(50):
        say(events, "hello", str(number))
    eventually(lambda: "report not taken" in caplog.messages)
    began = time.monotonic()
    events.stop(grace=20)
    assert time.monotonic() - began < 5
    assert len(receiver.posts) == 1


# A disk that fails


@pytest.mark.parametrize("broken", ["read", "write"])
def test_the_poster_survives_a_disk_that_fails_and_posts_nothing_twice(
    make_events: MakeEvents, receiver: Receiver, store: FragileStore, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    held = threading.Event()

    def answer(report: dict[str, Any]) -> int:
        if report["content"] == "meanwhile":
            held.wait(20)
        return 200

    receiver.answer = answer
    events = make_events(receiver.url)
    say(events, "before")
    eventually(lambda: served(store))
    say(events, "meanwhile")
    eventually(lambda: len(receiver.posts) == 2)
    store.broken = broken
    held.set()
    eventually(lambda: any(vars(r).get("reason", "").startswith("store: ") for r in list(caplog.records)))
    store.broken = ""
    say(events, "after")
    eventually(lambda: served(store))
    assert receiver.contents() == ["before", "meanwhile", "after"]


# Signatures


def test_with_a_key_every_post_is_signed_over_time_and_body(make_events: MakeEvents, receiver: Receiver) -> None:
    refuse = [500]
    receiver.answer = lambda report: refuse.pop() if refuse else 200
    events = make_events(receiver.url, KEY)
    say(events, "你好 😀")
    eventually(lambda: receiver.got)
    assert len(receiver.posts) == 2
    for post in receiver.posts:
        timestamp = post.headers["X-Timestamp"]
        expected = hmac.new(KEY.encode(), timestamp.encode() + b"." + post.content, hashlib.sha256).hexdigest()
        assert post.headers["X-Signature"] == expected
        assert abs(int(timestamp) - time.time()) < 60
        assert KEY not in str(post.headers) + post.content.decode()


def test_the_signature_is_the_one_that_other_tools_compute() -> None:
    """``printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key``"""
    expected = "a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03"
    assert module.signature(b"key", "1700000000", b'{"a":1}') == expected


def test_without_a_key_nothing_is_signed(make_events: MakeEvents, receiver: Receiver) -> None:
    events = make_events(receiver.url)
    say(events, "hello")
    eventually(lambda: receiver.got)
    (post,) = receiver.posts
    assert (post.headers["X-Signature"], post.headers["X-Timestamp"]) == (None, None)
    assert post.headers["Content-Type"] == "application/json"


# Bounds, and what lies beyond them


def test_of_too_many_reports_the_oldest_are_given_up_and_can_be_listed(
    make_events: MakeEvents, receiver: Receiver, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 500
    events = make_events(receiver.url, post_max_size="3")
    for number in range(5):
        say(events, f"message {number}")
    assert dead(store) == [("message 0", "too many reports waited"), ("message 1", "too many reports waited")]
    assert store.outbox.count("to_post") == 3
    assert caplog.messages.count("reports given up") == 2
    receiver.status = 200
    eventually(lambda: served(store))
    assert receiver.contents() == ["message 2", "message 3", "message 4"]


def test_a_report_that_waited_for_too_long_is_given_up_and_those_behind_it_go_on(
    make_events: MakeEvents, receiver: Receiver, store: Store
) -> None:
    receiver.answer = lambda report: 500 if report["content"] == "poison" else 200
    events = make_events(receiver.url, post_max_age="1")
    say(events, "poison")
    eventually(lambda: len(receiver.posts) >= 3)
    eventually(lambda: time.monotonic() - receiver.posts[0].at > 0.5, what="half a second later")
    say(events, "behind it")
    eventually(lambda: receiver.contents() == ["behind it"])
    assert dead(store) == [("poison", "it waited too long")]


def test_dead_letters_are_replayed_at_once_in_their_old_order_under_their_old_ids(
    make_events: MakeEvents, receiver: Receiver, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 600.0)
    monkeypatch.setattr(module, "RETRY_MOST", 600.0)
    receiver.status = 500
    events = make_events(receiver.url, post_max_size="2")
    for number in range(4):
        say(events, f"message {number}")
    eventually(lambda: receiver.posts)
    ids = [report.id for report, _ in store.outbox.dead_letters(0, 100)]
    assert len(ids) == 2
    receiver.status = 200
    assert events.replay() == 2
    eventually(lambda: served(store))
    assert receiver.contents() == [f"message {number}" for number in range(4)]
    assert [report["event_id"] for report in receiver.got][:2] == ids
    assert (dead(store), events.replay()) == ([], 0)


def test_without_a_post_api_nothing_waits_for_it_and_nothing_is_replayed(
    make_events: MakeEvents, store: FragileStore
) -> None:
    events = make_events(f"http://127.0.0.1:{free_port()}/")
    say(events, "of the time before")
    events.stop(grace=0)
    without = make_events("")
    assert dead(store) == [("of the time before", "it waited too long")]
    with pytest.raises(CallFailed, match="there is no post_api"):
        without.replay()
    assert store.outbox.count("to_post") == 0


def test_one_dead_letter_is_replayed_and_the_others_stay(
    make_events: MakeEvents, receiver: Receiver, store: Store
) -> None:
    receiver.status = 500
    events = make_events(receiver.url, post_max_size="1")
    for number in range(4):
        say(events, f"message {number}")
    eventually(lambda: receiver.posts)
    (_, (second, _), _) = store.outbox.dead_letters(0, 100)
    receiver.status = 200
    eventually(lambda: served(store))
    assert events.replay(second.number) == 1
    eventually(lambda: receiver.contents() == ["message 3", "message 1"])
    assert [content for content, _ in dead(store)] == ["message 0", "message 2"]
    assert events.replay(second.number) == 0


# What a receiver answers (openwx-api.md 6.6)


@pytest.fixture
def replies(make_events: MakeEvents, receiver: Receiver) -> tuple[Events, list[tuple[str, str, str]]]:
    events = make_events(receiver.url)
    found: list[tuple[str, str, str]] = []

    def replied(report: dict[str, Any], text: str, media: str) -> Callable[[], None]:
        found.append((report["content"], text, media))
        return lambda: found.append(("committed", "", ""))

    events.poster.replied = replied
    return events, found


@pytest.mark.parametrize(
    ("answer", "text", "media"),
    [
        ('{"reply": "hi"}', "hi", ""),
        ('{"reply": "你好 😀", "code": 7, "more": []}', "你好 😀", ""),
        ('{"media": "http://h/x.png"}', "", "http://h/x.png"),
        ('{"reply": "look", "media": "http://h/x.png"}', "look", "http://h/x.png"),
        ('{"reply": "hi", "media": null}', "hi", ""),
        ('{"reply": "half \\ud83d"}', "half ?", ""),
        ('{"reply": "nul \\u0000"}', "nul \x00", ""),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/json; charset=utf-8", "Application/JSON"])
def test_an_answer_to_a_received_message_is_sent_back_once(
    replies: tuple[Events, list[tuple[str, str, str]]],
    receiver: Receiver,
    store: Store,
    answer: str,
    text: str,
    media: str,
    content_type: str,
) -> None:
    events, found = replies
    receiver.answer, receiver.content_type = (lambda report: answer), content_type
    say(events, "hello")
    eventually(lambda: served(store))
    eventually(lambda: found[-1:] == [("committed", "", "")])
    assert found == [("hello", text, media), ("committed", "", "")]
    assert len(receiver.posts) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "null",
        "[]",
        '["reply"]',
        '"reply"',
        "7",
        "{}",
        '{"reply": ""}',
        '{"reply": null, "media": ""}',
        '{"reply": 5}',
        '{"reply": ["hi"]}',
        '{"reply": {"reply": "hi"}}',
        '{"reply": "hi", "media": 5}',
        '{"reply": "hi"',
        "reply",
        "[" * 100_000,
        "9" * 10_000,
        '{"Reply": "hi"}',
    ],
    ids=lambda answer: answer[:20],
)
def test_any_other_answer_is_none_and_the_report_taken(
    replies: tuple[Events, list[tuple[str, str, str]]], receiver: Receiver, store: Store, answer: str
) -> None:
    events, found = replies
    receiver.answer = lambda report: answer
    say(events, "hello")
    eventually(lambda: served(store))
    say(events, "the poster still lives")
    eventually(lambda: served(store))
    assert found == []
    assert len(receiver.posts) == 2


def test_an_answer_of_another_type_is_none(
    replies: tuple[Events, list[tuple[str, str, str]]], receiver: Receiver, store: Store
) -> None:
    events, found = replies
    receiver.answer, receiver.content_type = (lambda report: '{"reply": "hi"}'), "text/html"
    say(events, "hello")
    eventually(lambda: served(store))
    assert found == []


def test_only_answers_to_received_messages_count(
    replies: tuple[Events, list[tuple[str, str, str]]], receiver: Receiver, store: Store
) -> None:
    """A receiver that answers everything would otherwise talk to itself for ever."""
    events, found = replies
    receiver.answer = lambda report: '{"reply": "hi"}'
    events.message({"post_type": "send_message", "content": "we wrote"}, "anne")
    events.event("new_friend", {"name": "anne"})
    eventually(lambda: served(store))
    say(events, "they wrote")
    eventually(lambda: served(store))
    eventually(lambda: len(found) == 2)
    assert [content for content, _, _ in found] == ["they wrote", "committed"]


def test_an_answer_and_that_its_report_was_taken_are_kept_together_or_not_at_all(
    make_events: MakeEvents, receiver: Receiver, store: Store
) -> None:
    events = make_events(receiver.url)
    calls: list[bool] = []

    def replied(report: dict[str, Any], text: str, media: str) -> Callable[[], None]:
        calls.append(store.in_transaction)
        store.letterbox.add({"text": text})
        if len(calls) < 3:
            raise sqlite3.OperationalError("database or disk is full")
        return lambda: calls.append(store.in_transaction)

    events.poster.replied = replied
    receiver.answer = lambda report: '{"reply": "hi"}'
    say(events, "hello")
    eventually(lambda: served(store))
    eventually(lambda: len(calls) == 4)
    assert calls == [True, True, True, False]
    assert store.letterbox.count() == 1
    assert len(receiver.posts) == 1


def test_a_defect_stops_no_other_reports(
    make_events: MakeEvents, receiver: Receiver, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def replied(report: dict[str, Any], text: str, media: str) -> Callable[[], None]:
        if broken:
            raise RuntimeError("a defect")
        return lambda: None

    broken = [True]
    events = make_events(receiver.url)
    events.poster.replied = replied
    receiver.answer = lambda report: '{"reply": "hi"}' if report["content"] == "poison" else 200
    say(events, "poison")
    say(events, "hello", "mia")
    eventually(lambda: "hello" in receiver.contents())
    assert "post failed" in caplog.messages
    broken.clear()
    eventually(lambda: served(store))
