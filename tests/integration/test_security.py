"""Every hole of the original (openwx-api.md 15), tried on a running installation in each role and without a token."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deadline import eventually
from tests.installation import Installation

ROLES = ("admin", "operator", "app")
MANAGED = ("start_client", "stop_client", "restart_client", "remove_client", "check_client", "get_qrcode")

PARAMETER, NAME = (400, 6), (400, 8)
UNKNOWN, NOT_FOUND, UNSUPPORTED, REJECTED, DONE = (200, 1), (200, 100), (200, -20), (200, -24), (200, 0)

Hole = tuple[str, dict[str, str], tuple[int, int]]


def start(**params: str) -> Hole:
    """A start with parameters that are not for callers."""
    return "start_client", {"client": "hole", **params}, PARAMETER


def to_victim(call: str, outcome: tuple[int, int], **params: str) -> Hole:
    return call, {"client": "victim", **params}, outcome


# What a caller tries, and what those are answered whose role has the call.
HOLES: dict[str, Hole] = {
    "1 a method that loads code": start(load="UploadQRcode"),
    "1 a method that ends the client": start(stop="1"),
    "1 a method that calls an address": start(http_get="http://127.0.0.1/"),
    "2 tmpdir": start(tmpdir="/tmp"),
    "2 state_path": start(state_path="/etc/passwd"),
    "2 qrcode_path": start(qrcode_path="/etc/passwd"),
    "2 pid_path": start(pid_path="/etc/passwd"),
    "2 cookie_path": start(cookie_path="/etc/passwd"),
    "2 media_dir": start(media_dir="/"),
    "3 a name that breaks a line": ("start_client", {"client": "a\nb"}, NAME),
    "3 a name with an end": ("start_client", {"client": "a\0b"}, NAME),
    "3 a name that leads out": ("check_client", {"client": "../../../etc/passwd"}, UNKNOWN),
    "3 a picture that leads out": ("get_qrcode", {"client": "../../../etc/passwd"}, UNKNOWN),
    "4 a file of the server": to_victim("send_friend_message", REJECTED, id="filehelper", media_path="/etc/passwd"),
    "4 the session": to_victim(
        "send_friend_message", REJECTED, id="filehelper", media_path="../mojo_weixin_cookie_victim.dat"
    ),
    "4 an address of the server's network": to_victim(
        "send_friend_message", REJECTED, id="filehelper", media_path="http://169.254.169.254/"
    ),
    "4 the controller itself": to_victim(
        "send_friend_message", REJECTED, id="filehelper", media_path="http://localhost:2000/openwx/check_client"
    ),
    "4 upload_media": to_victim("upload_media", REJECTED, media_path="/etc/passwd"),
    "4 consult": to_victim("consult", REJECTED, id="filehelper", media_path="/etc/passwd"),
    "4 a file that is given out": to_victim("get_media", NOT_FOUND, media_id="ilink-../../../../etc/passwd"),
    "5 the picture of a name that leads out": to_victim("get_avatar", NOT_FOUND, id="../../../etc/passwd"),
    "6 another site's script": ("check_client", {"datatype": "jsonp", "callback": "alert"}, DONE),
    "7 a method that sends": to_victim("search_friend", NOT_FOUND, send="1"),
    "7 a method that sticks": to_victim("search_friend", NOT_FOUND, stick="1"),
    "7 a method that renames": to_victim("search_friend", NOT_FOUND, set_markname="x"),
    "7 something inside": to_victim("search_friend", NOT_FOUND, __class__="x"),
    "8 a call that ends the client": to_victim("set_group_displayname", UNSUPPORTED, group_id="1"),
    "9 post_api": start(post_api="http://evil.example/"),
    "9 poll_api": start(poll_api="http://evil.example/"),
    "9 by the option's own name": start(plugin_openwx_post_api="http://evil.example/"),
    "10 a template": start(template_path="/tmp/mojo_weixin_controller_template.pl"),
    "10 a program": start(driver="command", command="id"),
    "10 a record": start(backend_path="/tmp"),
    "11 a picture host": start(qrcode_upload_url="http://evil.example/"),
    "11 another WeChat": start(ilink_base="http://evil.example/"),
    "12 a text in an address": to_victim("search_friend", NOT_FOUND, name="x&client=other#/../<xml>"),
    "13 a log elsewhere": start(log_path="/tmp/log"),
    "13 a restart with a log elsewhere": (
        "restart_client",
        {"client": "victim", "replace": "1", "log_path": "/tmp/log"},
        PARAMETER,
    ),
    "14 code": start(code="0"),
    "14 status": start(status="success"),
    "14 pid": start(pid="1"),
    "14 port": start(port="22"),
}


@dataclass(frozen=True)
class Site:
    """An installation with a client `victim`, and tokens by role."""

    wx: Installation
    tokens: dict[str, str]
    pid: int

    def state(self) -> list[Any]:
        """Return what must not change: which clients there are, and what the victim's friend was sent."""
        self.wx.token = self.tokens["admin"]
        clients = [(entry["account"], entry["pid"], entry["state"]) for entry in self.wx.json("check_client")["client"]]
        return [*clients, *self.wx.look("chat", user="vic")["messages"]]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as wx:
        tokens = {role: wx.wxsup("token", "add", role, "--role", role).strip() for role in ROLES}
        wx.token = tokens["admin"]
        pid = wx.json("start_client", client="victim")["pid"]
        wx.log_in("victim", "vic")
        wx.phone("say", user="vic", text="hello")
        eventually(lambda: wx.json("get_friend_info", client="victim")[0]["can_send"])
        yield Site(wx, {**tokens, "": ""}, pid)


@pytest.mark.parametrize("role", [*ROLES, ""], ids=lambda role: role or "no token")
@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
def test_a_hole_is_closed_to_everybody(site: Site, role: str, hole: Hole) -> None:
    before = site.state()
    call, params, outcome = hole
    site.wx.token = site.tokens[role]
    response = site.wx.call(call, params)
    told = response.status_code, response.json()["code"] if isinstance(response.json(), dict) else 0
    if not role:
        assert told in ((401, -6), (429, -6))
    elif role == {True: "app", False: "operator"}[call in MANAGED]:
        assert told == (403, -6)
    else:
        assert told == outcome
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["Content-Type"] == "application/json"
    assert "root:" not in response.text
    assert site.state() == before


def test_every_hole_is_tried() -> None:
    assert {int(name.split()[0]) for name in HOLES} == set(range(1, 15))


HOSTILE = """</appmsg>&<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>&e;"'%0d%0a{{7*7}}${HOME}`id`"""


def test_a_text_arrives_as_it_is(site: Site) -> None:
    site.wx.token = site.tokens["app"]
    told = site.wx.json("send_friend_message", client="victim", id="filehelper", content=HOSTILE)
    assert told["code"] == 0
    assert site.wx.look("chat", user="vic")["messages"][-1]["text"] == HOSTILE


def test_no_name_of_a_received_file_leads_out_of_the_media_folder(site: Site) -> None:
    site.wx.token = site.tokens["app"]
    seen = site.wx.json("check_event", client="victim", after="")[-1]["event_id"]
    file = {"kind": "file", "name": "../../../../tmp/out", "data": "aGVsbG8="}
    site.wx.phone("say", user="vic", media=file)
    (report,) = site.wx.json("check_event", client="victim", after=seen)
    path = Path(report["media_path"])
    assert (report["media_name"], path.parent) == ("out", site.wx.folder / "var/session/victim/media")
    assert path.read_bytes() == b"hello"
    site.wx.phone("say", user="vic", text="hello")  # the quota of the other tests
