"""Reports taken in, and given out by check_event: to one caller each, or to any number of readers with a cursor."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.account import FragileStore, Receiver
from tests.deadline import eventually
from tests.unit.conftest import MakeEvents
from wxsup.client import events as module
from wxsup.client.events import Events
from wxsup.client.store import Store
from wxsup.client.store.outbox import Report


def contents(reports: list[Report]) -> list[str]:
    return [report.body["content"] for report in reports]


def checked(events: Events) -> list[str]:
    """Fetch what check_event would, and settle it."""
    lent = events.lend()
    events.settle(lent, delivered=True)
    return contents(lent)


def say(events: Events, content: str) -> None:
    events.message({"post_type": "receive_message", "content": content}, "anne")


def test_a_report_that_the_disk_does_not_take_is_lost_loudly_and_hurts_nobody(
    make_events: MakeEvents, store: FragileStore, caplog: pytest.LogCaptureFixture
) -> None:
    events = make_events()
    store.broken = "write"
    say(events, "lost")
    store.broken = ""
    say(events, "kept")
    assert checked(events) == ["kept"]
    assert "report lost" in caplog.messages


def test_inside_a_transaction_a_full_disk_is_the_callers_business(
    make_events: MakeEvents, store: FragileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **more: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    events = make_events()
    monkeypatch.setattr(store.outbox, "add", full)
    with pytest.raises(sqlite3.OperationalError), store.transaction():
        store.set("cursor", "advanced")
        say(events, "not kept")
    assert store.get("cursor") == ""


def test_events_are_switched_off_messages_are_not(make_events: MakeEvents) -> None:
    events = make_events(plugin_openwx_post_event="0")
    events.event("new_friend", {})
    say(events, "hello")
    assert checked(events) == ["hello"]


# check_event, one list for all callers


@pytest.mark.parametrize("name", sorted(module.NOT_CHECKED))
def test_some_events_are_only_posted(make_events: MakeEvents, receiver: Receiver, name: str) -> None:
    events = make_events(plugin_openwx_post_api=receiver.url)
    events.event(name)
    say(events, "hello")
    assert checked(events) == ["hello"]
    assert contents(events.after("")[0]) == ["hello"]
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
        answer, reader = pool.submit(checked, events), pool.submit(events.after, "")
        events.stop(grace=0)
        assert answer.result(5) == []
        assert reader.result(5) == ([], False)


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
    make_events: MakeEvents, store: FragileStore, caplog: pytest.LogCaptureFixture
) -> None:
    events = make_events()
    say(events, "hello")
    store.broken = "write"
    assert checked(events) == ["hello"]
    assert "delivered events stay" in caplog.messages
    store.broken = ""
    assert checked(events) == ["hello"]


def test_only_the_newest_are_kept_for_a_caller_who_stays_away(make_events: MakeEvents) -> None:
    events = make_events(check_event_list_max_size="3")
    for number in range(5):
        say(events, f"message {number}")
    assert checked(events) == ["message 2", "message 3", "message 4"]


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


# check_event, readers with a cursor


def test_each_reader_sees_everything_whatever_others_fetch(make_events: MakeEvents) -> None:
    events = make_events()
    for number in range(3):
        say(events, f"message {number}")
    everything = ["message 0", "message 1", "message 2"]
    assert checked(events) == everything
    for _ in range(2):
        found, missed = events.after("")
        assert (contents(found), missed) == (everything, False)
    found, missed = events.after(found[0].id)
    assert (contents(found), missed) == (everything[1:], False)


def test_all_waiting_readers_get_what_comes_and_go_on_from_there(make_events: MakeEvents) -> None:
    events = make_events()
    say(events, "old")
    (old,), _ = events.after("")
    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(events.after, old.id) for _ in range(5)]
        say(events, "new")
        found = [reader.result(20) for reader in readers]
    assert [contents(reports) for reports, _ in found] == [["new"]] * 5
    assert {missed for _, missed in found} == {False}
    assert len({reports[0].id for reports, _ in found}) == 1


def test_what_a_reader_has_seen_does_not_come_again_in_a_new_process(make_events: MakeEvents, store: Store) -> None:
    events = make_events()
    say(events, "seen")
    (seen,), _ = events.after("")
    second = make_events()
    say(second, "unseen")
    found, missed = second.after(seen.id)
    assert (contents(found), missed) == (["unseen"], False)


def test_a_reader_who_was_away_for_too_long_is_told_so(make_events: MakeEvents) -> None:
    events = make_events(check_event_log_max_size="2", check_event_list_max_size="1000")
    say(events, "message 0")
    (first,), _ = events.after("")
    say(events, "message 1")
    assert events.after(first.id)[1] is False
    for number in (2, 3):
        say(events, f"message {number}")
    found, missed = events.after(first.id)
    assert (contents(found), missed) == (["message 2", "message 3"], True)
    found, missed = events.after(found[0].id)
    assert (contents(found), missed) == (["message 3"], False)


@pytest.mark.parametrize("id_", ["nonsense", "-1", "00000000-1", "{name}-999999", "{name}-0", "{name}-١", "{name}--1"])
def test_a_cursor_that_we_never_gave_out_is_before_everything(make_events: MakeEvents, store: Store, id_: str) -> None:
    events = make_events()
    say(events, "hello")
    found, missed = events.after(id_.replace("{name}", store.get("name")))
    assert (contents(found), missed) == (["hello"], True)


def test_a_reader_waits_in_vain_for_a_while_only(make_events: MakeEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD", 0.05)
    events = make_events()
    assert events.after("") == ([], False)
    say(events, "hello")
    (newest,), _ = events.after("")
    assert events.after(newest.id) == ([], False)


def test_a_report_has_one_id_wherever_it_is_delivered(make_events: MakeEvents, receiver: Receiver) -> None:
    events = make_events(plugin_openwx_post_api=receiver.url)
    say(events, "hello")
    (posted,) = eventually(lambda: list(receiver.got))
    (lent,), (read,) = events.lend(), events.after("")[0]
    assert posted == lent.body == read.body
    assert posted["event_id"] == lent.id == read.id
