"""A client program of the operator's own under both supervisors, held to docs/howto/command.md."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.deadline import eventually
from tests.installation import SCRIPTS, Calls, Installation
from tests.installed import ROOT, Installed
from wxsup import names

PROGRAM = """
import ctypes, fcntl, json, os, platform, signal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

told = {name.removeprefix("MOJO_WEIXIN_"): value for name, value in os.environ.items()}

def by_number(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def own(pid, number):
    end, other = os.pipe()
    fcntl.fcntl(end, fcntl.F_SETOWN, pid)
    fcntl.fcntl(end, fcntl.F_SETSIG, number)
    fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(other, b"x")

tkill, tgkill, queue = {"x86_64": (200, 234, 129), "aarch64": (130, 131, 138)}[platform.machine()]
WAYS = {
    "kill": os.kill,
    "killpg": lambda pid, number: os.kill(-pid, number),
    "tkill": lambda pid, number: by_number(tkill, pid, number),
    "tgkill": lambda pid, number: by_number(tgkill, pid, pid, number),
    "sigqueue": lambda pid, number: by_number(queue, pid, number, (ctypes.c_int * 32)(number, 0, -1)),
    "pidfd": lambda pid, number: signal.pidfd_send_signal(os.pidfd_open(pid), number),
    "owner": own,
}

def ways(pid):
    said = {}
    for name, way in WAYS.items():
        try:
            way(pid, signal.SIGKILL)
            said[name] = 0
        except OSError as ex:
            said[name] = ex.errno
    return said

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/openwx/abort":
            os.abort()
        told_it = {"code": 0, "account": told["ACCOUNT"], "path": url.path}
        if url.path == "/openwx/signal":
            told_it = ways(int(parse_qs(url.query)["pid"][0]))
        elif url.path == "/openwx/child":
            child = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")
            os.kill(child, signal.SIGTERM)
            told_it["ended_by"] = os.WTERMSIG(os.waitpid(child, 0)[1])
        body = json.dumps(told_it).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if url.path == "/openwx/end":
            os._exit(int(parse_qs(url.query)["code"][0]))

server = HTTPServer(("127.0.0.1", int(told["PLUGIN_OPENWX_PORT"])), Handler)
Path(told["QRCODE_PATH"]).write_bytes(b"a picture")
Path(told["STATE_PATH"]).write_text(json.dumps({"pid": os.getpid(), "state": "scaning", "weather": "fine"}))
server.serve_forever()
"""

PAGE = ROOT / "docs/howto/command.md"
NAME = "客 '1'"
ARGUMENT = "two %words"
POST_API = "http://127.0.0.1:9/post?token=a%2Fb&client=nobody"


@dataclass(frozen=True)
class Site:
    """A running wxsup whose clients are `program`; `run` runs a command, and `log` reads a log, where they are."""

    wx: Calls
    program: Path
    records: Path
    run: Callable[..., subprocess.CompletedProcess[str]]
    log: Callable[[str], str]

    def start(self, name: str, **params: str) -> int:
        """Start a client, wait until its program is at work, and return the process number that was told."""
        reply = self.wx.json("start_client", client=name, **params)
        assert reply["status"] == "success", reply
        assert self.wx.until(name, "scaning")["pid"] == reply["pid"], "the process of start_client became the program"
        return int(reply["pid"])

    def alive(self, pid: int) -> bool:
        return self.run("test", "-e", f"/proc/{pid}", check=False).returncode == 0

    def words(self, pid: int, kind: str) -> list[str]:
        """Return the "cmdline" or the "environ" of a process (proc(5))."""
        return self.run("cat", f"/proc/{pid}/{kind}").stdout.split("\0")[:-1]

    def environment(self, pid: int) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.words(pid, "environ"))


def write_program(path: Path, interpreter: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{interpreter}{PROGRAM}")
    path.chmod(0o755)


def command(program: str) -> str:
    return f"{program} '{ARGUMENT}'"


@pytest.fixture(scope="module")
def under_supervisord() -> Iterator[Site]:
    def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=check, timeout=60)

    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as name:
        folder = Path(name)
        program, var = folder / "client", folder / "var"
        write_program(program, sys.executable)

        def log(client: str) -> str:
            return (var / "log" / f"{names.program(names.slug(client))}.log").read_text()

        with Installation(folder, driver="command", command=command(str(program)), post_api=POST_API) as wx:
            yield Site(wx, program, var / "clients", run, log)


@contextmanager
def in_force(wx: Installed, **changes: str) -> Iterator[None]:
    """Change settings, and be sure that no worker goes by others, neither now nor when they are changed back."""

    def workers() -> set[str]:
        pid = wx.machine.systemctl("show", "-P", "MainPID", "wxcontroller").strip()
        return set(wx.machine.path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    before = workers()
    with wx.settings(**changes):
        eventually(lambda: before.isdisjoint(workers()), what="the reload")
        yield
        before = workers()
    eventually(lambda: before.isdisjoint(workers()), what="the reload")


@pytest.fixture(scope="module")
def under_systemd(installed: Installed) -> Iterator[Site]:
    machine = installed.machine
    inside = "/usr/local/lib/foreign/client"
    write_program(machine.path(inside), "/usr/bin/python3")

    def log(client: str) -> str:
        return machine.run("journalctl", "--output=cat", "--unit", installed.unit(client)).stdout

    with in_force(installed, driver="command", command=command(inside), post_api=POST_API):
        yield Site(installed, machine.path(inside), Path("/var/lib/wxsup/clients"), machine.run, log)
    machine.run("find", "/var/lib/wxclient", "-mindepth", "1", "-delete")
    machine.run("rm", "-r", "/usr/local/lib/foreign")


@pytest.fixture(params=["under_supervisord", "under_systemd"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    found: Site = request.getfixturevalue(request.param)
    yield found
    for entry in found.wx.json("check_client")["client"]:
        assert found.wx.json("stop_client", client=entry["account"])["code"] == 0


only_supervisord = pytest.mark.parametrize("site", ["under_supervisord"], indirect=True)
only_systemd = pytest.mark.parametrize("site", ["under_systemd"], indirect=True)


# What it is given


def test_it_becomes_the_process_of_the_client_and_is_reached_through_the_controller(site: Site) -> None:
    pid = site.start(NAME)
    assert site.words(pid, "cmdline")[-1] == ARGUMENT
    state = site.wx.state(NAME)
    assert (state["driver"], state["account"], state["weather"]) == ("command", NAME, "fine")
    answer = site.wx.call("get_client_info", {"client": NAME})
    assert answer.status_code == 200
    assert answer.json() == {"code": 0, "account": NAME, "path": "/openwx/get_client_info"}
    picture = site.wx.call("get_qrcode", {"client": NAME})
    assert (picture.status_code, picture.content) == (200, b"a picture")


def test_it_finds_what_the_page_says_in_its_environment(site: Site) -> None:
    label = "a'b\"c $HOME ${X} %i %% \\ \\n `id` #;= 客"
    told = site.environment(site.start(NAME, ilink_label=label, http_debug="1", log_level="debug"))
    slug = names.slug(NAME)
    expected = {
        "ACCOUNT": NAME,
        "PLUGIN_OPENWX_PORT": str(site.wx.state(NAME)["port"]),
        "PLUGIN_OPENWX_POST_API": "http://127.0.0.1:9/post?token=a%2Fb&" + urlencode({"client": NAME}),
        "PLUGIN_OPENWX_POLL_API": "",
        "ILINK_LABEL": label,
        "HTTP_DEBUG": "1",
        "LOG_LEVEL": "debug",
    }
    assert {name: told[f"MOJO_WEIXIN_{name}"] for name in expected} == expected
    for name in ("TMPDIR", "STATE_PATH", "QRCODE_PATH", "COOKIE_PATH", "MEDIA_DIR", "PID_PATH"):
        assert slug in told[f"MOJO_WEIXIN_{name}"]


def test_it_is_given_no_secret_and_no_way_to_speak_in_our_name(site: Site) -> None:
    pid = site.start(NAME)
    told = site.environment(pid)
    assert told.keys().isdisjoint({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
    assert site.run("cat", str(site.records / f"{names.program(names.slug(NAME))}.secret")).stdout == ""
    site.start("ours", driver="ilink")
    assert len(site.run("cat", str(site.records / "wxclient-ours.secret")).stdout) == 64
    if isinstance(site.wx, Installed):  # which shows the program the file of its own
        seen = ("nsenter", "--target", str(pid), "--mount", "cat", "/run/wxclient/.secret")
        assert site.run(*seen).stdout == ""


def test_it_holds_the_account_for_as_long_as_it_lives(site: Site) -> None:
    lock = str(Path(site.environment(site.start("held"))["MOJO_WEIXIN_COOKIE_PATH"]).parent / "lock")

    def free() -> bool:
        return site.run("flock", "--nonblock", lock, "true", check=False).returncode == 0

    assert not free()
    site.wx.json("stop_client", client="held")
    assert free()


# Who chooses it


@pytest.mark.parametrize("verb", ["up", "serve", "check"])
def test_without_a_command_nothing_starts(tmp_path: Path, verb: str) -> None:
    (tmp_path / "wxsup.toml").write_text('driver = "command"\n')
    done = subprocess.run(
        [SCRIPTS / "wxsup", verb], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "wxsup.toml: driver is 'command', but there is no command" in done.stderr


def test_a_caller_cannot_choose_it(site: Site) -> None:
    for params in ({"driver": "command"}, {"command": "/bin/sh"}):
        answer = site.wx.call("start_client", {"client": "mine", **params})
        assert (answer.status_code, answer.json()["code"]) == (400, 6)
    assert site.wx.json("check_client", client="mine")["code"] == 1


def test_a_caller_can_choose_our_own_client_instead(site: Site) -> None:
    pid = site.start("own", driver="ilink")
    assert site.words(pid, "cmdline")[0] == "wxclient(own)"
    assert site.wx.json("get_client_info", client="own")["driver"] == "ilink"
    assert site.wx.call("get_qrcode", {"client": "own"}).headers["Content-Type"] == "image/png"


# Its end


def test_stop_client_ends_it(site: Site) -> None:
    pid = site.start(NAME)
    assert site.wx.json("stop_client", client=NAME)["pid"] == pid
    assert not site.alive(pid)
    assert site.wx.json("check_client", client=NAME)["code"] == 1
    assert site.start(NAME) != pid


def test_killed_it_is_back_on_its_port(site: Site) -> None:
    pid = site.start("killed")
    port = site.wx.state("killed")["port"]
    site.run("kill", "-KILL", str(pid))
    eventually(lambda: site.wx.state("killed")["pid"] not in (None, pid), what="a new process")
    assert site.wx.until("killed", "scaning")["port"] == port
    assert site.wx.json("get_client_info", client="killed")["code"] == 0


def test_status_77_or_none_is_its_end_and_any_other_is_not(site: Site) -> None:
    pids = {name: site.start(name) for name in ("lost", "failing", "done")}
    for name in pids:
        eventually(lambda name=name: site.wx.state(name)["process"] == "running")  # type: ignore[misc]
    site.wx.json("end", client="lost", code="77")
    eventually(lambda: site.wx.state("lost").get("reason") == "exit status 77", what="its end")
    site.wx.json("end", client="done", code="0")
    eventually(lambda: site.wx.state("done")["process"] == "stopped", what="its end")
    site.wx.json("end", client="failing", code="3")
    eventually(lambda: site.wx.state("failing")["pid"] not in (None, pids["failing"]), what="a new process")
    lost = site.wx.state("lost")
    assert (lost["state"], lost["pid"], lost["reason"]) == ("stop", None, "exit status 77")
    done = site.wx.state("done")
    assert (done["process"], done["state"], done["pid"]) == ("stopped", "stop", None)
    for name in ("lost", "done"):
        assert site.start(name) != pids[name]


def test_a_program_that_is_not_there_is_named_and_runs_once_it_is(site: Site) -> None:
    away = site.program.rename(site.program.with_name("away"))
    try:
        site.wx.json("start_client", client="early")
        reasons = (
            "exit status 1",
            "Exited too quickly (process log may have details)",
        )  # supervisord forgets the status
        eventually(lambda: site.wx.state("early").get("reason") in reasons, what="the reason")
    finally:
        away.rename(site.program)
    assert f"/{site.program.name}: No such file or directory" in site.log("early")
    site.wx.until("early", "scaning")


@only_supervisord
def test_it_does_not_outlive_a_killed_supervisord(site: Site) -> None:
    assert isinstance(site.wx, Installation)
    pid = site.start("orphan")
    port = site.wx.state("orphan")["port"]
    site.run("kill", "-KILL", (site.wx.folder / "var/run/supervisord.pid").read_text().strip())
    eventually(lambda: not site.alive(pid), what="the end of the program")
    site.wx.down()
    site.wx.up()
    assert site.wx.until("orphan", "scaning")["port"] == port


@only_systemd
def test_systemd_takes_it_for_ready_and_lets_it_live_without_feeding_the_watchdog(site: Site) -> None:
    wx = site.wx
    assert isinstance(wx, Installed)
    wx.drop_in("quiet", "[Service]\nWatchdogSec=2\n")
    try:
        pid = site.start("quiet")
        assert wx.show("quiet", "ActiveState") == "active"
        assert wx.show("quiet", "StatusText") == "runs a program of its own"
        ready = int(wx.show("quiet", "ActiveEnterTimestampMonotonic")) / 1e6
        eventually(lambda: time.monotonic() > ready + 5, what="twice the time of the watchdog")
        assert (wx.show("quiet", "MainPID"), wx.show("quiet", "NRestarts")) == (str(pid), "0")
    finally:
        wx.drop_in("quiet", "")


@only_systemd
def test_who_is_taken_over_can_signal_no_other_client(site: Site) -> None:
    victims = {name: site.start(name, **params) for name, params in (("ours", {"driver": "ilink"}), ("theirs", {}))}
    site.start("evil")
    for name, pid in victims.items():
        said = site.wx.json("signal", client="evil", pid=str(pid))
        assert len(said) == 7
        assert set(said.values()) == {errno.EPERM}, name
    for name, pid in victims.items():
        assert (site.wx.state(name)["pid"], site.wx.state(name)["process"]) == (pid, "running")


@only_systemd
def test_our_own_client_is_held_back_as_well(site: Site) -> None:
    """By two filters: that of the unit, and its own."""
    pids = [site.start("ours", driver="ilink"), site.start("theirs")]
    filters = [site.run("grep", "^Seccomp_filters", f"/proc/{pid}/status").stdout for pid in pids]
    assert filters[0] == filters[1]


@only_systemd
def test_who_crashes_dies_though_it_may_not_signal_itself(site: Site) -> None:
    pid = site.start("crashing")
    eventually(lambda: site.wx.state("crashing")["process"] == "running")
    site.wx.call("abort", {"client": "crashing"})
    eventually(lambda: site.wx.state("crashing")["pid"] not in (None, pid), what="a new process")
    assert "code=dumped" in site.log("crashing") or "code=killed" in site.log("crashing")


@only_systemd
def test_a_program_may_end_its_children_where_the_operator_lets_it(site: Site) -> None:
    assert isinstance(site.wx, Installed)
    (allowed,) = re.findall(r"^    (SystemCallFilter=.*)$", PAGE.read_text(), re.MULTILINE)
    site.start("parent")
    assert "ended_by" not in site.wx.call("child", {"client": "parent"}).text
    site.wx.drop_in("allowed", f"[Service]\n{allowed}\n")
    try:
        site.start("allowed")
        assert site.wx.json("child", client="allowed")["ended_by"] == signal.SIGTERM
    finally:
        site.wx.drop_in("allowed", "")
