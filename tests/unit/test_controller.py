from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import TIMEOUT
from tests.unit.conftest import HOSTILE_NAMES, MakeWorld, World
from wxsup import files, names, registry
from wxsup.errors import (
    ClientUnknown,
    ParameterRefused,
    PurgeFailed,
    StartFailed,
    SupervisorUnreachable,
    WxsupError,
)
from wxsup.model import Client, State, Status, Want
from wxsup.registry import LAST_PORT
from wxsup.supervisors.memory import Memory


class Stillborn(Memory):
    """Its processes end before they can be looked at."""

    def start(self, client: Client) -> Status:
        super().start(client)
        self.end(client.slug, State.FAILED, "exit status 1")
        return self.status()[client.slug]


class Interrupted(Memory):
    """Cannot be reached any more once it is asked to `fail_at`, as if it or the controller were killed there."""

    fail_at = ""

    def start(self, client: Client) -> Status:
        self.reachable = self.fail_at != "start"
        return super().start(client)

    def stop(self, client: Client) -> None:
        self.reachable = self.fail_at != "stop"
        super().stop(client)


class OnDisk(Memory):
    """Defines its clients in a folder that exists."""

    def __init__(self, folder: Path) -> None:
        super().__init__(lambda client: f"{client.environment['MOJO_WEIXIN_LOG_LEVEL']}\n")
        self._folder = folder

    def render(self, client: Client) -> Mapping[Path, str]:
        return {self._folder / f"{path.name}.conf": text for path, text in super().render(client).items()}


def body(call: Callable[[], object]) -> dict[str, object]:
    """Return what the API answers to a call that fails."""
    with pytest.raises(WxsupError) as failed:
        call()
    return failed.value.body()


def full_disk(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# start_client


def test_a_start_answers_with_the_entry(world: World) -> None:
    port = world.settings.backend_start_port
    assert world.controller.start("alice", {"log_level": "debug", "http_debug": "0"}) == {
        "code": 0,
        "status": "success",
        "client": "alice",
        "account": "alice",
        "pid": 1000,
        "port": world.record("alice").port,
        "log_level": "debug",
        "http_debug": "0",
    }
    assert world.record("alice").port >= port
    assert (world.record("alice").want, world.record("alice").pending) == (Want.UP, False)


def test_a_second_start_leaves_the_client_alone(world: World) -> None:
    first = world.controller.start("alice", {"log_level": "debug"})
    before = world.record("alice")
    again = world.controller.start("alice", {"log_level": "warn"})
    assert again == {**first, "status": "client already exists"}
    assert world.record("alice") == before


def test_a_stopped_process_is_started_with_the_new_parameters_on_its_old_port(world: World) -> None:
    first = world.controller.start("alice", {"log_level": "debug"})
    world.supervisor.end("alice")
    again = world.controller.start("alice", {"log_level": "warn"})
    assert again == {**first, "pid": 1001, "log_level": "warn"}
    assert world.record("alice").environment["MOJO_WEIXIN_LOG_LEVEL"] == "warn"


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_any_name_goes_through_a_whole_life(world: World, name: str) -> None:
    assert world.controller.start(name, {})["client"] == name
    assert [entry["account"] for entry in world.controller.check()] == [name]
    assert world.controller.check(name)[0]["process"] == "running"
    address, secret = world.controller.reach(name)
    assert address == ("127.0.0.1", world.record(name).port)
    assert secret == world.registry.secret_path(names.slug(name)).read_text()
    assert world.controller.stop(name)["client"] == name
    assert world.controller.check() == []


def test_every_client_has_a_port_of_its_own(world: World) -> None:
    ports = [world.controller.start(name, {})["port"] for name in "abc"]
    assert ports == sorted(set(ports))


Call = Callable[[World, str], object]
EVERY_CALL: dict[str, Call] = {
    "start": lambda world, name: world.controller.start(name, {}),
    "stop": lambda world, name: world.controller.stop(name),
    "restart": lambda world, name: world.controller.restart(name),
    "remove": lambda world, name: world.controller.remove(name, purge=True),
    "qrcode": lambda world, name: world.controller.qrcode(name),
    "reach": lambda world, name: world.controller.reach(name),
    "check": lambda world, name: world.controller.check(name),
}


@pytest.mark.parametrize("name", ["", "0"])
@pytest.mark.parametrize("call", EVERY_CALL)
def test_no_name_is_no_client(world: World, call: str, name: str) -> None:
    """The original takes "0" for none; its check_client says of both that they do not exist."""
    status = "client not exists" if call == "check" else "client not found"
    assert body(lambda: EVERY_CALL[call](world, name)) == {"code": 1, "status": status}


@pytest.mark.parametrize("call", [call for call in EVERY_CALL if call != "start"])
def test_an_unknown_client_does_not_exist(world: World, call: str) -> None:
    assert body(lambda: EVERY_CALL[call](world, "alice")) == {"code": 1, "status": "client not exists"}


@pytest.mark.parametrize("name", ["a\nb", "x" * 65])
@pytest.mark.parametrize("call", EVERY_CALL)
def test_an_invalid_name_is_refused(world: World, call: str, name: str) -> None:
    answer = body(lambda: EVERY_CALL[call](world, name))
    assert (answer["code"], answer["status"]) == (8, "client name invalid")


@pytest.mark.parametrize("call", sorted(EVERY_CALL.keys() - {"reach"}))  # which needs no supervisor
def test_a_supervisor_that_cannot_be_asked_is_never_a_state(world: World, call: str) -> None:
    world.controller.start("alice", {})
    before = world.record("alice")
    world.supervisor.reachable = False
    if call in ("qrcode", "check"):
        world.file("alice", "state_path").write_text('{"state": "running", "pid": 1000}')
    answer = body(lambda: EVERY_CALL[call](world, "alice"))
    assert (answer["code"], answer["status"]) == (7, "supervisor unreachable")
    assert world.record("alice") == before


def test_a_start_that_asks_in_vain_leaves_nothing_behind(world: World) -> None:
    world.supervisor.reachable = False
    with pytest.raises(SupervisorUnreachable):
        world.controller.start("alice", {})
    assert world.controller.clients() == []


def test_max_clients_is_the_number_of_clients_there_may_be(make_world: MakeWorld) -> None:
    world = make_world(max_clients="2")
    for name in "ab":
        world.controller.start(name, {})
    assert body(lambda: world.controller.start("c", {})) == {"code": 5, "status": "max clients exceed"}
    assert world.controller.start("a", {})["status"] == "client already exists"
    world.supervisor.end("b")
    assert world.controller.start("b", {})["status"] == "success"
    world.controller.stop("a")
    assert world.controller.start("c", {})["status"] == "success"


def test_without_a_free_port_nothing_is_started(make_world: MakeWorld) -> None:
    world = make_world(backend_start_port=str(LAST_PORT))
    world.registry.save(Client(name="a", slug="a", port=LAST_PORT, driver="ilink"))
    assert body(lambda: world.controller.start("b", {})) == {"code": 2, "status": "no available port"}
    assert world.registry.slugs() == ["a"]


def test_a_refused_parameter_changes_nothing(world: World) -> None:
    assert body(lambda: world.controller.start("alice", {"tmpdir": "/etc"})) == {
        "code": 6,
        "status": "parameter not allowed: tmpdir",
    }
    assert world.registry.slugs() == []


def test_a_report_url_needs_the_setting(make_world: MakeWorld) -> None:
    world = make_world(post_api_allow="https://report[.]example/.*")
    with pytest.raises(ParameterRefused):
        world.controller.start("alice", {"post_api": "https://evil.example/"})
    world.controller.start("alice", {"post_api": "https://report.example/in"})
    told = world.record("alice").environment["MOJO_WEIXIN_PLUGIN_OPENWX_POST_API"]
    assert told == "https://report.example/in?client=alice"


def test_a_supervisor_that_refuses_says_why_and_no_record_stays(world: World) -> None:
    world.supervisor.refuse["alice"] = "no such program"
    assert body(lambda: world.controller.start("alice", {})) == {
        "code": 3,
        "status": "failure",
        "reason": "no such program",
        "client": "alice",
    }
    assert world.controller.check() == []


def test_a_restart_that_is_refused_gives_the_old_record_back(world: World) -> None:
    world.controller.start("alice", {"log_level": "debug"})
    before = world.record("alice")
    world.supervisor.end("alice")
    world.supervisor.refuse["alice"] = "no such program"
    with pytest.raises(StartFailed):
        world.controller.start("alice", {"log_level": "warn"})
    assert world.record("alice") == before


def test_a_process_that_ends_at_once_has_no_pid(make_world: MakeWorld) -> None:
    world = make_world(Stillborn())
    assert body(lambda: world.controller.start("alice", {})) == {
        "code": 4,
        "status": "client pid not ok",
        "reason": "exit status 1",
        "client": "alice",
    }
    (entry,) = world.controller.check()
    assert (entry["process"], entry["reason"], entry["state"]) == ("failed", "exit status 1", "stop")


def test_a_full_disk_starts_nothing_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "replace", full_disk)
    answer = body(lambda: world.controller.start("alice", {}))
    assert answer.pop("reason", "") == "the record cannot be written: [Errno 28] No space left on device"
    assert answer == {"code": 3, "status": "failure", "client": "alice"}
    assert world.supervisor.status() == {}


def test_a_broken_record_is_not_overwritten_by_a_start(world: World) -> None:
    """Its port and its parameters may still be wanted."""
    path = world.registry.path("alice")
    path.write_text("half a li")
    for call in (lambda: world.controller.start("alice", {}), lambda: world.controller.stop("alice")):
        answer = body(call)
        assert (answer["code"], answer["status"]) == (3, "failure")
        assert str(path) in str(answer["reason"])
    assert path.read_text() == "half a li"


def test_starts_of_one_client_at_the_same_time_make_one_process(world: World) -> None:
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(world.controller.start("a", {}))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(answer["status"] for answer in answers) == ["client already exists"] * 5 + ["success"]
    assert len({(answer["pid"], answer["port"]) for answer in answers}) == 1


def test_starts_of_many_clients_at_the_same_time_share_no_port(world: World) -> None:
    threads = [threading.Thread(target=world.controller.start, args=(f"c{number}", {})) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len({client.port for client in world.controller.clients()}) == 10


@pytest.mark.parametrize("call", ["start", "stop", "restart", "remove"])
def test_a_client_that_is_being_worked_on_is_busy(world: World, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(registry, "CLAIM_TIMEOUT", 0.05)
    world.controller.start("alice", {})
    with world.registry.claimed("alice", timeout=0):
        answer = body(lambda: EVERY_CALL[call](world, "alice"))
    assert (answer["code"], answer["status"]) == (7, "client busy")


# stop_client


def test_a_stop_answers_with_the_entry_and_forgets_the_client(world: World) -> None:
    started = world.controller.start("alice", {"log_level": "debug"})
    assert world.controller.stop("alice") == started
    assert world.registry.slugs() == []
    assert world.supervisor.status() == {}
    assert body(lambda: world.controller.stop("alice")) == {"code": 1, "status": "client not exists"}


def test_a_client_without_a_process_can_be_stopped(world: World) -> None:
    started = world.controller.start("alice", {})
    world.supervisor.end("alice", State.FAILED)
    assert world.controller.stop("alice") == {**started, "pid": 0}
    assert world.registry.slugs() == []


def test_a_stop_removes_the_runtime_files_and_keeps_the_session(world: World) -> None:
    world.controller.start("alice", {})
    gone = [world.file("alice", option) for option in ("state_path", "qrcode_path", "pid_path")]
    kept = [world.file("alice", "cookie_path"), world.file("alice", "media_dir") / "picture"]
    for path in (*gone, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    world.controller.stop("alice")
    assert [path.exists() for path in gone] == [False] * 3
    assert [path.exists() for path in kept] == [True] * 2


def test_a_stop_works_on_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.controller.start("alice", {})
    monkeypatch.setattr(files, "replace", full_disk)
    assert world.controller.stop("alice")["status"] == "success"
    assert world.registry.slugs() == []


# restart_client


def test_a_restart_makes_a_new_process_with_the_same_record_on_the_same_port(world: World) -> None:
    started = world.controller.start("alice", {"log_level": "debug"})
    before = world.record("alice")
    assert world.controller.restart("alice") == {**started, "pid": 1001}
    assert world.record("alice") == before


def test_a_restart_with_parameters_takes_them_in_place_of_the_old_ones(world: World) -> None:
    started = world.controller.start("alice", {"log_level": "debug", "send_interval": "2"})
    again = world.controller.restart("alice", {"log_level": "warn"})
    assert (again["port"], again["log_level"], "send_interval" in again) == (started["port"], "warn", False)
    record = world.record("alice")
    assert record.params == {"log_level": "warn"}
    assert record.environment["MOJO_WEIXIN_LOG_LEVEL"] == "warn"
    assert "log_level" not in world.controller.restart("alice", {})


def test_a_client_that_is_down_is_started_by_a_restart(world: World) -> None:
    world.controller.start("alice", {})
    world.supervisor.end("alice", State.FAILED)
    assert world.controller.restart("alice")["pid"] == 1001


def test_a_restart_that_is_refused_leaves_all_as_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    started = world.controller.start("alice", {})
    before = world.record("alice")
    with pytest.raises(ParameterRefused):
        world.controller.restart("alice", {"tmpdir": "/"})
    with pytest.raises(ClientUnknown):
        world.controller.restart("bob")
    with monkeypatch.context() as patch, pytest.raises(StartFailed):
        patch.setattr(files, "replace", full_disk)
        world.controller.restart("alice")
    assert world.record("alice") == before
    assert world.supervisor.status()["alice"].pid == started["pid"]
    assert world.registry.slugs() == ["alice"]


def test_a_restart_that_fails_says_why_and_keeps_the_old_record(world: World) -> None:
    world.controller.start("alice", {"log_level": "debug"})
    before = world.record("alice")
    world.supervisor.refuse["alice"] = "no such program"
    with pytest.raises(StartFailed, match="no such program"):
        world.controller.restart("alice", {"log_level": "warn"})
    assert world.record("alice") == before


@pytest.mark.parametrize(("fail_at", "level"), [("stop", "debug"), ("start", "warn")])
def test_a_restart_that_was_cut_short_is_finished(make_world: MakeWorld, fail_at: str, level: str) -> None:
    """The record is always that of the process: the new one counts once the old process is gone."""
    supervisor = Interrupted()
    world = make_world(supervisor)
    world.controller.start("alice", {"log_level": "debug"})
    supervisor.fail_at = fail_at
    with pytest.raises(SupervisorUnreachable):
        world.controller.restart("alice", {"log_level": "warn"})
    assert world.record("alice").pending
    supervisor.fail_at, supervisor.reachable = "", True
    world.controller.sync()
    assert supervisor.status()["alice"].pid == {"stop": 1000, "start": 1001}[fail_at]
    assert not world.record("alice").pending
    assert world.record("alice").params == {"log_level": level}


def test_a_restart_finishes_a_stop_that_was_cut_short(make_world: MakeWorld) -> None:
    supervisor = Interrupted()
    world = make_world(supervisor)
    world.controller.start("alice", {})
    supervisor.fail_at = "stop"
    with pytest.raises(SupervisorUnreachable):
        world.controller.stop("alice")
    supervisor.fail_at, supervisor.reachable = "", True
    with pytest.raises(ClientUnknown):
        world.controller.restart("alice")
    assert world.registry.slugs() == []


# remove_client


def test_a_client_is_removed_and_its_session_stays(world: World) -> None:
    started = world.controller.start("alice", {"log_level": "debug"})
    assert world.controller.remove("alice") == {**started, "purged": False}
    assert world.registry.slugs() == []
    assert (world.supervisor.status(), world.supervisor.sessions) == ({}, {"alice"})
    with pytest.raises(ClientUnknown):
        world.controller.remove("alice")


def test_with_its_session_when_it_runs_when_it_is_down_and_when_it_is_forgotten(world: World) -> None:
    for prepare in (
        lambda: None,
        lambda: world.supervisor.end("alice"),
        lambda: world.controller.stop("alice"),
    ):
        world.controller.start("alice", {})
        world.controller.start("alice-2", {})
        prepare()
        assert world.controller.remove("alice", purge=True)["purged"] is True
        assert world.registry.slugs() == ["alice-2"]
        assert world.supervisor.sessions == {"alice-2"}
    with pytest.raises(ClientUnknown):
        world.controller.remove("alice", purge=True)


def test_a_client_whose_record_is_broken_can_be_removed(world: World) -> None:
    world.controller.start("alice", {})
    world.registry.path("alice").write_text("nonsense")
    assert world.controller.remove("alice", purge=True)["status"] == "success"
    assert (world.registry.slugs(), world.supervisor.status(), world.supervisor.sessions) == ([], {}, set())
    world.controller.start("alice", {})
    world.registry.path("alice").unlink()
    assert world.controller.remove("alice")["pid"] == 1001, "what runs without a record"
    assert world.supervisor.status() == {}


class Unpurgeable(Interrupted):
    """Keeps its sessions, until it is told not to."""

    stuck = True

    def purge(self, client: Client) -> bool:
        if self.stuck:
            raise PurgeFailed("it is on fire")
        return super().purge(client)


def test_a_session_that_cannot_be_deleted_is_named_and_the_removal_is_finished(make_world: MakeWorld) -> None:
    supervisor = Unpurgeable()
    world = make_world(supervisor)
    world.controller.start("alice", {})
    answer = body(lambda: world.controller.remove("alice", purge=True))
    assert answer == {"code": 3, "status": "session not removed", "reason": "it is on fire"}
    assert supervisor.status() == {}
    assert world.record("alice").want is Want.GONE
    world.controller.sync()
    assert (world.registry.slugs(), supervisor.sessions) == ([], {"alice"})
    supervisor.stuck = False
    assert world.controller.remove("alice", purge=True)["purged"] is True


def test_a_removal_that_was_cut_short_is_finished(make_world: MakeWorld) -> None:
    supervisor = Interrupted()
    world = make_world(supervisor)
    world.controller.start("alice", {})
    supervisor.fail_at = "stop"
    with pytest.raises(SupervisorUnreachable):
        world.controller.remove("alice", purge=True)
    supervisor.fail_at, supervisor.reachable = "", True
    world.controller.sync()
    assert (world.registry.slugs(), supervisor.status()) == ([], {})


# check_client


def test_what_the_supervisor_does_not_count_is_not_told(world: World) -> None:
    world.controller.start("alice", {})
    assert "restarts" not in world.controller.check("alice")[0]
    world.supervisor.end("alice", State.FAILED, "exit status 1")
    (entry,) = world.controller.check("alice")
    assert (entry["reason"], entry["since"]) == ("exit status 1", int(world.supervisor.status()["alice"].since))


def test_without_clients_the_list_is_empty(world: World) -> None:
    assert world.controller.check() == []


def test_a_client_that_has_not_written_its_state_is_in_init(world: World) -> None:
    world.controller.start("alice", {})
    entry = {
        "account": "alice",
        "driver": "ilink",
        "port": world.record("alice").port,
        "pid": 1000,
        "params": {},
        "process": "running",
        "since": int(world.supervisor.status()["alice"].since),
        "state": "init",
    }
    assert world.controller.check("alice") == world.controller.check() == [entry]


def test_the_whole_state_file_is_shown_and_our_own_facts_win(world: World) -> None:
    world.controller.start("微信", {"log_level": "debug"})
    lies = {"port": 1, "since": 1, "params": {}} | dict.fromkeys(("process", "driver", "account"), "lies")
    world.tell("微信", state="scaning", plugin=[{"name": "x"}], memory=1234, **lies)
    (entry,) = world.controller.check("微信")
    assert entry == {
        "account": "微信",
        "driver": "ilink",
        "port": world.record("微信").port,
        "pid": 1000,
        "params": {"log_level": "debug"},
        "process": "running",
        "since": int(world.supervisor.status()[names.slug("微信")].since),
        "state": "scaning",
        "memory": 1234,
        "plugin": [{"name": "x"}],
    }


def test_the_state_of_an_earlier_process_is_not_shown(world: World) -> None:
    world.controller.start("alice", {})
    world.tell("alice", state="running", pid=999)
    (entry,) = world.controller.check("alice")
    assert entry["state"] == "init"


def test_without_a_process_the_state_is_stop_and_the_rest_is_kept(world: World) -> None:
    world.controller.start("alice", {})
    world.tell("alice", state="running", version="1")
    world.supervisor.end("alice", State.FAILED, "killed")
    (entry,) = world.controller.check("alice")
    assert (entry["state"], entry["process"], entry["reason"]) == ("stop", "failed", "killed")
    assert (entry["version"], entry["pid"]) == ("1", None)


def test_a_client_the_supervisor_does_not_know_is_stopped(world: World) -> None:
    world.controller.start("alice", {})
    world.supervisor.stop(world.record("alice"))
    (entry,) = world.controller.check()
    assert (entry["state"], entry["process"]) == ("stop", "stopped")


BROKEN_STATES = {
    "empty": b"",
    "half": b'{"state": "runn',
    "list": b"[]",
    "text": b'"running"',
    "latin": b'{"state": "\xff"}',
    "deep": b'{"a":' + b"[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN_STATES.values(), ids=BROKEN_STATES)
def test_a_broken_state_file_spoils_only_its_own_entry(world: World, content: bytes) -> None:
    for name in "abc":
        world.controller.start(name, {})
        world.tell(name, state="running")
    world.file("b", "state_path").write_bytes(content)
    entries = world.controller.check()
    assert [entry["state"] for entry in entries] == ["running", "unknown", "running"]
    assert entries[1]["error"].startswith("state file: ")
    assert (entries[1]["process"], entries[1]["pid"]) == ("running", 1001)
    assert world.controller.check("b") == [entries[1]]
    json.dumps(entries)


def test_a_state_file_that_is_a_folder_is_unknown(world: World) -> None:
    world.controller.start("alice", {})
    world.file("alice", "state_path").mkdir()
    assert world.controller.check("alice")[0]["state"] == "unknown"


def test_a_broken_record_spoils_only_its_own_entry(world: World) -> None:
    for name in ("a", "c"):
        world.controller.start(name, {})
    world.registry.path(".e4.bd.a0").write_text("half a li")
    entries = world.controller.check()
    broken = next(entry for entry in entries if entry["account"] == "你")
    assert sorted(entry["account"] for entry in entries) == ["a", "c", "你"]
    assert (broken["state"], broken["process"]) == ("unknown", "stopped")
    assert "wxclient-.e4.bd.a0.env" in broken["error"]
    assert world.controller.check("你") == [broken]


def test_a_file_that_is_no_record_spoils_nothing(world: World) -> None:
    world.controller.start("a", {})
    for name in ("wxclient-.ff.env", "wxclient-.61.env", "wxclient-" + "x" * 65 + ".env", "README.env"):
        (world.registry.folder / name).write_text("")
    assert [entry["account"] for entry in world.controller.check()] == ["a"]


# get_qrcode


@pytest.mark.parametrize("state", ["scaning", "confirming"])
def test_the_picture_is_there_while_a_scan_is_wanted(world: World, state: str) -> None:
    world.controller.start("alice", {})
    world.tell("alice", state=state)
    world.file("alice", "qrcode_path").write_bytes(b"\x89PNG...")
    assert world.controller.qrcode("alice") == b"\x89PNG..."


@pytest.mark.parametrize("state", ["init", "loading", "updating", "running", "stop", "nonsense", None])
def test_no_old_picture_is_shown_when_no_scan_is_wanted(world: World, state: str | None) -> None:
    world.controller.start("alice", {})
    world.tell("alice", state=state)
    world.file("alice", "qrcode_path").write_bytes(b"\x89PNG...")
    assert world.controller.qrcode("alice") is None


def test_the_picture_of_a_client_that_ended_is_not_shown(world: World) -> None:
    world.controller.start("alice", {})
    world.tell("alice", state="scaning")
    world.file("alice", "qrcode_path").write_bytes(b"\x89PNG...")
    world.supervisor.end("alice")
    assert world.controller.qrcode("alice") is None


def test_a_code_that_is_not_drawn_yet_is_none(world: World) -> None:
    world.controller.start("alice", {})
    world.tell("alice", state="scaning")
    assert world.controller.qrcode("alice") is None


# sync


def test_a_start_that_was_cut_short_is_finished(make_world: MakeWorld) -> None:
    supervisor = Interrupted()
    world = make_world(supervisor)
    supervisor.fail_at = "start"
    with pytest.raises(SupervisorUnreachable):
        world.controller.start("alice", {})
    before = world.record("alice")
    assert (before.want, before.pending) == (Want.UP, True)
    supervisor.fail_at, supervisor.reachable = "", True
    world.controller.sync()
    assert supervisor.status()["alice"].state is State.RUNNING
    assert (world.record("alice").pending, world.record("alice").port) == (False, before.port)


def test_a_stop_that_was_cut_short_is_finished(make_world: MakeWorld) -> None:
    supervisor = Interrupted()
    world = make_world(supervisor)
    world.controller.start("alice", {})
    supervisor.fail_at = "stop"
    with pytest.raises(SupervisorUnreachable):
        world.controller.stop("alice")
    assert world.record("alice").want is Want.GONE
    supervisor.fail_at, supervisor.reachable = "", True
    world.controller.sync()
    assert supervisor.status() == {}
    assert world.registry.slugs() == []


def test_a_start_after_a_stop_that_was_cut_short_is_a_new_one(make_world: MakeWorld) -> None:
    supervisor = Interrupted()
    world = make_world(supervisor)
    world.controller.start("alice", {"log_level": "debug"})
    supervisor.fail_at = "stop"
    with pytest.raises(SupervisorUnreachable):
        world.controller.stop("alice")
    supervisor.fail_at, supervisor.reachable = "", True
    again = world.controller.start("alice", {})
    assert (again["status"], again["pid"]) == ("success", 1001)
    assert "log_level" not in again


def test_a_second_start_settles_one_that_was_cut_short(world: World) -> None:
    world.controller.start("alice", {})
    client = world.record("alice")
    world.registry.save(Client(**{**vars(client), "pending": True}))
    assert world.controller.start("alice", {})["status"] == "client already exists"
    assert world.record("alice") == client


def test_sync_starts_nothing_that_an_operator_stopped(world: World) -> None:
    world.controller.start("alice", {})
    world.supervisor.end("alice")
    world.controller.sync()
    assert world.supervisor.status()["alice"].state is State.STOPPED


@pytest.mark.parametrize("trouble", ["refused", "undeletable", "busy"])
def test_what_cannot_be_finished_holds_up_nothing_else(world: World, trouble: str) -> None:
    for name in "abc":
        world.controller.start(name, {})
        client = world.record(name)
        world.supervisor.stop(client)
        changes: dict[str, Any] = {"want": Want.GONE} if trouble == "undeletable" and name == "b" else {"pending": True}
        world.registry.save(Client(**{**vars(client), **changes}))
    if trouble == "refused":
        world.supervisor.refuse["b"] = "no such program"
        world.controller.sync()
    elif trouble == "undeletable":
        world.file("b", "state_path").mkdir()
        world.controller.sync()
    else:
        with world.registry.claimed("b", timeout=0):
            world.controller.sync()
    assert sorted(world.supervisor.status()) == ["a", "c"]
    assert [world.record(name).pending for name in "ac"] == [False, False]
    unfinished = world.record("b")
    assert unfinished.pending or unfinished.want is Want.GONE


def test_sync_leaves_a_broken_record_alone(world: World) -> None:
    world.registry.path("b").write_text("half a li")
    world.controller.sync()
    assert world.registry.path("b").read_text() == "half a li"


def test_sync_in_vain_changes_nothing(world: World) -> None:
    world.controller.start("alice", {})
    pending = Client(**{**vars(world.record("alice")), "pending": True})
    world.registry.save(pending)
    world.supervisor.reachable = False
    world.controller.sync()
    assert world.record("alice") == pending


# alive, render, refresh


@pytest.mark.parametrize(
    ("state", "alive"),
    [
        (State.STARTING, True),
        (State.RUNNING, True),
        (State.STOPPING, True),
        (State.STOPPED, False),
        (State.FAILED, False),
    ],
)
def test_alive_is_what_has_a_process_or_gets_one(world: World, state: State, alive: bool) -> None:
    world.controller.start("alice", {})
    world.supervisor.end("alice", state)
    assert world.controller.alive("alice") is alive
    assert world.controller.alive("bob") is False


def test_render_shows_what_a_start_would_write_and_writes_nothing(world: World) -> None:
    shown = world.controller.render("微信")
    assert world.registry.slugs() == []
    world.controller.start("微信", {})
    path = world.registry.path(names.slug("微信"))
    volatile = ("WXCLIENT_CREATED=", "WXCLIENT_PENDING=")

    def lasting(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(volatile)]

    assert lasting(shown[path]) == lasting(path.read_text(encoding="utf-8"))
    assert set(shown) == {path, *world.supervisor.render(world.record("微信"))}


def test_render_shows_a_known_client_on_its_port(world: World) -> None:
    world.controller.start("alice", {"log_level": "debug"})
    path = world.registry.path("alice")
    assert world.controller.render("alice")[path] == path.read_text(encoding="utf-8")


def test_refresh_brings_the_settings_into_records_and_definitions(make_world: MakeWorld, tmp_path: Path) -> None:
    definitions = tmp_path / "definitions"
    definitions.mkdir()
    supervisor = OnDisk(definitions)
    world = make_world(supervisor)
    for name, params in (("a", {}), ("b", {"log_level": "debug"}), ("gone", {})):
        world.controller.start(name, params)
    world.registry.save(Client(**{**vars(world.record("gone")), "want": Want.GONE}))
    before = {name: world.record(name) for name in "ab"}
    make_world(supervisor, log_level="warn").controller.refresh()
    assert not list(definitions.iterdir()), "a supervisor that runs would not read them again"
    make_world(supervisor, log_level="warn").controller.refresh(definitions=True)
    levels = {name: world.record(name).environment["MOJO_WEIXIN_LOG_LEVEL"] for name in "ab"}
    assert levels == {"a": "warn", "b": "debug"}
    assert {path.name: path.read_text() for path in definitions.iterdir()} == {"a.conf": "warn\n", "b.conf": "debug\n"}
    for name, client in before.items():
        assert Client(**{**vars(world.record(name)), "environment": client.environment}) == client


def test_clients_are_the_records_that_can_be_read(world: World) -> None:
    world.controller.start("alice", {})
    world.registry.path("b").write_text("")
    assert world.controller.clients() == [world.record("alice")]


def test_the_folders_are_made_private(world: World) -> None:
    settings = world.settings
    folders = (settings.state_dir, settings.session_dir, settings.tmpdir, settings.log_dir, settings.backend_path)
    assert {folder.stat().st_mode & 0o777 for folder in (*folders, settings.supervisord_include)} == {0o700}


def test_resume_starts_who_is_to_be_up_and_tells_who_fails(make_world: MakeWorld) -> None:
    world = make_world()
    for name in ("up", "down", "fails", "gone"):
        world.controller.start(name, {})
    for name in ("down", "fails"):
        world.supervisor.end(name)
    world.supervisor.refuse["fails"] = "no such program"
    pid = world.supervisor.status()["up"].pid
    world.controller.stop("gone")
    assert world.controller.resume() == ["fails"]
    statuses = world.supervisor.status()
    assert statuses["up"].pid == pid
    assert statuses["down"].state is State.RUNNING
    assert statuses["fails"].pid == 0
    assert "gone" not in statuses


def test_resume_finishes_a_stop_that_was_cut_short(make_world: MakeWorld) -> None:
    world = make_world(Interrupted())
    world.controller.start("a", {})
    world.supervisor.fail_at = "stop"  # type: ignore[attr-defined]
    with pytest.raises(SupervisorUnreachable):
        world.controller.stop("a")
    world.supervisor.fail_at, world.supervisor.reachable = "", True  # type: ignore[attr-defined]
    assert world.controller.resume() == []
    assert world.controller.clients() == []


def test_a_foreign_program_is_called_without_a_secret(make_world: MakeWorld) -> None:
    world = make_world(driver="command", command="/usr/bin/perl client.pl")
    world.controller.start("perl", {})
    world.controller.start("ours", {"driver": "ilink"})
    assert world.controller.reach("perl")[1] == ""
    assert len(world.controller.reach("ours")[1]) == 64
    perl, ours = (world.registry.find(name) for name in ("perl", "ours"))
    assert perl and perl.environment["WXCLIENT_COMMAND"] == "/usr/bin/perl client.pl"
    assert ours and "WXCLIENT_COMMAND" not in ours.environment
    assert body(lambda: world.controller.start("x", {"driver": "command"}))["code"] == 6


def test_a_parameter_that_is_not_allowed_any_more_has_no_effect_until_it_is_again(make_world: MakeWorld) -> None:
    url = "http://127.0.0.1:9/post"
    world = make_world(post_api_allow="http://127.*")
    world.controller.start("alice", {"post_api": url})
    make_world(world.supervisor).controller.refresh()
    assert world.record("alice").environment["MOJO_WEIXIN_PLUGIN_OPENWX_POST_API"] == ""
    world.controller.refresh()
    assert world.record("alice").environment["MOJO_WEIXIN_PLUGIN_OPENWX_POST_API"].startswith(url)


def test_what_another_user_put_in_the_place_of_a_file_is_not_read(world: World, tmp_path: Path) -> None:
    """A client has a user of its own under systemd, and the folder is its own."""
    world.controller.start("alice", {})
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"pid": world.supervisor.status()["alice"].pid, "state": "scaning"}))
    world.file("alice", "state_path").symlink_to(secret)
    assert world.controller.check("alice")[0]["state"] == "unknown"
    world.file("alice", "state_path").unlink()
    world.tell("alice", state="scaning")
    world.file("alice", "qrcode_path").symlink_to(secret)
    assert world.controller.qrcode("alice") is None
    for option in ("state_path", "qrcode_path"):
        world.file("alice", option).unlink()
        os.mkfifo(world.file("alice", option))
    (state,) = world.controller.check("alice")
    assert state["state"] == "unknown"
    assert "no plain file" in state["error"]


def test_resume_names_a_record_that_cannot_be_read(world: World) -> None:
    world.registry.path("broken").write_text("nonsense")
    assert world.controller.resume() == ["broken"]
