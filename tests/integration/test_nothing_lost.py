"""Many callers at once, broken files, full disks, a supervisor that cannot be asked: no client is lost or doubled."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.deadline import eventually
from tests.installation import SCRIPTS, Installation, alive, title
from tests.ports import free_port

MANY = 30


@pytest.fixture(scope="module")
def wx() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder:
        with Installation(Path(folder), max_clients=MANY) as found:
            yield found


@pytest.fixture(autouse=True)
def no_clients(wx: Installation) -> Iterator[None]:
    yield
    for entry in wx.json("check_client")["client"]:
        if "error" not in entry or "record" not in entry["error"]:
            wx.json("stop_client", client=entry["account"])
    assert wx.json("check_client") == {"code": 0, "client": []}


def start(wx: Installation, name: str) -> dict[str, object]:
    """Start a client over a connection of its own."""
    reply: dict[str, object] = requests.get(f"{wx.url}/openwx/start_client", {"client": name}, timeout=120).json()
    return reply


def start_by_command(wx: Installation, name: str) -> str:
    done = subprocess.run(
        [SCRIPTS / "wxsup", "start", name, "--json", *wx.flags],
        cwd=wx.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_many_starts_of_one_name_at_once_make_one_client(wx: Installation) -> None:
    with ThreadPoolExecutor(MANY + 1) as pool:
        command = pool.submit(start_by_command, wx, "same")
        replies = list(pool.map(lambda _: start(wx, "same"), range(MANY)))
    assert {reply["code"] for reply in replies} == {0}
    assert '"code": 0' in command.result()
    assert len({(reply["pid"], reply["port"]) for reply in replies}) == 1
    assert [reply["status"] for reply in replies].count("success") <= 1
    (entry,) = wx.json("check_client")["client"]
    assert entry["pid"] == replies[0]["pid"]


def test_many_names_at_once_make_many_clients_on_many_ports_and_not_one_more(wx: Installation) -> None:
    with ThreadPoolExecutor(MANY + 2) as pool:
        commands = [pool.submit(start_by_command, wx, f"command{number}") for number in range(2)]
        replies = list(pool.map(lambda number: start(wx, f"name{number}"), range(MANY)))
    by_command = [command.result() for command in commands]
    started = [reply for reply in replies if reply["code"] == 0]
    refused = [reply for reply in replies if reply["code"] != 0]
    assert {(reply["code"], reply["status"]) for reply in refused} <= {(5, "max clients exceed")}
    assert len(started) + sum('"code": 0' in told for told in by_command) == MANY, "max_clients is exact"
    entries = wx.json("check_client")["client"]
    assert len({entry["port"] for entry in entries}) == len({entry["pid"] for entry in entries}) == MANY
    assert {entry["account"]: entry["port"] for entry in entries}.items() >= {
        str(reply["client"]): reply["port"] for reply in started
    }.items()
    # "already exists" comes before "too many".
    assert start(wx, str(started[0]["client"]))["status"] == "client already exists"
    assert start(wx, "one more")["code"] == 5


def test_stop_and_start_of_one_name_in_a_row_never_race(wx: Installation) -> None:
    pids = set()
    for _ in range(10):
        reply = start(wx, "again")
        assert (reply["code"], reply["status"]) == (0, "success")
        pid = int(str(reply["pid"]))
        assert pid not in pids
        pids.add(pid)
        assert wx.json("stop_client", client="again")["pid"] == pid
        assert not alive(pid)


def test_starts_and_stops_of_one_name_from_all_sides_end_well(wx: Installation) -> None:
    with ThreadPoolExecutor(12) as pool:
        calls = ["start_client", "stop_client"] * 12
        replies = list(
            pool.map(lambda call: requests.get(f"{wx.url}/openwx/{call}", {"client": "x"}, timeout=120).json(), calls)
        )
    assert {(reply["code"], reply["status"]) for reply in replies} <= {
        (0, "success"), (0, "client already exists"), (1, "client not exists"), (4, "client pid not ok"),
    }  # fmt: skip
    wx.json("start_client", client="x")
    assert alive(wx.until("x", "scaning")["pid"])


def test_a_client_whose_record_was_deleted_starts_anew_on_the_port_that_it_says(wx: Installation) -> None:
    first = start(wx, "orphan")
    (wx.folder / "var/clients/wxclient-orphan.env").unlink()
    again = start(wx, "orphan")
    assert (again["code"], again["status"]) == (0, "success")
    assert not alive(int(str(first["pid"])))
    wx.until("orphan", "scaning")
    assert wx.json("get_client_info", client="orphan")["pid"] == again["pid"]


def test_a_start_while_an_operators_stop_is_under_way_starts(wx: Installation) -> None:
    pid = int(str(start(wx, "slow")["pid"]))
    wx.until("slow", "scaning")
    os.kill(pid, signal.SIGSTOP)  # it will not heed the SIGTERM, and is killed in the end
    stopping = subprocess.Popen(
        [SCRIPTS / "supervisorctl", "-c", wx.folder / "var/supervisord.conf", "stop", "wxclient-slow"],
        stdout=subprocess.DEVNULL,
    )
    eventually(lambda: wx.state("slow")["process"] == "stopping")
    again = start(wx, "slow")
    stopping.wait(30)
    assert (again["code"], again["status"]) == (0, "success")
    assert again["pid"] != pid
    assert alive(wx.until("slow", "scaning")["pid"])


def test_a_stop_leaves_no_file_behind_but_the_session(wx: Installation) -> None:
    before = {path for path in (wx.folder / "var").rglob("*") if path.is_file()}
    start(wx, "tidy")
    wx.until("tidy", "scaning")
    wx.json("stop_client", client="tidy")
    wx.json("stop_client", client="never there")
    after = {path for path in (wx.folder / "var").rglob("*") if path.is_file()}
    assert {path.parent.name for path in after - before} <= {"tidy", "log"}
    assert not [path for path in after - before if path.parent.parent.name == "run"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"WXCLIENT_RECORD=2\n", b"\xff\xfe", b"A='unclosed\n", None])
def test_a_broken_record_is_reported_by_name_spoils_only_itself_and_is_kept(
    wx: Installation, content: bytes | None
) -> None:
    healthy = start(wx, "healthy")
    broken = wx.folder / "var/clients/wxclient-broken.env"
    if content is None:
        broken.mkdir()
    else:
        broken.write_bytes(content)
    try:
        entries = {entry["account"]: entry for entry in wx.json("check_client")["client"]}
        assert entries["broken"]["state"] == "unknown"
        assert str(broken) in entries["broken"]["error"]
        assert entries["healthy"]["pid"] == healthy["pid"]
        assert wx.json("check_client", client="broken")["client"] == [entries["broken"]]
        for call in ("start_client", "stop_client"):
            reply = wx.json(call, client="broken")
            assert (reply["code"], reply["status"]) == (3, "failure")
            assert str(broken) in reply["reason"]
        assert wx.json("start_client", client="another")["code"] == 0
        subprocess.run([SCRIPTS / "wxsup", "sync", *wx.flags], cwd=wx.folder, check=True, timeout=60)
        assert broken.exists()
        assert alive(int(str(healthy["pid"])))
    finally:
        if content is None:
            broken.rmdir()
        else:
            broken.unlink()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"pid": "x"}', b"[" * 10**5, None])
def test_a_broken_state_file_spoils_only_its_own_entry(wx: Installation, content: bytes | None) -> None:
    for name in ("a", "b"):
        start(wx, name)
        wx.until(name, "scaning")
    pid = wx.state("a")["pid"]
    path = Path(wx.state("a")["state_path"])
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    entries = {entry["account"]: entry for entry in wx.json("check_client")["client"]}
    foreign = content == b'{"pid": "x"}'
    assert entries["a"]["state"] == ("init" if foreign else "unknown")
    assert foreign or "state file" in entries["a"]["error"]
    assert entries["a"]["pid"] == pid
    assert entries["b"]["state"] == "scaning"
    assert alive(pid)
    if content is None:
        path.rmdir()


def test_a_foreign_section_that_is_broken_is_named_and_stops_nobody(wx: Installation) -> None:
    healthy = start(wx, "healthy")
    broken = wx.folder / "var/conf.d/foreign.conf"
    broken.write_text("[program:foreign]\nnumprocs=many\n")
    try:
        reply = wx.json("start_client", client="new")
        assert reply["code"] == 3
        assert "foreign" in reply["reason"]
        assert wx.json("check_client", client="new")["code"] == 1
        assert alive(int(str(healthy["pid"])))
        assert broken.exists()
    finally:
        broken.unlink()
    assert wx.json("start_client", client="new")["code"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_fails_a_start_with_code_3_and_leaves_nothing_half_done(wx: Installation) -> None:
    records = wx.folder / "var/clients"
    start(wx, "before")
    with small_disk(records):
        (records / "filler").write_bytes(b"x" * (records_free(records)))
        reply = wx.json("start_client", client="new")
        assert (reply["code"], reply["status"]) == (3, "failure")
        assert "No space left on device" in reply["reason"]
        assert not list(records.glob("*new*"))
        assert not list(records.glob(".*"))
        (records / "filler").unlink()
        assert wx.json("start_client", client="new")["code"] == 0
        # A stop needs no space: what must go can go.
        (records / "filler").write_bytes(b"x" * (records_free(records)))
        assert wx.json("stop_client", client="new")["code"] == 0
        assert not list(records.glob("*new*"))


class small_disk:
    """A file system of one page's breadth mounted over `folder`, with what lay there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        content = {path.name: path.read_bytes() for path in self.folder.glob("*.env")}
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", self.folder], check=True)
        (self.folder / "locks").mkdir(mode=stat.S_IRWXU)
        for name, text in content.items():
            (self.folder / name).write_bytes(text)

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


def records_free(folder: Path) -> int:
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_bsize


def test_a_supervisor_that_cannot_be_asked_is_a_503_and_nothing_is_freed() -> None:
    """The controller runs outside of supervisord here, as it does where systemd runs it."""
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as name:
        folder = Path(name)
        port = free_port()
        flags = [f"--listen=127.0.0.1:{port}", f"--backend-start-port={free_port()}", "--check-interval=1"]
        server = subprocess.Popen([SCRIPTS / "wxsup", "serve", *flags], cwd=folder)
        wx = Installation(folder, listen=f"127.0.0.1:{free_port()}")
        try:
            with wx:
                wx.url = f"http://127.0.0.1:{port}"
                eventually(lambda: answers(wx), what="the controller")
                first = wx.json("start_client", client="a")
                assert first["code"] == 0
                supervisord = int((folder / "var/run/supervisord.pid").read_text())
                os.kill(supervisord, signal.SIGKILL)
                eventually(lambda: not alive(first["pid"]), what="the end of the client")
                for call in ("start_client", "stop_client", "check_client"):
                    response = wx.call(call, {"client": "a"})
                    assert (response.status_code, response.json()["code"]) == (503, 7)
                    assert response.json()["status"] == "supervisor unreachable"
                assert wx.call("check_client").status_code == 503
                assert wx.call("start_client", {"client": "b"}).status_code == 503
                wx.down()
                assert (folder / "var/clients/wxclient-a.env").exists()
                assert not (folder / "var/clients/wxclient-b.env").exists()
                wx.up()
                eventually(lambda: wx.state("a")["state"] == "scaning", what="the client, without a start_client")
                assert wx.state("a")["port"] == first["port"]
                assert title(wx.state("a")["pid"]) == "wxclient(a)"
        finally:
            server.terminate()
            server.wait(30)


def answers(wx: Installation) -> bool:
    try:
        return wx.call("check_client").ok
    except requests.ConnectionError:
        return False
