"""The bot in the README, run as it stands there, through restarts of itself, of the client and of the controller."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.installation import Installation

ROOT = Path(__file__).parent.parent.parent
MOST_LINES = 15


def bot(readme: str = "README.md") -> str:
    """Return the program in a README."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL)
    return str(program)


@contextmanager
def running(wx: Installation, token: str) -> Iterator[None]:
    """Run the bot at the address of this installation, and kill it in the end."""
    program = bot().replace(
        "Controller()", f'Controller("{wx.url}", token="{token}")' if token else f'Controller("{wx.url}")'
    )
    (wx.folder / "echo.py").write_text(program)
    with open(wx.folder / "echo.log", "ab") as log:
        process = subprocess.Popen([sys.executable, "-W", "error", "echo.py"], cwd=wx.folder, stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (wx.folder / "echo.log").read_text()
    finally:
        process.kill()
        process.wait(20)


def test_it_is_short_and_the_same_in_both_languages() -> None:
    assert bot() == bot("README.zh-CN.md")
    assert len(bot().splitlines()) <= MOST_LINES
    assert bot().count("Controller()") == 1


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "with a token"])
def test_every_message_is_answered_once_whatever_restarts(guarded: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as name, Installation(Path(name)) as wx:
        token = ""
        if guarded:
            wx.token = wx.wxsup("token", "add", "me", "--role", "admin").strip()
            token = wx.wxsup("token", "add", "bot", "--role", "app", "--client", "demo").strip()
        wx.json("start_client", client="demo")
        wx.log_in("demo", "me")

        def answers() -> list[str]:
            chat = wx.look("chat", user="me")["messages"]
            return [message["text"] for message in chat if message["direction"] == "to_user"]

        said: list[str] = []

        def say(text: str) -> None:
            wx.phone("say", user="me", text=text)
            said.append(f"you said: {text}")

        def answered() -> None:
            eventually(lambda: len(answers()) >= len(said), what="an answer")
            assert answers() == said

        with running(wx, token):
            say("hello")
            answered()
            wx.supervisorctl("restart", "wxcontroller")
            say("the controller was away")
            answered()
            os.kill(wx.state("demo")["pid"], signal.SIGKILL)
            say("the client was away")
            answered()
            last = wx.json("check_event", client="demo", after="")[-1]["event_id"]
            eventually(lambda: (wx.folder / "echo.seen").read_text() == last, what="all of it seen")
        say("you were away")
        with running(wx, token):
            answered()
