"""The commands on a machine where wxsup runs under systemd, as root and as the user of the controller."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.deadline import eventually
from tests.installed import Installed
from wxsup import names

NAME = "客 1"
SESSION = f"/var/lib/wxclient/{names.slug(NAME)}"
AS_WXSUP = "runuser -u wxsup -- "


@pytest.fixture
def wx(installed: Installed) -> Iterator[Installed]:
    yield installed
    installed.stop_all()
    installed.machine.run("find", "/var/lib/wxclient", "-mindepth", "1", "-delete")


def running(wx: Installed, name: str = NAME) -> None:
    wx.type(f"{AS_WXSUP}wxsup start '{name}'")
    wx.log_in(name, f"user-of-{name}")


@pytest.mark.parametrize("user", ["", AS_WXSUP], ids=["root", "wxsup"])
def test_both_see_the_state_of_clients_and_their_log(wx: Installed, user: str) -> None:
    running(wx)
    (row,) = (line.split("\t") for line in wx.type(f"{user}wxsup status '{NAME}'").splitlines())
    assert (row[:3], row[4]) == ([NAME, "running", "running"], "0")
    wx.machine.systemctl("kill", "--signal=KILL", wx.unit(NAME))
    eventually(lambda: wx.state(NAME).get("restarts") == 1, what="the restart is counted")
    wx.until(NAME, "running")
    assert wx.type(f"{user}wxsup status").split("\t")[4] == "1"
    assert "state=running" in wx.type(f"{user}wxsup logs '{NAME}'")
    assert json.loads(wx.type(f"{user}wxsup logs '{NAME}' --json -n 1"))["level"]


def test_of_a_client_that_is_down_the_journal_is_shown(wx: Installed) -> None:
    running(wx)
    wx.machine.systemctl("stop", wx.unit(NAME))
    assert "state=running" in wx.type(f"wxsup logs '{NAME}' -n 100 2>&1")


def test_root_is_told_whose_work_it_is_and_changes_nothing(wx: Installed) -> None:
    running(wx)
    for command in (f"stop '{NAME}'", f"restart '{NAME}'", f"remove '{NAME}' --purge", "start other"):
        done = wx.machine.run("bash", "-c", f"wxsup {command}", check=False)
        assert (done.returncode, "run as its owner" in done.stderr) == (1, True), done
    assert wx.state(NAME)["state"] == "running"


def test_a_restart_is_one_of_the_unit_on_the_same_port(wx: Installed) -> None:
    running(wx)
    before = wx.state(NAME)
    wx.type(f"{AS_WXSUP}wxsup restart '{NAME}'")
    after = wx.until(NAME, "running")
    assert (after["pid"] != before["pid"], after["port"]) == (True, before["port"])
    assert wx.show(NAME, "MainPID") == str(after["pid"])


@pytest.mark.parametrize("stopped", [False, True])
def test_a_removal_with_purge_deletes_the_session_which_the_controller_cannot_even_read(
    wx: Installed, stopped: bool
) -> None:
    for name in (NAME, "other"):
        running(wx, name)
    machine = wx.machine
    machine.run("cp", "-r", "/usr/share/zoneinfo", f"{SESSION}/media")
    machine.run("ln", "-s", "/etc", f"{SESSION}/etc")
    assert machine.run("ls", SESSION, user="wxsup", check=False).returncode != 0
    if stopped:
        wx.type(f"{AS_WXSUP}wxsup stop '{NAME}'")
        assert machine.path(SESSION).is_dir()
    told = json.loads(wx.type(f"{AS_WXSUP}wxsup remove '{NAME}' --purge --json"))
    assert (told["code"], told["purged"]) == (0, True)
    assert not machine.path(SESSION).exists()
    assert machine.path("/var/lib/wxclient/other").is_dir()
    assert machine.path("/etc/passwd").exists()
    assert wx.state("other")["state"] == "running"
    assert machine.systemctl("list-units", "--all", "--plain", "--no-legend", wx.unit(NAME)) == ""
    done = machine.run("bash", "-c", f"{AS_WXSUP}wxsup remove '{NAME}' --purge", check=False)
    assert done.returncode == 3
    wx.type(f"{AS_WXSUP}wxsup start '{NAME}'")
    wx.until(NAME, "scaning")


def test_the_api_purges_too(wx: Installed) -> None:
    running(wx)
    assert wx.json("remove_client", client=NAME, purge="1")["purged"] is True
    assert not wx.machine.path(SESSION).exists()


def test_check_finds_nothing_to_mend_and_config_says_where_settings_are_from(wx: Installed) -> None:
    running(wx)
    rows = [line.split("\t") for line in wx.type(f"{AS_WXSUP}wxsup check").splitlines()]
    assert {row[0] for row in rows} <= {"ok", "warn"}
    assert [row[1] for row in rows if row[0] == "warn"] in ([], ["clock"])
    assert "supervisor\tsystemd\t/etc/wxsup/wxsup.toml" in wx.type("wxsup config").splitlines()


def test_man_pages_and_completions_are_installed(wx: Installed) -> None:
    page = " ".join(wx.type("man -M /usr/local/share/man wxsup-remove | col -b").split())
    assert "wxsup-remove - stop clients and forget them" in page
    for path in (
        "bash-completion/completions/wxsup",
        "zsh/site-functions/_wxsup",
        "fish/vendor_completions.d/wxsup.fish",
    ):
        assert "_WXSUP_COMPLETE" in wx.machine.path(f"/usr/local/share/{path}").read_text()
