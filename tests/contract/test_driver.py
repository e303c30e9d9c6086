"""The contract of wxsup.client.drivers, for each kind of driver against the pretend WeChat it is for.

Adding a kind is one entry in DRIVERS. What only iLink has, such as its walk through a login, stands below the contract.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.account import Line, People, Receiver, named, options, qr_text, texts
from tests.deadline import eventually
from tests.unit.upstream import Request, reply
from wxsup.client import sendqueue
from wxsup.client.answering import Answers
from wxsup.client.drivers import Driver, ilink
from wxsup.client.drivers.ilink import gate, login, wire
from wxsup.client.events import Events
from wxsup.client.fetching import Fetcher
from wxsup.client.letters import Part
from wxsup.client.media import media_folder
from wxsup.client.sendqueue import SendQueue
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.errors import CallFailed, ContentRejected, DeliveryUnknown, NotLoggedIn, NotSent, ObjectNotFound
from wxsup.model import Exit
from wxsup.options import Options
from wxsup.sandbox.app import Sandbox

HOLD = 2.0

DRIVERS: dict[str, Callable[..., Driver]] = {"ilink": ilink.Ilink}


class SmallStore(Store):
    """A store whose disk can be full."""

    def fill(self) -> None:
        (pages,) = self.database.execute("PRAGMA page_count").fetchone()
        self.database.execute(f"PRAGMA max_page_count = {pages}")

    def make_room(self) -> None:
        self.database.execute("PRAGMA max_page_count = 1000000")


class Client:
    """A driver that runs on the files of one account, and everything it told the world since it began."""

    def __init__(self, kind: str, chosen: Options, started: str, pool: ThreadPoolExecutor, receiver: Receiver) -> None:
        self.options = chosen
        self.store = SmallStore(chosen.tmpdir / "account.sqlite")
        self.events = Events(self.store, chosen)
        self.state = LoginState(chosen.state_path, {})
        self.state.changed = lambda old, new: self.events.event("state_change", old.value, new.value)
        self.driver = DRIVERS[kind](chosen, self.state, self.store, self.events, started=started)
        self.queue = SendQueue(self.store, self.events, self.driver, self.state, chosen)
        self.folder = media_folder(chosen, self.driver.name)
        self.fetcher = Fetcher(self.store, self.events, self.folder, self.driver.fetch)
        self.events.held_back = self.fetcher.wake
        self.driver.heard = self.queue.wake
        self.events.poster.replied = Answers(self.driver, self.queue, self.events).take
        self._receiver = receiver
        self._before = len(receiver.got)
        self.events.start()
        self.queue.start()
        self.fetcher.wake()
        self.exit: Future[Exit] = pool.submit(self.driver.run)

    def told(self) -> list[tuple[Any, ...]]:
        """Return what was reported since this client began, shortened."""
        return [named(report) for report in self._receiver.got[self._before :]]

    def heard(self) -> list[str]:
        """Return the messages that were reported since this client began."""
        return [report[1] for report in self.told() if report[0] == "receive_message"]

    def until(self, state: Login) -> None:
        eventually(lambda: self.state.current is state, what=state.value)

    def friend(self) -> dict[str, Any]:
        """Return the only friend."""
        (friend,) = self.driver.friends()
        return friend

    def code_shown(self) -> str:
        """Return what the picture of the code says, "" while there is none."""
        try:
            return qr_text(self.options.qrcode_path.read_bytes())
        except FileNotFoundError:
            return ""

    def send(self, content: str) -> dict[str, Any]:
        return self.queue.send(self.friend(), texts(self.driver, content))

    def promise(self, content: str) -> str:
        return self.queue.promise(self.friend(), texts(self.driver, content))

    def outgoing(self) -> list[tuple[str, Any]]:
        """Return content and code of what was reported as sent or not sent since this client began."""
        sent = [report for report in self._receiver.got[self._before :] if report["post_type"] == "send_message"]
        return [(report["content"], report["code"]) for report in sent]

    def kept_state(self) -> dict[str, Any]:
        """Return what the state file says."""
        state: dict[str, Any] = json.loads(self.options.state_path.read_text(encoding="utf-8"))
        return state

    def refused(self, content: str) -> CallFailed:
        """Try to send something and return why that is not done."""
        with pytest.raises(CallFailed) as caught:
            self.send(content)
        return caught.value

    def end(self) -> float:
        """Stop, and return how long that took."""
        began = time.monotonic()
        self.driver.stop()
        self.exit.result(20)
        took = time.monotonic() - began
        self.close()
        return took

    def close(self) -> None:
        self.driver.stop()
        self.exit.exception(20)
        self.queue.stop(grace=1)
        self.driver.hang_up()
        self.queue.stop(grace=5)
        self.fetcher.stop(grace=5)
        self.events.stop(grace=5)
        self.store.close()


class Bench:
    """One account, its pretend WeChat, and a receiver of its reports."""

    def __init__(self, kind: str, folder: Path, sandbox: Sandbox, line: Line, receiver: Receiver) -> None:
        self.kind = kind
        self.folder = folder
        self.sandbox = sandbox
        self.people = People(sandbox)
        self.line = line
        self.receiver = receiver
        self._pool = ThreadPoolExecutor()
        self._clients = ExitStack()

    def start(self, *, started: str = "1.0", over_line: bool = False, **given: object) -> Client:
        """Let a client begin with the files of the one before it; `over_line` puts the bad line between."""
        base = self.line.url if over_line else self.sandbox.url
        places = {"ilink_base": base, "ilink_cdn": f"{base}/c2c", "plugin_openwx_post_api": self.receiver.url}
        chosen = options(self.folder, **places, **given)
        client = Client(self.kind, chosen, started, self._pool, self.receiver)
        self._clients.callback(client.close)
        return client

    def running(self, user: str = "alice", **given: Any) -> Client:
        """Let a client begin and be logged in by `user` with a new code."""
        before = len(self.people.codes())
        client = self.start(**given)
        key = self.people.next_code(before)
        self.people.scan(key, user)
        client.until(Login.CONFIRMING)
        self.people.agree(key)
        client.until(Login.RUNNING)
        return client

    def talking(self, **given: Any) -> Client:
        """Return a running client whose owner has written to it."""
        client = self.running(**given)
        self.people.say("alice", "hello")
        eventually(lambda: client.heard() == ["hello"])
        return client

    def close(self) -> None:
        self._clients.close()
        self._pool.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "POLL_PAUSE", 0.02)
    monkeypatch.setattr(login, "DIGITS_PAUSE", 0.2)
    monkeypatch.setattr(ilink, "REVIVE_PAUSE", 0.05)
    monkeypatch.setattr(ilink, "RETRY_FIRST", 0.05)
    monkeypatch.setattr(ilink, "RETRY_MOST", 0.1)
    monkeypatch.setattr(sendqueue, "RETRY_FIRST", 0.05)
    monkeypatch.setattr(sendqueue, "RETRY_MOST", 0.1)


@pytest.fixture(params=DRIVERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with Sandbox(hold=HOLD) as sandbox, Line(sandbox.url) as line, Receiver() as receiver:
        bench = Bench(request.param, tmp_path, sandbox, line, receiver)
        yield bench
        bench.close()


# The contract of every driver


def test_a_login_walks_through_its_states_and_tells_so_in_order(bench: Bench) -> None:
    client = bench.running()
    eventually(lambda: client.told()[-1:] == [("state_change", "updating", "running")])
    assert client.told() == [
        ("state_change", "init", "scaning"),
        ("input_qrcode",),
        ("state_change", "scaning", "confirming"),
        ("state_change", "confirming", "updating"),
        ("login", 1),
        ("new_friend", "owner"),
        ("state_change", "updating", "running"),
    ]


def test_the_picture_says_what_the_phone_must_read_and_is_gone_after_the_login(bench: Bench) -> None:
    client = bench.start()
    key = bench.people.next_code()
    client.until(Login.SCANING)
    assert qr_text(client.options.qrcode_path.read_bytes()) == f"{bench.sandbox.url}/phone?code={key}"
    (path, picture) = eventually(lambda: [r["params"] for r in bench.receiver.got if r.get("event") == "input_qrcode"])[
        0
    ]
    assert path == str(client.options.qrcode_path)
    assert client.options.qrcode_path.read_bytes() == base64.b64decode(picture)
    bench.people.login("alice")
    client.until(Login.RUNNING)
    assert not client.options.qrcode_path.exists()


def test_before_the_login_nothing_can_be_done(bench: Bench) -> None:
    client = bench.start()
    client.until(Login.SCANING)
    calls: list[Callable[[], object]] = [
        client.driver.user,
        client.driver.friends,
        lambda: client.queue.send({"id": "anybody"}, [Part("hello")]),
        lambda: client.driver.admit("anybody", 1),
        lambda: client.driver.claim("anybody", 1),
        lambda: client.driver.submit_verify_code("123456"),
    ]
    for call in calls:
        with pytest.raises(NotLoggedIn):
            call()


def test_a_stop_before_the_login_is_quick_and_leaves_no_picture(bench: Bench) -> None:
    client = bench.start()
    client.until(Login.SCANING)
    assert client.end() < 1
    assert client.exit.result() is Exit.STOPPED
    assert not client.options.qrcode_path.exists()


def test_a_stop_during_a_held_poll_is_quick(bench: Bench) -> None:
    client = bench.running()
    eventually(lambda: bench.people.pollers("alice")[0] == 1, what="a held poll")
    assert client.end() < 1
    assert client.exit.result() is Exit.STOPPED


def test_a_stop_may_come_before_the_run(bench: Bench) -> None:
    chosen = options(bench.folder, ilink_base=bench.sandbox.url)
    store, state = Store(bench.folder / "account.sqlite"), LoginState(chosen.state_path, {})
    driver = DRIVERS[bench.kind](chosen, state, store, Events(store, chosen), started="")
    driver.stop()
    assert driver.run() is Exit.STOPPED
    assert bench.people.codes() == []
    store.close()


def test_a_restart_needs_no_scan_and_loses_nothing(bench: Bench) -> None:
    first = bench.talking()
    user = first.driver.user()
    first.end()
    bench.people.say("alice", "are you there?")
    second = bench.start()
    eventually(second.heard)
    assert second.told() == [
        ("state_change", "init", "updating"),
        ("login", 0),
        ("state_change", "updating", "running"),
        ("receive_message", "are you there?"),
    ]
    assert second.driver.user() == user
    assert len(bench.people.codes()) == 1


def test_texts_come_in_with_all_that_was_written_in_order(bench: Bench) -> None:
    client = bench.running()
    texts = ["hello", "你好 😀", "line\nline", "<b>&amp;", "x" * 5000]
    ids = [bench.people.say("alice", text) for text in texts]
    eventually(lambda: client.heard() == texts)
    reports = [report for report in bench.receiver.got if report["post_type"] == "receive_message"]
    assert [report["id"] for report in reports] == ids
    friend, user = client.friend(), client.driver.user()
    for report in reports:
        assert (report["sender_id"], report["sender"]) == (friend["id"], friend["displayname"])
        assert (report["receiver_id"], report["receiver"]) == (user["id"], user["displayname"])
        assert (report["type"], report["format"], report["class"]) == ("friend_message", "text", "recv")


def test_texts_go_out_and_are_reported_once(bench: Bench) -> None:
    client = bench.talking()
    texts = ["hello", "你好 😀", "<b>&amp;"]
    answers = [client.send(text) for text in texts]
    assert bench.people.read("alice") == texts
    assert len({answer["id"] for answer in answers}) == 3
    eventually(lambda: [report for report in client.told() if report[0] == "send_message"][2:])
    assert [report[1] for report in client.told() if report[0] == "send_message"] == texts


def test_promised_texts_go_out_once_each_in_their_order(bench: Bench) -> None:
    client = bench.talking()
    for number in range(5):
        client.promise(f"message {number}")
    texts = [f"message {number}" for number in range(5)]
    eventually(lambda: client.outgoing() == [(text, "") for text in texts])
    assert bench.people.read("alice") == texts
    assert client.store.letterbox.count() == 0


def test_what_the_receiver_of_reports_answers_is_sent_back_once(bench: Bench) -> None:
    """Also to the reports of what was sent, which must lead to nothing."""
    bench.receiver.answer = lambda report: json.dumps({"reply": f"you said: {report.get('content')}"})
    client = bench.running()
    for number in range(3):
        bench.people.say("alice", str(number))
    answers = [f"you said: {number}" for number in range(3)]
    eventually(lambda: client.outgoing() == [(answer, "") for answer in answers])
    assert bench.people.read("alice") == answers
    assert client.store.letterbox.count() == 0


def test_a_send_under_way_can_be_broken_off_and_its_fate_is_then_unknown(bench: Bench) -> None:
    client = bench.talking(over_line=True)
    free = threading.Event()
    bench.line.instead["sendmessage"] = lambda request: b"" if free.wait(20) else b""
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(client.send, "hello")
        eventually(lambda: bench.line.calls("sendmessage"))
        client.driver.stop()
        client.driver.hang_up()
        try:
            failure = sending.exception(5)
        finally:
            free.set()
    assert isinstance(failure, DeliveryUnknown) and not failure.fields["retryable"]


def test_a_new_login_can_be_asked_for_while_running(bench: Bench) -> None:
    client = bench.talking()
    before = len(bench.people.codes())
    client.driver.relogin()
    client.until(Login.SCANING)
    with pytest.raises(NotLoggedIn):
        client.driver.friends()
    bench.people.login("alice", before)
    client.until(Login.RUNNING)
    bench.people.say("alice", "here again")
    eventually(lambda: client.heard() == ["hello", "here again"])
    assert bench.people.pollers("alice")[1] == 1


@pytest.mark.parametrize("moment", ["before the run", "scaning", "confirming"])
def test_a_new_login_can_be_asked_for_during_a_login_too(bench: Bench, moment: str) -> None:
    client = bench.start()
    first = bench.people.next_code()
    if moment == "before the run":  # with a session that would do
        bench.people.login("alice")
        client.until(Login.RUNNING)
        client.end()
        chosen, store = options(bench.folder, ilink_base=bench.sandbox.url), Store(bench.folder / "account.sqlite")
        state = LoginState(chosen.state_path, {})
        driver = DRIVERS[bench.kind](chosen, state, store, Events(store, chosen), started="")
        driver.relogin()
        with ThreadPoolExecutor() as pool:
            pool.submit(driver.run)
            try:
                bench.people.login("alice", 1)
                eventually(lambda: state.current is Login.RUNNING)
            finally:
                driver.stop()
        store.close()
        return
    if moment == "confirming":
        bench.people.scan(first, "alice")
    client.until(Login(moment))
    client.driver.relogin()
    second = bench.people.next_code(1)
    assert second != first
    bench.people.login("alice", 1)
    client.until(Login.RUNNING)


def test_a_wish_for_a_new_login_that_nobody_scans_leads_back_to_the_old_one(bench: Bench) -> None:
    client = bench.talking(qrcode_count_max=1)
    user, told = client.driver.user(), len(client.told())
    client.driver.relogin()
    bench.people.sandbox.world.codes.end(bench.people.next_code(1), "expired")
    bench.people.say("alice", "meanwhile")
    eventually(lambda: client.heard() == ["hello", "meanwhile"])
    assert client.driver.user() == user
    assert len(bench.people.codes()) == 2
    assert [event for event in client.told()[told:] if event != ("receive_message", "meanwhile")] == [
        ("state_change", "running", "scaning"),
        ("input_qrcode",),
        ("state_change", "scaning", "updating"),
        ("login", 0),
        ("state_change", "updating", "running"),
    ]
    assert not client.state.detail("parked")


def test_a_wish_for_a_new_login_on_a_full_disk_loses_nothing_and_does_not_run_hot(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    client = bench.talking()
    eventually(lambda: client.store.outbox.next_to_post() is None)
    client.store.fill()
    text = "x" * 200_000
    bench.people.say("alice", text)
    eventually(lambda: caplog.messages.count("cannot be kept") == 2)
    client.driver.relogin()
    eventually(lambda: caplog.messages.count("cannot be kept") >= 6)
    times = [record.created for record in caplog.records if record.message == "cannot be kept"]
    assert times[5] - times[2] > 0.2, "without pauses"
    client.store.make_room()
    eventually(lambda: client.heard() == ["hello", text])
    client.until(Login.SCANING)
    assert client.kept_state()["trouble"] == ""


def test_somebody_unknown_cannot_be_written_to(bench: Bench) -> None:
    client = bench.talking()
    nobody = {**client.friend(), "id": "nobody"}
    for call in (client.queue.send, client.queue.promise):
        with pytest.raises(ObjectNotFound):
            call(nobody, [Part("hello")])


def test_nothing_cannot_be_sent(bench: Bench) -> None:
    client = bench.talking()
    with pytest.raises(ContentRejected):
        client.send("")


def test_there_is_never_more_than_one_poll_at_a_time(bench: Bench) -> None:
    client = bench.running()
    with ThreadPoolExecutor() as pool:
        for number in range(8):
            bench.people.say("alice", f"message {number}")
            pool.submit(client.send, f"answer {number}")
        eventually(lambda: len(client.heard()) == 8)
    assert bench.people.pollers("alice")[1] == 1


def test_a_message_that_cannot_be_kept_is_neither_acknowledged_nor_lost(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    client = bench.talking(over_line=True)
    eventually(lambda: client.store.outbox.next_to_post() is None)
    client.store.fill()
    text = "x" * 200_000
    bench.people.say("alice", text)
    eventually(lambda: caplog.messages.count("cannot be kept") == 1)
    polls = len(bench.line.calls("getupdates"))
    eventually(lambda: caplog.messages.count("cannot be kept") == 4)
    assert len(bench.line.calls("getupdates")) == polls, "the new cursor was used"
    assert client.state.current is Login.RUNNING
    assert client.state.detail("last_error")["errmsg"].startswith("messages cannot be kept")
    assert client.kept_state()["trouble"].startswith("messages cannot be kept")
    assert client.heard() == ["hello"]
    client.store.make_room()
    eventually(lambda: client.heard() == ["hello", text])
    eventually(lambda: client.kept_state()["trouble"] == "")
    bench.people.say("alice", "after")
    eventually(lambda: client.heard() == ["hello", text, "after"])


def test_an_end_between_commit_and_acknowledgement_gives_no_duplicate(bench: Bench) -> None:
    first = bench.running(over_line=True)
    eventually(lambda: bench.people.pollers("alice")[0])
    # From now on a poll that would acknowledge something never arrives.
    covered = {body["get_updates_buf"] for body in bench.line.bodies("getupdates")}
    bench.line.instead["getupdates"] = lambda request: (
        None if json.loads(request.body)["get_updates_buf"] in covered else b""
    )
    bench.people.say("alice", "once")
    eventually(first.heard)
    first.close()
    del bench.line.instead["getupdates"]
    second = bench.start(over_line=True)
    bench.people.say("alice", "twice")
    eventually(lambda: "twice" in second.heard())
    assert second.heard() == ["twice"]


def test_an_end_before_the_commit_brings_the_message_again(bench: Bench) -> None:
    first = bench.talking()
    eventually(lambda: first.store.outbox.next_to_post() is None)
    first.store.fill()
    text = "x" * 200_000
    bench.people.say("alice", text)
    eventually(lambda: first.state.detail("last_error"))
    first.close()
    second = bench.start()
    eventually(lambda: second.heard() == [text])


# iLink: receiving


@pytest.fixture
def ilink_bench(tmp_path: Path) -> Iterator[Bench]:
    with Sandbox(hold=HOLD) as sandbox, Line(sandbox.url) as line, Receiver() as receiver:
        bench = Bench("ilink", tmp_path, sandbox, line, receiver)
        yield bench
        bench.close()


def answering(*bodies: dict[str, Any]) -> Callable[[Request], bytes | None]:
    """Answer that many calls so, and let the others pass."""
    left = list(bodies)
    return lambda request: reply(json.dumps(left.pop(0)).encode()) if left else None


def test_a_message_that_the_server_sends_twice_is_reported_once(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    message = {"from_user_id": "x@im.wechat", "message_type": 1, "message_id": "77", "item_list": [{"type": 2}]}
    ilink_bench.line.instead["getupdates"] = answering({"msgs": [message, message]}, {"msgs": [message]})
    ilink_bench.people.say("alice", "wakes the poll")
    eventually(lambda: "[图片]" in client.heard() and "wakes the poll" in client.heard())
    assert client.heard().count("[图片]") == 1


def test_our_own_messages_and_nonsense_are_not_received(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    ilink_bench.line.instead["getupdates"] = answering(
        {"msgs": 5},
        {"msgs": ["text", None, {}, {"from_user_id": 5}], "get_updates_buf": 5, "longpolling_timeout_ms": "soon"},
        {"msgs": [{"from_user_id": "b@im.bot", "message_type": 2, "item_list": [{"type": 1}]}]},
        {"msgs": [{"from_user_id": "u@im.wechat", "item_list": 5}], "longpolling_timeout_ms": 10**400},
    )
    ilink_bench.people.say("alice", "and this")
    eventually(lambda: "and this" in client.heard())
    assert client.heard() == ["hello", "and this"]
    assert client.state.current is Login.RUNNING


def test_a_stranger_who_writes_becomes_a_friend(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    item = {"type": 1, "text_item": {"text": "hi"}}
    stranger = {"from_user_id": "stranger@im.wechat", "message_id": "78", "item_list": [item], "context_token": "c"}
    ilink_bench.line.instead["getupdates"] = answering({"msgs": [stranger]})
    ilink_bench.people.say("alice", "wakes the poll")
    eventually(lambda: ("receive_message", "hi") in client.told())
    assert client.told().index(("new_friend", "stranger")) < client.told().index(("receive_message", "hi"))
    assert [friend["name"] for friend in client.driver.friends()] == ["owner", "stranger"]


@pytest.mark.parametrize(
    "outage",
    [b"", reply(b"<html>", status="524 A Timeout Occurred"), reply(b'{"ret":-1,"errmsg":"busy"}')],
    ids=["hang up", "gateway", "refusal"],
)
def test_an_outage_is_waited_out_and_changes_no_state(ilink_bench: Bench, outage: bytes) -> None:
    client = ilink_bench.talking(over_line=True)
    before = client.told()
    ilink_bench.line.instead["getupdates"] = lambda request: outage
    ilink_bench.people.say("alice", "during the outage")
    eventually(lambda: (client.state.detail("poll_errors") or 0) >= 3)
    del ilink_bench.line.instead["getupdates"]
    eventually(lambda: "during the outage" in client.heard())
    assert client.told() == [*before, ("receive_message", "during the outage")]


def test_start_and_stop_are_announced_to_the_server(ilink_bench: Bench) -> None:
    client = ilink_bench.running(over_line=True)
    client.end()
    assert [len(ilink_bench.line.calls(name)) for name in ("notifystart", "notifystop")] == [1, 1]


def test_a_server_that_is_gone_does_not_hold_up_the_stop(ilink_bench: Bench) -> None:
    client = ilink_bench.running(over_line=True)
    ilink_bench.line.instead["notifystop"] = lambda request: time.sleep(3)
    assert client.end() < 2


# iLink: the walk through a login (ilink-protocol.md 3.2)


def test_an_expired_code_is_replaced_by_a_new_one(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start()
    key = people.next_code()
    people.sandbox.world.codes.end(key, "expired")
    second = people.next_code(1)
    eventually(lambda: second in client.code_shown())
    people.login("alice")
    client.until(Login.RUNNING)
    assert client.state.detail("qrcode_count") == 2
    eventually(lambda: client.told()[-1] == ("state_change", "updating", "running"))
    assert client.told().count(("input_qrcode",)) == 2


def test_a_scanned_code_that_expires_goes_back_to_scaning(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start()
    key = people.next_code()
    people.scan(key, "alice")
    client.until(Login.CONFIRMING)
    people.sandbox.world.codes.end(key, "expired")
    client.until(Login.SCANING)
    assert people.next_code(1) != key


def test_right_digits_lead_on(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start()
    key = people.next_code()
    digits = people.scan(key, "alice", digits=True)
    eventually(lambda: client.state.detail("verify_code_needed"))
    client.until(Login.CONFIRMING)
    client.driver.submit_verify_code(digits)
    people.agree(key)
    client.until(Login.RUNNING)
    assert not client.state.detail("verify_code_needed")
    eventually(lambda: ("login", 1) in client.told())
    assert client.told().count(("input_verifycode",)) == 1


def test_wrong_digits_are_asked_for_again_and_three_block_the_code(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start()
    key = people.next_code()
    right = people.scan(key, "alice", digits=True)
    for count, wrong in enumerate(
        [digits for digits in ("000001", "000002", "000003", "000004") if digits != right][:3], 1
    ):
        eventually(lambda count=count: client.told().count(("input_verifycode",)) == count)  # type: ignore[misc]
        client.driver.submit_verify_code(wrong)
    people.next_code(1)
    assert people.sandbox.world.codes.get(key).status == "verify_code_blocked"
    eventually(lambda: client.state.current is Login.SCANING and client.state.detail("qrcode_count") == 2)
    with pytest.raises(NotLoggedIn):
        client.driver.submit_verify_code(right)


def test_digits_do_not_wait_for_the_end_of_a_held_poll(ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "DIGITS_POLL_TIMEOUT", 0.2)
    arrived = threading.Event()

    def hold(request: Request) -> bytes | None:
        if "verify_code" not in request.line:
            arrived.wait(60)
            return b""
        arrived.set()
        return None

    people, client = ilink_bench.people, ilink_bench.start(over_line=True)
    key = people.next_code()
    digits = people.scan(key, "alice", digits=True)
    eventually(lambda: client.state.detail("verify_code_needed"))
    ilink_bench.line.instead["get_qrcode_status"] = hold
    polls = len(ilink_bench.line.calls("get_qrcode_status"))
    eventually(lambda: len(ilink_bench.line.calls("get_qrcode_status")) > polls, what="a poll without digits")
    client.driver.submit_verify_code(digits)
    try:
        assert arrived.wait(10), "the digits were not sent"
    finally:
        arrived.set()
    del ilink_bench.line.instead["get_qrcode_status"]
    people.agree(key)
    client.until(Login.RUNNING)


def test_a_login_in_the_other_data_centre_goes_on_there(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start()
    key = people.next_code()
    people.sandbox.world.codes.redirect(key)
    client.until(Login.CONFIRMING)
    people.scan(key, "alice")
    people.agree(key)
    client.until(Login.RUNNING)
    assert json.loads(client.options.cookie_path.read_text())["base_url"] == people.sandbox.redirect_url


def test_a_redirect_to_a_host_that_is_not_allowed_is_not_followed(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start(over_line=True)
    people.next_code()
    evil = {"status": "scaned_but_redirect", "redirect_host": "evil.example"}
    ilink_bench.line.instead["get_qrcode_status"] = answering(evil)
    people.login("alice")
    client.until(Login.RUNNING)


def test_an_unknown_status_changes_nothing(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start(over_line=True)
    key = people.next_code()
    people.sandbox.world.codes.set_status(key, "phone_on_the_moon")
    polls = len(ilink_bench.line.calls("get_qrcode_status"))
    eventually(lambda: len(ilink_bench.line.calls("get_qrcode_status")) > polls + 1)
    assert client.state.current is Login.SCANING
    people.sandbox.world.codes.set_status(key, "wait")
    people.login("alice")
    client.until(Login.RUNNING)


def test_a_bot_that_is_still_bound_is_taken_up_again(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    kept = client.options.cookie_path.read_bytes()
    dead = {"errcode": -14, "errmsg": "session timeout"}
    ilink_bench.line.instead["getupdates"] = ilink_bench.line.instead["notifystart"] = answering(dead, dead)
    client.until(Login.SCANING)
    # The token was alive all the time: the server says binded_redirect and hands out nothing new.
    ilink_bench.people.login("alice", before=1)
    client.until(Login.RUNNING)
    assert client.options.cookie_path.read_bytes() == kept
    assert ilink_bench.line.bodies("get_bot_qrcode")[-1]["local_token_list"] == [json.loads(kept)["token"]]
    ilink_bench.people.say("alice", "welcome back")
    eventually(lambda: "welcome back" in client.heard())


def test_nobody_scans_so_the_client_parks(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start(qrcode_count_max=2)
    for count in range(2):
        people.sandbox.world.codes.end(people.next_code(count), "expired")
    eventually(lambda: client.state.detail("parked"))
    assert client.state.current is Login.SCANING
    assert not client.options.qrcode_path.exists()
    assert len(people.codes()) == 2
    assert client.end() < 1


def test_a_parked_client_asks_for_no_codes_until_a_new_login_is_asked_for(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ilink, "PARKED", 0.05)
    people, client = ilink_bench.people, ilink_bench.talking(over_line=True, qrcode_count_max=1)
    ilink_bench.sandbox.world.drop("alice")
    people.sandbox.world.codes.end(people.next_code(1), "expired")
    eventually(lambda: client.state.detail("parked"))
    assert client.kept_state()["parked"] is True
    looks = len(ilink_bench.line.calls("notifystart"))
    eventually(lambda: len(ilink_bench.line.calls("notifystart")) >= looks + 3, what="looks after the old login")
    assert (len(people.codes()), client.state.current) == (2, Login.SCANING)
    client.driver.relogin()
    people.login("alice", 2)
    client.until(Login.RUNNING)
    assert client.kept_state()["parked"] is False


def test_a_client_is_not_parked_any_more_as_soon_as_a_code_is_shown(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    people, client = ilink_bench.people, ilink_bench.start(qrcode_count_max=1)
    people.sandbox.world.codes.end(people.next_code(), "expired")
    eventually(lambda: client.kept_state().get("parked"))
    client.driver.relogin()
    second = people.next_code(1)
    eventually(lambda: second in client.code_shown())
    eventually(lambda: client.kept_state()["parked"] is False)


def test_a_server_that_hangs_does_not_bring_back_a_parked_client(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ilink, "PARKED", 0.05)
    monkeypatch.setattr(wire, "CALL_TIMEOUT", 0.1)
    monkeypatch.setattr(wire, "READ_SLACK", 0.1)
    people, client = ilink_bench.people, ilink_bench.talking(over_line=True, qrcode_count_max=1)
    ilink_bench.sandbox.world.drop("alice")
    people.sandbox.world.codes.end(people.next_code(1), "expired")
    eventually(lambda: client.state.detail("parked"))
    free = threading.Event()
    ilink_bench.line.instead["notifystart"] = lambda request: b"" if free.wait(20) else b""
    looks = len(ilink_bench.line.calls("notifystart"))
    try:
        eventually(lambda: len(ilink_bench.line.calls("notifystart")) >= looks + 3)
    finally:
        free.set()
    assert (client.state.current, len(people.codes())) == (Login.SCANING, 2)
    assert client.state.detail("parked")


def test_a_stop_just_after_the_scan_keeps_the_login(ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ilink_bench.start()
    confirmed = client.driver._login._confirmed  # type: ignore[attr-defined]

    def stop(*arguments: Any) -> Any:
        found = confirmed(*arguments)
        client.driver.stop()
        return found

    monkeypatch.setattr(client.driver._login, "_confirmed", stop)  # type: ignore[attr-defined]
    ilink_bench.people.login("alice")
    client.exit.result(20)
    client.close()
    ilink_bench.start().until(Login.RUNNING)
    assert len(ilink_bench.people.codes()) == 1


def test_a_session_that_somebody_put_in_place_of_a_dead_one_is_used(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ilink, "REVIVE_PAUSE", 2.0)  # in which the file is written
    world, client = ilink_bench.sandbox.world, ilink_bench.talking()
    kept = json.loads(client.options.cookie_path.read_text())
    bot = world.rebind("alice")
    client.options.cookie_path.write_text(json.dumps({**kept, "token": bot.token, "bot_id": bot.bot_id}))
    eventually(lambda: client.told()[-1] == ("state_change", "updating", "running"))
    ilink_bench.people.say("alice", "here again")
    eventually(lambda: client.heard() == ["hello", "here again"])
    assert len(ilink_bench.people.codes()) == 1


def test_a_parked_client_goes_on_when_its_login_is_alive_again_and_has_lost_nothing(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ilink, "PARKED", 0.05)
    people, client = ilink_bench.people, ilink_bench.talking(over_line=True, qrcode_count_max=1)
    user = client.driver.user()
    dead = reply(b'{"errcode":-14}')
    ilink_bench.line.instead["getupdates"] = ilink_bench.line.instead["notifystart"] = lambda request: dead
    people.say("alice", "meanwhile")
    people.sandbox.world.codes.end(people.next_code(1), "expired")
    eventually(lambda: client.state.detail("parked"))
    looks = len(ilink_bench.line.calls("notifystart"))
    eventually(lambda: len(ilink_bench.line.calls("notifystart")) >= looks + 2)
    assert client.state.current is Login.SCANING
    del ilink_bench.line.instead["notifystart"]
    del ilink_bench.line.instead["getupdates"]
    client.until(Login.RUNNING)
    eventually(lambda: client.heard() == ["hello", "meanwhile"])
    assert client.driver.user() == user
    assert len(people.codes()) == 2


def test_a_parked_client_stops_at_once(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start(qrcode_count_max=1)
    people.sandbox.world.codes.end(people.next_code(), "expired")
    eventually(lambda: client.state.detail("parked"))
    assert client.end() < 1
    assert client.exit.result() is Exit.STOPPED


def test_nobody_scans_so_the_client_exits_where_that_is_set(ilink_bench: Bench) -> None:
    people, client = ilink_bench.people, ilink_bench.start(qrcode_count_max=1, ilink_on_lost="exit")
    people.sandbox.world.codes.end(people.next_code(), "expired")
    assert client.exit.result(20) is Exit.LOST


# iLink: the session


def test_a_fresh_start_asks_for_a_scan_once(ilink_bench: Bench) -> None:
    ilink_bench.running().end()
    ilink_bench.running("bob", fresh="1", started="2.0").end()
    restarted = ilink_bench.start(fresh="1", started="2.0")
    restarted.until(Login.RUNNING)
    restarted.end()
    assert len(ilink_bench.people.codes()) == 2
    ilink_bench.running("carol", fresh="1", started="3.0")


def test_a_session_that_may_not_be_kept_is_not(ilink_bench: Bench) -> None:
    first = ilink_bench.running(keep_cookie="0")
    first.end()
    assert not first.options.cookie_path.exists()
    ilink_bench.running(keep_cookie="0")


def test_a_kept_session_is_not_used_when_none_may_be(ilink_bench: Bench) -> None:
    ilink_bench.running().end()
    client = ilink_bench.start(keep_cookie="0")
    client.until(Login.SCANING)
    assert client.options.cookie_path.exists()


def test_a_session_that_the_disk_does_not_take_is_kept_later(ilink_bench: Bench, tmp_path: Path) -> None:
    later = tmp_path / "later" / "cookie.dat"
    client = ilink_bench.start(cookie_path=str(later))
    ilink_bench.people.login("alice")
    eventually(lambda: (client.state.detail("last_error") or {}).get("errmsg", "").startswith("session cannot be kept"))
    later.parent.mkdir()
    client.until(Login.RUNNING)
    assert later.exists()


@pytest.mark.parametrize("crash", ["before it was met", "after"])
def test_the_owner_is_a_friend_from_the_login_on(ilink_bench: Bench, crash: str) -> None:
    first = ilink_bench.running()
    first.end()
    if crash == "before it was met":
        (ilink_bench.folder / "account.sqlite").unlink()
    second = ilink_bench.start()
    second.until(Login.RUNNING)
    assert second.friend()["name"] == "owner"


def test_somebody_elses_scan_is_refused(ilink_bench: Bench) -> None:
    client = ilink_bench.running()
    ilink_bench.sandbox.world.drop("alice")
    ilink_bench.people.login("bob", before=1)
    eventually(lambda: ("login", -1, "other user") in client.told())
    assert client.state.current in (Login.SCANING, Login.CONFIRMING)
    ilink_bench.people.login("alice", before=2)
    client.until(Login.RUNNING)


@pytest.mark.parametrize("damage", ["", "{", '{"token": 5}', None], ids=["empty", "cut off", "other", "gone"])
def test_somebody_elses_scan_is_refused_also_when_the_session_cannot_be_read(
    ilink_bench: Bench, damage: str | None
) -> None:
    first = ilink_bench.running()
    first.end()
    path = first.options.cookie_path
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    second = ilink_bench.start()
    ilink_bench.people.login("bob", before=1)
    eventually(lambda: ("login", -1, "other user") in second.told())
    assert damage is None or path.read_text() == damage
    ilink_bench.people.login("alice", before=2)
    second.until(Login.RUNNING)
    assert ilink_bench.people.id_of("alice") == second.friend()["id"]


def test_anybodys_scan_is_good_where_that_is_set(ilink_bench: Bench) -> None:
    client = ilink_bench.running(ilink_owner="any")
    before = client.driver.user()
    ilink_bench.sandbox.world.drop("alice")
    ilink_bench.people.login("bob", before=1)
    eventually(lambda: client.state.current is Login.RUNNING and client.driver.user() != before)
    assert client.friend()["id"] == ilink_bench.people.id_of("bob")


def test_a_dead_token_is_revived_once_and_then_the_login_is_lost(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    friend = client.friend()
    ilink_bench.sandbox.world.drop("alice")
    client.until(Login.SCANING)
    assert len(ilink_bench.line.calls("notifystart")) == 2
    with pytest.raises(NotLoggedIn):
        client.queue.send(friend, [Part("hello")])
    assert ilink_bench.line.calls("sendmessage") == []
    eventually(lambda: ("input_qrcode",) in client.told()[-1:])
    lost = client.told().index(("state_change", "running", "scaning"))
    assert client.told()[lost:] == [
        ("state_change", "running", "scaning"),
        ("login", -1, "ret -14: session timeout"),
        ("input_qrcode",),
    ]
    assert client.options.cookie_path.exists()
    ilink_bench.people.login("alice", before=1)
    client.until(Login.RUNNING)
    # A new bot: its quota and tokens begin anew.
    assert client.friend()["can_send"] is False


def test_a_dead_token_that_comes_back_to_life_changes_nothing(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    before = client.told()
    ilink_bench.line.instead["getupdates"] = answering({"errcode": -14})
    ilink_bench.people.say("alice", "wakes the poll")
    eventually(lambda: len(ilink_bench.line.calls("notifystart")) == 2)
    ilink_bench.people.say("alice", "goes on")
    eventually(lambda: "goes on" in client.heard())
    assert client.told() == [*before, ("receive_message", "wakes the poll"), ("receive_message", "goes on")]


# iLink: sending (ilink-protocol.md 8)


def refuse(ret: int, errmsg: str = "") -> Callable[[Request], bytes | None]:
    return lambda request: reply(json.dumps({"ret": ret, "errmsg": errmsg}).encode())


def test_nobody_can_be_written_to_before_he_writes(ilink_bench: Bench) -> None:
    client = ilink_bench.running(over_line=True)
    assert client.friend()["can_send"] is False
    assert client.refused("hello").code == -21
    assert ilink_bench.line.calls("sendmessage") == []


def test_a_closed_window_is_refused_here_or_left_to_the_server(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    bot, friend = client.driver.user()["id"], client.friend()["id"]
    client.store.people.heard(bot, friend, "", time.time() - gate.WINDOW - 1)
    assert client.refused("hello").code == -22
    assert ilink_bench.line.calls("sendmessage") == []
    client.end()
    trying = ilink_bench.start(over_line=True, ilink_gate="try")
    trying.until(Login.RUNNING)
    assert trying.send("hello")["delivery"] == "accepted"
    ilink_bench.line.instead["sendmessage"] = refuse(-2, "prepare failed")
    refusal = trying.refused("hello")
    assert (refusal.code, refusal.fields["ret"], refusal.fields["errmsg"]) == (-22, -2, "prepare failed")


def test_the_quota_is_counted_here_and_by_the_server(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    assert [client.send(str(number))["sends_left"] for number in range(10)] == list(range(9, -1, -1))
    refusal = client.refused("one too many")
    assert (refusal.code, refusal.fields["sends_left"]) == (-23, 0)
    assert len(ilink_bench.line.calls("sendmessage")) == 10
    client.end()
    trying = ilink_bench.start(over_line=True, ilink_gate="try")
    trying.until(Login.RUNNING)
    refusal = trying.refused("one too many")
    assert (refusal.code, refusal.fields["ret"]) == (-23, -2)
    ilink_bench.people.say("alice", "go on")
    eventually(lambda: trying.heard() == ["go on"])
    assert trying.send("thank you")["sends_left"] == 9


@pytest.mark.parametrize(
    ("ret", "code", "retryable"), [(-2, -26, True), (-1, -1, False), (7, -1, False), (-14, -25, False)]
)
def test_a_refusal_of_the_server_is_passed_on_and_costs_nothing(
    ilink_bench: Bench, ret: int, code: int, retryable: bool
) -> None:
    client = ilink_bench.talking(over_line=True)
    ilink_bench.line.instead["sendmessage"] = refuse(ret, "said the server")
    refusal = client.refused("hello")
    assert (refusal.code, refusal.fields["retryable"]) == (code, retryable)
    assert (refusal.fields["ret"], refusal.fields["errmsg"]) == (ret, "said the server")
    assert client.friend()["sends_left"] == 10


def test_a_quota_that_ends_within_a_message_is_told_as_such(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True, ilink_gate="try", ilink_text_limit="20")
    for number in range(8):
        client.send(str(number))
    assert client.refused("x" * 60).code == -23
    assert ilink_bench.people.read("alice")[8:] == ["x" * 20] * 2


def test_an_answer_that_never_comes_leaves_the_delivery_open(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)

    def deliver_and_hang_up(request: Request) -> bytes:
        ilink_bench.line.pass_on(request)
        return b""

    ilink_bench.line.instead["sendmessage"] = deliver_and_hang_up
    refusal = client.refused("hello")
    assert (refusal.code, refusal.fields["retryable"]) == (-28, False)
    assert ilink_bench.people.read("alice") == ["hello"]
    assert client.friend()["sends_left"] == 9


def test_a_send_without_a_connection_costs_nothing(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    ilink_bench.line.hang_up()
    refusal = client.refused("hello")
    assert (type(refusal), refusal.fields["retryable"]) == (NotSent, True)
    assert client.friend()["sends_left"] == 10
    assert client.state.current is Login.RUNNING


def test_a_promised_text_waits_out_a_login_that_is_lost(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)
    dead = {"ret": -14, "errmsg": "session timeout"}
    ilink_bench.line.instead["sendmessage"] = answering(dead, dead)
    client.promise("hello")
    eventually(lambda: client.outgoing() == [("hello", "")])
    assert ilink_bench.people.read("alice") == ["hello"]
    assert len({body["msg"]["client_id"] for body in ilink_bench.line.bodies("sendmessage")}) == 1
    assert client.friend()["sends_left"] == 9


def test_a_promised_text_that_the_server_limits_is_tried_once_more(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "RETRY_AFTER", (0.2, 0.2))
    client = ilink_bench.talking(over_line=True)
    limited = {"ret": -2, "errmsg": "rate limited"}
    ilink_bench.line.instead["sendmessage"] = answering(limited)
    client.promise("once")
    eventually(lambda: client.outgoing() == [("once", "")])
    assert client.friend()["sends_left"] == 9
    ilink_bench.line.instead["sendmessage"] = answering(limited, limited)
    client.promise("twice")
    eventually(lambda: client.outgoing() == [("once", ""), ("twice", -26)])
    assert len(ilink_bench.line.calls("sendmessage")) == 4
    assert ilink_bench.people.read("alice") == ["once"]


def test_a_friend_who_writes_is_answered_at_once_though_the_server_had_limited_it(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "RETRY_AFTER", (600,))
    client = ilink_bench.talking(over_line=True)
    ilink_bench.line.instead["sendmessage"] = answering({"ret": -2})
    client.promise("limited")
    eventually(lambda: client.queue._held)
    ilink_bench.people.say("alice", "go on")
    eventually(lambda: client.outgoing() == [("limited", "")])


def test_a_promised_text_whose_answer_never_comes_is_not_sent_again(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(over_line=True)

    def deliver_and_hang_up(request: Request) -> bytes:
        ilink_bench.line.pass_on(request)
        return b""

    ilink_bench.line.instead["sendmessage"] = deliver_and_hang_up
    client.promise("hello")
    eventually(lambda: client.outgoing() == [("hello", -28)])
    del ilink_bench.line.instead["sendmessage"]
    client.send("after it")
    assert ilink_bench.people.read("alice") == ["hello", "after it"]


def test_a_long_text_is_sent_in_parts(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(ilink_text_limit="20")
    answer = client.send("first line\nsecond one is longer\nthird")
    assert ilink_bench.people.read("alice") == ["first line\n", "second one is ", "longer\nthird"]
    assert (answer["parts"], answer["sends_left"]) == (3, 7)


def test_a_text_of_more_parts_than_may_be_sent_is_not_begun(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(ilink_text_limit="20")
    refusal = client.refused("x" * 201)
    assert (refusal.code, refusal.fields["parts"], refusal.fields["sends_left"]) == (-23, 11, 10)
    assert ilink_bench.people.read("alice") == []
    assert client.send("x" * 200)["sends_left"] == 0


def test_sends_keep_their_distance(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(send_interval="0.3")
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(client.send, ["one", "two", "three"]))
    assert time.monotonic() - began >= 0.6
    assert sorted(ilink_bench.people.read("alice")) == ["one", "three", "two"]


def test_a_stop_ends_the_wait_of_a_send_which_costs_nothing(ilink_bench: Bench) -> None:
    client = ilink_bench.talking(send_interval="60")
    client.send("at once")
    bot = client.driver.user()["id"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.send, "much later")
        eventually(lambda: client.queue._letters, what="the letter")
        client.queue.stop(grace=5)
        assert isinstance(waiting.exception(5), NotLoggedIn)
    assert client.store.people.friends(bot)[0].sent_since == 1


def test_a_send_that_the_server_took_is_no_failure_though_the_disk_is_full(
    ilink_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ilink_bench.talking()
    eventually(lambda: client.store.outbox.next_to_post() is None)
    send_part = client.driver.send_part

    def fill(*arguments: Any) -> dict[str, Any]:
        try:
            return send_part(*arguments)
        finally:
            client.store.fill()

    monkeypatch.setattr(client.driver, "send_part", fill)
    text = "x" * 1900
    assert client.send(text)["delivery"] == "accepted"
    assert client.outgoing() == []
    client.store.make_room()
    eventually(lambda: client.outgoing()[:1] == [(text, "")])
    assert ilink_bench.people.read("alice") == [text]


def test_no_state_file_tells_a_secret(ilink_bench: Bench) -> None:
    client = ilink_bench.talking()
    session = json.loads(client.options.cookie_path.read_text())
    (friend,) = client.store.people.friends(session["bot_id"])
    told = client.options.state_path.read_text() + json.dumps(ilink_bench.receiver.got)
    secrets = (session["token"], friend.context_token, *ilink_bench.people.codes())
    assert [secret for secret in secrets if secret and secret in told] == []
