"""kill -9 of the controller, of supervisord and of the client between every two steps of whatever is done to one."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import SCRIPTS, Installation
from tests.walks import CLAIMED, UNTOLD, Walks, every_step, slugs
from wxsup import faults, names

EVERY_STEP = every_step(
    start=("claimed", "recorded", "installed", "reread", "spawned", "settled"),
    stop=("claimed", "marked", "stopped", "removed", "uninstalled", "cleaned", "forgotten"),
)


class UnderSupervisord(Walks):
    """Walks on `wxsup up`, with commands run beside it."""

    def __init__(self, wx: Installation) -> None:
        super().__init__(wx, wx.folder / "var/clients")
        self.var = wx.folder / "var"
        self.flags = wx.flags

    def command(self, verb: str, name: str, fault: str, victim: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / "wxsup", verb, name, *self.flags],
            cwd=self.var.parent,
            env={**os.environ, faults.VARIABLE: f"{fault}={victim}"},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def processes(self, name: str) -> int:
        path = str(self.records / f"wxclient-{names.slug(name)}.env")
        count = 0
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_bytes()
                same_folder = os.readlink(folder / "cwd") == str(self.var)
            except OSError:
                continue
            count += path.encode() in title or (title.rstrip(b"\0").decode() == f"wxclient({name})" and same_folder)
        return count

    def traces(self) -> dict[str, frozenset[str]]:
        return {
            "section": slugs(self.var.glob("conf.d/*.conf")),
            "secret": slugs(self.records.glob("*.secret")),
        }


@pytest.fixture(scope="module")
def wx() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def walks(wx: Installation) -> UnderSupervisord:
    return UnderSupervisord(wx)


@pytest.mark.parametrize(("verb", "fault"), EVERY_STEP)
def test_kill_9_of_the_controller(walks: UnderSupervisord, verb: str, fault: str) -> None:
    assert walks.walk(verb, fault, "self", told=fault not in UNTOLD).returncode == -9


@pytest.mark.parametrize(("verb", "fault"), EVERY_STEP)
def test_kill_9_of_supervisord(wx: Installation, walks: UnderSupervisord, verb: str, fault: str) -> None:
    def revive() -> None:
        wx.down()
        wx.up()

    # With the record half written the command goes on, and finds nobody to start the client: it is finished later.
    walks.walk(verb, fault, f"{walks.var}/run/supervisord.pid", told=fault not in CLAIMED, revive=revive)


def test_kill_9_of_the_controller_in_the_start_of_a_client_whose_record_was_deleted(walks: UnderSupervisord) -> None:
    assert walks.walk_without_record().returncode == -9


@pytest.mark.parametrize(
    ("verb", "fault"),
    [("start", "start.spawned"), ("start", "start.settled"), ("stop", "stop.claimed"), ("stop", "stop.marked")],
)
def test_kill_9_of_the_client(walks: UnderSupervisord, verb: str, fault: str) -> None:
    victim = f"{walks.var}/run/{{slug}}/mojo_weixin_pid_{{slug}}.pid"
    assert walks.walk(verb, fault, victim).returncode == 0
