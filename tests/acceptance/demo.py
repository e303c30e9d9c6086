"""The main job, unattended, on real parts in a temporary folder, with a transcript: make demo."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.deadline import eventually
from tests.installation import Installation, Receiver, alive, title

CLIENTS = {"weixin_client_01": "alice", "客服02": "bob"}


def main() -> None:
    """Do it; exit with 0 only if every step did what it should."""
    began = time.monotonic()

    def step(sentence: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        print(f"{start - began:6.2f} s  {sentence} ... ", end="", flush=True)
        found = work()
        print(f"{time.monotonic() - start:.2f} s" + (f"   {found}" if isinstance(found, str) else ""), flush=True)
        return found

    folder = Path(tempfile.mkdtemp(prefix="wxsup-demo-", dir="/tmp"))
    try:
        with Receiver() as receiver:
            wx = Installation(folder, post_api=receiver.url)
            step("wxsup up --sandbox: supervisord, controller, sandbox", wx.up)
            try:
                _job(wx, receiver, step)
            finally:
                step("Ctrl-C: everything ends", wx.down)
    finally:
        shutil.rmtree(folder)
    print(f"{time.monotonic() - began:6.2f} s  done: all of it worked")


def _job(wx: Installation, receiver: Receiver, step: Callable[[str, Callable[[], Any]], Any]) -> None:
    for client, user in CLIENTS.items():
        step(f"start_client {client}", partial(_started, wx, client))
        step(f"get_qrcode {client}; {user} scans and confirms it", partial(_running, wx, client, user))
    for client, user in CLIENTS.items():
        step(f"{user} writes; check_event and post_api have it", partial(_in, wx, receiver, client, user))
        step(f"send_friend_message as {client}; it is on {user}'s phone", partial(_out, wx, client, user))
    first, second = CLIENTS
    step(f"kill -9 {first}: back and running without a scan", partial(_killed, wx, first))
    step("supervisorctl restart wxcontroller: the clients go on", partial(_controller_restarted, wx))
    for client in (first, second):
        step(f"stop_client {client}", partial(_stopped, wx, client))


def _started(wx: Installation, client: str) -> str:
    reply = wx.json("start_client", client=client)
    assert reply["code"] == 0, reply
    eventually(lambda: title(reply["pid"]) == f"wxclient({client})", what="the process title")
    return f"pid {reply['pid']}, port {reply['port']}"


def _running(wx: Installation, client: str, user: str) -> str:
    return str(wx.log_in(client, user)["state"])


def _in(wx: Installation, receiver: Receiver, client: str, user: str) -> str:
    text = f"你好, {client}"
    wx.phone("say", user=user, text=text)
    eventually(lambda: text in _contents(wx.json("check_event", client=client)), what="check_event")
    eventually(lambda: any(text in _contents([body]) for where, body in receiver.posts), what="the post")
    path = next(where for where, body in receiver.posts if text in _contents([body]))
    assert path.startswith("/post_message?client="), path
    return f"POST {path}"


def _out(wx: Installation, client: str, user: str) -> str:
    (friend,) = wx.json("get_friend_info", client=client)
    reply = wx.json("send_friend_message", client=client, id=friend["id"], content=f"hello {user}")
    assert reply["code"] == 0, reply
    messages = wx.look("chat", user=user)["messages"]
    assert (messages[-1]["direction"], messages[-1]["text"]) == ("to_user", f"hello {user}"), messages
    return f"sends_left {reply['sends_left']}"


def _killed(wx: Installation, client: str) -> str:
    before = wx.state(client)
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: wx.state(client)["pid"] not in (None, before["pid"]), what="a new process")
    after = wx.until(client, "running")
    assert after["port"] == before["port"] and not after.get("qrcode_count"), after
    return f"pid {before['pid']} -> {after['pid']}"


def _controller_restarted(wx: Installation) -> None:
    before = {entry["account"]: entry["pid"] for entry in wx.json("check_client")["client"]}
    wx.supervisorctl("restart", "wxcontroller")
    eventually(lambda: _answers(wx), what="the controller")
    after = {entry["account"]: (entry["pid"], entry["state"]) for entry in wx.json("check_client")["client"]}
    assert after == {client: (pid, "running") for client, pid in before.items()}, (before, after)


def _stopped(wx: Installation, client: str) -> None:
    reply = wx.json("stop_client", client=client)
    assert reply["code"] == 0 and not alive(reply["pid"]), reply
    assert wx.json("check_client", client=client) == {"code": 1, "status": "client not exists"}


def _answers(wx: Installation) -> bool:
    try:
        return wx.call("check_client").ok
    except OSError:
        return False


def _contents(events: list[Any]) -> list[str]:
    return [event.get("content", "") for event in events]


if __name__ == "__main__":
    main()
