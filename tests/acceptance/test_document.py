"""Each example of the original document, run against the real thing; its requests and replies lie in tests/requests."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
import zxingcpp

from tests.deadline import eventually
from tests.installation import Installation, Receiver

REQUESTS = Path(__file__).parent.parent / "requests"


def example(name: str) -> dict[str, Any]:
    """Return an example of the document."""
    found: dict[str, Any] = json.loads((REQUESTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def ask(wx: Installation, name: str) -> requests.Response:
    """Make the request of an example, at the address of this installation."""
    method, url = example(name)["request"].split()
    parts = urlsplit(url)
    assert parts.path.startswith("/openwx/")
    return wx.call(parts.path.removeprefix("/openwx/"), dict(parse_qsl(parts.query)), method=method)


def same(told: Any, documented: Any, varies: list[str]) -> None:
    """Check that everything documented is told: with its type where the value depends on the machine, else as it is."""
    if isinstance(documented, dict):
        assert set(documented) <= set(told)
        for key, value in documented.items():
            if key in varies:
                assert type(told[key]) is type(value), key
            else:
                same(told[key], value, varies)
    elif isinstance(documented, list):
        assert len(told) == len(documented)
        for one, other in zip(told, documented, strict=True):
            same(one, other, varies)
    else:
        assert (told, type(told)) == (documented, type(documented))


def as_documented(wx: Installation, name: str) -> dict[str, Any]:
    """Make the request of an example, check the reply against the document's, and return it."""
    response = ask(wx, name)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    told: dict[str, Any] = response.json()
    same(told, example(name)["reply"], example(name)["varies"])
    return told


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture(scope="module")
def wx(receiver: Receiver) -> Iterator[Installation]:
    with (
        tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder,
        Installation(Path(folder), post_api=receiver.url) as found,
    ):
        yield found


def test_start_client_and_stop_client(wx: Installation) -> None:
    started = as_documented(wx, "start_client")
    stopped = as_documented(wx, "stop_client")
    assert stopped == started | {"account": "weixin_client_01"}


def test_start_client_with_a_log_level_that_takes_effect(wx: Installation) -> None:
    started = as_documented(wx, "start_client-log_level")
    assert started["log_level"] == "debug"
    assert wx.until("weixin_client_01", "scaning")["log_level"] == "debug"
    wx.json("stop_client", client="weixin_client_01")


def test_get_qrcode_is_a_picture_that_a_phone_can_read(wx: Installation) -> None:
    wx.json("start_client", client="123")
    wx.until("123", "scaning")
    response = ask(wx, "get_qrcode")
    assert response.status_code == 200
    for header, value in example("get_qrcode")["headers"].items():
        assert response.headers[header] == value
    code = wx.look("codes")["codes"][-1]
    assert read_qr(response.content) == code["url"]


def test_check_client_of_all_and_of_one(wx: Installation) -> None:
    wx.json("start_client", client="123")
    wx.until("123", "scaning")
    assert as_documented(wx, "check_client") == as_documented(wx, "check_client-one")
    (state,) = wx.json("check_client")["client"]
    for key, value in example("check_client")["reply"]["client"][0].items():
        if key.endswith("_path") and value:
            assert Path(state[key]).name == Path(value).name, "the document's file names"
    assert state["plugin"][0] == example("check_client")["reply"]["client"][0]["plugin"][0]
    wx.json("stop_client", client="123")


def test_calls_to_one_account_and_reports_of_each(wx: Installation, receiver: Receiver) -> None:
    owners = {"weixin_client_01": "ann", "weixin_client_02": "ben"}
    for client, owner in owners.items():
        wx.json("start_client", client=client)
        wx.log_in(client, owner)
    user = ask(wx, "get_user_info").json()
    assert user["displayname"] == "weixin_client_01"
    assert user["id"]
    for owner in owners.values():
        wx.phone("say", user=owner, text=f"from {owner}")
    for path, owner in zip(example("post_message")["posts"], owners.values(), strict=True):
        eventually(lambda path=path: receiver.messages(path), what=f"a report at {path}")  # type: ignore[misc]
        assert [body["content"] for body in receiver.messages(path)] == [f"from {owner}"]
    sent = ask(wx, "send_friend_message").json()
    assert (sent["code"], sent["status"]) == (0, "success")
    last = wx.look("chat", user="ann")["messages"][-1]
    assert (last["direction"], last["text"], last["message_id"]) == ("to_user", "hello", sent["id"])
    for client in owners:
        wx.json("stop_client", client=client)


def test_ps_shows_the_documents_titles(wx: Installation) -> None:
    wanted = example("ps")
    clients = [title.removeprefix("wxclient(").removesuffix(")") for title in wanted["titles"][1:]]
    ports = [wx.json("start_client", client=client)["port"] for client in clients]
    assert [port - ports[0] for port in ports] == [port - wanted["ports"][0] for port in wanted["ports"]]

    def titles() -> set[str]:
        shown = subprocess.run(["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True).stdout
        return set(shown.splitlines())

    eventually(lambda: set(wanted["titles"]) <= titles(), what="the titles in ps")
    for client in clients:
        wx.json("stop_client", client=client)


def test_every_example_has_a_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for path in REQUESTS.glob("*.json"):
        assert f'"{path.stem}")' in source


def read_qr(picture: bytes) -> str:
    """Return what the QR code in a PNG says, as a phone reads it."""
    import io

    from PIL import Image

    (found,) = zxingcpp.read_barcodes(Image.open(io.BytesIO(picture)))
    return str(found.text)
