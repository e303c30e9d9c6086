"""Nobody is let in and nothing is talked into harm: hostile names, hostile parameters, calls past the controller."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.deadline import eventually
from tests.installation import Installation, alive, title
from tests.unit.upstream import Upstream, reply, replying
from wxsup import names, options, record
from wxsup.names import SECRET_HEADER

WORKING = {
    "chinese": "微信一号",
    "spaces": " my  client ",
    "percent": "100%(here)s %n",
    "semicolon": "a;b ; c # d",
    "quotes": """it's "quoted" `now`""",
    "dots": "..",
    "path": "../../../../tmp/wxsup-escaped",
    "absolute": "/tmp/wxsup-escaped",
    "option": "-rf",
    "template": "{{7*7}}{% raw %}",
    "variable": "${HOME}$(id)\\n",
    "64 bytes": "x" * 64,
    "emoji": "👨‍👩‍👧",
    "looks like a slug": ".2e.2e",
    "reserved": "controller",
}
REFUSED = {
    "65 bytes": "x" * 65,
    "66 bytes of Chinese": "微" * 22,
    "newline": "a\nb",
    "carriage return": "a\rb",
    "NUL": "a\0b",
    "escape": "a\x1b[31m",
    "delete": "a\x7f",
    "C1 control": "a\x85b",
    "line separator": "a\u2028b",
}


@pytest.fixture(scope="module")
def wx() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as found:
        yield found


def outside() -> set[str]:
    """Return what lies in the folders that a path out of ours would most likely end in."""
    return {
        str(path)
        for folder in ("/", "/tmp", "/etc", os.path.expanduser("~"))
        for path in Path(folder).iterdir()
        if not path.name.startswith((".", "wx", "pytest", "tmp", "org.chromium", "bash_jobs", "hsperf"))
        or "escaped" in path.name
    }


@pytest.mark.parametrize("name", WORKING.values(), ids=WORKING)
def test_a_strange_name_works_end_to_end_and_touches_nothing_outside(wx: Installation, name: str) -> None:
    before = outside()
    started = wx.json("start_client", client=name)
    assert (started["code"], started["client"]) == (0, name)
    state = wx.until(name, "scaning")
    assert state["account"] == name
    assert title(started["pid"]) == f"wxclient({name})"
    assert wx.call("get_qrcode", {"client": name}).content.startswith(b"\x89PNG")
    assert wx.json("get_client_info", client=name)["account"] == name
    for kind in ("state_path", "qrcode_path", "cookie_path", "pid_path"):
        assert Path(state[kind]).resolve().is_relative_to((wx.folder / "var").resolve())
    assert wx.json("stop_client", client=name)["code"] == 0
    assert not alive(started["pid"])
    assert outside() == before


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("call", ["start_client", "stop_client", "check_client", "get_qrcode", "get_user_info"])
def test_a_name_that_cannot_be_is_refused_everywhere(wx: Installation, name: str, call: str) -> None:
    response = wx.call(call, {"client": name})
    assert (response.status_code, response.json()["code"]) == (400, 8)


def test_a_name_that_is_no_utf_8_is_refused(wx: Installation) -> None:
    response = requests.get(f"{wx.url}/openwx/start_client?client=%ff%fe", timeout=30)
    assert (response.status_code, response.json()["code"]) == (400, 8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=40))
def test_any_text_is_a_client_or_an_error_and_never_a_500(wx: Installation, name: str) -> None:
    response = requests.get(f"{wx.url}/openwx/start_client?client={quote(name, errors='replace')}", timeout=60)
    told = response.json()
    assert (response.status_code, told["code"]) in ((200, 0), (200, 1), (400, 8))
    if told["code"] == 0:
        slug = names.slug(name)
        kept = record.loads((wx.folder / "var/clients" / f"{names.program(slug)}.env").read_text())
        assert (kept.name, kept.slug, kept.port) == (name, slug, told["port"])
        assert wx.state(name)["account"] == name
        assert wx.json("stop_client", client=name)["code"] == 0
    assert wx.json("check_client") == {"code": 0, "client": []}


PARAMETER = st.sampled_from([item.name for item in fields(options.Options)] + list(options.WITHOUT_EFFECT)) | st.text(
    min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parameters=st.dictionaries(PARAMETER, st.text(max_size=20) | st.integers().map(str), max_size=3))
def test_any_parameters_start_a_client_or_are_refused_and_never_a_500(
    wx: Installation, parameters: dict[str, str]
) -> None:
    query = urlencode({"client": "fuzz", **parameters}, errors="replace")
    response = requests.get(f"{wx.url}/openwx/start_client?{query}", timeout=60)
    assert (response.status_code, response.json()["code"]) in ((200, 0), (400, 6), (400, 8))
    if response.json()["code"] == 0:
        kept = record.loads((wx.folder / "var/clients/wxclient-fuzz.env").read_text())
        assert dict(kept.params) == dict(parse_qsl(query, keep_blank_values=True)[1:])
        assert wx.json("stop_client", client="fuzz")["code"] == 0
    assert wx.json("check_client") == {"code": 0, "client": []}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), keep=st.integers(0, 40), middle=st.booleans())
def test_any_record_is_shown_or_reported_and_spoils_no_other(
    wx: Installation, content: bytes, keep: int, middle: bool
) -> None:
    """A record cut off, or overwritten in the middle, as a broken disk or editor leaves it."""
    wx.json("start_client", client="healthy")
    lines = (wx.folder / "var/clients/wxclient-healthy.env").read_bytes().splitlines(keepends=True)
    path = wx.folder / "var/clients/wxclient-fuzz.env"
    path.write_bytes(b"".join(lines[:keep]) + content + (b"".join(lines[keep + 1 :]) if middle else b""))
    try:
        entries = {entry["account"]: entry for entry in wx.json("check_client")["client"]}
        assert set(entries) == {"healthy", "fuzz"}
        assert entries["healthy"]["process"] in ("starting", "running")
        assert entries["fuzz"]["state"] == "unknown"
        assert str(path) in entries["fuzz"]["error"]
        for call in ("start_client", "stop_client", "get_user_info", "get_qrcode"):
            response = wx.call(call, {"client": "fuzz"})
            assert (response.status_code, response.json()["code"]) == (200, 3)
        assert path.exists()
    finally:
        path.unlink()


# openwx-api.md 15: each hole that the controller can close.
HOLES = {
    "1 a method as a parameter": {"load": "UploadQRcode"},
    "1 another": {"stop": "1"},
    "2 tmpdir": {"tmpdir": "/tmp"},
    "2 state_path": {"state_path": "/etc/passwd"},
    "2 qrcode_path": {"qrcode_path": "/etc/passwd"},
    "2 pid_path": {"pid_path": "/etc/passwd"},
    "2 cookie_path": {"cookie_path": "/etc/passwd"},
    "2 media_dir": {"media_dir": "/"},
    "2 log_path": {"log_path": "/etc/passwd"},
    "9 post_api": {"post_api": "http://evil.example/"},
    "9 poll_api": {"poll_api": "http://evil.example/"},
    "9 by the option's own name": {"plugin_openwx_post_api": "http://evil.example/"},
    "14 code": {"code": "0"},
    "14 status": {"status": "success"},
    "14 pid": {"pid": "1"},
    "14 port": {"port": "22"},
    "a host": {"ilink_base": "http://evil.example"},
    "hosts": {"ilink_allow_hosts": "evil.example"},
    "the owner": {"ilink_owner": "any"},
    "a command": {"command": "id"},
    "the record's own header": {"WXCLIENT_WANT": "gone"},
    "the environment": {"LD_PRELOAD": "/tmp/x.so"},
    "a bad value": {"log_level": "debug\nMOJO_WEIXIN_X=1"},
    "a driver that is not there": {"driver": "../../x"},
}


@pytest.mark.parametrize("parameters", HOLES.values(), ids=HOLES)
def test_a_parameter_that_is_not_for_callers_is_refused_and_nothing_starts(
    wx: Installation, parameters: dict[str, str]
) -> None:
    response = wx.call("start_client", {"client": "hole", **parameters})
    (name,) = parameters
    assert (response.status_code, response.json()["code"]) == (400, 6)
    assert response.json()["status"] == f"parameter not allowed: {name}"
    assert wx.json("check_client", client="hole")["code"] == 1


def test_no_jsonp_and_no_cors(wx: Installation) -> None:
    response = wx.call("check_client", {"datatype": "jsonp", "callback": "alert"})
    assert response.json()["code"] == 0
    assert "Access-Control-Allow-Origin" not in response.headers


def test_another_local_user_cannot_go_around_the_controller(wx: Installation) -> None:
    port = wx.json("start_client", client="hop")["port"]
    wx.log_in("hop", "hope")
    direct = f"http://127.0.0.1:{port}/openwx"
    for header in ({}, {SECRET_HEADER: ""}, {SECRET_HEADER: "0" * 64}, {SECRET_HEADER: "é"}):
        for call in ("get_user_info", "check_event", "stop_client", "get_client_info", "nonsense"):
            response = requests.get(f"{direct}/{call}?client=hop", headers=header, timeout=30)
            assert (response.status_code, response.json()) == (401, {"code": -6, "status": "auth failure"})
    # What a caller says itself is replaced by the controller.
    response = requests.get(f"{wx.url}/openwx/get_user_info?client=hop", headers={SECRET_HEADER: "forged"}, timeout=30)
    assert response.json()["name"] == "hop"
    secret = (wx.folder / "var/clients/wxclient-hop.secret").read_text()
    response = requests.get(f"{direct}/get_user_info?client=other", headers={SECRET_HEADER: secret}, timeout=30)
    assert (response.status_code, response.json()["code"]) == (502, 9)
    assert wx.state("hop")["state"] == "running"
    wx.json("stop_client", client="hop")
    assert not list((wx.folder / "var/clients").glob("*hop*"))


def test_who_takes_the_port_of_a_client_that_is_down_learns_nothing(wx: Installation) -> None:
    port = wx.json("start_client", client="down")["port"]
    wx.supervisorctl("stop", "wxclient-down")
    secret = (wx.folder / "var/clients/wxclient-down.secret").read_text()
    with Upstream(replying(reply(b'{"code":0,"proof":"0"}')), port=port) as impostor:
        response = wx.call("send_friend_message", {"client": "down", "id": "x", "content": "in confidence"})
    assert (response.status_code, response.json()["code"]) == (502, 9)
    assert "another program listens" in response.json()["reason"]
    heard = repr(impostor.requests)
    assert "OPTIONS *" in heard
    assert "in confidence" not in heard
    assert secret not in heard
    wx.json("stop_client", client="down")


def test_a_foreign_program_on_a_port_is_passed_over(wx: Installation) -> None:
    first = wx.json("start_client", client="first")["port"]
    wx.json("stop_client", client="first")
    with socket.create_server(("127.0.0.1", first)):
        assert wx.json("start_client", client="second")["port"] == first + 1
    wx.json("stop_client", client="second")


def test_no_secret_is_anywhere_but_in_its_file(wx: Installation) -> None:
    wx.json("start_client", client="silent", log_level="debug")
    wx.until("silent", "scaning")
    key = wx.look("codes")["codes"][-1]["key"]
    state = wx.log_in("silent", "sil")
    wx.phone("say", user="sil", text="hello")
    eventually(lambda: wx.json("get_friend_info", client="silent")[0]["can_send"])
    assert wx.json("send_friend_message", client="silent", id="filehelper", content="x")["code"] == 0
    session = Path(state["cookie_path"]).read_text()
    secrets = {
        "hop": (wx.folder / "var/clients/wxclient-silent.secret").read_text(),
        "login code": key,
        "token": session.partition('"token": "')[2].partition('"')[0],
    }
    assert all(len(secret) > 20 for secret in secrets.values())
    told = {
        "check_client": wx.call("check_client").text,
        "get_client_info": wx.call("get_client_info", {"client": "silent"}).text,
        "get_friend_info": wx.call("get_friend_info", {"client": "silent"}).text,
        "ps": "".join(
            (folder / "cmdline").read_bytes().decode(errors="replace") for folder in Path("/proc").glob("[0-9]*")
            if (folder / "cmdline").exists()
        ),
    }  # fmt: skip
    files = {
        str(path): path.read_text(errors="replace")
        for pattern in ("log/*", "conf.d/*", "run/**/*.json", "clients/*.env", "supervisord.conf")
        for path in (wx.folder / "var").glob(pattern)
    }
    assert any("wxclient-silent.log" in path for path in files)
    for kind, secret in secrets.items():
        for where, text in {**told, **files}.items():
            assert secret not in text, f"the secret of the {kind} is in {where}"
    wx.json("stop_client", client="silent")
