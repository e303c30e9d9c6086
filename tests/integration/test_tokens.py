"""Tokens on a running installation: in force at once in every worker, and nowhere but with their holders."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.deadline import eventually
from tests.installation import SCRIPTS, Installation, Receiver
from wxsup.sdk import Controller


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def wx(receiver: Receiver) -> Iterator[Installation]:
    with (
        tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder,
        Installation(Path(folder), workers=2, log_level="debug", post_api=receiver.url) as found,
    ):
        yield found


def add(wx: Installation, name: str = "a", role: str = "admin", *limits: str) -> str:
    """Make a token as an operator does."""
    return wx.wxsup("token", "add", name, "--role", role, *limits).strip()


def workers(wx: Installation) -> list[int]:
    """Return the process numbers of the controller's two workers."""

    def children() -> list[int]:
        master = wx.supervisorctl("pid", "wxcontroller").strip()
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    return eventually(children, holds=lambda found: len(found) == 2, what="two workers")


@contextmanager
def only(worker: int, wx: Installation) -> Iterator[None]:
    """Let one worker alone answer, with the other one halted."""
    others = [pid for pid in workers(wx) if pid != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def status(wx: Installation, token: str) -> int:
    """Return how a call with that token is answered, on a connection of its own."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(f"{wx.url}/openwx/check_client", headers=headers, timeout=30).status_code


def test_a_token_is_good_at_once_in_every_worker_and_a_revoked_one_at_once_in_none(wx: Installation) -> None:
    for worker in workers(wx):
        with only(worker, wx):
            assert status(wx, "") == 200
    tokens = {name: add(wx, name) for name in ("kept", "lost")}
    for worker in workers(wx):
        with only(worker, wx):
            assert [status(wx, token) for token in ("", "wrong", *tokens.values())] == [401, 401, 200, 200]
    wx.wxsup("token", "revoke", "lost")
    for worker in workers(wx):
        with only(worker, wx):
            assert [status(wx, token) for token in tokens.values()] == [200, 401]
    wx.wxsup("token", "revoke", "kept")
    for worker in workers(wx):
        with only(worker, wx):
            assert [status(wx, token) for token in ("", *tokens.values())] == [401, 401, 401]


def test_the_file_gone_nobody_is_let_in_by_an_old_worker_nor_by_a_new_one(wx: Installation) -> None:
    token = add(wx)
    assert status(wx, token) == 200
    os.kill(workers(wx)[0], signal.SIGKILL)  # so that the one that starts them has seen tokens too
    wx.token = token
    workers(wx)
    kept = (wx.folder / "var/tokens.json").rename(wx.folder / "away.json")
    before = workers(wx)
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: set(workers(wx)) != set(before), what="a new worker")
    for worker in workers(wx):
        with only(worker, wx):
            assert [status(wx, shown) for shown in ("", token)] == [503, 503]
    log = (wx.folder / "var/log/wxcontroller.log").read_text()
    assert "nobody is let in" in log and "tokens.json" in log
    kept.rename(wx.folder / "var/tokens.json")
    assert status(wx, token) == 200


def test_others_can_reach_it_with_tokens_only(short_path: Path) -> None:
    wx = Installation(short_path)
    listen = f"--listen=0.0.0.0:{wx.port}"
    done = subprocess.run(
        [*wx.command, listen], cwd=short_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "there is no token; make a token first: wxsup token add NAME --role admin" in done.stderr
    token = add(wx)
    wx.flags.append(listen)
    with wx:
        curl = 'curl -H "Authorization: Bearer $TOKEN" '
        assert f"{curl}'{wx.url}/openwx/start_client?client=demo'" in wx.output.read_text()
        assert [status(wx, shown) for shown in ("", token)] == [401, 200]
        named = requests.get(
            f"{wx.url}/openwx/check_client",
            headers={"Host": "wx.example", "Authorization": f"Bearer {token}"},
            timeout=30,
        )
        assert named.status_code == 200, "who shows a token needs no name of ours"
        (wx.folder / "var/tokens.json").unlink()
        assert [status(wx, shown) for shown in ("", token)] == [503, 503]
        log = (wx.folder / "var/log/wxcontroller.log").read_text()
        assert "make a token first: wxsup token add" in log
        # A reload with addresses for others and no token changes nothing.
        os.kill(int(wx.supervisorctl("pid", "wxcontroller")), signal.SIGHUP)
        eventually(lambda: "settings not reloaded" in (wx.folder / "var/log/wxcontroller.log").read_text())
        eventually(lambda: status(wx, "") == 503)


def test_wxsup_check_names_what_is_wrong_with_the_tokens(wx: Installation) -> None:
    def check(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / "wxsup", "check", *flags], cwd=wx.folder, capture_output=True, text=True, check=False, timeout=60
        )

    assert check().returncode == 0
    found = check("--listen=0.0.0.0:2000", "--for-start")
    assert (found.returncode, "FAIL\taddresses: 0.0.0.0:2000\t" in found.stdout) == (1, True)
    add(wx)
    assert check("--listen=0.0.0.0:2000").returncode == 0
    (wx.folder / "var/tokens.json").chmod(0o666)
    found = check()
    assert (found.returncode, "FAIL\ttokens: " in found.stdout, "chmod 600" in found.stdout) == (1, True, True)
    assert check("--for-start").returncode == 0, "it answers, though it lets nobody in"
    (wx.folder / "var/tokens.json").chmod(0o600)


def test_wxsup_up_does_not_begin_with_tokens_that_keep_everybody_out(short_path: Path) -> None:
    (short_path / "var").mkdir(mode=0o700)
    (short_path / "var/tokens.json").write_text("nonsense")
    done = subprocess.run(
        Installation(short_path).command, cwd=short_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"{short_path}/var/tokens.json: " in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_commands_say_what_they_did_and_what_they_could_not(short_path: Path) -> None:
    wx = Installation(short_path)
    secret = add(
        wx, "shop", "app", "--client", "shop-*", "--client", "客服02", "--expires", "30d", "--from", "10.0.0.0/8"
    )
    add(wx, "office")
    shop, office = wx.wxsup("token", "list").splitlines()
    assert shop.split("\t")[:4] == ["shop", "app", "shop-* 客服02", "10.0.0.0/8"]
    assert office.split("\t")[:4] + office.split("\t")[5:] == ["office", "admin", "*", "*", "never"]
    kept = (wx.folder / "var/tokens.json").read_text()
    assert secret not in shop + kept
    assert not any(word in shop + office for word in kept.split('"') if len(word) == 64)
    for words, sentence in (
        (["add", "shop", "--role", "app"], "there is a token 'shop' already"),
        (["add", "x", "--role", "king"], "'king' is not one of"),
        (["add", "x"], "Missing option '--role'"),
        (["add", "x\n", "--role", "app"], "control characters"),
        (["add", "x", "--role", "app", "--client", ""], "is empty"),
        (["add", "x", "--role", "app", "--expires", "soon"], "it must be a time such as 12h"),
        (["add", "x", "--role", "app", "--expires", ""], "it must be a time such as 12h"),
        (["add", "x", "--role", "app", "--from", "10.0.0.7/8"], "has host bits set"),
        (["revoke", "nobody"], "there is no token 'nobody'"),
    ):
        done = subprocess.run(
            [SCRIPTS / "wxsup", "token", *words], cwd=wx.folder, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode in (1, 2) and sentence in done.stderr, done
        assert "Traceback" not in done.stderr


def everything(folder: Path) -> dict[str, bytes]:
    """Return what lies below a folder, and all that the machine tells of its processes."""
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[f"ps {process.name}"] = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    return found


BROKEN = {
    "a blank in the target": "GET /openwx/check_client?token={} x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a version that is none": "GET /openwx/check_client?token={} HTTP/9\r\nHost: x\r\n\r\n",
    "no version": "GET /openwx/check_client?token={}\r\n\r\n",
    "a method that is none": "G{} / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header that is none": "GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {}\r\n\r\n",
    "NUL in a header": "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\0\r\n\r\n",
    "a folded header": "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n {}\r\n\r\n",
    "an expectation": "GET / HTTP/1.1\r\nHost: x\r\nExpect: {}\r\n\r\n",
    "a transfer coding": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {}\r\n\r\n",
    "a chunk size": "POST /openwx/start_client?token={0} HTTP/1.1\r\nHost: x\r\nContent-Type: "
    "application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n{0}\r\n\r\n",
    "no host": "GET /openwx/check_client?token={} HTTP/1.1\r\n\r\n",
    "no end": "GET /openwx/check_client?token={} HTTP/1.1\r\nHost",
}


def test_a_token_is_nowhere_but_with_its_holder(wx: Installation, receiver: Receiver) -> None:
    token, revoked = add(wx), add(wx, "revoked")
    wx.wxsup("token", "revoke", "revoked")
    wx.token = token
    assert wx.json("start_client", client="a", token=token, log_level="debug")["code"] == 0
    wx.log_in("a", "anna")
    wx.phone("say", user="anna", text="hello")
    eventually(lambda: wx.json("get_friend_info", client="a", token=token)[0]["can_send"])
    answers = []
    for shown in (token, revoked):
        for call in ("check_client", "get_qrcode", "get_client_info", "send_friend_message", "nonsense"):
            for query in (f"token={shown}&client=a&id=filehelper&content=x", f"client=a&%74oken={shown}&token={shown}"):
                answers.append(requests.get(f"{wx.url}/openwx/{call}?{query}", timeout=30).text)
                answers.append(requests.post(f"{wx.url}/openwx/{call}?{query}", data={"x": "1"}, timeout=30).text)
        for request in BROKEN.values():
            with socket.create_connection(("127.0.0.1", wx.port), 30) as connection, contextlib.suppress(OSError):
                connection.sendall(request.format(shown).encode())
                connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    answers.append(chunk.decode(errors="replace"))
    with Controller(wx.url, token) as sdk:
        assert sdk.check("a")
    eventually(lambda: receiver.messages("/post_message?client=a"), what="a report")
    log = (wx.folder / "var/log/wxcontroller.log").read_text()
    assert "Invalid request" in log and "call refused" in log
    told = {"answers": "".join(answers).encode(), "reports": str(receiver.posts).encode(), **everything(wx.folder)}
    assert any("wxclient-a.log" in where for where in told)
    for where, content in told.items():
        for secret in (token, revoked):
            assert secret.encode() not in content, where
            assert secret.removeprefix("wxsup_")[:20].encode() not in content, where
    assert "/openwx/" not in log, "no address is logged at all"
