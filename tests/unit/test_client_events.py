"""Delivery of reports: to post_api in order until each is taken, to check_event once, and through every failure."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.account import Receiver, options
from tests.deadline import eventually
from tests.ports import free_port
from tests.unit.upstream import Connection, Upstream, reply, replying
from wxsup.client import events as module
from wxsup.client.events import Events, as_list
from wxsup.client.store import Store

MakeEvents = Callable[..., Events]


class FullStore(Store):
    """A store whose disk is full while `full` names what is done."""

    full = ""

    def _fail(self, what: str) -> None:
        if self.full == what:
            raise sqlite3.OperationalError("database or disk is full")

    def add_event(self, body: dict[str, Any], *, to_post: bool, to_check: bool, check_limit: int) -> None:
        self._fail("add")
        super().add_event(body, to_post=to_post, to_check=to_check, check_limit=check_limit)

    def event_to_post(self) -> tuple[int, str] | None:
        self._fail("read")
        return super().event_to_post()

    def posted(self, number: int) -> None:
        self._fail("posted")
        super().posted(number)

    def checked(self, numbers: list[int]) -> None:
        self._fail("checked")
        super().checked(numbers)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.02)
    monkeypatch.setattr(module, "RETRY_MOST", 0.05)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FullStore]:
    store = FullStore(tmp_path / "account.sqlite")
    yield store
    store.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def make_events(store: Store, tmp_path: Path) -> Iterator[MakeEvents]:
    made: list[Events] = []

    def make(**given: object) -> Events:
        events = Events(store, options(tmp_path, **given))
        events.start()
        made.append(events)
        return events

    yield make
    store.full = ""  # type: ignore[attr-defined]
    for events in made:
        events.stop(grace=5)


def checked(events: Events) -> list[str]:
    """Fetch what check_event would, and settle it."""
    lent = events.lend()
    events.settle(lent, delivered=True)
    return [report["content"] for report in as_list(lent)]


def say(events: Events, content: str) -> None:
    events.message({"post_type": "receive_message", "content": content})


# post_api


def test_reports_are_posted_in_order_with_the_query_of_the_url(make_events: MakeEvents, receiver: Receiver) -> None:
    events = make_events(plugin_openwx_post_api=f"{receiver.url}?client=alice")
    for number in range(20):
        say(events, f"message {number}")
    eventually(lambda: len(receiver.got) == 20)
    assert [report["content"] for report in receiver.got] == [f"message {number}" for number in range(20)]
    assert set(receiver.queries) == {"client=alice"}


def test_a_report_that_is_not_taken_is_posted_again_and_holds_its_followers(
    make_events: MakeEvents, receiver: Receiver
) -> None:
    receiver.status = 500
    events = make_events(plugin_openwx_post_api=receiver.url)
    say(events, "first")
    say(events, "second")
    receiver.status = 200
    eventually(lambda: len(receiver.got) == 2)
    assert [report["content"] for report in receiver.got] == ["first", "second"]


def test_reports_wait_for_a_receiver_that_is_down(make_events: MakeEvents) -> None:
    port = free_port()
    events = make_events(plugin_openwx_post_api=f"http://127.0.0.1:{port}/reports")
    say(events, "early")
    with Receiver(port) as receiver:
        eventually(lambda: receiver.got)
        say(events, "late")
        eventually(lambda: len(receiver.got) == 2)
    assert [report["content"] for report in receiver.got] == ["early", "late"]


def test_what_was_not_posted_is_posted_by_the_next_process(
    make_events: MakeEvents, receiver: Receiver, store: Store, tmp_path: Path
) -> None:
    receiver.status = 503
    first = Events(store, options(tmp_path, plugin_openwx_post_api=receiver.url))
    say(first, "kept")
    first.stop(grace=1)
    receiver.status = 200
    make_events(plugin_openwx_post_api=receiver.url)
    eventually(lambda: [report["content"] for report in receiver.got] == ["kept"])


def test_a_stop_posts_what_is_left_before_it_returns(make_events: MakeEvents, receiver: Receiver) -> None:
    events = make_events(plugin_openwx_post_api=receiver.url)
    events.event("stop")
    events.stop(grace=20)
    assert receiver.events() == [("stop",)]


def test_a_stop_does_not_wait_for_a_receiver_that_hangs(make_events: MakeEvents) -> None:
    done = threading.Event()

    def hang(connection: Connection) -> None:
        connection.request()
        done.wait(20)

    with Upstream(hang) as server:
        events = make_events(plugin_openwx_post_api="http://{}:{}/".format(*server.address))
        say(events, "unheard")
        eventually(lambda: server.requests)
        events.stop(grace=0.1)
        eventually(lambda: not any(thread.name == "post" for thread in threading.enumerate()), timeout=5)
        done.set()


@pytest.mark.parametrize("what", ["read", "posted"])
def test_the_poster_survives_a_full_disk(
    make_events: MakeEvents, receiver: Receiver, store: FullStore, what: str
) -> None:
    events = make_events(plugin_openwx_post_api=receiver.url)
    say(events, "before")
    eventually(lambda: len(receiver.got) == 1 and store.event_to_post() is None)
    store.full = what
    if what == "posted":
        say(events, "meanwhile")
        eventually(lambda: len(receiver.got) == 2)
    else:
        events.announce()
    store.full = ""
    say(events, "after")
    eventually(lambda: receiver.got[-1]["content"] == "after")
    contents = [report["content"] for report in receiver.got]
    assert contents == sorted(set(contents), key=contents.index), "what the store did not note was posted again"


def test_a_report_that_the_disk_does_not_take_is_lost_loudly_and_hurts_nobody(
    make_events: MakeEvents, store: FullStore, caplog: pytest.LogCaptureFixture
) -> None:
    events = make_events()
    store.full = "add"
    say(events, "lost")
    store.full = ""
    say(events, "kept")
    assert checked(events) == ["kept"]
    assert "report lost" in caplog.messages


def test_inside_a_transaction_a_full_disk_is_the_callers_business(make_events: MakeEvents, store: FullStore) -> None:
    events = make_events()
    store.full = "add"
    with pytest.raises(sqlite3.OperationalError), store.transaction():
        store.set("cursor", "advanced")
        say(events, "not kept")
    assert store.get("cursor") == ""


# check_event


def test_events_are_switched_off_messages_are_not(make_events: MakeEvents) -> None:
    events = make_events(plugin_openwx_post_event="0")
    events.event("new_friend", {})
    say(events, "hello")
    assert checked(events) == ["hello"]


@pytest.mark.parametrize("name", sorted(module.NOT_CHECKED))
def test_some_events_are_only_posted(make_events: MakeEvents, receiver: Receiver, name: str) -> None:
    events = make_events(plugin_openwx_post_api=receiver.url)
    events.event(name)
    say(events, "hello")
    assert checked(events) == ["hello"]
    eventually(lambda: len(receiver.got) == 2)


def test_a_waiting_caller_gets_what_comes(make_events: MakeEvents) -> None:
    events = make_events()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(checked, events)
        say(events, "news")
        assert answer.result(20) == ["news"]


def test_of_many_waiting_callers_each_gets_something_else(make_events: MakeEvents) -> None:
    events = make_events()
    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(checked, events) for _ in range(10)]
        for number in range(10):
            say(events, f"message {number}")
            eventually(lambda number=number: sum(answer.done() for answer in answers) > number)  # type: ignore[misc]
    assert sorted(content for answer in answers for content in answer.result()) == [
        f"message {number}" for number in range(10)
    ]


def test_nothing_in_time_is_an_empty_list(make_events: MakeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD", 0.05)
    assert checked(make_events()) == []


def test_a_stop_lets_waiting_callers_go(make_events: MakeEvents) -> None:
    events = make_events()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(checked, events)
        events.stop(grace=0)
        assert answer.result(5) == []


def test_what_could_not_be_delivered_is_there_for_the_next_caller(make_events: MakeEvents) -> None:
    events = make_events()
    say(events, "hello")
    lent = events.lend()
    with ThreadPoolExecutor() as pool:
        next_one = pool.submit(checked, events)
        events.settle(lent, delivered=False)
        assert next_one.result(20) == ["hello"]


def test_a_caller_who_has_hung_up_gets_nothing(make_events: MakeEvents) -> None:
    events = make_events()
    with ThreadPoolExecutor() as pool:
        gone = pool.submit(events.lend, lambda: False)
        say(events, "hello")
        assert gone.result(20) == []
    assert checked(events) == ["hello"]


def test_a_delivery_that_the_store_does_not_note_is_made_again(
    make_events: MakeEvents, store: FullStore, caplog: pytest.LogCaptureFixture
) -> None:
    events = make_events()
    say(events, "hello")
    store.full = "checked"
    assert checked(events) == ["hello"]
    assert "delivered events stay" in caplog.messages
    store.full = ""
    assert checked(events) == ["hello"]


def test_an_open_transaction_and_waiting_callers_do_not_block_one_another(
    make_events: MakeEvents, receiver: Receiver, store: Store
) -> None:
    events = make_events(plugin_openwx_post_api=receiver.url)
    with ThreadPoolExecutor(9) as pool:
        callers = [pool.submit(checked, events) for _ in range(8)]
        for number in range(200):
            with store.transaction():
                say(events, f"message {number}")
            events.announce()
        eventually(lambda: len(receiver.got) == 200)
        events.stop(grace=20)
        found = [content for caller in callers for content in caller.result(20)]
    assert len(found) == len(set(found))


# poll_api


def test_the_heartbeat_asks_again_and_again_and_follows_nothing(make_events: MakeEvents) -> None:
    answer = reply(status="302 Found", headers=("Location: http://127.0.0.1:1/openwx/stop_client",))
    with Upstream(replying(answer)) as server:
        events = make_events(
            plugin_openwx_poll_api="http://{}:{}/poll?client=alice".format(*server.address),
            plugin_openwx_poll_interval="1",
        )
        eventually(lambda: len(server.requests) == 2)
        events.stop(grace=1)
    assert {request.line for request in server.requests} == {"GET /poll?client=alice HTTP/1.1"}
