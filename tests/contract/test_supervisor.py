"""The contract of a supervisor, kept by every kind; to add a kind is to add a fixture."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.installation import SCRIPTS, alive
from tests.machine import Machine, require
from wxsup import names
from wxsup.errors import PurgeFailed, StartFailed, SupervisorUnreachable
from wxsup.model import Client, State, Status
from wxsup.supervisors import Supervisor
from wxsup.supervisors.memory import Memory
from wxsup.supervisors.supervisord import Supervisord
from wxsup.supervisors.systemd import STOPS, Systemd

HOSTILE = ["客服 02", "%s%(x)s", "a;b #c", "..", "-rf", "'\"", "{{7*7}}${HOME}"]
SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


@dataclass
class Kind:
    """One kind of supervisor with what a test does behind its back."""

    supervisor: Supervisor
    crash: Callable[[Client], None]
    operator_stop: Callable[[Client], None]
    refuse: Callable[[Client], None]
    unreachable: Callable[[], None]
    reachable: Callable[[], None]
    keep: Callable[[Client], None]
    kept: Callable[[], set[str]]


def answers(supervisor: Supervisor) -> bool:
    """Tell whether a supervisor can be asked."""
    try:
        supervisor.status()
    except SupervisorUnreachable:
        return False
    return True


def keep(sessions: Path, client: Client) -> None:
    """Give a client a session with something in it."""
    (sessions / client.slug / "media").mkdir(parents=True, exist_ok=True)
    (sessions / client.slug / "media/picture").write_text("precious")


def kept(sessions: Path) -> set[str]:
    """Return what lies where the sessions are."""
    return {path.name for path in sessions.iterdir()}


@contextmanager
def memory(folder: Path) -> Iterator[Kind]:
    kind = Memory()

    def refuse(client: Client) -> None:
        kind.refuse[client.slug] = "no such program"

    yield Kind(
        kind,
        crash=lambda client: kind.end(client.slug, State.FAILED, "crashed"),
        operator_stop=lambda client: kind.end(client.slug),
        refuse=refuse,
        unreachable=lambda: setattr(kind, "reachable", False),
        reachable=lambda: setattr(kind, "reachable", True),
        keep=lambda client: kind.sessions.add(client.slug),
        kept=lambda: set(kind.sessions),
    )


class RealSupervisord:
    """A supervisord of the test's own, whose clients are small programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.include = folder / "conf.d"
        self.include.mkdir()
        self.commands: dict[str, list[str]] = {}
        self.config = folder / "supervisord.conf"
        self.config.write_text(
            f"[unix_http_server]\nfile={folder}/s.sock\nchmod=0700\n"
            f"[supervisord]\nnodaemon=true\nsilent=true\nlogfile={folder}/log\npidfile={folder}/pid\n"
            + ("user=root\n" if os.geteuid() == 0 else "")
            + "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[supervisorctl]\nserverurl=unix://{folder}/s.sock\n"
            f"[include]\nfiles={self.include}/*.conf\n"
        )
        self.sessions = folder / "sessions"
        self.supervisor = Supervisord(folder / "s.sock", self.include, self.section, self.sessions)

    def section(self, client: Client) -> str:
        command = shlex.join(self.commands.get(client.slug, SLEEPER)).replace("%", "%%")
        return (
            f"[program:{names.program(client.slug)}]\ncommand={command}\nautorestart=unexpected\nexitcodes=0\n"
            "startsecs=1\nstartretries=1\nstopwaitsecs=2\n"
        )

    def up(self) -> None:
        self.process = subprocess.Popen([SCRIPTS / "supervisord", "-c", self.config], stdin=subprocess.DEVNULL)
        eventually(lambda: answers(self.supervisor), what="supervisord")

    def down(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def ctl(self, *words: str) -> str:
        done = subprocess.run(
            [SCRIPTS / "supervisorctl", "-c", self.config, *words], capture_output=True, text=True, check=False
        )
        return done.stdout

    def operator_stop(self, client: Client) -> None:
        self.ctl("stop", names.program(client.slug))

    def kill(self, client: Client) -> None:
        os.kill(self.supervisor.status(client.slug)[client.slug].pid, signal.SIGKILL)

    def refuse(self, client: Client) -> None:
        self.commands[client.slug] = ["/nonexistent/program"]

    def fail(self, client: Client) -> None:
        """Let the client end at once from now on, and wait until supervisord has given up on it."""
        self.commands[client.slug] = [sys.executable, "-c", "raise SystemExit(3)"]
        self.supervisor.stop(client)
        with suppress(StartFailed):  # when it ends before supervisord has looked
            self.supervisor.start(client)
        eventually(lambda: self.supervisor.status(client.slug)[client.slug].state is State.FAILED)
        self.commands[client.slug] = SLEEPER


@contextmanager
def supervisord(folder: Path) -> Iterator[Kind]:
    real = RealSupervisord(folder)
    real.up()
    try:
        yield Kind(
            real.supervisor,
            crash=real.fail,
            operator_stop=real.operator_stop,
            refuse=real.refuse,
            unreachable=real.down,
            reachable=real.up,
            keep=lambda client: keep(real.sessions, client),
            kept=lambda: kept(real.sessions),
        )
    finally:
        real.down()


class RealSystemd:
    """The systemd of a machine, whose clients are small programs."""

    TEMPLATE = """
[Unit]
StartLimitIntervalSec=60
StartLimitBurst=2
[Service]
Type=exec
Environment=COMMAND="sleep infinity"
EnvironmentFile=-/run/test/%i
ExecStart=/bin/sh -c "exec ${COMMAND}"
StateDirectory=test/%i
Restart=on-failure
RestartSec=100ms
TimeoutStopSec=2
"""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sessions = machine.path("/var/lib/test")
        self.supervisor = Systemd(machine.bus, self.sessions)
        machine.path("/run/test").mkdir(exist_ok=True)
        machine.path("/run/systemd/system/wxclient@.service").write_text(self.TEMPLATE)
        machine.systemctl("daemon-reload")

    def up(self) -> None:
        self.machine.systemctl("start", "dbus.socket", "dbus.service")
        eventually(lambda: answers(self.supervisor), what="systemd")

    def down(self) -> None:
        self.machine.systemctl("stop", "dbus.socket", "dbus.service")

    def clear(self) -> None:
        self.machine.systemctl("unmask", "--runtime", "wxclient@alice")
        for path in self.machine.path("/run/test").iterdir():
            path.unlink()
        for slug in self.supervisor.status():
            self.supervisor.stop(client(names.name(slug)))

    def unit(self, client: Client) -> str:
        return f"wxclient@{client.slug}.service"

    def command(self, client: Client, command: str) -> None:
        self.machine.path(f"/run/test/{client.slug}").write_text(f"COMMAND={shlex.quote(command)}\n")

    def operator_stop(self, client: Client) -> None:
        self.machine.systemctl("stop", self.unit(client))

    def kill(self, client: Client) -> None:
        self.machine.systemctl("kill", "--signal=KILL", self.unit(client))

    def refuse(self, client: Client) -> None:
        self.machine.systemctl("mask", "--runtime", self.unit(client))

    def fail(self, client: Client) -> None:
        """Let the client end at once from now on, and wait until systemd has given up on it."""
        self.command(client, "false")
        self.supervisor.stop(client)
        self.supervisor.start(client)
        eventually(lambda: self.supervisor.status(client.slug)[client.slug].state is State.FAILED)
        self.command(client, "sleep infinity")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    require()
    with Machine(tmp_path_factory.mktemp("machine")) as found:
        yield found


@contextmanager
def systemd(machine: Machine) -> Iterator[Kind]:
    real = RealSystemd(machine)
    yield Kind(
        real.supervisor,
        crash=real.fail,
        operator_stop=real.operator_stop,
        refuse=real.refuse,
        unreachable=real.down,
        reachable=real.up,
        keep=lambda client: keep(real.sessions, client),
        kept=lambda: kept(real.sessions),
    )
    real.clear()


@pytest.fixture(params=[memory, supervisord, systemd], ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Kind]:
    where = request.getfixturevalue("machine") if request.param is systemd else short_path
    with request.param(where) as found:
        yield found


@pytest.fixture
def real(short_path: Path) -> Iterator[RealSupervisord]:
    found = RealSupervisord(short_path)
    found.up()
    yield found
    found.down()


def client(name: str = "alice", port: int = 3000) -> Client:
    return Client(name=name, slug=names.slug(name), port=port, driver="ilink")


def test_start_answers_with_a_process(kind: Kind) -> None:
    began = time.time()
    status = kind.supervisor.start(client())
    assert status.state in (State.STARTING, State.RUNNING)
    assert status.pid > 0
    assert began - 2 < status.since < time.time() + 2
    assert kind.supervisor.status()["alice"].pid == status.pid


def test_start_of_one_that_runs_changes_nothing(kind: Kind) -> None:
    first = kind.supervisor.start(client())
    assert kind.supervisor.start(client()).pid == first.pid


def test_stop_answers_when_it_is_gone_and_may_be_repeated(kind: Kind) -> None:
    kind.supervisor.start(client())
    kind.supervisor.stop(client())
    assert kind.supervisor.status() == {}
    assert not any(path.exists() for path in kind.supervisor.render(client()))
    kind.supervisor.stop(client())


def test_start_after_stop_makes_a_new_process(kind: Kind) -> None:
    first = kind.supervisor.start(client())
    kind.supervisor.stop(client())
    assert kind.supervisor.start(client()).pid not in (0, first.pid)


def test_status_tells_all_or_those_that_are_named(kind: Kind) -> None:
    started = {name: kind.supervisor.start(client(name)).pid for name in ("a", "b", "c")}
    assert {slug: status.pid for slug, status in kind.supervisor.status().items()} == started
    assert set(kind.supervisor.status("b")) == {"b"}
    assert set(kind.supervisor.status("a", "c", "unknown")) == {"a", "c"}
    assert kind.supervisor.status("unknown") == {}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_start_and_stop(kind: Kind, name: str) -> None:
    hostile = client(name)
    assert kind.supervisor.start(hostile).pid
    assert set(kind.supervisor.status()) == {hostile.slug}
    kind.supervisor.stop(hostile)
    assert kind.supervisor.status() == {}


def test_what_cannot_be_started_is_refused_with_the_reason_and_leaves_nothing(kind: Kind) -> None:
    kind.refuse(client())
    with pytest.raises(StartFailed, match=r"no such program|/nonexistent/program|masked"):
        kind.supervisor.start(client())
    assert kind.supervisor.status() == {}
    assert not any(path.exists() for path in kind.supervisor.render(client()))


def test_a_failed_one_shows_its_reason_and_can_be_started_again(kind: Kind) -> None:
    kind.supervisor.start(client())
    kind.crash(client())
    status = kind.supervisor.status()["alice"]
    assert (status.state, status.pid) == (State.FAILED, 0)
    assert status.reason
    assert kind.supervisor.start(client()).pid
    assert kind.supervisor.status()["alice"].state in (State.STARTING, State.RUNNING)


def test_an_operators_stop_shows_at_once(kind: Kind) -> None:
    kind.supervisor.start(client())
    kind.operator_stop(client())
    status = kind.supervisor.status().get("alice", Status(State.STOPPED))  # systemd soon forgets who is down
    assert (status.state, status.pid) == (State.STOPPED, 0)
    assert kind.supervisor.start(client()).pid


def test_a_supervisor_that_cannot_be_asked_is_an_error_and_never_a_state(kind: Kind) -> None:
    kind.supervisor.start(client())
    kind.unreachable()
    try:
        for ask in (lambda: kind.supervisor.start(client()), lambda: kind.supervisor.stop(client())):
            with pytest.raises(SupervisorUnreachable):
                ask()
        with pytest.raises(SupervisorUnreachable):
            kind.supervisor.status()
    finally:
        kind.reachable()
    eventually(lambda: kind.supervisor.status()["alice"].pid, what="the client after the supervisor came back")


@pytest.mark.parametrize("name", ["alice", *HOSTILE])
def test_a_purge_deletes_the_session_of_one_client_and_nothing_else(kind: Kind, name: str) -> None:
    for other in (client(name), client("alice-2"), client(name + "x")):
        kind.keep(other)
    before = kind.kept()
    kind.supervisor.start(client(name))
    kind.supervisor.stop(client(name))
    assert kind.kept() == before, "a stop deletes no session"
    assert kind.supervisor.purge(client(name)) is True
    assert kind.kept() == before - {names.slug(name)}
    assert kind.supervisor.purge(client(name)) is False
    for other in (client("alice-2"), client(name + "x")):
        assert kind.supervisor.purge(other) is True


def test_a_client_answers_at_its_own_port(kind: Kind) -> None:
    assert kind.supervisor.address(client(port=3005)) == ("127.0.0.1", 3005)


# What only supervisord can do wrong.


def test_a_killed_client_comes_back(real: RealSupervisord) -> None:
    first = real.supervisor.start(client())
    eventually(lambda: real.supervisor.status("alice")["alice"].state is State.RUNNING)
    real.kill(client())
    eventually(lambda: real.supervisor.status("alice")["alice"].pid not in (0, first.pid))


def test_a_broken_section_of_somebody_else_is_named_and_stops_nobody(real: RealSupervisord) -> None:
    running = real.supervisor.start(client("running"))
    broken = real.include / "broken.conf"
    broken.write_text("[program:broken]\nnumprocs=many\n")
    with pytest.raises(StartFailed, match="broken"):
        real.supervisor.start(client("new"))
    assert not (real.include / "wxclient-new.conf").exists()
    assert alive(running.pid)
    broken.unlink()
    assert real.supervisor.start(client("new")).pid


def test_a_client_that_ignores_sigterm_is_killed(real: RealSupervisord) -> None:
    real.commands["stubborn"] = [
        sys.executable,
        "-c",
        "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True);[signal.pause() for _ in iter(int, 1)]",
    ]
    status = real.supervisor.start(client("stubborn"))
    eventually(lambda: "1" in real.ctl("tail", "wxclient-stubborn"))
    real.supervisor.stop(client("stubborn"))
    assert not alive(status.pid)


def test_a_changed_definition_takes_effect_at_the_next_start(real: RealSupervisord) -> None:
    real.supervisor.start(client())
    real.ctl("stop", "wxclient-alice")
    real.commands["alice"] = [sys.executable, "-c", "import signal; signal.pause()", "changed"]
    status = real.supervisor.start(client())
    eventually(lambda: b"changed" in Path(f"/proc/{status.pid}/cmdline").read_bytes())


def test_programs_of_others_are_not_ours(real: RealSupervisord) -> None:
    (real.include / "other.conf").write_text(f"[program:other]\ncommand={shlex.join(SLEEPER)}\n")
    real.ctl("update")
    assert "other" in real.ctl("status")
    assert real.supervisor.status() == {}


def test_a_link_in_the_place_of_a_session_or_in_one_leads_nowhere(real: RealSupervisord) -> None:
    precious = real.folder / "precious"
    keep(precious, client())
    real.sessions.mkdir()
    (real.sessions / "alice").symlink_to(precious)
    with pytest.raises(PurgeFailed, match="no folder of ours"):
        real.supervisor.purge(client())
    (real.sessions / "alice").unlink()
    keep(real.sessions, client())
    (real.sessions / "alice/link").symlink_to(precious)
    assert real.supervisor.purge(client())
    assert (kept(real.sessions), kept(precious)) == (set(), {"alice"})


def test_a_purge_cut_short_is_finished_by_the_next(real: RealSupervisord) -> None:
    keep(real.sessions, client())
    (real.sessions / "alice").rename(real.sessions / "alice~")
    keep(real.sessions, client())
    assert real.supervisor.purge(client())
    assert kept(real.sessions) == set()
    keep(real.sessions, client())
    (real.sessions / "alice").rename(real.sessions / "alice~")
    assert real.supervisor.purge(client())
    assert kept(real.sessions) == set()


def test_after_a_restart_of_supervisord_every_client_runs_again(real: RealSupervisord) -> None:
    for name in ("a", "b"):
        real.supervisor.start(client(name))
    real.down()
    real.up()
    eventually(lambda: all(status.pid for status in real.supervisor.status("a", "b").values()))
    assert set(real.supervisor.status()) == {"a", "b"}


# What only systemd can do wrong.


@pytest.fixture
def real_systemd(machine: Machine) -> Iterator[RealSystemd]:
    found = RealSystemd(machine)
    yield found
    found.clear()


@pytest.mark.parametrize("point", ["stop.stopped", "stop.removed"])
@pytest.mark.parametrize(("starts", "stopped"), [(1, True), (STOPS - 1, True), (STOPS, False)])
def test_a_stop_that_a_start_by_hand_meets_is_made_again(
    real_systemd: RealSystemd, monkeypatch: pytest.MonkeyPatch, point: str, starts: int, stopped: bool
) -> None:
    left = [None] * starts

    def operator(step: str) -> None:
        if step == point and left:
            left.pop()
            # Starts of the other tests count, too, against the limit of starts.
            real_systemd.machine.run("systemctl", "reset-failed", real_systemd.unit(client()), check=False)
            real_systemd.machine.systemctl("start", real_systemd.unit(client()))

    real_systemd.supervisor.start(client())
    monkeypatch.setattr("wxsup.faults.point", operator)
    if stopped:
        real_systemd.supervisor.stop(client())
        assert real_systemd.supervisor.status() == {}
    else:
        with pytest.raises(SupervisorUnreachable, match="again and again"):
            real_systemd.supervisor.stop(client())
    assert not left
