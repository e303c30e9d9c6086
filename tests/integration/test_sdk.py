"""The Python client against a running installation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import eventually
from tests.installation import Installation
from wxsup.errors import (
    ApiNotFound,
    ClientUnknown,
    Forbidden,
    NameInvalid,
    NotLoggedIn,
    ObjectNotFound,
    ParameterRefused,
    Unauthorized,
    WxsupError,
)
from wxsup.sdk import Controller, verify_webhook

SECRET = "a secret of some length"


@pytest.fixture(scope="module")
def posts() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A receiver: its address, and the headers and bodies that it was sent."""
    found: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the terminal quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", found
        server.shutdown()


@pytest.fixture(scope="module")
def wx(tmp_path_factory: pytest.TempPathFactory, posts: Any) -> Iterator[Installation]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder:
        (Path(folder) / "post.secret").write_text(SECRET + "\n")
        with Installation(Path(folder), post_api=posts[0], post_secret_path=f"{folder}/post.secret") as found:
            yield found


def test_a_client_from_its_start_to_its_stop(wx: Installation, posts: Any) -> None:
    with Controller(wx.url) as sdk:
        entry = sdk.start("微 1", log_level="debug", keep_cookie=True)
        assert (entry["client"], entry["log_level"], entry["keep_cookie"]) == ("微 1", "debug", "1")
        picture = eventually(lambda: sdk.qrcode("微 1"), what="a login code")
        with pytest.raises(NotLoggedIn) as refused:
            sdk.send("微 1", "x", id="filehelper")
        assert refused.value.fields["state"] in ("scaning", "confirming")
        assert picture
        key = wx.code_on(picture)
        wx.phone("scan", key=key, user="wei")
        wx.phone("confirm", key=key)
        eventually(lambda: sdk.check("微 1")[0]["state"] == "running", what="the login")
        assert [entry["account"] for entry in sdk.check()] == ["微 1"]
        assert sdk.qrcode("微 1") is None
        wx.phone("say", user="wei", text="你好")
        event = next(event for event in sdk.events("微 1") if event["post_type"] == "receive_message")
        assert event["content"] == "你好"
        assert sdk.send("微 1", "right & wrong", id=event["sender_id"])["status"] == "success"
        promised = sdk.send("微 1", "later", id=event["sender_id"], wait=False)
        sent = next(
            report for report in sdk.events("微 1", event["event_id"]) if report.get("uid") == promised["client_id"]
        )
        assert (sent["post_type"], sent["code"]) == ("send_message", "")
        assert [message["text"] for message in wx.look("chat", user="wei")["messages"]][-2:] == [
            "right & wrong",
            "later",
        ]
        assert sdk.call("微 1", "search_friend", name="owner")[0]["id"] == event["sender_id"]
        headers, body = eventually(lambda: posts[1], what="a report")[-1]
        assert verify_webhook(SECRET, headers, body)
        assert not verify_webhook(SECRET, headers, body + b" ")
        assert sdk.stop("微 1")["status"] == "success"
        assert sdk.check() == []


def test_what_is_refused_is_the_error_that_it_is(wx: Installation) -> None:
    with Controller(wx.url) as sdk:
        sdk.start("b")
        wx.log_in("b", "bo")
        calls: dict[type[WxsupError], Callable[[], object]] = {
            ClientUnknown: lambda: sdk.stop("nobody"),
            NameInvalid: lambda: sdk.start("a\nb"),
            ParameterRefused: lambda: sdk.start("x", tmpdir="/tmp"),
            ApiNotFound: lambda: sdk.call("b", "nonsense"),
            ObjectNotFound: lambda: sdk.send("b", "x", id="nobody"),
        }
        for error, call in calls.items():
            with pytest.raises(error):
                call()
        sdk.stop("b")


def test_a_token_is_shown_and_its_limits_are_errors_of_their_own(wx: Installation) -> None:
    token = wx.wxsup("token", "add", "limited", "--role", "operator", "--client", "shop-*").strip()
    with Controller(wx.url) as sdk, pytest.raises(Unauthorized, match="no token"):
        sdk.check()
    with Controller(wx.url, token) as sdk:
        assert sdk.check() == []
        with pytest.raises(Forbidden, match="not for that client"):
            sdk.check("other")
        with pytest.raises(Forbidden, match="not for that call"):
            sdk.call("shop-1", "get_friend_info")
        assert sdk.start("shop-1")["code"] == 0
        assert sdk.stop("shop-1")["code"] == 0
