"""The receiver in docs/howto/receive.md, run as it stands there, against a signed report and its answer."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.installation import Installation
from tests.ports import free_port

PAGE = Path(__file__).parent.parent.parent / "docs/howto/receive.md"


@contextmanager
def running(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the receiver of the page on another port."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert program.count("3001") == 1
    (folder / "receiver.py").write_text(program.replace("3001", str(port)))
    with open(folder / "receiver.log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-u", "receiver.py"], cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def test_a_message_is_answered_by_the_receiver_of_the_page() -> None:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as name:
        folder = Path(name)
        secret = folder / "post.secret"
        secret.write_text("a secret of some length\n")
        post_api = f"http://127.0.0.1:{port}/"
        with Installation(folder, post_api=post_api, post_secret_path=secret) as wx, running(folder, port):
            wx.json("start_client", client="alice")
            wx.log_in("alice", "alice")
            wx.phone("say", user="alice", text="hello")

            def answers() -> list[str]:
                chat = wx.look("chat", user="alice")["messages"]
                return [message["text"] for message in chat if message["direction"] == "to_user"]

            assert eventually(answers, what="an answer") == ["you said: hello"]
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(post_api, b'{"event_id":"x"}', timeout=10)
            record = (folder / "var/clients/wxclient-alice.env").read_text()
            section = (folder / "var/conf.d/wxclient-alice.conf").read_text()
            assert "a secret of some length" not in record + section
