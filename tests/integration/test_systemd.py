"""wxsup under a real systemd: rights, reboots, crashes, hands of an operator."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from tests.deadline import eventually
from tests.installed import PORT, Installed


@pytest.fixture
def wx(installed: Installed) -> Iterator[Installed]:
    yield installed
    installed.stop_all()
    installed.machine.run("find", "/var/lib/wxclient", "-mindepth", "1", "-delete")


def running(wx: Installed, name: str) -> dict[str, object]:
    """Start a client and log it in."""
    assert wx.json("start_client", client=name)["status"] == "success"
    return wx.log_in(name, f"user-of-{name}")


# Rights


def test_the_controllers_user_may_do_what_it_needs_to_clients(wx: Installed) -> None:
    wx.json("start_client", client="mine")
    for verb in ("start", "restart", "reset-failed", "stop"):
        wx.machine.run("systemctl", "--no-ask-password", verb, "wxclient@mine", user="wxsup")
    manager = "org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager".split()
    clean = ["CleanUnit", "sas", "wxclient@mine.service", "1", "runtime"]
    wx.machine.run("busctl", "call", *manager, *clean, user="wxsup")


REFUSED = [
    "systemctl stop dbus.service",
    "systemctl restart wxcontroller.service",
    "systemctl start wxsup-resume.service",
    "systemctl stop wxclients.target",
    "systemctl stop wxclient.slice",
    "systemctl start wxclientx@mine.service",
    "systemctl start wxclient@mine.socket",
    "systemctl start wxclient@..service",
    "systemctl start wxclient@-rf.service",
    "systemctl kill wxclient@mine.service",
    "systemctl freeze wxclient@mine.service",
    "systemctl reload wxclient@mine.service",
    "systemctl set-property --runtime wxclient@mine.service MemoryMax=1G",
    "systemctl bind --mkdir wxclient@mine.service /etc /run/wxclient/mine",
    "systemctl enable wxclient@mine.service",
    "systemctl disable wxcontroller.service",
    "systemctl mask --runtime wxclient@mine.service",
    "systemctl link /usr/local/lib/systemd/system/wxclient@.service",
    "systemctl daemon-reload",
    "systemctl set-environment A=B",
    "systemctl poweroff",
    "systemd-run --unit=wxclient@evil.service --collect id",
    "systemd-run --unit=wxclient-evil.service --collect id",
    "systemd-run --unit=evil.service --collect id",
    "systemd-run --scope id",
]


@pytest.mark.parametrize("command", REFUSED)
def test_the_controllers_user_may_do_nothing_else(wx: Installed, command: str) -> None:
    pid = str(wx.json("start_client", client="mine")["pid"])
    program, *words = command.split()
    done = wx.machine.run(program, "--no-ask-password", *words, user="wxsup", check=False)
    assert done.returncode != 0
    assert "uthentication required" in done.stderr or "Access denied" in done.stderr, done.stderr
    assert wx.show("mine", "MainPID") == pid, wx.journal("mine")


@pytest.mark.parametrize("user", ["wxclient", "nobody"])
@pytest.mark.parametrize("verb", ["start", "stop", "restart", "reset-failed"])
def test_nobody_else_may_touch_clients(wx: Installed, user: str, verb: str) -> None:
    pid = str(wx.json("start_client", client="mine")["pid"])
    done = wx.machine.run("systemctl", "--no-ask-password", verb, "wxclient@mine", user=user, check=False)
    assert done.returncode != 0
    assert wx.show("mine", "MainPID") == pid, wx.journal("mine")


def test_the_controller_reads_state_and_code_of_a_client_and_nothing_else(wx: Installed) -> None:
    wx.json("start_client", client="mine")
    wx.until("mine", "scaning")
    for name in ("state_mine.json", "qrcode_mine.jpg"):
        wx.machine.run("cp", f"/run/wxclient/mine/mojo_weixin_{name}", "/dev/null", user="wxsup")
    for path in ("/var/lib/wxclient/mine", f"/proc/{wx.show('mine', 'MainPID')}/root/run"):
        assert wx.machine.run("ls", path, user="wxsup", check=False).returncode != 0
    for path in ("/run/wxclient/mine/x", "/var/lib/wxclient/x"):
        assert wx.machine.run("touch", path, user="wxsup", check=False).returncode != 0


def test_clients_cannot_see_one_another(wx: Installed) -> None:
    for name in ("a", "b"):
        wx.json("start_client", client=name)
        wx.until(name, "scaning")
    pid = wx.show("a", "MainPID")
    other = wx.show("b", "MainPID")

    def inside(*words: str) -> tuple[int, str]:
        """Run something with the eyes and the rights of the client a."""
        become = "setpriv --reuid=wxclient --regid=wxclient --clear-groups --no-new-privs --inh-caps=-all".split()
        done = wx.machine.run("nsenter", "--target", pid, "--mount", *become, *words, check=False)
        return done.returncode, done.stdout

    assert inside("ls", "-A", "/run/wxclient") == (0, ".record\n.secret\na\n")
    assert inside("ls", "-A", "/var/lib/wxclient") == (0, "a\n")
    assert inside("cat", "/run/wxclient/.record")[0] == 0, "its own it can read"
    for folder in (
        "/var/lib/wxsup/clients",
        "/var/lib/wxsup",
        "/run/wxsup",
        f"/proc/{other}/fd",
        f"/proc/{other}/root/",
    ):
        assert inside("ls", folder)[0] != 0, folder
    assert inside("cat", f"/proc/{other}/environ")[0] != 0
    for path in ("/var/lib/wxclient/x", "/run/wxclient/x", "/run/wxclient/.secret"):
        assert inside("touch", path)[0] != 0, path


PLANTED = {
    "a link to a file": "ln -s /root/private/dump $0",
    "a link to a folder": "ln -s /root/private $0",
    "a link to nothing": "ln -s /root/nothing $0",
    "a pipe": "mkfifo $0",
    "a folder": "mkdir $0",
    "too much": "truncate --size 10G $0; chgrp wxclient $0; chmod 640 $0",
    "a link as the folder": "mv ~wxsup/clients ~wxsup/away; ln -s /root/private ~wxsup/clients",
}


@pytest.mark.parametrize("kind", ["env", "secret"])
@pytest.mark.parametrize("planted", PLANTED)
def test_nothing_of_roots_reaches_a_client_through_the_folder_of_the_controllers_user(
    wx: Installed, planted: str, kind: str
) -> None:
    """Who is wxsup, and so chooses the client's program, gets at no file of root's, and does not make PID 1 wait."""
    machine, clients, evil = wx.machine, "/var/lib/wxsup/clients", "wxclient-evil"
    victims = f"cd /root/private && echo top secret | tee dump {evil}.env {evil}.secret"
    machine.run("sh", "-c", f"umask 022; mkdir -m 700 /root/private; {victims}")
    looted, settings = "/run/wxclient/evil/loot", "/run/wxsup/evil.toml"
    program = f"command = \"sh -c 'grep -r . /run/wxclient > {looted}; sleep 60'\"\ndriver = 'command'\n"
    machine.path(settings).write_text(machine.path("/etc/wxsup/wxsup.toml").read_text() + program)
    machine.run("wxsup", "start", "evil", "--config", settings, user="wxsup")
    eventually(lambda: machine.path(looted).exists(), what="the program is at work")
    machine.systemctl("stop", "wxclient@evil")
    machine.path(looted).unlink()
    machine.run("cp", "-r", clients, "/var/lib/wxsup/before", user="wxsup")
    machine.run("sh", "-c", f"rm $0; {PLANTED[planted]}", f"{clients}/{evil}.{kind}", user="wxsup")
    try:
        done = machine.run("systemctl", "start", "wxclient@evil", user="wxsup", check=False)
        assert done.returncode != 0, done.stderr
        assert not machine.path(looted).exists(), "its program is not run"
        assert wx.show("evil", "ExecMainStatus") == "64", "whatever it was"
        assert "top secret" not in machine.run("journalctl", "-u", "wxclient@evil").stdout
    finally:
        machine.systemctl("stop", "wxclient@evil")
        machine.run("sh", "-c", f"rm -rf /root/private ~wxsup/away {clients}; mv ~wxsup/before {clients}")
    assert wx.json("start_client", client="good")["code"] == 0
    wx.until("good", "scaning")


@pytest.mark.parametrize("unit", ["wxcontroller.service", "wxsup-resume.service"])
def test_the_controller_lays_no_traps(wx: Installed, unit: str) -> None:
    folder = "/var/lib/wxsup/traps"
    wx.machine.run("mkdir", folder, user="wxsup")
    tried = "touch file; ln file hard; ln -s /root soft; mkfifo pipe"
    wx.drop_in_of(unit, f"[Service]\nExecStartPre=-/bin/sh -c 'cd {folder}; {tried}'\n")
    try:
        wx.machine.systemctl("restart", unit)
        assert wx.machine.run("ls", folder).stdout == "file\n"
    finally:
        wx.drop_in_of(unit, "")
        wx.machine.run("rm", "-r", folder)
    eventually(lambda: wx.call("check_client").ok, what="the controller")


def test_a_client_cannot_hang_or_fool_the_controller(wx: Installed) -> None:
    for name in ("a", "b"):
        wx.json("start_client", client=name)
        wx.until(name, "scaning")
    folder = "/run/wxclient/a/mojo_weixin"
    victim = "/var/lib/wxsup/clients/wxclient-b.secret"
    lines = f"rm {folder}_*; mkfifo {folder}_state_a.json; ln -s {victim} {folder}_qrcode_a.jpg"
    wx.machine.run("sh", "-c", lines, user="wxclient")
    for _ in range(4):
        assert wx.state("a")["state"] == "unknown"
    assert wx.call("get_qrcode", {"client": "a"}).status_code == 404
    assert wx.state("b")["state"] == "scaning"


def test_what_a_record_says_reaches_the_client_through_systemd_unchanged(wx: Installed) -> None:
    label = "a'b\"c $HOME ${X} %i %% \\ \\n `id` #;= 客 é"
    name = "客 '1'"
    assert wx.json("start_client", client=name, ilink_label=label)["code"] == 0
    wx.log_in(name, "somebody")
    assert wx.json("get_user_info", client=name)["name"] == label
    assert wx.state(name)["account"] == name
    assert wx.show(name, "MainPID") == str(wx.state(name)["pid"])


# Life and death


def test_a_reboot_brings_back_who_wants_to_be_up_and_nobody_else(wx: Installed) -> None:
    before = {name: running(wx, name) for name in ("a", "b")}
    for name in ("waits", "gone"):
        wx.json("start_client", client=name)
    wx.until("waits", "scaning")
    wx.json("stop_client", client="gone")
    wx.close()
    wx.machine.reboot()
    wx.machine.run("systemd-run", "--unit=wxsandbox", "--uid=wxsup", "/usr/local/bin/wxsup", "sandbox")
    for name, state in before.items():
        after = wx.until(name, "running")
        assert after["port"] == state["port"]
        assert after["owner_hash"] == state["owner_hash"]
        assert "qrcode_count" not in after, "it asked for no scan"
    wx.until("waits", "scaning")
    assert wx.json("check_client", client="gone")["code"] == 1
    assert wx.machine.systemctl("--failed", "--plain", "--no-legend") == ""


def test_a_killed_client_is_back_within_two_seconds_without_a_scan(wx: Installed) -> None:
    before = running(wx, "a")
    wx.machine.run("kill", "-9", str(before["pid"]))
    began = time.monotonic()

    def back() -> dict[str, object] | None:
        state = wx.state("a")
        return state if state["state"] == "running" and state["pid"] != before["pid"] else None

    after = eventually(back, timeout=20, what="it is back")
    assert after
    assert time.monotonic() - began < 2
    assert after["port"] == before["port"]
    assert "qrcode_count" not in after


def test_a_client_that_cannot_start_is_given_up_and_start_client_tries_again(wx: Installed) -> None:
    port = wx.json("start_client", client="a")["port"]
    wx.machine.systemctl("stop", "wxclient@a")
    wx.drop_in("a", "[Unit]\nStartLimitBurst=3\n")
    wx.machine.run("systemd-run", "--unit=thief", "python3", "-m", "http.server", "-b", "127.0.0.1", str(port))
    try:
        eventually(lambda: wx.machine.run("curl", "-s", f"http://127.0.0.1:{port}/", check=False).returncode == 0)
        wx.json("start_client", client="a")
        eventually(lambda: wx.state("a")["process"] == "failed", what="systemd gives it up")
        state = wx.state("a")
        assert state["state"] == "stop"
        assert state["reason"] == "exit status 75"
        assert f"port {port} cannot be opened" in state["error"]
        assert state["pid"] is None
    finally:
        wx.machine.systemctl("stop", "thief")
        wx.drop_in("a", "")
    assert wx.json("start_client", client="a")["code"] == 0
    assert wx.until("a", "scaning")["port"] == port


def test_a_client_that_is_restarted_too_often_by_hand_is_given_up_with_that_reason(wx: Installed) -> None:
    wx.json("start_client", client="a")
    wx.until("a", "scaning")
    statuses = [
        wx.machine.run("systemctl", "restart", "wxclient@a", check=False).returncode
        for _ in range(10)  # StartLimitBurst=, and the start before
    ]
    assert statuses == [0] * 9 + [1]
    state = wx.state("a")
    assert (state["process"], state["reason"], state["pid"]) == ("failed", "start-limit-hit", None)
    assert wx.json("start_client", client="a")["code"] == 0
    wx.until("a", "scaning")


def test_a_client_on_its_way_down_is_started_anew(wx: Installed) -> None:
    """Not taken for one that runs, whatever was known of it before."""
    wx.drop_in("a", "[Service]\nExecStop=/bin/sleep 3\n")
    try:
        first = wx.json("start_client", client="a")["pid"]
        wx.until("a", "scaning")
        wx.machine.systemctl("stop", "--no-block", "wxclient@a")
        eventually(lambda: wx.show("a", "ActiveState") == "deactivating", what="it is being stopped")
        assert wx.state("a")["process"] == "stopping"
        reply = wx.json("start_client", client="a")
        assert reply["status"] == "success"
        assert reply["pid"] not in (first, 0)
        assert str(wx.until("a", "scaning")["pid"]) == wx.show("a", "MainPID") == str(reply["pid"])
    finally:
        wx.drop_in("a", "")


def test_a_client_that_waits_to_be_tried_again_is_started_at_once(wx: Installed) -> None:
    wx.drop_in("a", "[Service]\nRestartSec=1h\n")
    try:
        wx.json("start_client", client="a")
        pid = wx.until("a", "scaning")["pid"]
        wx.machine.run("kill", "-9", str(pid))
        eventually(lambda: wx.state("a").get("reason") == "killed by SIGKILL", what="it waits")
        assert wx.state("a")["process"] == "starting"
        assert wx.json("start_client", client="a")["status"] == "success"
        assert wx.until("a", "scaning")["pid"] != pid
    finally:
        wx.drop_in("a", "")


def test_a_client_without_a_template_unit_is_refused_with_the_reason(wx: Installed) -> None:
    wx.machine.systemctl("mask", "--runtime", "wxclient@masked.service")
    try:
        reply = wx.json("start_client", client="masked")
        assert reply["code"] == 3
        assert "masked" in reply["reason"]
        assert wx.json("check_client", client="masked")["code"] == 1
    finally:
        wx.machine.systemctl("unmask", "--runtime", "wxclient@masked.service")


def test_a_client_that_hangs_is_killed_by_the_watchdog_and_a_healthy_one_is_not(wx: Installed) -> None:
    for name in ("hangs", "healthy"):
        wx.drop_in(name, "[Service]\nWatchdogSec=2\nRestartSec=3\n")
    try:
        pids = {name: running(wx, name)["pid"] for name in ("hangs", "healthy")}
        wx.machine.run("kill", "-STOP", str(pids["hangs"]))
        reason = eventually(lambda: str(wx.state("hangs").get("reason", "")), what="the reason")
        assert reason.startswith("watchdog, killed by SIG"), reason
        eventually(lambda: wx.state("hangs").get("pid") not in (None, pids["hangs"]), what="a new process")
        wx.until("hangs", "running")
        assert wx.state("healthy")["pid"] == pids["healthy"]
        assert "watchdog" in wx.machine.run("journalctl", "-u", "wxclient@hangs").stdout
    finally:
        for name in ("hangs", "healthy"):
            wx.drop_in(name, "")


def test_a_hundred_clients_started_at_once(wx: Installed) -> None:
    names = [f"n{number}" for number in range(100)]
    with ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda name: wx.json("start_client", client=name), names))
    assert [reply["code"] for reply in replies] == [0] * 100
    assert len({reply["port"] for reply in replies}) == 100
    assert len({reply["pid"] for reply in replies}) == 100

    def scaning() -> int:
        return sum(entry["state"] == "scaning" for entry in wx.json("check_client")["client"])

    eventually(lambda: scaning() == 100, timeout=120, what="all of them show a code")
    with ThreadPoolExecutor(20) as pool:
        assert all(reply["code"] == 0 for reply in pool.map(lambda name: wx.json("stop_client", client=name), names))
    units = ("list-units", "--all", "--plain", "--no-legend", "wxclient@*")
    eventually(lambda: wx.machine.systemctl(*units) == "", what="nothing is left of them")


# The bus


def test_dbus_restarted_underneath_the_controller(wx: Installed) -> None:
    pid = wx.json("start_client", client="a")["pid"]
    wx.machine.systemctl("restart", "dbus.service")
    eventually(lambda: wx.call("check_client").status_code == 200, what="the bus")
    assert wx.state("a")["pid"] == pid
    assert wx.json("start_client", client="b")["code"] == 0
    assert wx.json("stop_client", client="a")["code"] == 0


def test_without_the_bus_calls_answer_503_and_nothing_is_freed(wx: Installed) -> None:
    first = wx.json("start_client", client="a")
    wx.until("a", "scaning")
    wx.machine.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        for api, client in (("check_client", ""), ("start_client", "b"), ("stop_client", "a"), ("start_client", "a")):
            answer = wx.call(api, {"client": client} if client else None)
            assert (answer.status_code, answer.json()["code"]) == (503, 7), api
            assert "D-Bus" in answer.json()["reason"]
        assert wx.json("get_client_info", client="a")["code"] == 0, "calls to clients need no bus"
        done = wx.machine.run("wxsup", "check", user="wxsup", check=False)
        assert done.returncode == 1
        assert "FAIL\tsupervisor: systemd\tD-Bus" in done.stdout
    finally:
        wx.machine.systemctl("start", "dbus.socket", "dbus.service")
    eventually(lambda: wx.call("check_client").ok, what="the bus")
    assert wx.state("a")["pid"] == first["pid"]
    assert wx.json("start_client", client="b")["port"] != first["port"]


@contextmanager
def resume_without_a_bus(wx: Installed) -> Iterator[None]:
    """Start the unit that starts all clients, and have a bus again once it has found that there is none."""

    def refusals() -> int:
        return wx.machine.run("journalctl", "-u", "wxsup-resume").stdout.count("clients not started yet")

    before = refusals()
    wx.machine.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        wx.machine.systemctl("start", "--no-block", "wxsup-resume.service")
        eventually(lambda: refusals() > before, what="it cannot ask")
        yield
    finally:
        wx.machine.systemctl("start", "dbus.socket", "dbus.service")
        eventually(lambda: wx.call("check_client").ok, what="the bus")
        eventually(lambda: not resuming(wx), what="the end of resume")


def stop_all_units(wx: Installed) -> None:
    """Stop the target and wait for what it takes with it, as systemctl does not."""
    wx.machine.systemctl("stop", "wxclients.target")
    eventually(
        lambda: wx.machine.systemctl("list-jobs", "--no-legend") in ("", "No jobs running.\n"), what="all is done"
    )


def resuming(wx: Installed) -> bool:
    return wx.machine.systemctl("show", "-P", "ActiveState", "wxsup-resume.service").strip() == "activating"


def test_a_boot_without_a_bus_is_made_up_for_and_overrules_no_operator(wx: Installed) -> None:
    for name in ("down", "stopped"):
        wx.json("start_client", client=name)
        wx.until(name, "scaning")
    wx.machine.systemctl("stop", "wxclient@down")
    with resume_without_a_bus(wx):
        wx.machine.systemctl("stop", "wxclient@stopped")
    wx.until("down", "scaning")
    assert wx.state("stopped")["process"] == "stopped"


def test_what_will_not_pass_is_not_tried_again_and_so_nobody_is_overruled(wx: Installed) -> None:
    """One broken record and one masked client must not have all others started again and again."""
    for name in ("a", "masked"):
        wx.json("start_client", client=name)
        wx.until(name, "scaning")
    broken = wx.machine.path("/var/lib/wxsup/clients/wxclient-broken.env")
    broken.write_text("nonsense")
    wx.machine.systemctl("stop", "wxclient@masked")
    wx.machine.systemctl("mask", "--runtime", "wxclient@masked.service")
    try:
        wx.machine.run("systemctl", "start", "wxsup-resume.service", check=False)
        wx.machine.systemctl("stop", "wxclient@a")
        assert wx.machine.systemctl("show", "-P", "ActiveState", "wxsup-resume.service") == "failed\n"
        assert "not started: broken, masked" in wx.machine.run("journalctl", "-u", "wxsup-resume").stdout
        assert wx.state("a")["process"] == "stopped"
    finally:
        broken.unlink()
        wx.machine.systemctl("unmask", "--runtime", "wxclient@masked.service")
        wx.machine.systemctl("reset-failed", "wxsup-resume.service")


def test_who_stops_all_clients_stops_the_starting_of_them(wx: Installed) -> None:
    for name in ("a", "b"):
        wx.json("start_client", client=name)
        wx.until(name, "scaning")
    with resume_without_a_bus(wx):
        stop_all_units(wx)
        assert not resuming(wx)
        assert wx.machine.systemctl("--failed", "--plain", "--no-legend") == ""
    assert {entry["process"] for entry in wx.json("check_client")["client"]} == {"stopped"}
    wx.machine.systemctl("start", "wxclients.target")
    wx.until("a", "scaning")


def test_who_stops_all_clients_in_the_midst_of_their_start_stops_every_one(wx: Installed) -> None:
    names = [f"n{number}" for number in range(12)]
    for name in names:
        wx.json("start_client", client=name)
    wx.machine.systemctl("stop", "wxclients.target")

    def up() -> int:
        return sum(entry["process"] != "stopped" for entry in wx.json("check_client")["client"])

    for count in (1, 4, 8):
        wx.machine.systemctl("start", "--no-block", "wxclients.target")
        eventually(lambda count=count: up() >= count, what=f"{count} of them are up")  # type: ignore[misc]
        stop_all_units(wx)
        assert up() == 0


def test_the_controller_starts_and_answers_with_a_broken_record_and_without_a_bus(wx: Installed) -> None:
    wx.json("start_client", client="a")
    wx.until("a", "scaning")
    broken = wx.machine.path("/var/lib/wxsup/clients/wxclient-broken.env")
    broken.write_text("nonsense")
    wx.machine.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        wx.machine.systemctl("restart", "wxcontroller")
        wx.close()
        assert wx.json("get_client_info", client="a")["code"] == 0
        assert wx.call("check_client").status_code == 503
    finally:
        wx.machine.systemctl("start", "dbus.socket", "dbus.service")
        eventually(lambda: wx.call("check_client").ok, what="the bus")
        assert wx.state("broken")["state"] == "unknown"
        broken.unlink()


# The operator's hands


def test_what_an_operator_does_shows_at_once_and_stands(wx: Installed) -> None:
    first = running(wx, "a")
    wx.machine.systemctl("stop", "wxclient@a")
    state = wx.state("a")
    assert (state["state"], state["process"], state["pid"]) == ("stop", "stopped", None)
    wx.machine.run("wxsup", "sync", user="wxsup")
    assert wx.state("a")["process"] == "stopped", "sync overrules nobody"
    wx.machine.systemctl("start", "wxclient@a")
    second = wx.until("a", "running")
    assert second["pid"] != first["pid"]
    wx.machine.systemctl("restart", "wxclient@a")
    assert wx.state("a")["pid"] not in (first["pid"], second["pid"], None)
    third = wx.until("a", "running")
    wx.machine.systemctl("kill", "wxclient@a")  # SIGTERM: it was asked to end, and is not started again
    eventually(lambda: wx.state("a")["process"] == "stopped", what="it has ended")
    assert wx.json("start_client", client="a")["status"] == "success"
    assert wx.until("a", "running")["port"] == third["port"]


def test_a_stop_is_a_stop_whatever_an_operator_does_meanwhile(wx: Installed) -> None:
    """Nothing is left that runs and has no record."""

    def running() -> list[str]:
        titles = wx.machine.run("sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null; true").stdout.split("\0")
        return [title for title in titles if title == "wxclient(raced)"]

    for _ in range(25):
        wx.json("start_client", client="raced")
        with ThreadPoolExecutor() as pool:
            restart = pool.submit(wx.machine.run, "systemctl", "restart", "wxclient@raced", check=False)
            reply = wx.json("stop_client", client="raced")
            restart.result()
        assert reply["code"] in (0, 7), reply
        eventually(lambda: wx.json("check_client", client="raced")["code"] == 1, what="it is gone")
        eventually(lambda: not running(), what="nobody runs without a record")
        wx.machine.systemctl("stop", "wxclient@raced")
        wx.machine.systemctl("reset-failed")


def test_one_name_stops_and_starts_all(wx: Installed) -> None:
    ports = {name: wx.json("start_client", client=name)["port"] for name in ("a", "b")}
    stop_all_units(wx)
    assert {entry["process"] for entry in wx.json("check_client")["client"]} == {"stopped"}
    wx.machine.systemctl("start", "wxclients.target")
    assert {name: wx.until(name, "scaning")["port"] for name in ports} == ports
    pids = {name: wx.state(name)["pid"] for name in ports}
    wx.machine.systemctl("restart", "wxclients.target")
    assert not {wx.until(name, "scaning")["pid"] for name in ports} & set(pids.values())


def test_status_reads_well(wx: Installed) -> None:
    wx.json("start_client", client="a")
    wx.until("a", "scaning")
    said = wx.machine.run("systemctl", "status", "--no-pager", "wxclient@a").stdout
    assert "WeChat client a" in said
    assert "Active: active (running) since" in said
    assert 'Status: "scaning since 20' in said
    assert "waits until its login code is scanned" in said
    assert "wxclient(a)" in said


def test_the_journal_has_every_line_with_its_client_and_its_priority(wx: Installed) -> None:
    running(wx, "a")
    wx.json("start_client", client="b")
    wx.until("b", "scaning")

    def entries(*words: str) -> list[dict[str, str]]:
        told = wx.machine.run("journalctl", "--boot", "--output=json", *words).stdout
        return [json.loads(line) for line in told.splitlines()]

    assert {entry["_SYSTEMD_UNIT"] for entry in entries("-t", "wxclient")} >= {wx.unit("a"), wx.unit("b")}
    assert {entry["UNIT" if "UNIT" in entry else "_SYSTEMD_UNIT"] for entry in entries("-u", "wxclient@*")} >= {
        wx.unit("a"),
        wx.unit("b"),
    }
    (line,) = [entry for entry in entries("-t", "wxclient", "-u", wx.unit("b")) if "code shown" in entry["MESSAGE"]][
        -1:
    ]
    assert line["MESSAGE"] == "login code shown action=login count=1"
    assert line["PRIORITY"] == "6"


# The controller


def test_no_call_is_refused_while_the_controller_restarts(wx: Installed) -> None:
    wx.json("start_client", client="a")
    wx.until("a", "scaning")
    stop = threading.Event()
    statuses: list[int] = []
    failures: list[str] = []

    def keep_calling() -> None:
        while not stop.is_set():
            try:
                with wx.machine.network():
                    answer = requests.get(f"http://127.0.0.1:{PORT}/openwx/get_client_info?client=a", timeout=30)
                statuses.append(answer.status_code)
            except requests.RequestException as ex:
                failures.append(str(ex))

    callers = [threading.Thread(target=keep_calling) for _ in range(4)]
    for caller in callers:
        caller.start()
    pids = set()
    try:
        for _ in range(6):  # each in the middle of the start before it
            wx.machine.systemctl("restart", "wxcontroller")
            pids.add(wx.machine.systemctl("show", "-P", "MainPID", "wxcontroller"))
        answered = len(statuses)
        eventually(lambda: len(statuses) > answered + 20, what="calls go on")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert len(pids) == 6
    assert failures == []
    assert set(statuses) == {200}


def test_a_reload_takes_new_settings(wx: Installed) -> None:
    pid = wx.machine.systemctl("show", "-P", "MainPID", "wxcontroller")
    wx.json("start_client", client="a")

    def refused() -> bool:
        if wx.json("start_client", client="b")["code"] == 5:
            return True
        wx.json("stop_client", client="b")
        return False

    with wx.settings(max_clients="1"):
        eventually(refused, what="the new limit")
    eventually(lambda: wx.json("start_client", client="b")["code"] == 0, what="the old limit")
    assert wx.machine.systemctl("show", "-P", "MainPID", "wxcontroller") == pid


@pytest.mark.parametrize(
    "bad", [{"log_path": "/nonexistent/x.log"}, {"backend_path": "/root/x"}, {"workers": "many"}, {"nonsense": "yes"}]
)
def test_a_reload_with_settings_that_cannot_be_keeps_the_old_ones(wx: Installed, bad: dict[str, str]) -> None:
    pid = wx.machine.systemctl("show", "-P", "MainPID", "wxcontroller")
    path = wx.machine.path("/etc/wxsup/wxsup.toml")
    before = path.read_text()

    def refusals() -> int:
        return wx.machine.run("journalctl", "-u", "wxcontroller").stdout.count("settings not reloaded")

    try:
        path.write_text(before + "".join(f'{name} = "{value}"\n' for name, value in bad.items()))
        told = wx.machine.run("systemctl", "reload", "wxcontroller", check=False)
        assert told.returncode != 0 or "log_path" in bad, "the operator is told, where wxsup refresh finds it"
        seen = refusals()
        wx.machine.run("kill", "-HUP", pid.strip())
        eventually(lambda: refusals() > seen, what="it is in the log")
        assert wx.json("start_client", client="a")["code"] == 0
    finally:
        path.write_text(before)
        wx.machine.systemctl("reload", "wxcontroller")
    assert wx.machine.systemctl("show", "-P", "MainPID", "wxcontroller") == pid


def test_a_client_that_is_restarted_after_a_reload_follows_the_new_settings(wx: Installed) -> None:
    wx.json("start_client", client="a")
    wx.until("a", "scaning")
    with wx.settings(log_level="debug"):  # which reloads
        wx.machine.systemctl("restart", "wxclient@a")
        assert wx.until("a", "scaning")["log_level"] == "debug"


def test_a_socket_that_others_could_reach_is_refused_without_a_token(wx: Installed) -> None:
    folder = wx.machine.path("/run/systemd/system/wxcontroller.socket.d")
    folder.mkdir()
    (folder / "open.conf").write_text("[Socket]\nListenStream=\nListenStream=0.0.0.0:2000\n")
    try:
        wx.machine.systemctl("daemon-reload")
        wx.machine.systemctl("stop", "wxcontroller.socket", "wxcontroller.service")
        done = wx.machine.run("systemctl", "start", "wxcontroller.service", check=False)
        assert done.returncode != 0
        assert "make a token first: wxsup token add" in wx.machine.run("journalctl", "-u", "wxcontroller").stdout
    finally:
        (folder / "open.conf").unlink()
        folder.rmdir()
        wx.machine.systemctl("daemon-reload")
        wx.machine.systemctl("stop", "wxcontroller.socket", "wxcontroller.service")
        wx.machine.systemctl("reset-failed", "wxcontroller.service")
        wx.machine.systemctl("start", "wxcontroller.service")
    eventually(lambda: wx.call("check_client").ok, what="the controller")
