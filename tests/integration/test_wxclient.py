"""The wxclient process as a supervisor runs it, against the sandbox: record, files, signals, exit codes and HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.account import People, Receiver, named, qr_text
from tests.deadline import eventually
from tests.installation import alive
from tests.ports import free_port
from wxsup import environment, names, record, values
from wxsup.client.calls import ABILITIES
from wxsup.model import Client, Exit
from wxsup.sandbox.app import Sandbox
from wxsup.settings import Settings

WXCLIENT = Path(sysconfig.get_path("scripts")) / "wxclient"
HOLD = 2.0
STOP_LIMIT = 3.0
IDLE_THREADS = 4  # main, serve, drive and send, without a post_api


class Account:
    """An account with its record on disk, and the process that runs it now."""

    def __init__(
        self, folder: Path, sandbox: Sandbox, name: str, params: dict[str, str], given: dict[str, str]
    ) -> None:
        settings = values.read(
            Settings,
            {"state_dir": str(folder), "ilink_base": sandbox.url, "ilink_allow_hosts": "127.0.0.1", **given},
        )
        self.name, self.slug, self.port = name, names.slug(name), free_port()
        params = {"send_interval": "0", "log_level": "debug", **params}
        client = Client(name=name, slug=self.slug, port=self.port, driver="ilink", params=params, created=time.time())
        variables = environment.environment(client, settings)
        client = Client(**{**vars(client), "environment": variables})
        self.record = folder / f"{names.program(self.slug)}.env"
        self.record.write_text(record.dumps(client), encoding="utf-8")
        self.state_path, self.qrcode_path, self.pid_path, self.cookie_path = (
            environment.path_of(client, option) for option in ("state_path", "qrcode_path", "pid_path", "cookie_path")
        )
        self.log_path = folder / f"{self.slug}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        return [str(WXCLIENT), self.slug, "--record", str(self.record)]

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Run the client, or another copy of it, with its log appended to that of the one before."""
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen(command or self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.process = self.process if self.process and self.process.poll() is None else process
        return process

    def signal(self, number: int) -> tuple[int, float]:
        """Send a signal and return the exit code and the seconds until the end."""
        assert self.process
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(20)
        return code, time.monotonic() - began

    def state(self) -> dict[str, Any]:
        """Return the state file of the process that runs now; nothing while it has written none."""
        try:
            state: dict[str, Any] = json.loads(self.state_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return state if state["pid"] == self.pid else {}

    def until(self, state: str) -> None:
        eventually(lambda: self.state().get("state") == state, what=state)

    def ask(self, call: str, **parameters: str) -> Any:
        """Make a call that is answered with 200 and JSON."""
        status, body = self.answered("GET", call, **parameters)
        assert status == 200, body
        return json.loads(body)

    def answered(self, method: str, call: str, **parameters: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        try:
            connection.request(method, f"/openwx/{call}?{urlencode(parameters)}")
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)


class Bench:
    """Accounts on one sandbox."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.people = People(sandbox)
        self._ends = ExitStack()

    def account(self, name: str = "alice", params: dict[str, str] | None = None, **given: str) -> Account:
        account = Account(self.folder, self.sandbox, name, params or {}, given)
        self._ends.callback(account.end)
        return account

    def login(self, account: Account, user: str = "alice", before: int = 0) -> None:
        """Log a client in with the next code."""
        key = self.people.next_code(before)
        self.people.scan(key, user)
        account.until("confirming")
        self.people.agree(key)
        account.until("running")

    def running(self, name: str = "alice", params: dict[str, str] | None = None, **given: str) -> Account:
        """Return an account whose client runs and is logged in."""
        account = self.account(name, params, **given)
        before = len(self.people.codes())
        account.start()
        self.login(account, before=before)
        return account

    def close(self) -> None:
        self._ends.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Sandbox(hold=HOLD) as sandbox:
        bench = Bench(tmp_path, sandbox)
        yield bench
        bench.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def said(receiver: Receiver) -> list[str]:
    return [report["content"] for report in list(receiver.got) if report["post_type"] == "receive_message"]


# A life


@pytest.mark.parametrize("name", ["alice", "微信一号", "100% 'a b'"])
def test_a_client_comes_up_shows_its_code_and_is_logged_in(bench: Bench, name: str) -> None:
    account = bench.account(name)
    process = account.start()
    account.until("scaning")
    key = bench.people.next_code()
    assert qr_text(account.qrcode_path.read_bytes()) == f"{bench.sandbox.url}/phone?code={key}"
    assert Path(f"/proc/{process.pid}/cmdline").read_bytes().rstrip(b"\0") == f"wxclient({name})".encode()
    assert account.pid_path.read_text() == str(process.pid)
    bench.login(account)
    assert not account.qrcode_path.exists()
    told = account.state()
    expected = {
        "account": name,
        "state": "running",
        "previous_state": "updating",
        "pid": process.pid,
        "driver": "ilink",
        "cookie_path": str(account.cookie_path),
        "qrcode_path": str(account.qrcode_path),
    }
    assert {field: told[field] for field in expected} == expected
    assert account.ask("get_user_info")["name"] == name


def test_http_is_served_in_every_state(bench: Bench) -> None:
    account = bench.account()
    account.start()
    key = bench.people.next_code()
    next_steps: dict[str, Callable[[], object]] = {
        "scaning": lambda: bench.people.scan(key, "alice"),
        "confirming": lambda: bench.people.agree(key),
    }
    for state, go_on in next_steps.items():
        account.until(state)
        for call in ("get_user_info", "get_friend_info", "search_friend", "send_friend_message"):
            assert account.ask(call) == {"code": -25, "status": "not logged in", "state": state}
        assert account.ask("get_client_info")["state"] == state
        go_on()
    account.until("running")
    assert [friend["name"] for friend in account.ask("get_friend_info")] == ["owner"]
    assert account.answered("GET", "no_such_call") == (403, b'{"code":-1,"status":"api not found"}')


def test_what_cannot_be_done_says_so_at_once(bench: Bench) -> None:
    account = bench.account()
    account.start()
    account.until("scaning")
    for call in ABILITIES:
        assert account.ask(call) == {"code": -20, "status": f"unsupported by driver ilink: {call}"}


def test_texts_go_in_and_out(bench: Bench) -> None:
    account = bench.running(ilink_filehelper="owner")
    assert [named(event) for event in account.ask("check_event")] == [("new_friend", "owner")]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(account.ask, "check_event")
        bench.people.say("alice", "你好 😀")
        (message,) = waiting.result(20)
    assert (message["content"], message["sender_id"]) == ("你好 😀", bench.people.id_of("alice"))
    answer = account.ask("send_friend_message", id=message["sender_id"], content="再见 👋")
    assert (answer["code"], answer["status"]) == (0, "success")
    assert account.ask("send_friend_message", id="filehelper", content="for the owner")["code"] == 0
    assert bench.people.read("alice") == ["再见 👋", "for the owner"]


def test_a_caller_who_has_hung_up_takes_no_event_away(bench: Bench) -> None:
    account = bench.running()
    account.ask("check_event")  # the new friend
    eventually(lambda: _threads(account.pid) == IDLE_THREADS)
    with socket.create_connection(("127.0.0.1", account.port), timeout=20) as channel:
        channel.sendall(b"GET /openwx/check_event HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: _threads(account.pid) == IDLE_THREADS + 1, what="the held call")
    bench.people.say("alice", "for somebody who is there")
    assert [event["content"] for event in account.ask("check_event")] == ["for somebody who is there"]


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


# Reports


def test_reports_come_in_order_and_name_the_client(bench: Bench, receiver: Receiver) -> None:
    account = bench.running("微信一号", post_api=receiver.url)
    for number in range(5):
        bench.people.say("alice", f"message {number}")
    eventually(lambda: len(said(receiver)) == 5)
    account.signal(signal.SIGTERM)
    assert receiver.events() == [
        ("state_change", "init", "loading"),
        ("state_change", "loading", "scaning"),
        ("input_qrcode",),
        ("state_change", "scaning", "confirming"),
        ("state_change", "confirming", "updating"),
        ("login", 1),
        ("new_friend", "owner"),
        ("state_change", "updating", "running"),
        *(("receive_message", f"message {number}") for number in range(5)),
        ("state_change", "running", "stop"),
        ("stop",),
    ]
    assert set(receiver.queries) == {f"client={quote('微信一号')}"}


def test_reports_wait_for_their_receiver(bench: Bench) -> None:
    port = free_port()
    account = bench.running(post_api=f"http://127.0.0.1:{port}/reports")
    bench.people.say("alice", "nobody listens")
    eventually(lambda: "report not taken" in account.log())
    receiver = Receiver(port)
    receiver.status = 500
    with receiver:
        bench.people.say("alice", "nobody understands")
        eventually(lambda: "HTTP 500" in account.log())
        assert receiver.got == []
        receiver.status = 200
        eventually(lambda: len(said(receiver)) == 2)
        assert said(receiver) == ["nobody listens", "nobody understands"]
        assert named(receiver.got[0]) == ("state_change", "init", "loading")


# Its end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_running_client_quickly_and_cleanly(bench: Bench, number: int) -> None:
    account = bench.running()
    eventually(lambda: bench.people.pollers("alice")[0] == 1, what="a held poll")
    code, took = account.signal(number)
    assert (code, took < STOP_LIMIT) == (Exit.STOPPED, True)
    assert not account.pid_path.exists()
    assert account.state()["state"] == "stop"
    assert "Traceback" not in account.log()


def test_a_signal_ends_a_client_that_waits_for_a_scan(bench: Bench) -> None:
    account = bench.account()
    account.start()
    eventually(account.qrcode_path.exists)
    code, took = account.signal(signal.SIGTERM)
    assert (code, took < STOP_LIMIT) == (Exit.STOPPED, True)
    assert not account.pid_path.exists() and not account.qrcode_path.exists()
    assert account.state()["state"] == "stop"


def test_a_receiver_that_is_down_does_not_hold_up_the_end(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        account = bench.running(post_api=f"http://127.0.0.1:{silent.getsockname()[1]}/reports")
        code, took = account.signal(signal.SIGTERM)
    assert (code, took < STOP_LIMIT) == (Exit.STOPPED, True)


def test_stop_client_ends_it_too(bench: Bench) -> None:
    account = bench.account()
    process = account.start()
    eventually(account.listens)
    assert account.ask("stop_client")["pid"] == process.pid
    assert process.wait(20) == Exit.STOPPED


def test_a_kill_loses_nothing_and_needs_no_scan(bench: Bench, receiver: Receiver) -> None:
    account = bench.running(post_api=receiver.url)
    user = account.ask("get_user_info")
    for number in range(30):
        bench.people.say("alice", f"message {number}")
        if number % 10 == 9:
            # At any moment: while it receives, commits, reports, or starts.
            account.signal(signal.SIGKILL)
            account.start()
    eventually(lambda: len(set(said(receiver))) == 30)
    account.until("running")
    assert account.ask("get_user_info") == user
    assert len(bench.people.codes()) == 1
    # What was reported but not yet noted as such comes again, in its place; nothing else does.
    first_time = list(dict.fromkeys(said(receiver)))
    assert first_time == [f"message {number}" for number in range(30)]
    assert len(said(receiver)) <= 33


def test_a_client_dies_with_its_supervisor(bench: Bench) -> None:
    account = bench.account()
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *account.command],
        env={**os.environ, "SUPERVISOR_ENABLED": "1"},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        eventually(account.listens)
        parent.kill()
    eventually(lambda: not alive(pid), timeout=5, what="the end of the client")
    assert not account.pid_path.exists()


# What it cannot do


def test_a_second_copy_of_an_account_gives_up(bench: Bench) -> None:
    account = bench.running()
    before = account.state()
    script = "from wxsup.client import account, app; account.LOCK_TIMEOUT = 0.3; app.main()"
    second = account.start([sys.executable, "-c", script, *account.command[1:]])
    assert second.wait(20) == Exit.BUSY
    assert "another process holds this account" in account.log()
    assert account.state() == before
    assert account.pid_path.read_text() == str(account.pid)
    assert account.ask("get_client_info")["pid"] == account.pid
    assert bench.people.pollers("alice")[1] == 1


def test_a_second_copy_takes_over_when_the_first_ends(bench: Bench) -> None:
    account = bench.running()
    first = account.process
    second = account.start()
    eventually(lambda: b"wxclient(" in Path(f"/proc/{second.pid}/cmdline").read_bytes(), what="the second copy")
    assert first
    first.terminate()
    assert first.wait(20) == Exit.STOPPED
    account.process = second
    account.until("running")
    assert account.pid_path.read_text() == str(second.pid)


def test_a_copy_that_waits_can_be_stopped(bench: Bench) -> None:
    account = bench.running()
    second = account.start()
    eventually(lambda: b"wxclient(" in Path(f"/proc/{second.pid}/cmdline").read_bytes(), what="the second copy")
    second.terminate()
    assert second.wait(STOP_LIMIT) == Exit.STOPPED
    assert account.ask("get_client_info")["pid"] == account.pid


def test_a_taken_port_is_told_in_the_state_file(bench: Bench) -> None:
    account = bench.account()
    with socket.create_server(("127.0.0.1", account.port)):
        assert account.start().wait(20) == Exit.BUSY
    told = account.state()
    assert told["state"] == "stop"
    assert told["error"].startswith(f"port {account.port} cannot be opened: Address already in use")
    assert not account.pid_path.exists()


def test_a_store_of_a_newer_version_is_told_in_the_state_file(bench: Bench) -> None:
    account = bench.account()
    account.cookie_path.parent.mkdir(parents=True)
    database = sqlite3.connect(account.cookie_path.with_name(f"wxclient_{account.slug}.sqlite"))
    database.execute("PRAGMA user_version = 99")
    database.close()
    assert account.start().wait(20) == Exit.FAILED
    assert "newer wxsup" in account.state()["error"]
    assert "Traceback" not in account.log()


def test_a_folder_that_cannot_be_made_is_told_in_the_log(bench: Bench) -> None:
    account = bench.account()
    account.cookie_path.parent.parent.write_text("a file in the place of a folder")
    assert account.start().wait(20) == Exit.FAILED
    assert "client not started" in account.log()
    assert "Traceback" not in account.log()


@pytest.mark.parametrize("text", ["", "MOJO_WEIXIN_ACCOUNT=bob\n", "no record\n", "MOJO_WEIXIN_LOG_LEVEL=loud\n"])
def test_a_record_that_is_none_is_a_usage_error(bench: Bench, text: str) -> None:
    account = bench.account()
    account.record.write_text(text)
    assert account.start().wait(20) == Exit.USAGE


def test_a_client_that_is_being_removed_does_not_run(bench: Bench) -> None:
    account = bench.account()
    account.record.write_text(account.record.read_text().replace("WXCLIENT_WANT=up", "WXCLIENT_WANT=gone"))
    assert account.start().wait(20) == Exit.USAGE
    assert "about to remove it" in account.log()
    assert "record not usable" in account.log()


def test_nobody_scans_so_it_exits_where_that_is_set(bench: Bench) -> None:
    account = bench.account(params={"qrcode_count_max": "1"}, ilink_on_lost="exit")
    process = account.start()
    bench.sandbox.world.codes.end(bench.people.next_code(), "expired")
    assert process.wait(20) == Exit.LOST


def test_a_full_disk_loses_no_message_and_stops_nobody(bench: Bench, receiver: Receiver) -> None:
    account = bench.running(post_api=receiver.url)
    bench.people.say("alice", "before")
    eventually(lambda: said(receiver) == ["before"])
    # No file may grow (getrlimit(2)): a full disk for this process alone.
    _, most = resource.prlimit(account.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(account.pid, resource.RLIMIT_FSIZE, (0, most))
    bench.people.say("alice", "meanwhile")
    eventually(lambda: bench.people.pollers("alice")[0] == 0, what="the end of polling")
    refusal = account.ask("send_friend_message", id=bench.people.id_of("alice"), content="x")
    assert (refusal["code"], refusal["retryable"]) == (-1, True), "its fate could not be kept"
    assert bench.people.read("alice") == []
    assert said(receiver) == ["before"]
    assert account.ask("get_client_info")["state"] == "running"
    resource.prlimit(account.pid, resource.RLIMIT_FSIZE, (most, most))
    bench.people.say("alice", "after")
    eventually(lambda: said(receiver) == ["before", "meanwhile", "after"])
    assert account.ask("send_friend_message", id=bench.people.id_of("alice"), content="x")["code"] == 0
    assert account.signal(signal.SIGTERM)[0] == Exit.STOPPED


# Secrets


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_client_that_starts_on_a_full_disk_waits_for_room(bench: Bench) -> None:
    account = bench.account()
    folder, filler = account.cookie_path.parent, account.cookie_path.parent / "filler"
    folder.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", folder], check=True)
    try:
        account.start()
        bench.login(account)
        account.signal(signal.SIGTERM)  # a clean end leaves no -shm file, which SQLite must make anew
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 4096)
        account.start()
        eventually(lambda: account.state().get("trouble"), what="a word of the trouble")
        assert account.state()["state"] == "loading"
        filler.unlink()
        account.until("running")
        assert account.state()["trouble"] == ""
        assert len(bench.people.codes()) == 1
    finally:
        account.end()
        subprocess.run(["umount", "-l", folder], check=True)


SECRET_FIELDS = "aeskey aes_key encrypt_query_param full_url context_token typing_ticket bot_token filekey".split()


def test_no_log_state_file_reply_or_report_tells_a_secret(bench: Bench, receiver: Receiver) -> None:
    people = bench.people
    account = bench.account(post_api=receiver.url)
    account.start()
    key = people.next_code()
    digits = people.scan(key, "alice", digits=True)
    eventually(lambda: account.ask("submit_verify_code", code=digits)["code"] == 0)
    told = [json.dumps(account.state())]
    people.agree(key)
    account.until("running")
    sessions = [account.cookie_path.read_text()]
    people.say("alice", "a private word")
    people.do("say", user="alice", media={"kind": "file", "name": "a.txt", "data": "aGVsbG8="})
    people.do("say", user="alice", media={"kind": "image", "data": "aGVsbG8="})
    eventually(lambda: len(said(receiver)) == 3)
    friend = people.id_of("alice")
    told += [
        json.dumps(account.ask(call, id=friend, **parameters))
        for call, parameters in (
            ("send_friend_message", {"content": "a private answer", "media_data": "aGVsbG8="}),
            ("send_friend_message", {"content": "a private answer", "async": "1"}),
            ("upload_media", {"media_data": "aGVsbG8="}),
            ("send_typing", {}),
            ("set_markname", {"new_markname": "Anne"}),
            ("get_friend_info", {}),
            ("get_user_info", {}),
            ("get_client_info", {}),
            ("get_dead_letters", {}),
        )
    ]
    bench.sandbox.world.drop("alice")
    account.until("scaning")
    told.append(json.dumps(account.state()))
    people.login("alice", before=1)
    account.until("running")
    sessions.append(account.cookie_path.read_text())
    told += [json.dumps(account.ask(call)) for call in ("get_log", "get_client_info")]
    events = json.dumps(account.ask("check_event", after=""))
    database = sqlite3.connect(account.cookie_path.with_name(f"wxclient_{account.slug}.sqlite"))
    sources = [raw for (raw,) in database.execute("SELECT raw FROM inbox")]
    database.close()
    sources += [*sessions, json.dumps(people.look("requests")["requests"])]
    fields = "|".join((*SECRET_FIELDS, "token"))
    secrets = {secret for source in sources for secret in re.findall(rf'"(?:{fields})": "([^"]{{6,}})"', source)}
    assert len(secrets) > 10
    account.signal(signal.SIGTERM)
    reports = json.dumps(receiver.got) + events
    secrets |= {*people.codes(), digits}
    assert "a private word" in reports
    told += [account.log(), account.state_path.read_text()]
    private = ["a private", "aGVsbG8="]  # not secret to who may read reports, and none of the log's business
    assert [secret for secret in secrets | {*private} if secret in account.log() + told[0] + told[-1]] == []
    assert [secret for secret in secrets if any(secret in text for text in (*told, reports))] == []


def test_only_the_owner_may_read_what_is_kept(bench: Bench) -> None:
    account = bench.running()
    account.signal(signal.SIGTERM)
    modes = {path.name: path.stat().st_mode & 0o777 for path in account.cookie_path.parent.iterdir()}
    assert account.cookie_path.name in modes
    assert set(modes.values()) == {0o600}
    assert account.cookie_path.parent.stat().st_mode & 0o777 == 0o700
