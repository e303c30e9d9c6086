"""kill -9 of the controller, of the message bus and of the client between every two steps, under a real systemd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from subprocess import CompletedProcess

import pytest

from tests.deadline import eventually
from tests.installed import Installed
from tests.walks import CLAIMED, UNTOLD, Walks, every_step, slugs
from wxsup import names

EVERY_STEP = every_step(
    start=("claimed", "recorded", "queued", "spawned", "settled"),
    stop=("claimed", "marked", "stopped", "removed", "cleaned", "forgotten"),
)
#: A start writes several times, and would kill a bus that is dead already, which looks like a write that fails.
BUS_STEPS = [step for step in EVERY_STEP if step != ("start", "replace.written")]
BUS_PID = "/run/bus.pid"
CLIENT_PID = "/run/wxclient/{slug}/mojo_weixin_pid_{slug}.pid"


class UnderSystemd(Walks):
    """Walks on a machine, with commands run by the user of the controller."""

    def __init__(self, wx: Installed) -> None:
        super().__init__(wx, wx.machine.path("/var/lib/wxsup/clients"))
        self.machine = wx.machine

    def command(self, verb: str, name: str, fault: str, victim: str) -> CompletedProcess[str]:
        kill = victim != "self"
        return self.machine.run("wxsup", verb, name, user="wxsup", kill=kill, check=False, WXFAULT=f"{fault}={victim}")

    def processes(self, name: str) -> int:
        count = 0
        for path in self.machine.path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                title = path.read_bytes().decode()
                count += title.rstrip("\0") == f"wxclient({name})" or f"/wxclient\0{names.slug(name)}\0" in title
        return count

    def traces(self) -> dict[str, frozenset[str]]:
        units = self.machine.systemctl("list-units", "--plain", "--no-legend", "wxclient@*").splitlines()
        return {
            "secret": slugs(self.records.glob("*.secret")),
            "unit": frozenset(unit.split()[0].removeprefix("wxclient@").removesuffix(".service") for unit in units),
            "folder": frozenset(path.name for path in self.machine.path("/run/wxclient").iterdir()),
        }

    def bus_is_back(self) -> None:
        """Wait until systemd answers the controller."""
        eventually(lambda: self.wx.call("check_client").ok, what="the bus")

    def bring_bus_back(self) -> None:
        """Have a bus again, whatever was done to it."""
        self.machine.systemctl("unmask", "--runtime", "dbus.service")
        self.machine.systemctl("reset-failed", "dbus.*", "polkit.*")  # so many starts are more than systemd allows
        self.machine.systemctl("start", "dbus.socket", "dbus.service")
        self.bus_is_back()


@pytest.fixture(scope="module")
def quick(installed: Installed) -> Iterator[Installed]:
    """The machine, with a controller that finishes within a second what was cut short."""

    def restart() -> None:  # a reload goes on for a while
        installed.machine.systemctl("restart", "wxcontroller.service")
        installed.close()

    with installed.settings(check_interval="1"):
        restart()
        yield installed
    restart()


@pytest.fixture
def walks(quick: Installed) -> Iterator[UnderSystemd]:
    yield UnderSystemd(quick)
    quick.stop_all()
    quick.machine.run("find", "/var/lib/wxclient", "-mindepth", "1", "-delete")


@pytest.fixture
def bus(walks: UnderSystemd) -> Iterator[str]:
    """The file that names the process of the message bus, which is to die."""
    pid = walks.machine.systemctl("show", "--value", "--property=MainPID", "dbus.service").strip()
    assert pid != "0", "kill would take it for all of us"
    walks.machine.path(BUS_PID).write_text(pid)
    yield BUS_PID
    walks.bring_bus_back()
    assert not walks.machine.path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("verb", "fault"), EVERY_STEP)
def test_kill_9_of_the_controller(walks: UnderSystemd, verb: str, fault: str) -> None:
    assert walks.walk(verb, fault, "self", told=fault not in UNTOLD).returncode == -9


def test_kill_9_of_the_controller_in_the_start_of_a_client_whose_record_was_deleted(walks: UnderSystemd) -> None:
    assert walks.walk_without_record().returncode == -9


@pytest.mark.parametrize(("verb", "fault"), BUS_STEPS)
def test_kill_9_of_the_bus_that_systemd_brings_back_at_once(
    walks: UnderSystemd, bus: str, verb: str, fault: str
) -> None:
    walks.walk(verb, fault, bus, revive=walks.bus_is_back)


@pytest.mark.parametrize(("verb", "fault"), BUS_STEPS)
def test_kill_9_of_the_bus_that_an_operator_brings_back(walks: UnderSystemd, bus: str, verb: str, fault: str) -> None:
    walks.machine.systemctl("mask", "--runtime", "dbus.service")
    walks.walk(verb, fault, bus, told=fault not in CLAIMED, revive=walks.bring_bus_back)


@pytest.mark.parametrize(
    ("verb", "fault"),
    [("start", "start.spawned"), ("start", "start.settled"), ("stop", "stop.claimed"), ("stop", "stop.marked")],
)
def test_kill_9_of_the_client(walks: UnderSystemd, verb: str, fault: str) -> None:
    done = walks.walk(verb, fault, CLIENT_PID)
    assert done.returncode == 0
    unit = names.slug(done.stdout.split("\t")[0])
    log = ("journalctl", "-u", f"wxclient@{unit}")
    eventually(lambda: "status=9/KILL" in walks.machine.run(*log).stdout, what="it was killed")
