"""The controller as an HTTP intermediary, over raw sockets, with gunicorn in front and real clients behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.deadline import eventually
from tests.installation import Installation, connected
from tests.unit.upstream import Connection, Upstream

HELD = 200

Behind = Callable[[Callable[[Connection], None]], Upstream]


@pytest.fixture(scope="module")
def wx() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as found:
        found.json("start_client", client="a")
        found.log_in("a", "anna")
        found.json("start_client", client="微信")
        found.until("微信", "scaning")
        yield found


@pytest.fixture
def behind(wx: Installation) -> Iterator[Behind]:
    """A client `probe` whose process was stopped by an operator, and in whose place a test may listen."""
    port = wx.json("start_client", client="probe")["port"]
    wx.supervisorctl("stop", "wxclient-probe")
    secret = (wx.folder / "var/clients/wxclient-probe.secret").read_text()
    yield lambda handler: Upstream(handler, port=port, secret=secret)
    wx.json("stop_client", client="probe")


def raw(wx: Installation, request: bytes, *, timeout: float = 30) -> bytes:
    """Send bytes and return everything that comes back until the server closes or has answered."""
    with socket.create_connection(("127.0.0.1", wx.port), timeout) as connection:
        connection.sendall(request)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
        return received


def answers(received: bytes) -> list[int]:
    """Return the status of every response in what came back."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


HOST = b"Host: 127.0.0.1\r\nConnection: close\r\n"
GET = b"GET /openwx/get_client_info?client=a HTTP/1.1\r\n"
POST = b"POST /openwx/get_client_info?client=a HTTP/1.1\r\n"
HIDDEN = b"GET /openwx/stop_client?client=a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

AMBIGUOUS = {
    "two Content-Lengths": POST + HOST + b"Content-Length: 3\r\nContent-Length: 77\r\n\r\nabc" + HIDDEN,
    "Content-Length and Transfer-Encoding": POST + HOST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n" + HIDDEN,
    "an unknown transfer coding": POST + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a blank before the colon": POST + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a chunk size that is none": POST + HOST + CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "a negative chunk size": POST + HOST + CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "a chunk size in a form that is none": b"POST /openwx/start_client HTTP/1.1\r\n"
    + HOST
    + b"Content-Type: application/x-www-form-urlencoded\r\n"
    + CHUNKED
    + b"zz\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": POST + HOST + CHUNKED + b"1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "a negative length": POST + HOST + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a length that is no number": POST + HOST + b"Content-Length: 1e1\r\n\r\n0123456789",
    "NUL in a header": GET + HOST + b"X-A: a\0b\r\n\r\n",
    "CR in a header": GET + HOST + b"X-A: a\rX-B: b\r\n\r\n",
    "a blank in a name": GET + HOST + b"X A: b\r\n\r\n",
    "a folded header": GET + HOST + b" folded\r\n\r\n",
    "NUL in the target": b"GET /openwx/get_client_info?client=a\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a blank in the target": b"GET /openwx/get_client_info?client=a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "two hosts": GET + b"Host: 127.0.0.1\r\nHost: evil\r\nConnection: close\r\n\r\n",
    "no host": GET + b"Connection: close\r\n\r\n",
}


@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_two_parsers_could_read_differently_is_refused(wx: Installation, request_: bytes) -> None:
    received = raw(wx, request_)
    assert all(status in (400, 403, 411, 413, 501) for status in answers(received)), received
    assert len(answers(received)) <= 1
    assert wx.state("a")["state"] == "running", "a hidden request was carried out"


@pytest.mark.parametrize("call", ["start_client", "stop_client", "check_client", "get_qrcode", "get_client_info"])
def test_a_duplicate_client_is_a_400_everywhere(wx: Installation, call: str) -> None:
    received = raw(wx, f"GET /openwx/{call}?client=a&client=b HTTP/1.1\r\n".encode() + HOST + b"\r\n")
    assert answers(received) == [400]
    assert b'"code":8' in received


def test_unencoded_chinese_in_the_address_means_what_it_says(wx: Installation) -> None:
    wx.phone("say", user="anna", text="hi")
    for target, name in (
        ("/openwx/get_client_info?client=微信", "微信"),
        ("/openwx/get_client_info?client=a&x=微", "a"),
    ):
        received = raw(wx, f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
        assert json.loads(received.partition(b"\r\n\r\n")[2])["account"] == name
    eventually(lambda: wx.json("get_friend_info", client="a")[0]["can_send"])
    target = "/openwx/send_friend_message?client=a&id=filehelper&content=你好"
    received = raw(wx, f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
    assert answers(received) == [200]
    assert wx.look("chat", user="anna")["messages"][-1]["text"] == "你好"


def test_a_long_chinese_message_fits_into_an_address(wx: Installation) -> None:
    text = "汉" * 2000
    wx.phone("say", user="anna", text="tell me all")
    eventually(lambda: wx.json("get_friend_info", client="a")[0]["sends_left"] == 10)
    assert wx.json("send_friend_message", client="a", id="filehelper", content=text)["code"] == 0
    assert wx.look("chat", user="anna")["messages"][-1]["text"] == text


def test_an_endless_address_is_refused_and_keeps_nobody_else_waiting(wx: Installation) -> None:
    with socket.create_connection(("127.0.0.1", wx.port), 30) as caller:
        caller.sendall(b"GET /" + b"a" * 70_000)
        assert answers(caller.recv(65536)) == [414]
    assert wx.json("check_client", client="a")["code"] == 0


def test_a_challenge_of_a_caller_is_not_answered(wx: Installation) -> None:
    response = requests.options(f"{wx.url}/openwx/x?client=a", headers={"X-Wxsup-Challenge": "abc"}, timeout=30)
    assert (response.status_code, response.json()["code"]) == (403, -1)


def test_a_form_sent_in_chunks_is_read(wx: Installation) -> None:
    reply = requests.post(
        f"{wx.url}/openwx/start_client",
        data=iter([b"client=", b"chunked"]),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=30,
    ).json()
    assert (reply["code"], reply["client"]) == (0, "chunked")
    assert wx.json("stop_client", client="chunked")["code"] == 0


def test_a_form_sent_in_chunks_reaches_a_client(wx: Installation) -> None:
    reply = requests.post(
        f"{wx.url}/openwx/search_friend?client=a",
        data=iter([b"name=", b"owner"]),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=30,
    ).json()
    assert [friend["name"] for friend in reply] == ["owner"]


def test_head_has_the_headers_of_get_and_no_body(wx: Installation) -> None:
    received = raw(wx, b"HEAD /openwx/check_client?client=a HTTP/1.1\r\n" + HOST + b"\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    assert answers(received) == [200]
    assert b"content-length" in head.lower()
    assert body == b""


def test_a_body_that_asks_first_is_asked_for(behind: Behind, wx: Installation) -> None:

    def echo(connection: Connection) -> None:
        request = connection.request()
        assert request
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body)

    with behind(echo), socket.create_connection(("127.0.0.1", wx.port), 30) as caller:
        caller.sendall(
            b"POST /openwx/upload_media?client=probe HTTP/1.1\r\n"
            + HOST
            + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert caller.recv(100).startswith(b"HTTP/1.1 100 ")
        caller.sendall(b"body")
        received = b""
        while chunk := caller.recv(65536):
            received += chunk
    assert received.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_passes_both_ways_in_bounded_memory(behind: Behind, wx: Installation, chunked: bool) -> None:
    size = 64 * 1024 * 1024
    block = bytes(range(256)) * 256

    def mirror(connection: Connection) -> None:
        request = connection.request()
        assert request
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body))
        for start in range(0, len(request.body), 1 << 20):
            connection.send(request.body[start : start + (1 << 20)])

    before = memory(wx)
    with behind(mirror):
        data: Any = (block for _ in range(size // len(block))) if chunked else block * (size // len(block))
        response = requests.post(
            f"{wx.url}/openwx/upload_media", params={"client": "probe"}, data=data, stream=True, timeout=60
        )
        total = sum(len(chunk) for chunk in response.iter_content(65536))
    assert total == size
    assert memory(wx) - before < size / 4


def memory(wx: Installation) -> int:
    """Return the peak memory of the largest worker in bytes (proc(5), VmHWM)."""
    peaks = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (folder / "status").read_text()
            if (folder / "cmdline").read_bytes().startswith(b"wxcontroller"):
                peaks.append(int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024)
    return max(peaks)


def test_a_client_that_refuses_a_body_early_is_heard(behind: Behind, wx: Installation) -> None:

    def refuse(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    with behind(refuse):
        response = requests.post(
            f"{wx.url}/openwx/upload_media", params={"client": "probe"}, data=b"x" * (8 * 1024 * 1024), timeout=30
        )
    assert (response.status_code, response.content) == (413, b"no")


@pytest.mark.parametrize("reset", [False, True])
def test_a_caller_that_hangs_up_releases_the_client(behind: Behind, wx: Installation, reset: bool) -> None:
    began, ended = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        connection.request()
        began.set()
        with contextlib.suppress(ConnectionResetError):
            assert connection.channel.recv(1) == b""
        ended.set()

    with behind(hold):
        caller = socket.create_connection(("127.0.0.1", wx.port), 30)
        caller.sendall(b"GET /openwx/check_event?client=probe HTTP/1.1\r\n" + HOST + b"\r\n")
        assert began.wait(30)
        if reset:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        caller.close()
        assert ended.wait(30), "the client was left waiting"


def hold(wx: Installation, count: int) -> list[socket.socket]:
    """Open so many polls of the client `a` and wait until all of them are held there."""
    callers = []
    for _ in range(count):
        callers.append(socket.create_connection(("127.0.0.1", wx.port), 30))
        callers[-1].sendall(b"GET /openwx/check_event?client=a HTTP/1.1\r\n" + HOST + b"\r\n")
    port = wx.state("a")["port"]
    eventually(lambda: connected(port) >= count, what="all polls held")
    return callers


def test_a_message_that_comes_after_callers_hung_up_is_there_for_the_next(wx: Installation) -> None:
    drain(wx)
    for caller in hold(wx, 50):
        caller.close()
    port = wx.state("a")["port"]
    eventually(lambda: connected(port) < 25, what="their end at the client, but for idle connections")
    wx.phone("say", user="anna", text="after you left")
    eventually(lambda: "after you left" in [event.get("content") for event in wx.json("check_event", client="a")])


def drain(wx: Installation) -> None:
    """Take every event there is, so that the next check_event is held."""
    wx.phone("say", user="anna", text="the last")
    eventually(lambda: "the last" in [event.get("content") for event in wx.json("check_event", client="a")])


def test_other_calls_go_on_while_many_polls_are_held(wx: Installation) -> None:
    drain(wx)
    held = hold(wx, HELD)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", wx.port, timeout=10)
        for call in ("get_client_info", "check_client", "get_friend_info") * 5:
            connection.request("GET", f"/openwx/{call}?client=a")
            assert connection.getresponse().read()
        connection.close()
        assert connected(wx.state("a")["port"]) >= HELD
    finally:
        for caller in held:
            caller.close()
