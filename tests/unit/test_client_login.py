"""The login walk and its wire against servers that misbehave; tests/contract/test_driver.py tells the walk itself."""

from __future__ import annotations

import contextlib
import json
import logging
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.account import options, qr_text
from tests.deadline import eventually
from tests.unit.upstream import Connection, Request, Upstream, reply
from wxsup.client.drivers.ilink import login as module
from wxsup.client.drivers.ilink import session
from wxsup.client.drivers.ilink.halt import Halt
from wxsup.client.drivers.ilink.login import QrLogin, draw
from wxsup.client.drivers.ilink.session import Session
from wxsup.client.drivers.ilink.wire import ApiError, TokenDead, Wire
from wxsup.client.http import TransportError
from wxsup.client.pulse import Pulse
from wxsup.client.state import Login, LoginState
from wxsup.options import Options

KEY = "qrkey0123456789"
CODE = {"qrcode": KEY, "qrcode_img_content": f"https://liteapp.weixin.qq.com/q/x?qrcode={KEY}&bot_type=3"}
CONFIRMED = {
    "status": "confirmed",
    "bot_token": "b1@im.bot:t0ken",
    "ilink_bot_id": "b1@im.bot",
    "ilink_user_id": "u1@im.wechat",
    "baseurl": "http://127.0.0.1:9/",
}
OLD = Session("b0@im.bot:old", "http://127.0.0.1:9", "b0@im.bot", "u1@im.wechat")

Script = list[bytes | Callable[[], bytes]]


def answer(body: Any) -> bytes:
    return reply(json.dumps(body).encode())


@dataclass
class Walk:
    """A login under way at a server that answers from two scripts, the last answer of each again and again."""

    login: QrLogin
    wire: Wire
    state: LoginState
    options: Options
    server: Upstream
    halt: Halt
    told: list[str]
    result: Future[Session | None]

    def polls(self) -> list[Request]:
        return [request for request in self.server.requests if "get_qrcode_status" in request.line]


Begin = Callable[..., Walk]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL_PAUSE": 0.01, "DIGITS_PAUSE": 0.05, "RETRY_FIRST": 0.01, "RETRY_MOST": 0.02}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    servers: list[Upstream] = []
    walks: list[Walk] = []
    with ThreadPoolExecutor() as pool:

        def begin(
            polls: Script, codes: Script | None = None, old: Session | None = None, owner: str = "", **given: object
        ) -> Walk:
            scripts = {"get_bot_qrcode": codes or [answer(CODE)], "get_qrcode_status": polls}
            counts = dict.fromkeys(scripts, 0)

            def handle(connection: Connection) -> None:
                while request := connection.request():
                    (name,) = (name for name in scripts if name in request.line)
                    said = scripts[name][min(counts[name], len(scripts[name]) - 1)]
                    counts[name] += 1
                    content = said() if callable(said) else said
                    if not content:
                        return
                    connection.send(content)

            server = Upstream(handle)
            server.__enter__()
            servers.append(server)
            chosen = options(tmp_path, ilink_base="http://{}:{}".format(*server.address), **given)
            state, halt, told = LoginState(chosen.state_path, {}), Halt(), list[str]()
            wire = Wire(chosen)
            login = QrLogin(wire, state, chosen, halt, Pulse())
            login.shown = lambda path, picture: told.append(f"code {qr_text(picture)}")
            login.digits_wanted = lambda: told.append("digits")
            login.refused = lambda reason: told.append(f"refused: {reason}")
            owner = owner or (old.owner_hash if old else "")
            walk = Walk(login, wire, state, chosen, server, halt, told, pool.submit(login.run, old, owner))
            walks.append(walk)
            return walk

        yield begin
        for walk in walks:
            walk.halt.stop()
            walk.login.wake()
            walk.wire.close()
        for server in servers:
            server.__exit__(None, None, None)


def test_what_a_login_yields_is_taken_from_the_confirmation(begin: Begin) -> None:
    walk = begin([answer({"status": "wait"}), answer(CONFIRMED)])
    found = walk.result.result(20)
    assert found == Session("b1@im.bot:t0ken", "http://127.0.0.1:9", "b1@im.bot", "u1@im.wechat")
    assert "t0ken" not in repr(found)
    assert walk.told == [f"code {CODE['qrcode_img_content']}"]
    assert not walk.options.qrcode_path.exists()


def test_without_a_baseurl_the_configured_server_is_used(begin: Begin) -> None:
    walk = begin([answer({name: value for name, value in CONFIRMED.items() if name != "baseurl"})])
    found = walk.result.result(20)
    assert found and found.base_url == walk.options.ilink_base


def test_the_picture_is_for_us_and_our_group(begin: Begin) -> None:
    walk = begin([answer({"status": "wait"})])
    eventually(walk.polls)
    assert stat.S_IMODE(walk.options.qrcode_path.stat().st_mode) == 0o640
    walk.halt.stop()
    assert walk.result.result(20) is None
    assert not walk.options.qrcode_path.exists()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ({"ilink_bot_id": ""}, "the confirmation is incomplete"),
        ({"bot_token": None}, "the confirmation is incomplete"),
        ({"ilink_user_id": ""}, "the confirmation is incomplete"),
        ({"baseurl": "http://evil.example/"}, "names a server that ilink_allow_hosts does not allow"),
        ({"baseurl": "http://127.0.0.1:port/"}, "names a server that ilink_allow_hosts does not allow"),
        ({"baseurl": "ftp://127.0.0.1/"}, "names a server that ilink_allow_hosts does not allow"),
    ],
)
def test_a_confirmation_that_is_of_no_use_is_refused_and_a_new_code_shown(
    begin: Begin, missing: dict[str, Any], reason: str
) -> None:
    walk = begin([answer({**CONFIRMED, **missing}), answer(CONFIRMED)])
    assert walk.result.result(20)
    code, refused, again = walk.told
    assert code == again
    assert refused.endswith(reason)


@pytest.mark.parametrize(("owner", "user"), [("same", "u1@im.wechat"), ("any", "u2@im.wechat")])
def test_the_owner_or_anybody_may_log_in_again(begin: Begin, owner: str, user: str) -> None:
    walk = begin([answer({**CONFIRMED, "ilink_user_id": user})], old=OLD, ilink_owner=owner)
    found = walk.result.result(20)
    assert found and found.user_id == user


def test_somebody_else_is_refused(begin: Begin) -> None:
    walk = begin([answer({**CONFIRMED, "ilink_user_id": "u2@im.wechat"})], old=OLD, qrcode_count_max=1)
    assert walk.result.result(20) is None
    assert walk.told[1:] == ["refused: other user"]


@pytest.mark.parametrize(("user", "good"), [("u1@im.wechat", True), ("u2@im.wechat", False)])
def test_whose_client_it_is_counts_also_without_a_session(begin: Begin, user: str, good: bool) -> None:
    """The session file may be unreadable; who it was of is known nevertheless."""
    walk = begin([answer({**CONFIRMED, "ilink_user_id": user})], owner=OLD.owner_hash, qrcode_count_max=1)
    found = walk.result.result(20)
    assert (found is not None, walk.told[1:]) == (good, [] if good else ["refused: other user"])


def test_the_wish_for_a_new_login_ends_a_walk_at_once(begin: Begin) -> None:
    walk = begin([answer({"status": "need_verifycode"})])
    eventually(lambda: walk.state.detail("verify_code_needed"))
    walk.halt.begin_again()
    walk.login.wake()
    assert walk.result.result(20) is None
    assert not walk.options.qrcode_path.exists()
    assert not walk.state.detail("verify_code_needed")


@pytest.mark.parametrize(
    "failure",
    [
        b"",
        reply(b"<html>", status="524 A Timeout Occurred"),
        reply(b"not JSON"),
        reply(b"[]"),
        answer({"ret": 2, "errmsg": "invalid bot_type"}),
        answer({}),
        answer({"qrcode": None, "qrcode_img_content": None}),
        answer({"qrcode": KEY, "qrcode_img_content": "x" * 5000}),
        answer({"qrcode": KEY, "qrcode_img_content": ""}),
    ],
    ids=["hang up", "gateway", "text", "list", "refusal", "empty", "null", "too long to draw", "nothing to draw"],
)
def test_a_code_is_asked_for_until_there_is_one_and_only_that_counts(begin: Begin, failure: bytes) -> None:
    walk = begin([answer(CONFIRMED)], [failure, failure, answer(CODE)], qrcode_count_max=1)
    assert walk.result.result(20)
    assert walk.state.detail("qrcode_count") == 1
    assert walk.state.detail("last_error")["errmsg"]


def test_a_code_that_the_disk_does_not_take_is_asked_for_again(begin: Begin, tmp_path: Path) -> None:
    walk = begin([answer(CONFIRMED)], qrcode_path=str(tmp_path / "later" / "qr.png"))
    eventually(lambda: walk.state.detail("last_error"))
    assert walk.told == []
    (tmp_path / "later").mkdir()
    assert walk.result.result(20)


@pytest.mark.parametrize(
    "failure",
    [
        b"",
        reply(b"", status="502 Bad Gateway"),
        reply(b"null"),
        answer({}),
        answer({"status": None}),
        reply(b"[" * 99999),
    ],
    ids=["hang up", "gateway", "null", "no status", "null status", "deep"],
)
def test_a_poll_that_fails_counts_as_wait(begin: Begin, failure: bytes) -> None:
    walk = begin([answer({"status": "scaned"}), failure, failure, answer(CONFIRMED)])
    assert walk.result.result(20)
    assert walk.state.current is Login.CONFIRMING
    assert walk.state.detail("qrcode_count") == 1


@pytest.mark.parametrize("status", ["waiting_for_godot", ["list"], {"a": 1}, 7, True])
def test_a_status_of_the_future_is_logged_once_and_waited_out(
    begin: Begin, caplog: pytest.LogCaptureFixture, status: Any
) -> None:
    caplog.set_level(logging.INFO)
    walk = begin([answer({"status": status})] * 5 + [answer(CONFIRMED)])
    assert walk.result.result(20)
    assert caplog.messages.count("unknown login status") == 1


@pytest.mark.parametrize("status", ["expired", "verify_code_blocked"])
def test_a_code_that_is_used_up_costs_one_of_the_budget(begin: Begin, status: str) -> None:
    walk = begin([answer({"status": status})], qrcode_count_max=3)
    assert walk.result.result(20) is None
    assert len(walk.told) == 3
    assert walk.state.current is Login.SCANING


def test_a_code_that_nobody_talks_about_any_more_is_replaced(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CODE_LIFE_MOST", 0.0)
    walk = begin([reply(b"", status="502 Bad Gateway")], qrcode_count_max=2)
    assert walk.result.result(20) is None
    assert len(walk.told) == 2


def test_digits_go_along_until_they_are_accepted(begin: Begin) -> None:
    wanted = answer({"status": "need_verifycode"})
    walk = begin([wanted, b"", answer({"status": "scaned"}), answer(CONFIRMED)])
    eventually(lambda: walk.state.detail("verify_code_needed"))
    walk.login.submit("12 34")
    assert walk.result.result(20)
    assert [request.line.partition("&verify_code=")[2] for request in walk.polls()] == [
        "",
        "12%2034 HTTP/1.1",
        "12%2034 HTTP/1.1",
        "",
    ]


def test_wrong_digits_are_asked_for_again(begin: Begin) -> None:
    wanted = answer({"status": "need_verifycode"})
    walk = begin([wanted, wanted, answer(CONFIRMED)])
    for count, digits in enumerate(("111111", "222222"), 1):
        eventually(lambda count=count: walk.told.count("digits") == count)  # type: ignore[misc]
        walk.login.submit(digits)
    assert walk.result.result(20)
    assert [request.line.partition("&verify_code=")[2][:6] for request in walk.polls()] == ["", "111111", "222222"]


def test_digits_are_sent_at_once_also_when_they_come_late(begin: Begin) -> None:
    wanted = answer({"status": "need_verifycode"})
    walk = begin([*[wanted] * 4, answer(CONFIRMED)])
    eventually(lambda: len(walk.polls()) == 4, what="polls that look whether the code still lives")
    walk.login.submit("123456")
    assert walk.result.result(20)
    assert "123456" in walk.polls()[-1].line
    assert walk.told.count("digits") == 1


def test_digits_for_one_code_never_reach_the_next(begin: Begin) -> None:
    held, typed = threading.Event(), threading.Event()

    def expire_after_digits_were_typed() -> bytes:
        held.set()
        typed.wait(20)
        return answer({"status": "expired"})

    wanted = answer({"status": "need_verifycode"})
    walk = begin([wanted, expire_after_digits_were_typed, wanted, answer(CONFIRMED)])
    assert held.wait(20)
    walk.login.submit("111111")
    typed.set()
    eventually(lambda: walk.told.count("digits") == 2)
    walk.login.submit("222222")
    assert walk.result.result(20)
    lines = [request.line for request in walk.polls()]
    assert not any("111111" in line for line in lines)
    assert "222222" in lines[-1]


# The session file


def test_a_session_is_kept_for_its_owner_alone_and_the_one_before_it_too(tmp_path: Path) -> None:
    path = tmp_path / "cookie.dat"
    new = Session("new", "http://127.0.0.1:9", "b1@im.bot", "u1@im.wechat")
    session.save(path, OLD)
    session.save(path, new)
    assert session.load(path) == new
    assert session.load(tmp_path / "cookie.dat.bak") == OLD
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    session.set_aside(path)
    assert session.load(path) is None
    assert session.load(tmp_path / "cookie.dat.aside") == new


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"{}", b'{"token":"","base_url":"x","bot_id":"y","user_id":"z"}']
)
def test_a_session_that_cannot_be_read_is_left_alone_and_never_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "cookie.dat"
    path.write_bytes(content)
    assert session.load(path) is None
    assert path.read_bytes() == content
    assert caplog.messages == ["session not readable"]


# The wire


@pytest.mark.parametrize(
    ("base", "url", "allowed"),
    [
        ("https://ilinkai.weixin.qq.com", "https://sz.weixin.qq.com", True),
        ("https://ilinkai.weixin.qq.com", "https://qq.com:8443/prefix", True),
        ("https://ilinkai.weixin.qq.com", "http://sz.weixin.qq.com", False),
        ("http://127.0.0.1:1", "http://sz.weixin.qq.com", True),
        ("http://127.0.0.1:1", "https://sz.weixin.qq.com", True),
        ("https://ilinkai.weixin.qq.com", "https://evilqq.com", False),
        ("https://ilinkai.weixin.qq.com", "https://qq.com.evil.example", False),
        ("https://ilinkai.weixin.qq.com", "https://qq.com@evil.example", False),
        ("https://ilinkai.weixin.qq.com", "https://evil.example#qq.com", False),
        ("https://ilinkai.weixin.qq.com", "https://qq.com:99999", False),
        ("https://ilinkai.weixin.qq.com", "https://qq.com:x", False),
        ("https://ilinkai.weixin.qq.com", "https://[qq.com", False),
        ("https://ilinkai.weixin.qq.com", "file://qq.com/etc/passwd", False),
        ("https://ilinkai.weixin.qq.com", "", False),
    ],
)
def test_replies_may_send_us_to_known_hosts_only(tmp_path: Path, base: str, url: str, allowed: bool) -> None:
    wire = Wire(options(tmp_path, ilink_base=base, ilink_allow_hosts="weixin.qq.com,qq.com"))
    assert wire.allows(url) is allowed


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"ret": -14}, TokenDead),
        ({"errcode": -14, "errmsg": "session timeout"}, TokenDead),
        ({"ret": 0, "errcode": -14}, TokenDead),
        ({"ret": -2, "errmsg": "prepare failed"}, ApiError),
        ({"ret": "odd"}, ApiError),
    ],
)
def test_a_refusal_is_told_from_a_dead_token(tmp_path: Path, body: dict[str, Any], error: type[ApiError]) -> None:
    with Upstream(lambda connection: once(connection, answer(body))) as server, pytest.raises(ApiError) as caught:
        updates(tmp_path, server)
    assert type(caught.value) is error


@pytest.mark.parametrize("body", [{}, {"ret": None, "errcode": None}, {"ret": 0, "unknown": [1]}])
def test_an_absent_or_null_ret_is_success(tmp_path: Path, body: dict[str, Any]) -> None:
    with Upstream(lambda connection: once(connection, answer(body))) as server:
        assert updates(tmp_path, server) == body


@pytest.mark.parametrize("status", ["524 A Timeout Occurred", "500 Oops", "302 Found", "404 Not Found"])
def test_a_gateways_answer_is_never_taken_for_the_apis(tmp_path: Path, status: str) -> None:
    dead = reply(b'{"errcode":-14}', status=status)
    with Upstream(lambda connection: once(connection, dead)) as server, pytest.raises(TransportError):
        updates(tmp_path, server)


def test_half_an_emoji_becomes_a_character_that_can_be_kept(tmp_path: Path) -> None:
    body = reply(b'{"msgs":[{"text":"\\ud83d!","id":18446744073709551615}]}')
    with Upstream(lambda connection: once(connection, body)) as server:
        assert updates(tmp_path, server) == {"msgs": [{"text": "?!", "id": 18446744073709551615}]}


def test_every_bearer_call_declares_itself(tmp_path: Path) -> None:
    with Upstream(lambda connection: once(connection, answer({}))) as server:
        updates(tmp_path, server)
    (request,) = server.requests
    expected = {
        "Content-Type": "application/json",
        "AuthorizationType": "ilink_bot_token",
        "Authorization": "Bearer t0ken",
        "iLink-App-Id": "bot",
        "iLink-App-ClientVersion": "132105",
    }
    assert {name: request.all(name) for name in expected} == {name: [value] for name, value in expected.items()}
    body = json.loads(request.body)
    assert body["get_updates_buf"] == "cursor"
    assert body["base_info"]["channel_version"] == "2.4.9"
    assert body["base_info"]["bot_agent"].startswith("wxsup/")


def once(connection: Connection, said: bytes) -> None:
    connection.request()
    connection.send(said)


def updates(folder: Path, server: Upstream) -> dict[str, Any]:
    base = "http://{}:{}".format(*server.address)
    with contextlib.closing(Wire(options(folder, ilink_base=base))) as wire:
        return wire.get_updates(base, "t0ken", "cursor", 5)


def test_a_drawn_code_says_what_it_should() -> None:
    assert qr_text(draw("https://liteapp.weixin.qq.com/q/x?a=b&c=d")) == "https://liteapp.weixin.qq.com/q/x?a=b&c=d"


# Halting


def test_a_halt_is_for_good_or_for_a_new_login() -> None:
    halt = Halt()
    assert not halt
    halt.begin_again()
    assert halt and not halt.stopped
    halt.again = False
    assert not halt
    halt.stop()
    assert halt and halt.stopped


@pytest.mark.parametrize(("method", "ends"), [(Halt.wait, True), (Halt.pause, False)])
def test_the_wish_for_a_new_login_ends_a_wait_but_no_pause(method: Callable[[Halt, float], None], ends: bool) -> None:
    halt = Halt()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(method, halt, 20.0)
        halt.begin_again()
        if ends:
            waiting.result(10)
        else:
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
        halt.stop()
        waiting.result(10)
