"""What goes out: once, in order per friend, tried again only where it certainly did not go out, kept when promised."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.account import ANNE, OWNER, FragileStore, Remembering, options, texts
from tests.deadline import eventually
from wxsup.client import sendqueue as module
from wxsup.client.answering import Answers
from wxsup.client.events import Events
from wxsup.client.letters import Part
from wxsup.client.media import media_folder
from wxsup.client.sendqueue import SendQueue
from wxsup.client.state import LoginState
from wxsup.errors import (
    CallFailed,
    ContentRejected,
    DeliveryUnknown,
    NotLoggedIn,
    NotSent,
    QuotaUsed,
    RateLimited,
    RemoteRefusal,
    WindowClosed,
)


class Client:
    """A queue over a driver that remembers; `restart` is another process on the same files."""

    def __init__(self, folder: Path, store: FragileStore, **given: object) -> None:
        self.folder, self.store, self.given = folder, store, given
        self.driver = Remembering()
        self.queue = self._queue()

    @property
    def answers(self) -> Answers:
        return Answers(self.driver, self.queue, self.events)

    def _queue(self) -> SendQueue:
        chosen = options(self.folder, **self.given)
        self.state = LoginState(chosen.state_path, {})
        self.events = Events(self.store, chosen)
        return SendQueue(self.store, self.events, self.driver, self.state, chosen)

    def start(self) -> None:
        self.queue.start()

    def restart(self) -> None:
        self.queue.stop(grace=20)
        self.after_death()

    def after_death(self) -> None:
        self.queue = self._queue()
        self.queue.start()

    def send(self, content: str, friend: dict[str, Any] = ANNE) -> dict[str, Any]:
        return self.queue.send(friend, texts(self.driver, content))

    def promise(self, content: str, friend: dict[str, Any] = ANNE) -> str:
        return self.queue.promise(friend, texts(self.driver, content))

    def reports(self) -> list[tuple[str, Any]]:
        """Return content and code of every report so far."""
        return [(report.body["content"], report.body["code"]) for report in self.store.outbox.after("")[0]]

    def full_reports(self) -> list[dict[str, Any]]:
        return [report.body for report in self.store.outbox.after("")[0]]

    def idle(self) -> bool:
        return self.store.letterbox.count() == 0


MakeClient = Callable[..., Client]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.02)
    monkeypatch.setattr(module, "RETRY_MOST", 0.05)


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[MakeClient]:
    made: list[Client] = []
    store = FragileStore(tmp_path / "account.sqlite")

    def make(**given: object) -> Client:
        client = Client(tmp_path, store, **{"check_event_log_max_size": "10000", **given})
        made.append(client)
        return client

    yield make
    store.broken = ""
    for client in made:
        client.queue.stop(grace=20)
    store.close()


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    client = make_client()
    client.start()
    return client


def failing(*failures: BaseException | None) -> Callable[[str, str], object]:
    """Let the next sends fail so, and all others succeed."""
    left = list(failures)

    def sending(friend_id: str, text: str) -> None:
        failure = left.pop(0) if left else None
        if failure:
            raise failure

    return sending


def not_connected() -> CallFailed:
    return NotSent("Connection refused", retryable=True)


def limited(after: float = 0.0) -> CallFailed:
    return RateLimited(retryable=True, retry_after=after, ret=-2)


def held_by(event: threading.Event) -> Callable[[str, str], object]:
    return lambda friend_id, text: event.wait(20)


# A caller who waits


def test_a_caller_who_waits_is_told_what_became_of_it_and_so_is_everybody(client: Client) -> None:
    answer = client.send("你好")
    assert answer == {"id": "m1", "msg_id": "m1", "client_id": answer["client_id"], "parts": 1}
    assert client.driver.sent == [(ANNE["id"], "你好")]
    (report,) = client.full_reports()
    expected = {
        "post_type": "send_message",
        "id": "m1",
        "uid": answer["client_id"],
        "content": "你好",
        "code": "",
        "msg": "发送成功",
        "info": "success",
        "sender_id": "b1@im.bot",
        "receiver_id": ANNE["id"],
        "receiver": ANNE["displayname"],
        "receiver_category": "好友",
    }
    assert {name: report[name] for name in expected} == expected
    assert client.state.detail("last_outbound_at")


def test_a_long_text_goes_out_in_parts_each_reported(client: Client) -> None:
    answer = client.send("x" * 45)
    assert (answer["parts"], answer["id"]) == (3, "m3")
    assert client.driver.sent_to(ANNE) == ["x" * 20, "x" * 20, "x" * 5]
    assert client.reports() == [("x" * 20, ""), ("x" * 20, ""), ("x" * 5, "")]
    assert len({client_id for _, _, client_id in client.driver.tried}) == 3


@pytest.mark.parametrize(
    "failure",
    [
        not_connected(),
        DeliveryUnknown("it broke off", retryable=False),
        limited(),
        NotLoggedIn("the login is lost", retryable=False),
        RemoteRefusal(retryable=False, ret=7, errmsg="no"),
        QuotaUsed(sends_left=0, retryable=False),
    ],
    ids=lambda failure: f"{type(failure).__name__} {failure.fields['retryable']}",
)
def test_a_failure_is_told_at_once_and_never_tried_again(client: Client, failure: CallFailed) -> None:
    client.driver.sending = failing(failure)
    with pytest.raises(type(failure)) as caught:
        client.send("hello")
    assert caught.value is failure
    assert client.send("the next one")["id"] == "m1"
    assert [text for _, text, _ in client.driver.tried] == ["hello", "the next one"]
    assert client.reports() == [("hello", failure.code), ("the next one", "")]


@pytest.mark.parametrize(
    ("failure", "claims"), [(not_connected(), 0), (limited(), 0), (DeliveryUnknown(retryable=False), 1)]
)
def test_what_certainly_did_not_go_out_costs_nothing(client: Client, failure: CallFailed, claims: int) -> None:
    client.driver.sending = failing(failure)
    with pytest.raises(CallFailed):
        client.send("hello")
    assert client.driver.claims[ANNE["id"]] == claims


def test_a_caller_is_told_how_much_of_it_went_out_before_it_failed(client: Client) -> None:
    failure = RemoteRefusal(retryable=False, ret=7, errmsg="no")
    client.driver.sending = failing(None, failure)
    with pytest.raises(RemoteRefusal) as caught:
        client.send("a" * 20 + "b" * 20 + "c" * 20)
    assert caught.value.fields["parts_sent"] == 1
    assert client.reports() == [("a" * 20, ""), ("b" * 20 + "c" * 20, -1)]


def test_a_stop_in_the_middle_says_how_much_went_out_and_reports_the_rest(client: Client) -> None:
    free = threading.Event()
    client.driver.sending = held_by(free)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.send, "a" * 20 + "b" * 20)
        eventually(lambda: client.driver.tried)
        stopping = pool.submit(client.queue.stop, grace=20)
        eventually(lambda: client.queue._stopping)
        free.set()
        stopping.result(20)
        failure = answer.exception(20)
    assert isinstance(failure, NotLoggedIn) and failure.fields["parts_sent"] == 1
    assert client.reports() == [("a" * 20, ""), ("b" * 20, -25)]
    assert client.idle()


def test_a_caller_does_not_wait_for_a_full_disk_and_the_report_comes_when_there_is_room(client: Client) -> None:
    def fill(friend_id: str, text: str) -> None:
        client.store.broken = "write"

    client.driver.sending = fill
    assert client.send("hello")["id"] == "m1"
    assert client.reports() == []
    client.store.broken = ""
    eventually(lambda: client.reports() == [("hello", "")])


def test_who_dies_with_a_caller_waiting_reports_that_nobody_knows(make_client: MakeClient) -> None:
    client = make_client()
    client.start()
    free = threading.Event()
    client.driver.sending = held_by(free)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.send, "hello")
        eventually(lambda: client.driver.tried)
        client.after_death()  # of the process that was sending
        eventually(lambda: client.reports() == [("hello", -28)])
        assert len(client.driver.tried) == 1, "nobody waits any more, so it is not sent again"
        free.set()
        assert answer.result(20)


def test_what_cannot_be_sent_is_refused_before_it_waits(client: Client) -> None:
    for call in (client.send, client.promise):
        with pytest.raises(ContentRejected):
            call("")
    client.driver.logged_in = False
    for call in (client.send, client.promise):
        with pytest.raises(NotLoggedIn):
            call("hello")
    assert (client.driver.tried, client.idle()) == ([], True)


def test_a_text_of_more_parts_than_may_be_sent_is_not_begun(client: Client) -> None:
    client.driver.quota = 2
    for call in (client.send, client.promise):
        with pytest.raises(QuotaUsed):
            call("x" * 41)
    assert (client.driver.tried, client.driver.claims[ANNE["id"]], client.idle()) == ([], 0, True)


def test_a_defect_is_told_and_hurts_no_other_letter(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.driver.sending = failing(RuntimeError("a defect"), RuntimeError("another"))
    with pytest.raises(CallFailed, match="internal error"):
        client.send("hello")
    client.promise("kept")
    assert client.send("the next one")["id"] == "m1"
    eventually(client.idle)
    assert client.reports() == [("hello", -1), ("kept", -1), ("the next one", "")]
    assert caplog.messages.count("send failed") == 2


def test_a_caller_who_gave_up_is_never_sent_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    client.driver.sending = held_by(free)
    client.promise("before it")
    eventually(lambda: client.driver.tried)
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with pytest.raises(RateLimited) as caught:
        client.send("too late")
    assert caught.value.fields["retryable"] is True
    free.set()
    monkeypatch.setattr(module, "PATIENCE", 20.0)
    client.send("after it")
    assert client.driver.sent_to(ANNE) == ["before it", "after it"]


def test_a_caller_whose_turn_has_come_gets_the_answer_though_it_takes_long(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    client.driver.sending = held_by(free)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.send, "hello")
        eventually(lambda: client.driver.tried)
        eventually(lambda: not answer.done() and time.monotonic() - client.queue._sent_at > 0.1)
        free.set()
        assert answer.result(20)["id"] == "m1"


def test_what_would_take_longer_than_its_caller_waits_is_not_begun(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 20.0)
    client = make_client(send_interval="30")
    client.start()
    with pytest.raises(RateLimited):
        client.send("x" * 21)
    assert client.driver.tried == []


def test_who_would_wait_too_long_for_an_earlier_letter_is_told_at_once(client: Client) -> None:
    client.driver.sending = failing(limited(300))
    client.promise("limited")
    eventually(lambda: client.queue._held)
    began = time.monotonic()
    with pytest.raises(RateLimited) as caught:
        client.send("behind it")
    assert time.monotonic() - began < 5
    assert 290 <= int(str(caught.value.fields["retry_after"])) <= 301
    assert client.send("to somebody else", OWNER)["id"] == "m1"


def test_there_is_a_limit_to_what_waits(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LETTERS", 3)
    client = make_client()
    for number in range(3):
        client.promise(str(number))
    for call in (client.promise, client.send):
        with pytest.raises(RateLimited, match="wait already"):
            call("one too many")
    client.start()
    eventually(client.idle)
    assert client.send("again")["id"] == "m4"


# A letter that was promised


def test_promised_letters_go_out_in_their_order_to_each_friend(client: Client) -> None:
    for number in range(10):
        client.promise(f"anne {number}")
        client.promise(f"owner {number}", OWNER)
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == [f"anne {number}" for number in range(10)]
    assert client.driver.sent_to(OWNER) == [f"owner {number}" for number in range(10)]


def test_a_promise_is_answered_with_the_client_id_of_its_report(client: Client) -> None:
    client_id = client.promise("hello")
    (report,) = eventually(client.full_reports)
    assert (report["uid"], report["code"]) == (client_id, "")


def test_what_was_promised_is_kept_over_restarts_in_its_order_and_sent_once(make_client: MakeClient) -> None:
    client = make_client()
    for number in range(5):
        client.promise(str(number))
    client.restart()
    client.send("new")
    eventually(client.idle)
    client.restart()
    client.send("newer")
    assert client.driver.sent_to(ANNE) == ["0", "1", "2", "3", "4", "new", "newer"]


def test_what_is_promised_before_the_queue_begins_is_sent_once(make_client: MakeClient) -> None:
    """A receiver may answer a report, left by an earlier process, before the queue has begun."""
    client = make_client()
    client.promise("early")
    client.start()
    client.send("late")
    assert client.driver.sent_to(ANNE) == ["early", "late"]


def test_a_letter_of_which_a_part_is_out_goes_on_with_the_next(make_client: MakeClient) -> None:
    client = make_client()
    client.start()
    client.driver.sending = failing(None, *(NotLoggedIn(state="scaning") for _ in range(3)))
    client_id = client.promise("a" * 20 + "b" * 20 + "c")
    eventually(lambda: len(client.driver.tried) >= 2)
    client.restart()
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["a" * 20, "b" * 20, "c"]
    stem = client_id.removesuffix("-1")
    assert list(dict.fromkeys(id_ for _, _, id_ in client.driver.tried)) == [f"{stem}-{n}" for n in (1, 2, 3)]
    assert client.driver.claims[ANNE["id"]] == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("sent_before", [0, 1])
def test_a_letter_under_way_at_the_death_is_reported_as_of_unknown_fate_and_not_sent_again(
    client: Client, sent_before: int
) -> None:
    # It ends the thread, and so all that this process would still do.
    client.driver.sending = failing(*[None] * sent_before, SystemExit())
    client_id = client.promise("a" * 20 + "b")
    client.promise("behind it")
    eventually(lambda: not client.queue._thread.is_alive())
    for _ in range(2):
        client.after_death()
        eventually(client.idle)
    reports = [report for report in client.full_reports() if report["code"] != ""]
    assert [(report["code"], report["info"]) for report in reports] == [(-28, "transport error, delivery unknown")]
    assert reports[0]["content"] == ("a" * 20 + "b")[20 * sent_before :]
    assert (reports[0]["uid"], reports[0]["retryable"]) == (client_id[:-1] + str(sent_before + 1), False)
    assert [text for _, text, _ in client.driver.tried] == ["a" * 20, "b"][: sent_before + 1] + ["behind it"]


@pytest.mark.parametrize("failure", [not_connected, lambda: NotLoggedIn(retryable=False, ret=-14)])
def test_what_certainly_did_not_go_out_is_tried_again_under_its_client_id(
    client: Client, failure: Callable[[], CallFailed]
) -> None:
    client.driver.sending = failing(*(failure() for _ in range(5)))
    client.promise("hello")
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["hello"]
    assert len(client.driver.tried) == 6
    assert len({client_id for _, _, client_id in client.driver.tried}) == 1
    assert client.reports() == [("hello", "")]
    assert client.driver.claims[ANNE["id"]] == 1


@pytest.mark.parametrize(
    "failure",
    [
        DeliveryUnknown("it broke off", retryable=False),
        RemoteRefusal(retryable=False, ret=7, errmsg="no"),
        QuotaUsed(sends_left=0, retryable=False),
        WindowClosed(retryable=False),
        ContentRejected(retryable=False),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_what_may_have_arrived_or_is_forbidden_is_reported_and_not_tried_again(
    client: Client, failure: CallFailed
) -> None:
    client.driver.sending = failing(failure)
    client_id = client.promise("hello")
    client.promise("the next one")
    eventually(client.idle)
    assert client.reports() == [("hello", failure.code), ("the next one", "")]
    assert [text for _, text, _ in client.driver.tried] == ["hello", "the next one"]
    report = client.full_reports()[0]
    assert (report["uid"], report["msg"], report["info"]) == (client_id, "发送失败", failure.status)


def test_a_rate_limit_is_waited_out_once(client: Client) -> None:
    client.driver.sending = failing(limited(0.3), None, limited(0.3), limited(0.3))
    times: list[float] = []
    inner = client.driver.sending

    def sending(friend_id: str, text: str) -> None:
        times.append(time.monotonic())
        inner(friend_id, text)

    client.driver.sending = sending
    client.promise("limited once")
    client.promise("limited twice")
    client.promise("after it")
    eventually(client.idle)
    assert client.reports() == [("limited once", ""), ("limited twice", -26), ("after it", "")]
    assert times[1] - times[0] >= 0.3
    assert times[3] - times[2] >= 0.3
    assert client.driver.claims[ANNE["id"]] == 2


def test_each_part_may_be_limited_once(client: Client) -> None:
    client.driver.sending = failing(limited(), None, limited())
    client.promise("a" * 20 + "b")
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["a" * 20, "b"]


def test_a_rate_limit_is_not_shortened_by_what_happens_to_others(client: Client) -> None:
    client.driver.sending = failing(limited(0.4))
    client.promise("hello")
    eventually(lambda: client.queue._held)
    began = time.monotonic()
    client.queue.wake()
    client.queue.wake(OWNER["id"])
    eventually(client.idle)
    assert time.monotonic() - began > 0.2


def test_a_friend_who_writes_may_be_written_to_at_once(client: Client) -> None:
    client.driver.sending = failing(limited(600))
    client.promise("hello")
    eventually(lambda: client.queue._held)
    client.queue.wake(ANNE["id"])
    eventually(client.idle)
    assert client.reports() == [("hello", "")]


def test_a_login_lets_waiting_letters_go_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 600.0)
    monkeypatch.setattr(module, "RETRY_MOST", 600.0)
    client.driver.sending = failing(NotLoggedIn(state="scaning"))
    client.promise("hello")
    eventually(lambda: client.queue._held)
    assert client.driver.sent == []
    client.queue.wake()
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["hello"]


def test_a_letter_that_waits_holds_back_those_to_its_friend_and_no_others(client: Client) -> None:
    down = [True]

    def sending(friend_id: str, text: str) -> None:
        if friend_id == ANNE["id"] and down:
            raise not_connected()

    client.driver.sending = sending
    client.promise("first")
    client.promise("second")
    eventually(lambda: len(client.driver.tried) >= 3)
    client.promise("kept", OWNER)
    assert client.send("at once", OWNER)["id"] == "m2"
    assert {text for friend_id, text, _ in client.driver.tried if friend_id == ANNE["id"]} == {"first"}
    with ThreadPoolExecutor() as pool:
        third = pool.submit(client.send, "third")
        eventually(lambda: len(client.queue._letters) == 3)
        down.clear()
        assert third.result(20)
    assert client.driver.sent_to(ANNE) == ["first", "second", "third"]


@pytest.mark.parametrize(("age", "code"), [(100, -5), (10, "")])
def test_a_letter_that_is_too_old_is_not_sent_but_reported(make_client: MakeClient, age: float, code: Any) -> None:
    client = make_client(send_max_age="50")
    client.promise("hello")
    with sqlite3.connect(client.folder / "account.sqlite") as database:
        database.execute("UPDATE letter SET created = created - ?", (age,))
    database.close()
    client.restart()
    eventually(client.idle)
    assert client.reports() == [("hello", code)]
    assert len(client.driver.tried) == (code == "")


def test_a_letter_expires_also_while_nobody_is_logged_in(client: Client) -> None:
    client.driver.sending = lambda friend_id, text: client.driver.user()
    client.given["send_max_age"] = "1"
    client.restart()
    client.promise("hello")
    client.driver.logged_in = False
    eventually(lambda: client.reports() == [("hello", -5)])
    assert (client.full_reports()[0]["info"], client.idle()) == ("TTL失效", True)


# Its pace


def test_sends_keep_their_distance_to_whomever_they_go(make_client: MakeClient) -> None:
    client = make_client(send_interval="0.2")
    times: list[float] = []
    client.driver.sending = lambda friend_id, text: times.append(time.monotonic())
    client.start()
    client.promise("x" * 21)
    client.promise("to another", OWNER)
    client.send("and this")
    assert len(times) == 4
    assert all(later - earlier >= 0.19 for earlier, later in zip(times, times[1:], strict=False)), times


def test_many_callers_are_served_one_after_another_and_each_once(client: Client) -> None:
    def call(number: int) -> None:
        friend = (ANNE, OWNER)[number % 2]
        (client.promise if number % 3 else client.send)(f"message {number}", friend)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(40)))
    eventually(client.idle)
    texts = [text for _, text in client.driver.sent]
    assert sorted(texts) == sorted(f"message {number}" for number in range(40))
    assert sorted(content for content, _ in client.reports()) == sorted(texts)
    assert client.driver.most_at_once == 1


# Its end


def test_a_stop_tells_those_who_wait_and_keeps_what_was_promised(client: Client) -> None:
    free = threading.Event()
    client.driver.sending = held_by(free)
    client.promise("under way")
    eventually(lambda: client.driver.tried)
    client.promise("promised")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.send, "waits")
        eventually(lambda: len(client.queue._letters) == 3)
        client.queue.stop(grace=0)
        with pytest.raises(NotLoggedIn):
            client.send("too late")
        free.set()
        failure = waiting.exception(20)
        assert isinstance(failure, NotLoggedIn) and failure.fields["state"] == "stop"
    assert client.driver.sent_to(ANNE) == ["under way"]
    client.driver.sending = failing()
    client.restart()
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["under way", "promised"]


def test_a_stop_waits_for_what_is_under_way_but_not_for_long(client: Client) -> None:
    free = threading.Event()
    client.driver.sending = held_by(free)
    client.promise("under way")
    eventually(lambda: client.driver.tried)
    began = time.monotonic()
    client.queue.stop(grace=0.1)
    assert 0.1 <= time.monotonic() - began < 5
    free.set()
    client.queue.stop(grace=20)
    assert client.idle()


# A disk that is full


def test_what_cannot_be_kept_is_neither_promised_nor_sent(client: Client) -> None:
    client.store.broken = "write"
    for call in (client.promise, client.send):
        with pytest.raises(CallFailed) as caught:
            call("hello")
        assert (caught.value.code, caught.value.fields["retryable"]) == (-1, True)
    assert client.driver.tried == []
    client.store.broken = ""
    client.send("goes on")
    assert client.driver.sent_to(ANNE) == ["goes on"]


def test_a_kept_letter_waits_for_the_disk_and_is_sent_once(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def fill(friend_id: str, text: str) -> None:
        client.store.broken = "write"
        raise not_connected()

    client.driver.sending = fill
    client.promise("hello")
    eventually(lambda: caplog.messages.count("not sent yet") >= 3)
    assert len(client.driver.tried) == 1
    client.driver.sending = failing()
    client.store.broken = ""
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["hello"]
    assert client.reports() == [("hello", "")]


def test_what_went_out_is_not_sent_again_though_the_disk_cannot_be_told(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(friend_id: str, text: str) -> None:
        client.store.broken = "write"

    client.driver.sending = fill
    client.promise("hello")
    eventually(lambda: caplog.messages.count("cannot be kept") >= 3)
    client.driver.sending = failing()
    assert len(client.driver.tried) == 1
    client.store.broken = ""
    eventually(client.idle)
    client.send("goes on")
    assert client.driver.sent_to(ANNE) == ["hello", "goes on"]
    assert client.reports() == [("hello", ""), ("goes on", "")]


def test_what_went_out_when_the_disk_was_full_until_the_end_is_of_unknown_fate(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(friend_id: str, text: str) -> None:
        client.store.broken = "write"

    client.driver.sending = fill
    client.promise("hello")
    eventually(lambda: "cannot be kept" in caplog.messages)
    client.queue.stop(grace=20)
    client.store.broken = ""
    client.after_death()
    eventually(client.idle)
    assert client.reports() == [("hello", -28)]
    assert len(client.driver.tried) == 1


# What a receiver of reports answers


def received(content: str = "hello") -> dict[str, Any]:
    """Return the report of a message from Anne."""
    anne = {f"sender_{name}": ANNE[name] for name in ("id", "uid", "account", "name", "markname", "category")}
    us = {"receiver": "bot", "receiver_id": "b1@im.bot", "receiver_uid": 3, "receiver_account": "b1@im.bot"}
    return {"post_type": "receive_message", "content": content, "sender": ANNE["displayname"], **anne, **us}


def answered(client: Client, text: str, media: str = "") -> None:
    with client.store.transaction():
        committed = client.answers.take(received(), text, media)
    committed()


def test_an_answer_is_sent_to_the_sender_and_reported_like_any_other(client: Client) -> None:
    client.send("before")
    answered(client, "x" * 21)
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["before", "x" * 20, "x"]
    first, second, _ = client.full_reports()
    same = ("receiver", "receiver_id", "receiver_uid", "receiver_name", "receiver_category", "sender_id", "sender_uid")
    assert {name: first[name] for name in same} == {name: second[name] for name in same}


def test_an_answer_survives_a_death_before_it_was_sent(make_client: MakeClient) -> None:
    client = make_client()
    with client.store.transaction():
        client.answers.take(received(), "answer", "")
    client.after_death()
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["answer"]


def test_an_answer_of_a_transaction_that_failed_is_not_sent(client: Client) -> None:
    with pytest.raises(RuntimeError), client.store.transaction():
        client.answers.take(received(), "answer", "http://h/x.png")
        raise RuntimeError
    client.restart()
    client.send("something else")
    assert client.driver.sent_to(ANNE) == ["something else"]
    assert client.reports() == [("something else", "")]


def test_media_that_an_answer_names_are_fetched_and_sent_after_the_text(client: Client, tmp_path: Path) -> None:
    folder = media_folder(options(tmp_path), "remembering")
    client.queue.fetch = lambda part: folder.keep(lambda sink: sink(b"content"), name=part.url.rpartition("/")[2])
    answered(client, "look", "http://h/y.png")
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["look", "y.png"]
    assert [code for _, code in client.reports()] == ["", ""]


def test_a_file_is_prepared_while_it_is_certain_that_nothing_was_sent(client: Client, tmp_path: Path) -> None:
    folder = media_folder(options(tmp_path), "remembering")
    media = folder.keep(lambda sink: sink(b"content"), name="a.txt")
    inside, free = threading.Event(), threading.Event()

    def preparing(part: Part, deadline: float) -> None:
        inside.set()
        free.wait(20)

    client.driver.preparing = preparing
    client.queue.promise(ANNE, [Part(media=media)])
    assert inside.wait(20)
    assert client.queue.files() == [media.path]
    ((_, _, sent, under_way, _),) = client.store.letterbox.all()
    assert (sent, under_way) == (0, False), "who dies now sends it at the next start"
    free.set()
    eventually(client.idle)
    assert client.driver.sent_to(ANNE) == ["a.txt"]
    assert client.queue.files() == []


def test_an_upload_does_not_outlast_the_patience_of_who_waits(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 5.0)
    media = media_folder(options(tmp_path), "remembering").keep(lambda sink: sink(b"content"))
    told: list[float] = []
    client.driver.preparing = lambda part, deadline: told.append(deadline - time.monotonic())
    answer = client.queue.send(ANNE, [Part(media=media)])
    assert answer["media_id"] == media.id
    assert 0 < told[0] <= 5.0


def test_a_letter_of_another_version_stays_and_stops_nobody(make_client: MakeClient) -> None:
    client = make_client()
    number = client.store.letterbox.add({"id": "x", "parts": ["of another form"]})
    client.after_death()
    assert client.send("hello")["id"] == "m1"
    assert client.store.letterbox.count() == 1
    client.store.letterbox.remove(number)


@pytest.mark.parametrize("url", ["/etc/passwd", "file:///etc/passwd", "y.png"])
def test_media_that_are_no_url_are_reported_as_not_sent(client: Client, url: str) -> None:
    answered(client, "look", url)
    eventually(lambda: client.reports() == [(url, -24), ("look", "")])
    assert client.driver.sent_to(ANNE) == ["look"]


def test_media_that_cannot_be_fetched_are_reported_as_not_sent(client: Client) -> None:
    answered(client, "look", "http://h/y.png")
    eventually(lambda: client.reports() == [("look", ""), ("http://h/y.png", -24)])
    assert client.idle()


def test_an_answer_that_finds_no_place_is_reported_as_not_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LETTERS", 0)
    answered(client, "hi")
    assert client.reports() == [("hi", -26)]


def test_an_answer_that_may_not_be_sent_is_reported_as_such(client: Client) -> None:
    client.driver.quota = 0
    answered(client, "hi")
    eventually(lambda: client.reports() == [("hi", -23)])
    assert client.idle()


# The watchdog


def test_who_waits_for_letters_is_not_late_and_who_sends_for_too_long_is(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEND_TIMEOUT", -1000.0)
    free = threading.Event()
    client.driver.sending = held_by(free)
    assert not client.queue.pulse.late
    client.promise("hello")
    eventually(lambda: client.queue.pulse.late)
    free.set()
    eventually(lambda: not client.queue.pulse.late)
