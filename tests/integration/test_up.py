"""wxsup up: one folder, one supervisord, nothing left behind, and a clear sentence when it cannot."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.deadline import eventually
from tests.installation import SCRIPTS, Installation, alive, connected, title
from tests.ports import free_port


def family(pid: int) -> set[int]:
    """Return `pid` and everything below it."""
    children = {
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    }
    return {pid}.union(*(family(child) for child in children))


def refused(folder: Path, *flags: str) -> str:
    """Run a wxsup up that cannot be, and return the sentence it ends with."""
    done = subprocess.run(
        [SCRIPTS / "wxsup", "up", *flags], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def wx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as found:
        yield found


def test_it_says_what_runs_where_and_what_to_type_next(wx: Installation) -> None:
    said = wx.output.read_text()
    assert wx.url in said
    assert wx.sandbox_url in said
    commands = said.partition("Next:")[2].strip().splitlines()
    assert len(commands) == 3
    assert f"curl '{wx.url}/openwx/start_client?client=demo'" in commands[0]
    assert "wxcontroller" in wx.supervisorctl("status")


def test_nobody_else_can_enter(wx: Installation) -> None:
    wx.json("start_client", client="private")
    wx.until("private", "scaning")
    var = wx.folder / "var"
    modes = {path.relative_to(var): stat.S_IMODE(path.stat().st_mode) for path in (var, *var.rglob("*"))}
    folders = {path: mode for path, mode in modes.items() if (var / path).is_dir()}
    assert set(folders.values()) == {0o700}
    assert modes[Path("run/supervisor.sock")] == 0o700
    assert modes[Path("clients/wxclient-private.env")] == 0o600
    assert modes[Path("session/private/wxclient_private.sqlite")] == 0o600
    wx.json("stop_client", client="private")


def test_a_second_one_on_the_same_folder_is_refused(wx: Installation) -> None:
    sentence = refused(wx.folder, f"--listen=127.0.0.1:{free_port()}")
    assert "another wxsup up runs on" in sentence
    assert str(wx.folder / "var") in sentence


@pytest.mark.parametrize("flag", ["listen", "sandbox-listen"])
def test_a_taken_port_is_named(short_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        flags = {"listen": free_port(), "sandbox-listen": free_port(), flag: port}
        sentence = refused(short_path, "--sandbox", *(f"--{name}=127.0.0.1:{value}" for name, value in flags.items()))
    assert f"port {port} on 127.0.0.1 is taken by another program" in sentence


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    folder.mkdir(parents=True)
    assert "too long for a unix socket" in refused(folder, f"--listen=127.0.0.1:{free_port()}")


def test_a_file_in_the_place_of_the_socket_is_left_alone(short_path: Path) -> None:
    (short_path / "mine").write_text("precious")
    sentence = refused(short_path, f"--listen=127.0.0.1:{free_port()}", "--supervisord-socket=mine")
    assert "is there already and is no socket" in sentence
    assert (short_path / "mine").read_text() == "precious"


def test_a_pid_file_that_cannot_be_written_stops_nobody(short_path: Path) -> None:
    with Installation(short_path, pid_path="/proc/nonexistent/pid") as wx:
        assert wx.json("check_client")["code"] == 0
        assert "pid file not written" in (short_path / "var/log/wxcontroller.log").read_text()


def test_commands_beside_a_running_instance_know_its_settings(wx: Installation) -> None:
    done = subprocess.run(
        [SCRIPTS / "wxsup", "render", "beside"], cwd=wx.folder, capture_output=True, text=True, check=True
    )
    assert f"MOJO_WEIXIN_ILINK_BASE={wx.sandbox_url}" in done.stdout
    elsewhere = subprocess.run(
        [SCRIPTS / "wxsup", "render", "beside", f"--state-dir={wx.folder}/var"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout == done.stdout
    told = wx.folder / "var/up.json"
    assert told.exists()
    refusal = subprocess.run(
        [SCRIPTS / "wxsup", "start", "beside", "foo=1"], cwd=wx.folder, capture_output=True, text=True, check=False
    )
    assert (refusal.returncode, refusal.stderr.strip()) == (2, "Error: parameter not allowed: foo")


def test_a_bad_setting_is_a_usage_error_that_names_its_source(short_path: Path) -> None:
    (short_path / "wxsup.toml").write_text("max_clients = 0\n")
    done = subprocess.run([SCRIPTS / "wxsup", "up"], cwd=short_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "wxsup.toml: max_clients is '0': it must be a whole number" in done.stderr


def test_an_operators_supervisorctl_shows_at_once(wx: Installation) -> None:
    reply = wx.json("start_client", client="ops")
    assert "wxclient-ops" in wx.supervisorctl("status")
    wx.supervisorctl("stop", "wxclient-ops")
    stopped = wx.state("ops")
    assert (stopped["state"], stopped["process"], stopped["pid"]) == ("stop", "stopped", None)
    wx.supervisorctl("start", "wxclient-ops")
    started = wx.state("ops")
    assert started["process"] == "running"
    assert started["pid"] not in (None, reply["pid"])
    wx.supervisorctl("restart", "wxclient-ops")
    assert wx.state("ops")["pid"] not in (None, started["pid"])
    assert wx.until("ops", "scaning")["port"] == reply["port"]
    wx.json("stop_client", client="ops")


def test_an_operators_stop_stands_until_start_client(wx: Installation) -> None:
    wx.json("start_client", client="ops2")
    wx.supervisorctl("stop", "wxclient-ops2")
    subprocess.run([SCRIPTS / "wxsup", "sync", *wx.flags], cwd=wx.folder, check=True, timeout=30)
    assert wx.state("ops2")["state"] == "stop"
    assert wx.json("start_client", client="ops2")["status"] == "success"
    wx.json("stop_client", client="ops2")


def test_a_client_that_cannot_run_shows_why(wx: Installation) -> None:
    reply = wx.json("start_client", client="blocked")
    wx.json("stop_client", client="blocked")
    with socket.create_server(("127.0.0.1", reply["port"])):
        # The port is passed over now.
        assert wx.json("start_client", client="blocked")["port"] != reply["port"]
    port = wx.state("blocked")["port"]
    wx.supervisorctl("stop", "wxclient-blocked")
    with socket.create_server(("127.0.0.1", port)):
        wx.supervisorctl("start", "wxclient-blocked")
        told = eventually(lambda: [state] if (state := wx.state("blocked")).get("error") else [])[0]
        assert told["error"] == f"port {port} cannot be opened: Address already in use"
        eventually(lambda: "Exited too quickly" in wx.state("blocked").get("reason", ""), what="the reason")
    assert wx.json("start_client", client="blocked")["code"] == 0
    assert "error" not in wx.until("blocked", "scaning")
    wx.json("stop_client", client="blocked")


def test_a_controller_restart_ends_held_polls_with_503_and_waits_for_none(wx: Installation) -> None:
    wx.json("start_client", client="held")
    wx.log_in("held", "holly")
    wx.json("check_event", client="held")
    answers: list[requests.Response] = []
    held = threading.Thread(target=lambda: answers.append(Installation.call(wx, "check_event", {"client": "held"})))
    held.start()
    eventually(lambda: connected(wx.state("held")["port"]), what="the held poll")
    wx.supervisorctl("restart", "wxcontroller")
    held.join(30)
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].json()["code"] == 9
    log = (wx.folder / "var/log/wxcontroller.log").read_text()
    assert "graceful timeout" not in log, "the time that is there for work was spent on waiting callers"
    wx.json("stop_client", client="held")


def test_a_second_run_finds_the_same_clients_on_the_same_ports_without_a_scan(short_path: Path) -> None:
    wx = Installation(short_path)
    with wx:
        ports = {name: wx.json("start_client", client=name)["port"] for name in ("one", "二")}
        wx.log_in("one", "olga")
        wx.log_in("二", "erik")
        processes = family(wx.pid)
        assert {"wxcontroller", "wxsandbox", "wxclient(one)", "wxclient(二)"} <= {title(pid) for pid in processes}
        assert wx.down() == 0
        assert not any(alive(pid) for pid in processes)
        wx.up()
        for name, port in ports.items():
            state = wx.until(name, "running")
            assert state["port"] == port
            assert not state.get("qrcode_count")


@pytest.mark.parametrize("victim", ["up", "supervisord"])
def test_nothing_outlives_a_kill_9_and_the_next_run_comes_up(short_path: Path, victim: str) -> None:
    wx = Installation(short_path)
    with wx:
        port = wx.json("start_client", client="a")["port"]
        wx.log_in("a", "anna")
        processes = family(wx.pid)
        supervisord = int((short_path / "var/run/supervisord.pid").read_text())
        os.kill(wx.pid if victim == "up" else supervisord, signal.SIGKILL)
        eventually(lambda: not any(alive(pid) for pid in processes), what="the end of all")
        wx.down()
        wx.up()
        assert wx.until("a", "running")["port"] == port


def test_a_damaged_client_keeps_no_other_from_coming_up(short_path: Path) -> None:
    wx = Installation(short_path)
    with wx:
        for name in ("healthy", "secret", "record"):
            wx.json("start_client", client=name)
        wx.down()
        assert not (short_path / "var/up.json").exists()
        (short_path / "var/clients/wxclient-secret.secret").write_bytes(b"\xff\xfe")
        (short_path / "var/clients/wxclient-record.env").write_bytes(b"garbage")
        wx.up()
        wx.until("healthy", "scaning")
        wx.until("secret", "scaning")
        assert wx.json("get_client_info", client="secret")["code"] == 0
        assert wx.state("record")["state"] == "unknown"


def test_settings_changed_between_runs_reach_the_clients(short_path: Path) -> None:
    wx = Installation(short_path)
    with wx:
        wx.json("start_client", client="a")
        assert wx.until("a", "scaning")["log_level"] == "info"
        wx.down()
        (short_path / "wxsup.toml").write_text('log_level = "debug"\n')
        wx.up()
        assert wx.until("a", "scaning")["log_level"] == "debug"


def test_render_shows_what_would_be_written_and_writes_nothing(short_path: Path) -> None:
    done = subprocess.run(
        [SCRIPTS / "wxsup", "render", "客服%1"], cwd=short_path, capture_output=True, text=True, check=True
    )
    assert "[program:wxclient-.e5.ae.a2.e6.9c.8d.251]" in done.stdout
    assert "MOJO_WEIXIN_ACCOUNT='客服%1'" in done.stdout
    assert list(short_path.iterdir()) == []
