"""wxsup under the systemd of a user who is not root, set up by the lines of docs/howto/systemd.md."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import requests

from tests.deadline import eventually
from tests.installation import Calls
from tests.installed import CHECKOUT, INSTALL_TIMEOUT, SANDBOX_PORT, Installed, lines
from wxsup import names

USER, HOME = "someone", "/home/someone"
UNITS, STATE = f"{HOME}/.config/systemd/user", f"{HOME}/.local/state/wxsup"
PORT, FIRST_CLIENT_PORT = 2100, 4000
# Beside the controller of the system, and turned to its sandbox.
SETTINGS = f"""
listen = "127.0.0.1:{PORT}"
backend_start_port = {FIRST_CLIENT_PORT}
ilink_base = "http://127.0.0.1:{SANDBOX_PORT}"
ilink_allow_hosts = "127.0.0.1"
"""
NAME = "客 '1'"


class Home(Calls):
    """The wxsup of a user of a machine, in a virtual environment of their own."""

    def __init__(self, system: Installed) -> None:
        super().__init__(PORT, SANDBOX_PORT, system.machine.network)
        self.system = system
        self.machine = system.machine
        self.machine.run("useradd", "--create-home", USER)
        self.uid = self.machine.run("id", "-u", USER).stdout.strip()
        self.manager = f"user@{self.uid}.service"
        self.runtime = f"/run/user/{self.uid}"

    def type(self, line: str, *, internet: bool = False) -> str:
        """Type a line as the user at home and return what it prints; it must succeed."""
        return self.machine.run(
            *("bash", "-c", line),
            user=USER,
            folder=HOME,
            internet=internet,
            timeout=INSTALL_TIMEOUT,
            HOME=HOME,
            XDG_RUNTIME_DIR=self.runtime,
            PATH=f"{HOME}/venv/bin:/usr/bin:/bin",
        ).stdout

    def install(self) -> None:
        """Do what the page says, with settings of our own in between."""
        self.machine.run("loginctl", "enable-linger", USER)
        eventually(lambda: self.machine.systemctl("show", "-P", "ActiveState", self.manager).strip() == "active")
        self.machine.run("cp", "-r", CHECKOUT, f"{HOME}/checkout")
        self.machine.run("chown", "-R", f"{USER}:", f"{HOME}/checkout")
        self.type("python3 -m venv venv && pip install --quiet './checkout[systemd]'", internet=True)
        self.type("wxsup install --user")
        with open(self.machine.path(f"{HOME}/.config/wxsup/wxsup.toml"), "a") as settings:
            settings.write(SETTINGS)
        self.follow_the_page()

    def follow_the_page(self) -> None:
        for line in lines("Without root"):
            self.type(line)
        eventually(lambda: self.json("check_client")["code"] == 0, what="the controller")

    def leave(self) -> None:
        """Remove the user and all that they have."""
        self.close()
        self.machine.run("loginctl", "disable-linger", USER)
        self.machine.systemctl("stop", self.manager)
        self.machine.run("userdel", "--remove", USER)

    def show(self, client: str, field: str) -> str:
        """Return a property of a client's unit."""
        return self.type(f"systemctl --user show -P {field} 'wxclient@{names.slug(client)}.service'").strip()


@pytest.fixture(scope="module")
def home(installed: Installed) -> Iterator[Home]:
    found = Home(installed)
    try:
        found.install()
        yield found
    finally:
        found.leave()


@pytest.fixture
def wx(home: Home) -> Iterator[Home]:
    yield home
    for entry in home.json("check_client")["client"]:
        assert home.json("stop_client", client=entry["account"])["code"] == 0
    home.type(f"rm -rf {STATE}/session")


def running(wx: Home, name: str) -> dict[str, object]:
    """Start a client and log it in."""
    assert wx.json("start_client", client=name)["status"] == "success"
    return wx.log_in(name, f"user-of-{name}")


def test_what_is_installed_follows_the_users_settings_and_leaves_them_alone(wx: Home) -> None:
    settings = wx.machine.path(f"{HOME}/.config/wxsup/wxsup.toml").read_text()
    assert settings.endswith(SETTINGS), "the second install has kept them"
    assert wx.type("systemctl --user show -P Listen wxcontroller.socket") == f"127.0.0.1:{PORT} (Stream)\n"
    assert "ok\tsupervisor: systemd\t\t" in wx.type("wxsup check").splitlines()
    assert wx.type("systemctl --user --failed --plain --no-legend") == ""
    units = f"{UNITS}/wx*.service {UNITS}/wx*.socket {UNITS}/wx*.slice {UNITS}/wxclients.target"
    assert wx.type(f"systemd-analyze --user verify --man=no --recursive-errors=no {units} 2>&1") == ""


def test_the_address_is_that_of_the_settings_which_the_controller_will_read(wx: Home) -> None:
    wx.type("mkdir -p elsewhere && echo 'listen = \"127.0.0.1:2999\"' > elsewhere/wxsup.toml")
    try:
        wx.type("cd elsewhere && wxsup install --user")
        assert f"ListenStream=127.0.0.1:{PORT}\n" in wx.type(f"cat {UNITS}/wxcontroller.socket")
    finally:
        wx.type("rm -r elsewhere && wxsup install --user")


def test_a_client_is_a_unit_of_the_users_own_systemd(wx: Home) -> None:
    reply = wx.json("start_client", client=NAME)
    assert reply["port"] == FIRST_CLIENT_PORT
    wx.log_in(NAME, "somebody")
    assert (wx.show(NAME, "ActiveState"), wx.show(NAME, "MainPID")) == ("active", str(reply["pid"]))
    said = wx.type(f"systemctl --user status --no-pager wxclient@{names.slug(NAME)}")
    assert 'Status: "running since 20' in said
    assert "wxclient.slice" in said
    assert wx.machine.run("stat", "--format=%U", f"/proc/{reply['pid']}").stdout == f"{USER}\n"
    assert wx.system.json("check_client")["client"] == [], "the controller of the system does not see it"


def test_a_client_is_restricted_and_answers_to_nobody_but_the_controller(wx: Home) -> None:
    pid = running(wx, "mine")["pid"]
    status = wx.type(f"cat /proc/{pid}/status")
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status
    assert (wx.show("mine", "MemoryMax"), wx.show("mine", "TasksMax")) == (str(256 * 2**20), "1024")
    assert wx.json("get_client_info", client="mine")["code"] == 0
    with wx.machine.network():
        direct = requests.get(f"http://127.0.0.1:{wx.state('mine')['port']}/openwx/get_client_info", timeout=30)
    assert direct.status_code == 401
    for path in (STATE, wx.runtime):
        assert wx.machine.run("ls", path, user="nobody", check=False).returncode != 0


def test_a_killed_client_is_back_without_a_scan(wx: Home) -> None:
    before = running(wx, "killed")
    wx.type(f"kill -9 {before['pid']}")
    eventually(lambda: wx.state("killed")["pid"] not in (None, before["pid"]), what="a new process")
    after = wx.until("killed", "running")
    assert (after["port"], after["owner_hash"]) == (before["port"], before["owner_hash"])
    assert "qrcode_count" not in after, "it asked for no scan"


def test_a_stopped_client_is_gone_and_its_session_stays(wx: Home) -> None:
    pid = running(wx, "stopped")["pid"]
    assert wx.json("stop_client", client="stopped")["pid"] == pid
    assert wx.show("stopped", "MainPID") == "0"
    assert wx.json("check_client", client="stopped")["code"] == 1
    eventually(lambda: wx.show("stopped", "ActiveState") == "inactive", what="the end of systemd's cleaning")
    assert not wx.machine.path(f"{wx.runtime}/wxclient/stopped").exists()
    assert wx.json("start_client", client="stopped")["status"] == "success"
    assert "qrcode_count" not in wx.until("stopped", "running")


def test_clients_are_back_with_the_users_systemd_as_after_a_boot(wx: Home) -> None:
    before = running(wx, "a")
    wx.json("start_client", client="gone")
    wx.json("stop_client", client="gone")
    wx.close()
    wx.machine.systemctl("restart", wx.manager)
    after = wx.until("a", "running")
    assert after["pid"] != before["pid"]
    assert after["port"] == before["port"]
    assert "qrcode_count" not in after
    assert [entry["account"] for entry in wx.json("check_client")["client"]] == ["a"]


def test_a_removal_with_purge_deletes_the_session_which_is_the_users_own(wx: Home) -> None:
    for name in (NAME, "other"):
        running(wx, name)
    wx.type(f"wxsup restart {shlex.quote(NAME)}")
    wx.until(NAME, "running")
    assert '"purged": true' in wx.type(f"wxsup remove {shlex.quote(NAME)} --purge --json")
    assert wx.type(f"ls {STATE}/session").split() == ["other"]
    assert wx.state("other")["state"] == "running"


def test_uninstall_removes_the_units_and_a_new_install_finds_the_clients_again(wx: Home) -> None:
    before = running(wx, "kept")
    wx.close()
    wx.type("systemctl --user disable --now wxcontroller.socket wxcontroller.service wxclients.target wxsup-resume")
    removed = wx.type("wxsup uninstall --user").split()
    try:
        assert f"{UNITS}/wxclient@.service" in removed
        assert wx.type(f"find {UNITS} -name 'wx*'") == ""
        assert wx.type(f"ls {STATE}/clients").split() == ["locks", "wxclient-kept.env", "wxclient-kept.secret"]
        assert SETTINGS in wx.machine.path(f"{HOME}/.config/wxsup/wxsup.toml").read_text()
        assert not wx.machine.path(f"/proc/{before['pid']}").exists()
    finally:
        wx.follow_the_page()
    after = wx.until("kept", "running")
    assert after["port"] == before["port"]
    assert "qrcode_count" not in after
