"""The installed wxsup as a person uses it: at a terminal and in pipes, for a controller here and for one elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import eventually
from tests.installation import SCRIPTS, Installation
from tests.ports import free_port
from tests.terminal import Terminal, scanned
from wxsup import ports


@dataclass(frozen=True)
class Site:
    """A running wxsup, and where and with which environment somebody types commands about it."""

    wx: Installation
    folder: Path
    environment: Mapping[str, str]

    @property
    def remote(self) -> bool:
        return bool(self.environment)

    def of(self, token: str) -> Site:
        """Return the same for somebody who has this token in the environment."""
        return Site(self.wx, self.folder, {"WXSUP_URL": self.wx.url, "WXSUP_TOKEN": token})

    def run(self, *words: str, status: int = 0, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in a pipe; it must end with `status`."""
        done = subprocess.run(
            [SCRIPTS / "wxsup", *words],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            input=typed,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=90,
        )
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr
        return done

    def rows(self, *words: str, status: int = 0) -> list[list[str]]:
        """Return what a command prints in a pipe, row by row."""
        return [line.split("\t") for line in self.run(*words, status=status).stdout.splitlines()]

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", status=status).stdout)

    def terminal(self, *words: str, **options: Any) -> Terminal:
        """Type a command at a terminal."""
        environment = {**self.environment, **options.pop("environment", {})}
        return Terminal(words, self.folder, environment=environment, **options)

    def scaning(self, name: str, **params: str) -> None:
        """Start a client and wait until it shows a code."""
        self.run("start", name, *(f"{key}={value}" for key, value in params.items()))
        self.wx.until(name, "scaning")

    def key(self, url: str) -> str:
        """Return the key of the code that a phone has read."""
        return next(str(code["key"]) for code in self.wx.look("codes")["codes"] if code["url"] == url)

    def scan(self, terminal: Terminal) -> str:
        """Hold a phone before the screen until it has read the code, and return its key."""
        return self.key(eventually(terminal.scanned, what="a code on the screen"))


@pytest.fixture(scope="module")
def local() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as wx:
        yield Site(wx, Path(folder), {})


@pytest.fixture(scope="module")
def remote() -> Iterator[Site]:
    """A controller that asks for tokens, and a folder where there is nothing of it."""
    with (
        tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder,
        tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as elsewhere,
        Installation(Path(folder)) as wx,
    ):
        wx.token = wx.wxsup("token", "add", "admin", "--role", "admin").strip()
        (Path(elsewhere) / "token").write_text(wx.token + "\n")
        yield Site(wx, Path(elsewhere), {"WXSUP_URL": wx.url, "WXSUP_TOKEN_FILE": "token"})


@pytest.fixture(params=["local", "remote"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    found: Site = request.getfixturevalue(request.param)
    yield found
    for entry in found.wx.json("check_client")["client"]:
        found.wx.json("remove_client", client=entry["account"], purge="1")


only_local = pytest.mark.parametrize("site", ["local"], indirect=True)
only_remote = pytest.mark.parametrize("site", ["remote"], indirect=True)


# A client's life


def test_from_the_start_to_the_end_at_a_terminal(site: Site) -> None:
    with site.terminal("start", "客服 02", "log_level=debug") as terminal:
        assert terminal.end() == 0
        name, status, pid, port = terminal.text().splitlines()[1].rsplit(maxsplit=3)
        assert (name.strip(), status) == ("客服 02", "success")
        assert "Next: wxsup qr '客服 02'" in terminal.text()
    assert site.wx.state("客服 02")["params"] == {"log_level": "debug"}
    with site.terminal("qr", "客服 02") as terminal:
        terminal.until("Scan the code with WeChat.")
        key = site.scan(terminal)
        site.wx.phone("scan", key=key, user="anna")
        terminal.until("Confirm on the phone.")
        site.wx.phone("confirm", key=key)
        assert terminal.end() == 0
        assert terminal.text() == "running"
    site.wx.phone("say", user="anna", text="你好")
    eventually(lambda: site.wx.json("get_friend_info", client="客服 02")[0]["can_send"], what="the message")
    ((name, process, login, since, restarts, memory, message, reason),) = site.rows("status", "客服 02")
    assert (name, process, login, restarts, reason) == ("客服 02", "running", "running", "", "")
    assert since.endswith("Z") and (not memory or memory.isdigit())
    site.run("send", "客服 02", "owner", "晚上好")
    assert site.wx.look("chat", user="anna")["messages"][-1]["text"] == "晚上好"
    ((_, _, pid_again, port_again),) = site.rows("restart", "客服 02")
    assert (pid_again != pid, port_again) == (True, port)
    site.wx.until("客服 02", "running")
    assert site.rows("status")[0][6].startswith("20"), "the time of the message"
    assert site.rows("stop", "客服 02") == [["客服 02", "success", pid_again, port]]
    assert "client not exists" in site.run("status", "客服 02", status=3).stderr
    assert site.rows("status") == []
    site.run("start", "客服 02")
    site.wx.until("客服 02", "running")  # its session has stayed


def test_a_removal_with_purge_asks_first_and_takes_the_session_of_this_client_alone(site: Site) -> None:
    for name in ("keep", "purge"):
        site.scaning(name)
    sessions = site.wx.folder / "var/session"
    with site.terminal("remove", "purge", "--purge") as terminal:
        terminal.until("Delete the sessions of purge for good?")
        terminal.type("n\n")
        assert terminal.end() == 1
    with site.terminal("remove", "purge", "--purge", "--json") as terminal:
        terminal.until("for good?")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert (sessions / "purge").is_dir()
    with site.terminal("remove", "purge", "--purge") as terminal:
        terminal.until("for good?")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert [path.name for path in sessions.iterdir()] == ["keep"]
    site.run("stop", "keep")
    assert (sessions / "keep").is_dir()
    assert site.json("remove", "keep", "--purge")["purged"] is True
    assert list(sessions.iterdir()) == []
    site.run("remove", "keep", "--purge", status=3)


def test_several_clients_at_once_and_what_goes_wrong_with_one_stops_no_other(site: Site) -> None:
    for name in ("a", "b"):
        site.run("start", name)
    done = site.run("restart", "a", "nobody", "b", "a", status=3)
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [["a", "success"], ["b", "success"]]
    assert done.stderr.strip() == "Error: nobody: client not exists"
    told = [json.loads(line) for line in site.run("stop", "nobody", "a", "b", "--json", status=3).stdout.splitlines()]
    assert [(entry["client"], entry["code"]) for entry in told] == [("a", 0), ("b", 0), ("nobody", 1)]


# The login


def test_a_new_code_is_drawn_in_place_of_an_old_one_and_followed(site: Site) -> None:
    site.scaning("again")
    with site.terminal("qr", "again", "--save", "code.png") as terminal:
        terminal.until("Scan the code")
        old = site.scan(terminal)
        site.wx.phone("expire", key=old)
        eventually(lambda: (read := terminal.scanned()) and site.key(read) != old, what="another code")
        new = site.scan(terminal)
        picture = (site.folder / "code.png").read_bytes()
        assert site.wx.code_on(picture) == new
        site.wx.phone("scan", key=new, user="ada")
        terminal.until("Confirm")
        site.wx.phone("confirm", key=new)
        assert terminal.end() == 0


def test_digits_are_asked_for_and_wrong_ones_once_more(site: Site) -> None:
    site.scaning("digits")
    with site.terminal("qr", "digits") as terminal:
        terminal.until("Scan the code")
        key = site.scan(terminal)
        digits = site.wx.phone("scan", key=key, user="dora", digits=True)["digits"]
        terminal.until("The phone shows digits. Type them here:")
        terminal.type("x" * 20 + "\n")
        terminal.until("Error: code must be the digits")
        terminal.type(("0" if digits[0] != "0" else "1") * 6 + "\n")
        terminal.until("These were not the digits.")
        terminal.type(digits + "\n")
        terminal.until("Confirm on the phone.")
        site.wx.phone("confirm", key=key)
        assert terminal.end() == 0


def test_a_login_that_comes_to_no_end_says_so(site: Site) -> None:
    site.run("qr", "nobody", status=3)
    site.scaning("lonely", qrcode_count_max="1")
    done = site.run("qr", "lonely", "--timeout", "1s", status=7)
    assert "the time is over" in done.stderr
    key = site.key(scanned(done.stdout))
    with site.terminal("qr", "lonely") as terminal:
        terminal.until("Scan the code")
        site.wx.phone("expire", key=key)
        assert terminal.end() == 5
        assert "wxsup qr --new asks for one" in terminal.text()
    ((*_, reason),) = site.rows("status", "lonely", status=5)
    assert reason == "nobody scanned; wxsup qr --new asks for a new code"
    with site.terminal("qr", "lonely", "--new") as terminal:
        terminal.until("Scan the code")
        key = site.scan(terminal)
        site.wx.phone("scan", key=key, user="lena")
        site.wx.phone("confirm", key=key)
        assert terminal.end() == 0
    site.wx.supervisorctl("stop", "wxclient-lonely")
    assert "it does not run (stopped); wxsup start NAME starts it" in site.run("qr", "lonely", status=5).stderr


def test_who_is_logged_in_already_has_no_code(site: Site) -> None:
    site.scaning("in")
    site.wx.log_in("in", "ines")
    assert "█" not in site.run("qr", "in").stdout


def test_a_login_in_a_pipe_is_drawn_and_in_json_each_change_is_told(site: Site) -> None:
    site.scaning("pipe")
    told = site.folder / "told.txt"
    with open(told, "w") as output:
        process = subprocess.Popen(
            [SCRIPTS / "wxsup", "qr", "pipe", "--json"],
            cwd=site.folder,
            env={**os.environ, **site.environment},
            stdout=output,
        )
    eventually(lambda: "scaning" in told.read_text(), what="the first line")
    site.wx.log_in("pipe", "petra")
    assert process.wait(60) == 0
    states = [json.loads(line)["state"] for line in told.read_text().splitlines()]
    assert (states[0], states[-1]) == ("scaning", "running")
    assert "█" not in told.read_text()


def test_without_colours_a_code_can_be_scanned_on_a_dark_and_inverted_on_a_light_terminal(site: Site) -> None:
    site.scaning("plain")
    with site.terminal("qr", "plain", environment={"NO_COLOR": "1"}) as terminal:
        terminal.until("Scan the code")
        assert site.scan(terminal)
        assert terminal.screen.buffer[0][0].fg == "default"
        terminal.type("\x03")
        assert terminal.end() == 130
    with site.terminal("qr", "plain", "--invert", "--timeout", "5s", environment={"NO_COLOR": "1"}) as terminal:
        terminal.until("Scan the code")
        assert terminal.screen.buffer[0][0].data == " ", "the ground is what is light"


# Looking


def test_a_table_stands_straight_whatever_the_names_are_and_has_colours(site: Site) -> None:
    for name in ("微信客服一号", "b"):
        site.run("start", name)
    site.wx.until("b", "scaning")
    site.wx.log_in("b", "bea")
    site.wx.until("微信客服一号", "scaning")
    with site.terminal("status") as terminal:
        assert terminal.end() == 0
        assert (terminal.colour("scaning"), terminal.colour("NAME")) == ("brown", "default")
        head, *rows = (
            [terminal.screen.buffer[line][column].data for column in range(100)] for line in range(3)
        )  # a wide character takes two columns, the second of which is empty
        at = "".join(cell or "" for cell in head).index("PROCESS")
        assert {"".join(row[at : at + 7]) for row in rows} == {"running"}
    with site.terminal("status", environment={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
        assert terminal.colour("scaning") == "default"
    with site.terminal("status", columns=40) as terminal:
        assert terminal.end() == 0
        assert max(len(line.rstrip()) for line in terminal.screen.display) <= 40


def test_a_client_that_fails_shows_why(site: Site) -> None:
    site.run("start", "failing")
    port = site.wx.state("failing")["port"]
    site.wx.supervisorctl("stop", "wxclient-failing")
    with socket.create_server(("127.0.0.1", port)):
        site.wx.supervisorctl("start", "wxclient-failing")
        reasons = ("cannot be opened", "Exited too quickly")
        eventually(lambda: any(reason in site.rows("status")[0][7] for reason in reasons), what="the reason")


def test_watch_goes_on_until_q_or_ctrl_c(site: Site) -> None:
    site.scaning("seen")
    for key in ("q", "\x03"):
        with site.terminal("watch", "--interval", "0.2") as terminal:
            terminal.until("seen")
            terminal.type("x")
            terminal.type(key)
            assert terminal.end() == 0
    with site.terminal("watch", "--interval", "0.2") as terminal:
        terminal.until("scaning")
        site.wx.log_in("seen", "sina")
        eventually(lambda: "scaning" not in terminal.text(), what="the login")
        site.run("start", "later")
        terminal.until("later")
        os.kill(terminal.pid, signal.SIGINT)
        assert terminal.end() == 0


def test_watch_in_a_pipe_is_json_or_wrong(site: Site) -> None:
    assert "wxsup watch --json" in site.run("watch", status=2).stderr
    site.run("start", "seen")
    process = subprocess.Popen(
        [SCRIPTS / "wxsup", "watch", "--json", "--interval", "0.1"],
        cwd=site.folder,
        env={**os.environ, **site.environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, contextlib.closing(process.stdout) as lines:  # type: ignore[type-var]
        assert lines is not None
        for _ in range(3):
            assert json.loads(lines.readline())["client"][0]["account"] == "seen"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_whoever_reads_only_the_head_hears_no_complaint(site: Site) -> None:
    for name in ("a", "b"):
        site.run("start", name)
    line = f"{SCRIPTS}/wxsup status | head -c 1"
    done = subprocess.run(
        ["bash", "-c", line], cwd=site.folder, env={**os.environ, **site.environment}, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"a", b"")


# Logs


def test_the_log_is_read_from_the_client_and_followed_over_its_restart(site: Site) -> None:
    site.scaning("logged")
    lines = site.run("logs", "logged").stdout.splitlines()
    assert any("INFO" in line and "client listens" in line for line in lines)
    assert len(site.run("logs", "logged", "-n", "2").stdout.splitlines()) == 2
    told = [json.loads(line) for line in site.run("logs", "logged", "--json").stdout.splitlines()]
    assert all({"n", "time", "level", "text"} <= line.keys() for line in told)
    with site.terminal("logs", "-f", "-n", "1", "logged", columns=160) as terminal:
        eventually(terminal.text, what="the newest line")
        site.wx.log_in("logged", "lola")
        terminal.until("state=running")
        site.wx.json("restart_client", client="logged")
        eventually(lambda: terminal.text().count("state=running") >= 2, what="the login of the new process")
        shown = terminal.text().splitlines()
        assert len(shown) == len(set(shown)), "no line twice"
        terminal.type("\x03")
        assert terminal.end() == 130


@only_local
def test_of_a_client_that_is_down_what_was_kept_is_shown(site: Site) -> None:
    site.scaning("down")
    site.wx.supervisorctl("stop", "wxclient-down")
    done = site.run("logs", "down", "-n", "3")
    assert len(done.stdout.splitlines()) == 3
    assert "cannot be reached" in done.stderr
    with site.terminal("logs", "-f", "down", columns=160) as terminal:
        terminal.until("client listens")
        site.wx.supervisorctl("start", "wxclient-down")
        eventually(lambda: terminal.text().count("client listens") >= 2, what="the next start")


@only_remote
def test_of_a_client_that_is_down_elsewhere_it_is_said_where_its_log_is(site: Site) -> None:
    site.scaning("down")
    site.wx.supervisorctl("stop", "wxclient-down")
    assert "its log is on the machine that it runs on" in site.run("logs", "down", status=1).stderr
    site.run("logs", "nobody", status=3)


@only_local
def test_without_a_supervisor_what_was_kept_is_shown(site: Site, tmp_path: Path) -> None:
    site.scaning("kept")
    nowhere = f"--run-dir={tmp_path}"
    assert len(site.run("logs", "kept", "-n", "3", nowhere).stdout.splitlines()) == 3
    site.run("logs", "nobody", nowhere, status=3)


# Messages


def test_a_message_goes_to_who_is_meant_and_to_nobody_else(site: Site) -> None:
    site.scaning("bot")
    assert "not logged in" in site.run("send", "bot", "owner", "x", status=5).stderr
    site.wx.log_in("bot", "bob")
    site.wx.phone("say", user="bob", text="hello")
    eventually(lambda: site.wx.json("get_friend_info", client="bot")[0]["can_send"])
    friend = site.wx.json("get_friend_info", client="bot")[0]["id"]
    for to in (friend, "owner", "filehelper"):
        site.run("send", "bot", to, f"to {to} & ü")
    site.run("send", "bot", "owner", "-", typed="from a pipe\nin two lines\n")
    promised = site.json("send", "bot", "owner", "later", "--async")
    assert promised["status"] == "request already in execution"
    (site.folder / "photo.png").write_bytes(b"a file")
    site.run("send", "bot", "owner", "--file", "photo.png")
    texts = [message["text"] for message in site.wx.look("chat", user="bob")["messages"]]
    assert f"to {friend} & ü" in texts and "from a pipe\nin two lines" in texts
    eventually(lambda: "later" in str(site.wx.look("chat", user="bob")), what="what was promised")
    eventually(lambda: "photo.png" in str(site.wx.look("chat", user="bob")), what="the file")
    assert "has no friend" in site.run("send", "bot", "nobody", "x", status=3).stderr
    for words in (("send", "bot", "owner"), ("send", "bot", "owner", "x", "--file", "photo.png")):
        assert "give a TEXT, or a file" in site.run(*words, status=2).stderr
    before = site.wx.look("chat", user="bob")["messages"]
    assert "TO is empty" in site.run("send", "bot", "", "x", status=2).stderr
    assert "is not UTF-8" in site.run("send", "bot", "owner", "-", typed="caf\udce9", status=2).stderr
    assert site.wx.look("chat", user="bob")["messages"] == before


def test_a_file_may_be_as_large_as_a_call_and_what_is_wrong_with_others_is_said(site: Site) -> None:
    site.run("start", "bot")
    site.wx.log_in("bot", "bob")
    site.wx.phone("say", user="bob", text="hello")
    eventually(lambda: site.wx.json("get_friend_info", client="bot")[0]["can_send"])
    for name, size in (("empty", 0), ("large.bin", 8_000_000), ("huge", 8 * 1024 * 1024)):
        (site.folder / name).write_bytes(b"x" * size)
    site.run("send", "bot", "owner", "--file", "large.bin")
    eventually(lambda: "large.bin" in str(site.wx.look("chat", user="bob")), what="the file")
    assert "empty is empty" in site.run("send", "bot", "owner", "--file", "empty", status=2).stderr
    assert "larger than the 8 MiB" in site.run("send", "bot", "owner", "--file", "huge", status=2).stderr


# The file of clients


def test_apply_makes_the_clients_those_of_the_file_and_a_second_time_nothing(site: Site) -> None:
    file = site.folder / "clients.toml"
    file.write_text('[defaults]\nlog_level = "debug"\n[clients.a]\n[clients."微 1"]\nsend_interval = 2\n')
    for name in ("a", "stray"):
        site.run("start", name)
    port = site.wx.state("a")["port"]
    plan = [["stray", "not in the file"], ["a", "changed"], ["微 1", "started"]]
    assert site.rows("apply", "clients.toml", "--check") == plan
    assert [entry["account"] for entry in site.wx.json("check_client")["client"]] == ["a", "stray"]
    assert site.rows("apply", "clients.toml") == plan
    assert (site.wx.state("a")["port"], site.wx.state("a")["params"]) == (port, {"log_level": "debug"})
    assert site.wx.state("微 1")["params"] == {"log_level": "debug", "send_interval": "2"}
    pids = [entry["pid"] for entry in site.wx.json("check_client")["client"]]
    assert [row[1] for row in site.rows("apply", "clients.toml")] == ["not in the file", "unchanged", "unchanged"]
    assert site.json("apply", "clients.toml")["changed"] is False
    assert [entry["pid"] for entry in site.wx.json("check_client")["client"]] == pids
    told = site.json("apply", "clients.toml", "--prune", "--check")
    assert (told["changed"], told["check"], told["clients"][0]["action"]) == (True, True, "removed")
    assert site.rows("apply", "clients.toml", "--prune")[0] == ["stray", "removed"]
    assert (site.wx.folder / "var/session/stray").is_dir(), "its session stays"
    site.wx.supervisorctl("stop", "wxclient-a")
    assert site.rows("apply", "clients.toml")[0] == ["a", "started"]


def test_apply_shows_what_differs_in_colours(site: Site) -> None:
    site.run("start", "a", "log_level=info")
    (site.folder / "clients.toml").write_text('[clients.a]\nlog_level = "debug"\n')
    with site.terminal("apply", "clients.toml", "--diff", "--check") as terminal:
        assert terminal.end() == 0
        assert terminal.colour("- log_level = info") == "red"
        assert terminal.colour("+ log_level = debug") == "green"
        assert "Nothing was done: --check." in terminal.text()


@only_local
def test_a_client_whose_record_is_broken_is_pruned(site: Site) -> None:
    site.run("start", "broken")
    (site.wx.folder / "var/clients/wxclient-broken.env").write_text("nothing\n")
    (site.folder / "clients.toml").write_text("")
    assert site.rows("apply", "clients.toml", "--prune") == [["broken", "removed"]]
    assert site.rows("status") == []


def test_a_mistake_in_the_file_changes_nothing(site: Site) -> None:
    (site.folder / "clients.toml").write_text("[clients.new]\n[clients.other]\nlog_levl = 'info'\n")
    done = site.run("apply", "clients.toml", "--prune", status=2)
    assert "[clients.other]: parameter not allowed: log_levl; did you mean log_level?" in done.stderr
    assert site.rows("status") == []
    assert "does not exist" in site.run("apply", "nowhere.toml", status=2).stderr


def test_a_client_that_cannot_be_started_keeps_no_other_from_its_turn(site: Site) -> None:
    (site.folder / "clients.toml").write_text("[clients.a]\npost_api = 'http://127.0.0.1:9/'\n[clients.b]\n")
    if site.remote:  # what it allows is for the controller to say
        told = json.loads(site.run("apply", "clients.toml", "--json", status=2).stdout.splitlines()[-1])
        assert [("error" in client, client["client"]) for client in told["clients"]] == [(True, "a"), (False, "b")]
        assert [entry["account"] for entry in site.wx.json("check_client")["client"]] == ["b"]
    else:
        assert "does not allow this URL" in site.run("apply", "clients.toml", status=2).stderr
        assert site.rows("status") == []


# What is wrong


def test_a_wrong_word_says_what_would_have_been_right(site: Site) -> None:
    for words, sentence in (
        (["statsu"], "'status'"),
        (["status", "--jsno"], "'--json'"),
        (["token", "lst"], "'list'"),
        (["start", "x", "log_levl=info"], "did you mean log_level?"),
        (["start", "x", "log_level"], "a parameter is PARAMETER=VALUE, but 'log_level' has no ="),
        (["start", "a\nb"], "control characters"),
        (["stop"], "Missing argument 'NAME...'"),
        (["qr", "x", "--timeout", "soon"], "it must be a time such as"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ):
        assert sentence in site.run(*words, status=2).stderr


def test_json_says_what_went_wrong_as_the_api_does(site: Site) -> None:
    told = site.json("start", "x", "tmpdir=/tmp", status=2)
    assert (told["code"], told["status"]) == (6, "parameter not allowed: tmpdir")
    assert site.json("send", "nobody", "x", "y", status=3)["code"] == 1
    assert "PARAMETER=VALUE" in site.json("start", "x", "foo", status=2)["reason"]
    site.run("start", "a")
    done = site.run("status", "nobody", "a", status=3)
    assert (done.stdout.split("\t")[0], done.stderr.strip()) == ("a", "Error: nobody: client not exists")


@pytest.mark.parametrize(
    "words",
    [
        ["start", "\udcff"],
        ["status", "\udcff"],
        ["start", "x", "log_level=\udcff"],
        ["start", ""],
        ["watch", "--json", "--interval", "nan"],
        ["resume", "--patience", "nan"],
        ["resume", "--patience", "-1"],
    ],
)
def test_what_is_no_name_and_no_number_is_refused(local: Site, words: list[str]) -> None:
    assert local.run(*words, status=2).stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("wxsup status >&-", 0),
        ("wxsup start closed >&-", 0),
        ("wxsup status --json >/dev/full", 1),
        ("PYTHONIOENCODING=latin-1 wxsup status", 0),
        ("wxsup token add lost --role admin >/dev/full", 1),
    ],
)
def test_an_output_that_takes_nothing_or_has_not_the_letters(local: Site, line: str, status: int) -> None:
    local.run("start", "客服")
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], cwd=local.folder, env=environment, capture_output=True, check=False)
    try:
        assert (done.returncode, b"Traceback" in done.stderr) == (status, False), done.stderr
        assert local.json("token", "list") == [], "no token that nobody has"
    finally:
        (local.wx.folder / "var/tokens.json").unlink(missing_ok=True)


def test_every_command_for_clients_answers_in_json(site: Site) -> None:
    (site.folder / "clients.toml").write_text("[clients.j]\n")
    for words, key in (
        (["start", "j"], "pid"),
        (["status"], "client"),
        (["restart", "j"], "port"),
        (["apply", "clients.toml"], "changed"),
        (["remove", "j", "--purge"], "purged"),
    ):
        assert key in site.json(*words)


def test_a_controller_that_is_not_there_or_does_not_know_us(remote: Site) -> None:
    done = remote.run("status", "--url", "http://127.0.0.1:9", status=4)
    assert done.stderr.strip() == "Error: http://127.0.0.1:9: Connection refused"
    (remote.folder / "wrong").write_text("wxsup_nonsense")
    assert "there is no such token" in remote.run("status", "--token-file", "wrong", status=6).stderr
    (remote.folder / "limited").write_text(remote.wx.wxsup("token", "add", "limited", "--role", "app"))
    assert "not for that call" in remote.run("status", "--token-file", "limited", status=6).stderr
    site = remote.of(remote.wx.wxsup("token", "add", "o", "--role", "operator"))
    assert site.rows("status") == []
    assert "not for that call" in site.run("remove", "x", status=6).stderr
    assert "No such file" in remote.run("status", "--token-file", "nowhere", status=2).stderr
    for wrong in ("wxsup_a\nwxsup_b\n", "wxsup_a b", "wxsup_秘密"):
        (remote.folder / "two").write_text(wrong)
        assert "one token" in remote.run("status", "--token-file", "two", status=2).stderr
        said = remote.of(wrong).run("status", status=2)
        assert "one token" in said.stderr and "wxsup_" not in said.stderr
    remote.of(remote.wx.token + "\n").run("status")
    for url in ("notaurl", "ftp://x/", "http://", "http://[::1", "http://127.0.0.1:99999", "http://me:password@[::1]/"):
        assert "password@" not in remote.run("status", "--url", url, status=2).stderr


def test_a_token_is_in_no_command_line_and_not_with_what_up_starts(short_path: Path) -> None:
    done = subprocess.run([SCRIPTS / "wxsup", "status", "--help"], capture_output=True, text=True, check=True)
    assert "--token " not in done.stdout
    os.environ["WXSUP_TOKEN"] = "wxsup_secret"
    try:
        with Installation(short_path) as wx:
            started = [wx.json("start_client", client="a")["pid"], int(wx.supervisorctl("pid"))]
            assert "wxsup_secret" not in (short_path / "var/up.json").read_text()
            for pid in started:
                assert b"wxsup_secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        del os.environ["WXSUP_TOKEN"]


# The server


@only_local
def test_check_says_what_to_do_in_each_line(site: Site) -> None:
    rows = site.rows("check")
    assert {len(row) for row in rows} == {4}
    assert {row[0] for row in rows} <= {"ok", "warn"}
    (site.wx.folder / "var/session").chmod(0o755)
    (site.wx.folder / "var/clients/wxclient-gone.secret").touch()
    try:
        with site.terminal("check", columns=160) as terminal:
            assert terminal.end() == 1
            folder = f"{site.wx.folder}/var/session"
            assert (
                f"FAIL  folder {folder}: every user of this machine can enter it; chmod o= '{folder}'"
                in terminal.text()
            )
            assert (terminal.colour("FAIL"), terminal.colour("warn"), terminal.colour("ok")) == (
                "red",
                "brown",
                "green",
            )
        site.run("check", "--for-start")
        told = json.loads(site.run("check", "--json", status=1).stdout)
        assert (told["ok"], len(told["findings"]) > 10) == (False, True)
    finally:
        (site.wx.folder / "var/session").chmod(0o700)
        (site.wx.folder / "var/clients/wxclient-gone.secret").unlink()


@only_local
def test_a_second_controller_leaves_the_pid_file_to_the_first(site: Site) -> None:
    path = site.wx.folder / "var/run/mojo_weixin_controller_process.pid"
    pid, port = path.read_text(), free_port()
    words = [str(SCRIPTS / "wxsup"), "serve", f"--listen=127.0.0.1:{port}"]
    with subprocess.Popen(words, cwd=site.folder, stderr=subprocess.DEVNULL) as second:
        eventually(lambda: not ports.free(port), what="the second controller")
        assert path.read_text() == pid
        second.terminate()
    assert path.read_text() == pid


@only_local
def test_config_says_where_each_setting_comes_from(site: Site) -> None:
    (site.folder / "wxsup.toml").write_text('post_api = "https://example.com/hook?key=hunter2"\npoll_interval = 7\n')
    try:
        found = {name: (value, source) for name, value, source in site.rows("config", "--workers=3")}
        assert found["workers"] == ("3", "command line")
        assert found["listen"] == (f"127.0.0.1:{site.wx.port}", "the running wxsup up")
        assert found["post_api"] == ("https://example.com/hook?...", "wxsup.toml")
        assert found["log_level"] == ("info", "default")
        os.environ["WXSUP_LOG_LEVEL"] = "warn"
        assert site.json("config")["log_level"] == {"value": "warn", "source": "$WXSUP_LOG_LEVEL"}
        assert "hunter2" not in site.run("config", "--json").stdout
    finally:
        (site.folder / "wxsup.toml").unlink()
        os.environ.pop("WXSUP_LOG_LEVEL", None)


@only_local
def test_tokens_are_a_table_at_a_terminal(site: Site) -> None:
    made = site.json("token", "add", "shop", "--role", "app", "--client", "shop-*", "--expires", "1d")
    assert made["token"].startswith("wxsup_")
    site.wx.token = site.run("token", "add", "admin", "--role", "admin").stdout.strip()
    try:
        with site.terminal("token", "list") as terminal:
            assert terminal.end() == 0
            assert terminal.text().splitlines()[0].split() == ["NAME", "ROLE", "CLIENTS", "FROM", "MADE", "ENDS"]
        assert [entry["name"] for entry in site.json("token", "list")] == ["shop", "admin"]
        assert site.rows("status") == [], "who can read the records needs no token"
        assert site.json("token", "revoke", "shop") == {"revoked": "shop"}
    finally:
        site.wx.token = ""
        (site.wx.folder / "var/tokens.json").unlink()
        site.wx.supervisorctl("restart", "wxcontroller")
        eventually(lambda: site.wx.call("check_client").ok, what="the controller, open again")


# The shell


COMPLETED = {
    "wxsup sta": ["start", "status"],
    "wxsup token ": ["add", "list", "revoke"],
    "wxsup status --ur": ["--url"],
    "wxsup stop sho": ["shop-1", "shop-2", "shop-客服"],
    "wxsup completion ": ["bash", "fish", "zsh"],
}


def test_the_tab_key_completes_commands_options_and_names_that_a_shell_takes_for_one_word(site: Site) -> None:
    hostile = ("shop-$(touch pwn)", "shop-`x`", "shop- 1", "shop-'", "-shop")
    for name in ("shop-1", "shop-2", "shop-客服", "other", *hostile):
        site.run("start", "--", name)

    def completed(line: str) -> list[str]:
        last = "''" if line.endswith(" ") else ""
        script = (
            f'eval "$(wxsup completion bash)"; COMP_WORDS=({line}{last});'
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); compopt() { :; };"
            '_wxsup_completion wxsup; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        environment = {**os.environ, **site.environment, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", script], cwd=site.folder, env=environment, capture_output=True, text=True)
        return sorted(done.stdout.splitlines())

    assert {line: completed(line) for line in COMPLETED} == COMPLETED


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_can_read_its_completion(local: Site, shell: str) -> None:
    script = local.run("completion", shell).stdout
    assert "_WXSUP_COMPLETE" in script
    if not shutil.which(shell):
        assert not os.environ.get("CI"), f"CI installs {shell}"
        pytest.skip(f"there is no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)
