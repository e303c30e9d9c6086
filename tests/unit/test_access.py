from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from falcon.testing import Result, TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.conftest import World
from tests.unit.upstream import Upstream, reply, replying
from wxsup import addresses, tokens, values
from wxsup.access import Gate, open_tokens, refuse_exposure
from wxsup.addresses import Address
from wxsup.api import FORM, create_app
from wxsup.errors import SettingInvalid, TokensUnreadable
from wxsup.failures import BURST
from wxsup.proxy import Proxy
from wxsup.tokens import Role

HOST = "127.0.0.1:2000"
OWN_CALLS = ("start_client", "stop_client", "restart_client", "remove_client", "check_client", "get_qrcode")


def app(world: World, gate: Gate) -> TestClient:
    return TestClient(create_app(world.controller, Proxy(bind_timeout=0.1), gate), headers={"Host": HOST})


@pytest.fixture
def api(world: World) -> TestClient:
    return app(world, world.gate(hosts=["Wx.Example.com"]))


AddToken = Callable[..., str]


@pytest.fixture
def add(world: World) -> AddToken:
    """Make a token, with limits as the command takes them; return its secret."""

    def make(name: str = "a", role: Role = Role.ADMIN, **limits: Any) -> str:
        token, secret = tokens.create(name, role, **limits)
        open_tokens(world.settings, {}).add(token)
        return secret

    return make


def call(api: TestClient, name: str, token: str = "", *, method: str = "GET", **query: str) -> Result:
    """Make a call, as gunicorn hands it to us."""
    encoded = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
    raw = {"RAW_URI": f"/openwx/{name}?{encoded}"}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return api.simulate_request(
        method, f"/openwx/{name}", query_string=encoded, headers=headers, extras=raw, remote_addr="127.0.0.1"
    )


def outcome(result: Result) -> tuple[int, int]:
    return result.status_code, result.json["code"]


REFUSED, FORBIDDEN, SLOW_DOWN, SHUT = (401, -6), (403, -6), (429, -6), (503, -6)


# Without tokens: programs on this machine


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": HOST},
        {"Host": "localhost"},
        {"Host": "LOCALHOST:2000"},
        {"Host": "[::1]:2000"},
        {"Host": "127.1.2.3:80"},
        {"Host": "wx.example.com"},
        {"Host": HOST, "Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}"},
        {"Host": HOST, "Sec-Fetch-Site": "none"},
        {"Host": HOST, "Referer": ""},
        {"Host": "wx.example.com", "Origin": "https://wx.example.com"},
        {"Host": "WX.example.com", "Referer": "https://WX.example.com/page"},
        {"Host": HOST, "Authorization": "Bearer of-bad-news"},
    ],
    ids=str,
)
def test_programs_and_pages_of_our_own_may_call(api: TestClient, headers: dict[str, str]) -> None:
    assert api.simulate_get("/openwx/check_client", headers=headers).json == {"code": 0, "client": []}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Host": HOST, "Sec-Fetch-Site": "cross-site"}, id="an image in a foreign page"),
        pytest.param({"Host": HOST, "Sec-Fetch-Site": "same-site"}, id="a page on another port of this machine"),
        pytest.param({"Host": HOST, "Origin": "http://evil.example"}, id="a form in a foreign page"),
        pytest.param({"Host": HOST, "Referer": "http://evil.example/page"}, id="an image, in an old browser"),
        pytest.param({"Host": HOST, "Origin": "null"}, id="a sandboxed frame"),
        pytest.param({"Host": HOST, "Origin": f"http://{HOST}.evil.example"}, id="an origin that begins like ours"),
        pytest.param({"Host": "evil.example:2000"}, id="a name that was pointed at us"),
        pytest.param({"Host": "127.0.0.1.evil.example:2000"}, id="a name that begins like a loopback address"),
        pytest.param({"Host": "localhost.evil.example"}, id="a name that begins like localhost"),
        pytest.param({"Host": ""}, id="no name"),
        pytest.param({"Host": "wx.example.com.evil.example"}, id="a name that begins like a trusted one"),
        pytest.param({"Host": HOST, "Origin": "http://evil.example", "Authorization": "Bearer x"}, id="any token"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("call", [*OWN_CALLS, "get_friend_info", ""])
@pytest.mark.parametrize("query", ["client=a", "client=a&token=http", "client=a&token=evil"])
def test_foreign_pages_may_not(
    api: TestClient, world: World, headers: dict[str, str], method: str, call: str, query: str
) -> None:
    result = api.simulate_request(method, f"/openwx/{call}", query_string=query, headers=headers)
    assert (result.status_code, result.json["code"], result.json["status"]) == (403, -6, "auth failure")
    assert list(world.registry.slugs()) == []
    assert "access-control-allow-origin" not in result.headers


# With tokens


def test_once_there_are_tokens_every_call_needs_one_at_once_and_for_ever(
    api: TestClient, add: AddToken, world: World
) -> None:
    assert call(api, "check_client").json["code"] == 0
    token = add()
    for name in (*OWN_CALLS, "get_friend_info", "", "nonsense"):
        result = call(api, name, client="x")
        assert outcome(result) == REFUSED
        assert result.headers["www-authenticate"] == "Bearer"
        assert result.json == {"code": -6, "status": "auth failure", "reason": "no token"}
    assert outcome(api.simulate_get("/")) == REFUSED
    assert call(api, "check_client", token).json == {"code": 0, "client": []}
    open_tokens(world.settings, {}).revoke("a")
    assert outcome(call(api, "check_client", token)) == outcome(call(api, "check_client")) == REFUSED


def test_the_token_may_stand_in_the_address_or_in_the_header_or_in_both(api: TestClient, add: AddToken) -> None:
    token = add()
    for result in (
        call(api, "check_client", token),
        call(api, "check_client", token=token),
        api.simulate_get(f"/openwx/check_client?%74oken={token}"),
        api.simulate_get(f"/openwx/check_client?token={token}", headers={"Authorization": f"bearer {token}"}),
        api.simulate_get(f"/openwx/check_client?token={token}", headers={"Authorization": "Basic dTpw"}),
    ):
        assert result.json == {"code": 0, "client": []}


def test_two_different_tokens_are_refused_also_two_good_ones(api: TestClient, add: AddToken) -> None:
    first, second = add("a"), add("b")
    for header, query in ((first, second), (first, "x"), ("x", second), (first, "")):
        result = api.simulate_get(f"/openwx/check_client?token={query}", headers={"Authorization": f"Bearer {header}"})
        assert (*outcome(result), result.json["reason"]) == (*REFUSED, "two different tokens")


@pytest.mark.parametrize("query", ["token={0}&token={0}", "token={0}&%74oken=x", "token&client=a&token={0}"])
def test_a_token_that_comes_twice_is_a_bad_request(api: TestClient, add: AddToken, query: str) -> None:
    token = add()
    result = api.simulate_get("/openwx/check_client", query_string=query.format(token))
    assert (result.status_code, result.json["code"]) == (400, 6)
    assert token not in result.text


ALLOWED = {
    Role.ADMIN: {*OWN_CALLS, "get_friend_info", "send_friend_message"},
    Role.OPERATOR: {*OWN_CALLS} - {"remove_client"},
    Role.APP: {"get_friend_info", "send_friend_message"},
}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", sorted(ALLOWED[Role.ADMIN]))
def test_a_role_may_make_its_calls_and_no_others(api: TestClient, add: AddToken, role: Role, name: str) -> None:
    result = call(api, name, add(role=role), client="nobody-yet")
    if name in ALLOWED[role]:
        assert result.status_code == 200
    else:
        assert outcome(result) == FORBIDDEN
        assert result.json["reason"] == "this token is not for that call"


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", sorted(ALLOWED[Role.ADMIN]))
@pytest.mark.parametrize("client", ["other", "others-that-do-not-exist", "0", "x" * 65, "a\nb", "Shop-1", " shop-1"])
def test_a_limited_token_learns_nothing_of_other_clients(
    api: TestClient, add: AddToken, role: Role, name: str, client: str
) -> None:
    admin = add()
    call(api, "start_client", admin, client="other")
    result = call(api, name, add("limited", role, clients=["shop-*"]), client=client)
    assert outcome(result) == FORBIDDEN
    if name in ALLOWED[role]:
        assert result.json["reason"] == "this token is not for that client"


def test_a_limited_token_may_what_it_may(api: TestClient, add: AddToken, world: World) -> None:
    admin, limited = add(), add("limited", Role.OPERATOR, clients=["shop-*", "微信"])
    for client in ("shop-1", "微信"):
        assert call(api, "start_client", limited, client=client).json["code"] == 0
    call(api, "start_client", admin, client="other")
    (world.registry.folder / "wxclient-broken.env").write_text("nonsense")
    (world.registry.folder / "wxclient-shop-2.env").write_text("nonsense")
    seen = [entry["account"] for entry in call(api, "check_client", limited).json["client"]]
    assert sorted(seen) == ["shop-1", "shop-2", "微信"]
    assert len(call(api, "check_client", admin).json["client"]) == 5
    assert call(api, "stop_client", limited).json == {"code": 1, "status": "client not found"}
    assert call(api, "stop_client", limited, client="shop-1").json["code"] == 0


@pytest.mark.parametrize("name", ["start_client", "stop_client", "restart_client", "remove_client"])
def test_a_client_in_a_form_is_looked_at_too(api: TestClient, add: AddToken, world: World, name: str) -> None:
    admin, limited = add(), add("limited", Role.OPERATOR, clients=["shop-*"])
    call(api, "start_client", admin, client="other")
    result = api.simulate_post(
        f"/openwx/{name}", body="client=other", headers={"Authorization": f"Bearer {limited}", "Content-Type": FORM}
    )
    assert outcome(result) == FORBIDDEN
    assert world.registry.slugs() == ["other"]


def test_a_token_in_a_form_is_none(api: TestClient, add: AddToken) -> None:
    token = add()
    body = f"client=a&token={token}"
    assert outcome(api.simulate_post("/openwx/start_client", body=body, headers={"Content-Type": FORM})) == REFUSED
    result = api.simulate_post(
        "/openwx/start_client", body=body, headers={"Authorization": f"Bearer {token}", "Content-Type": FORM}
    )
    assert (result.status_code, result.json["status"]) == (400, "parameter not allowed: token")
    assert token not in result.text


def test_an_expired_token_is_refused(api: TestClient, add: AddToken, monkeypatch: pytest.MonkeyPatch) -> None:
    token = add(lasts=60)
    assert call(api, "check_client", token).json["code"] == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    result = call(api, "check_client", token)
    assert (*outcome(result), result.json["reason"]) == (*REFUSED, "the token has expired")


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::9", True),
        ("11.1.2.3", False),
        ("2001:db9::9", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_a_token_is_good_from_its_addresses_only(api: TestClient, add: AddToken, address: str, good: bool) -> None:
    token = add(addresses=[addresses.network("10.0.0.0/8"), addresses.network("2001:db8::/32")])
    result = api.simulate_get(
        "/openwx/check_client",
        headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": "10.1.2.3"},
        remote_addr=address,
    )
    assert result.status_code == (200 if good else 401)


def test_who_shows_a_token_needs_no_name_of_ours(api: TestClient, add: AddToken) -> None:
    """A foreign page does not know one."""
    token = add()
    headers = {"Host": "192.0.2.7:2000", "Sec-Fetch-Site": "cross-site", "Origin": "http://app.example"}
    assert outcome(api.simulate_get("/openwx/check_client", headers=headers)) == REFUSED
    headers["Authorization"] = f"Bearer {token}"
    assert api.simulate_get("/openwx/check_client", headers=headers).json["code"] == 0


# Failures


def test_who_fails_too_often_is_told_when_to_come_back_and_the_right_token_is_let_in(
    api: TestClient, add: AddToken, caplog: pytest.LogCaptureFixture
) -> None:
    token = add()
    with caplog.at_level(logging.WARNING):
        assert {outcome(call(api, "check_client", "wrong")) for _ in range(BURST)} == {REFUSED}
        result = call(api, "check_client", "wrong")
    assert outcome(result) == SLOW_DOWN
    assert int(result.headers["retry-after"]) == result.json["retry_after"] > 0
    assert len(caplog.records) == BURST, "what is put off is not logged"
    assert call(api, "check_client", token).json["code"] == 0
    result = api.simulate_get("/openwx/check_client", remote_addr="192.0.2.9")
    assert outcome(result) == REFUSED, "another address has failures of its own"


def test_a_refusal_is_logged_with_address_and_holder_and_no_token(
    api: TestClient, add: AddToken, caplog: pytest.LogCaptureFixture
) -> None:
    token = add("cron", addresses=[addresses.network("10.0.0.0/8")])
    with caplog.at_level(logging.DEBUG):
        call(api, "check_client", token)
        call(api, "check_client", token=token)
        call(api, "check_client", "wxsup_wrong")
    told = [vars(record) for record in caplog.records if record.name == "wxsup.access"]
    assert [(entry["action"], str(entry["address"]), entry.get("holder")) for entry in told] == [
        ("access", "127.0.0.1", "cron"),
        ("access", "127.0.0.1", "cron"),
        ("access", "127.0.0.1", None),
    ]
    assert token not in str(told) and "wxsup_wrong" not in str(told)


# Shut


@pytest.mark.parametrize("content", ["nonsense", "{}", ""])
def test_tokens_that_cannot_be_read_let_nobody_in_and_are_logged_once(
    api: TestClient, add: AddToken, world: World, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    token = add()
    good = world.settings.tokens_path.read_bytes()
    world.settings.tokens_path.write_text(content)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert outcome(call(api, "check_client", token)) == outcome(call(api, "check_client")) == SHUT
    (record,) = caplog.records
    assert str(world.settings.tokens_path) in vars(record)["reason"]
    assert str(world.settings.tokens_path) not in call(api, "check_client").text
    world.settings.tokens_path.write_bytes(good)
    assert call(api, "check_client", token).json["code"] == 0


def test_a_file_that_goes_away_does_not_open_the_api(api: TestClient, add: AddToken, world: World) -> None:
    token = add()
    assert outcome(call(api, "check_client")) == REFUSED
    kept = world.settings.tokens_path.rename(world.settings.tokens_path.with_name("away"))
    assert outcome(call(api, "check_client", token)) == outcome(call(api, "check_client")) == SHUT
    kept.rename(world.settings.tokens_path)
    assert call(api, "check_client", token).json["code"] == 0


def test_where_others_can_reach_us_nobody_is_let_in_without_a_file(world: World, add: AddToken) -> None:
    api = app(world, world.gate(closed=True))
    assert outcome(call(api, "check_client")) == SHUT
    token = add()
    assert outcome(call(api, "check_client")) == REFUSED
    assert call(api, "check_client", token).json["code"] == 0


@pytest.mark.parametrize("listen", ["0.0.0.0:2000", "[::]:2000", "127.0.0.1:2000,10.0.0.7:2000", "example.org:80"])
def test_without_a_token_nobody_but_this_machine_may_reach_the_api(world: World, add: AddToken, listen: str) -> None:
    asked_for, known = values.many(addresses.address)(listen), open_tokens(world.settings, {})
    with pytest.raises(SettingInvalid, match="which others can reach.*wxsup token add NAME --role admin"):
        refuse_exposure(asked_for, known)
    refuse_exposure([Address("127.0.0.1", 1), Address("::1", 1), Address("localhost", 1)], known)
    add()
    refuse_exposure(asked_for, known)
    known.revoke("a")
    refuse_exposure(asked_for, known)
    world.settings.tokens_path.write_text("nonsense")
    with pytest.raises(TokensUnreadable):
        refuse_exposure(asked_for, known)


def test_systemd_may_hand_tokens_over(world: World, tmp_path: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    known = open_tokens(world.settings, environment)
    assert known.read() is None and not known.exist()
    (tmp_path / "credentials").mkdir()
    token, secret = tokens.create("deployed", Role.ADMIN)
    (tmp_path / "credentials/tokens.json").write_text(tokens.dumps([token]))
    (tmp_path / "credentials/tokens.json").chmod(0o400)
    assert known.exist()
    assert call(app(world, Gate(known)), "check_client", secret).json["code"] == 0


# What goes on to the client


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_never_sees_the_token(world: World, add: AddToken, method: str) -> None:
    token = add()
    client = world.controller.start("a", {})
    raw = {"RAW_URI": f"/openwx/send_friend_message?client=a&%74oken={token}&content=%E5%BE%AE"}
    headers = {
        "Authorization": f"Bearer {token}",
        "Referer": f"http://{HOST}/openwx/x?token={token}",
        "X-Original-URI": raw["RAW_URI"],
        "X-Kept": "1",
    }
    with (
        Upstream(replying(reply()), port=client["port"], secret=world.registry.secret("a")) as upstream,
        closing(Proxy()) as proxy,
    ):
        api = TestClient(create_app(world.controller, proxy, world.gate()), headers={"Host": HOST})
        result = api.simulate_request(
            method,
            "/openwx/send_friend_message",
            query_string=raw["RAW_URI"].partition("?")[2],
            headers=headers,
            extras=raw,
        )
    assert result.status_code == 200
    (request,) = upstream.requests
    assert request.line == f"{method} /openwx/send_friend_message?client=a&content=%E5%BE%AE HTTP/1.1"
    assert request.all("Authorization") == [] and request.all("X-Kept") == ["1"]
    assert token not in str(request)


def test_the_token_is_no_start_parameter(api: TestClient, add: AddToken, world: World) -> None:
    token = add()
    result = call(api, "start_client", client="a", token=token, log_level="debug")
    assert result.json["code"] == 0
    assert dict(world.record("a").params) == {"log_level": "debug"}
    assert token not in result.text + world.registry.path("a").read_text()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=TEXT | st.builds("token={}".format, TEXT), header=st.text(st.characters(max_codepoint=255), max_size=30))
def test_whatever_is_shown_nobody_is_let_in_without_the_token(
    world: World, add: AddToken, query: str, header: str
) -> None:
    if not world.settings.tokens_path.exists():
        add()
    api = app(world, world.gate())
    encoded = query.encode().decode("latin-1")
    environ = {"RAW_URI": f"/openwx/check_client?{query}", "QUERY_STRING": encoded, "HTTP_AUTHORIZATION": header}
    result = api.simulate_get("/openwx/check_client", extras=environ)
    assert outcome(result) in (REFUSED, (400, 6))
