"""kill -9 of the controller, of supervisord and of the client between every two steps of a start and of a stop."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.installation import SCRIPTS, Installation
from wxsup import faults, names, record

START = ("claimed", "recorded", "installed", "reread", "spawned", "settled")
STOP = ("claimed", "marked", "stopped", "removed", "uninstalled", "cleaned", "forgotten")
#: Before these there is no record yet, after those none any more.
UNKNOWN_AFTER = {"start.claimed", "replace.written"}
RUNNING_AFTER = {f"start.{step}" for step in START} - UNKNOWN_AFTER | {"stop.claimed"}

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def wx() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as found:
        yield found


def command(wx: Installation, verb: str, name: str, fault: str, victim: str) -> int:
    """Start or stop a client with a fault armed, as a controller of its own; return its exit status."""
    done = subprocess.run(
        [SCRIPTS / "wxsup", verb, name, *wx.flags],
        cwd=wx.folder,
        env={**os.environ, faults.VARIABLE: f"{fault}={victim}"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def processes(name: str, wx: Installation) -> int:
    """Count the processes of this client of this installation, whoever started them."""
    path = str(wx.folder / "var" / "clients" / f"wxclient-{names.slug(name)}.env")
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            same_folder = os.readlink(folder / "cwd") == str(wx.folder / "var")
        except OSError:
            continue
        count += path.encode() in title or (title.rstrip(b"\0").decode() == f"wxclient({name})" and same_folder)
    return count


def unfinished(wx: Installation) -> list[str]:
    """Return the records that say of themselves that something is left to do."""
    texts = {path.name: path.read_text() for path in (wx.folder / "var" / "clients").glob("*.env")}
    return [name for name, text in texts.items() if (client := record.loads(text)).pending or client.want.value != "up"]


def definitions(wx: Installation) -> tuple[set[str], set[str]]:
    """Return the stems of the section files and of the records, which must be the same."""
    var = wx.folder / "var"
    return {path.stem for path in var.glob("conf.d/*.conf")}, {path.stem for path in var.glob("clients/*.env")}


def settled(wx: Installation, name: str, *, running: bool) -> None:
    """Check that all is finished: exactly one process and everything in its place, or nothing at all."""
    eventually(lambda: not unfinished(wx), what="the end of what was cut short")
    if running:
        eventually(lambda: wx.state(name)["state"] == "scaning", what=f"{name} is up")
    else:
        assert wx.json("check_client", client=name)["code"] == 1
    eventually(lambda: processes(name, wx) == int(running), what="one process, or none")
    sections, records = definitions(wx)
    assert sections == records
    assert (names.program(names.slug(name)) in records) is running
    if running:
        assert wx.json("stop_client", client=name)["code"] == 0
        assert processes(name, wx) == 0


def walk(wx: Installation, verb: str, fault: str, victim: str, *, running: bool) -> None:
    name = f"客 {verb} {next(_numbers)}"
    first_port = wx.json("start_client", client="probe")["port"]
    wx.json("stop_client", client="probe")
    if verb == "stop":
        wx.json("start_client", client=name)
        wx.until(name, "scaning")
    status = command(wx, verb, name, fault, victim)
    if victim == "self":
        assert status == -9
    elif victim.endswith("supervisord.pid"):
        wx.down()
        wx.up()
    settled(wx, name, running=running)
    assert wx.json("start_client", client="probe")["port"] == first_port, "a port was leaked"
    wx.json("stop_client", client="probe")


EVERY_STEP = [
    *(("start", f"start.{step}") for step in START),
    ("start", "replace.written"),
    *(("stop", f"stop.{step}") for step in STOP),
]


@pytest.mark.parametrize(("verb", "fault"), EVERY_STEP)
def test_kill_9_of_the_controller(wx: Installation, verb: str, fault: str) -> None:
    walk(wx, verb, fault, "self", running=fault in RUNNING_AFTER)


@pytest.mark.parametrize(("verb", "fault"), EVERY_STEP)
def test_kill_9_of_supervisord(wx: Installation, verb: str, fault: str) -> None:
    # With the record half written the command goes on, and finds nobody to start the client: it is finished later.
    running = fault in RUNNING_AFTER | {"replace.written"}
    walk(wx, verb, fault, str(wx.folder / "var/run/supervisord.pid"), running=running)


def test_kill_9_of_the_controller_in_the_start_of_a_client_whose_record_was_deleted(wx: Installation) -> None:
    wx.json("start_client", client="orphan")
    wx.until("orphan", "scaning")
    (wx.folder / "var/clients/wxclient-orphan.env").unlink()
    assert command(wx, "start", "orphan", "start.recorded", "self") == -9
    eventually(lambda: not unfinished(wx), what="the end of what was cut short")
    wx.until("orphan", "scaning")
    assert wx.json("get_client_info", client="orphan")["code"] == 0, "the port in the record is the one it listens on"
    settled(wx, "orphan", running=True)


@pytest.mark.parametrize(
    ("verb", "fault"),
    [("start", "start.spawned"), ("start", "start.settled"), ("stop", "stop.claimed"), ("stop", "stop.marked")],
)
def test_kill_9_of_the_client(wx: Installation, verb: str, fault: str, tmp_path: Path) -> None:
    name = f"client {verb} {next(_numbers)}"
    slug = names.slug(name)
    if verb == "stop":
        wx.json("start_client", client=name)
        wx.until(name, "scaning")
    status = command(wx, verb, name, fault, str(wx.folder / f"var/run/{slug}/mojo_weixin_pid_{slug}.pid"))
    assert status == 0
    settled(wx, name, running=verb == "start")
