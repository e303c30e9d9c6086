from __future__ import annotations

import pytest
from falcon.testing import TestClient

from tests.unit.conftest import World
from wxsup.api import create_app
from wxsup.proxy import Proxy

HOST = "127.0.0.1:2000"


@pytest.fixture
def api(world: World) -> TestClient:
    return TestClient(create_app(world.controller, Proxy(), trusted_hosts=["Wx.Example.com"]))


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
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("call", ["start_client", "stop_client", "check_client", "get_qrcode", "get_friend_info", ""])
def test_foreign_pages_may_not(api: TestClient, world: World, headers: dict[str, str], method: str, call: str) -> None:
    result = api.simulate_request(method, f"/openwx/{call}", query_string="client=a", headers=headers)
    assert (result.status_code, result.json["code"], result.json["status"]) == (403, -6, "auth failure")
    assert list(world.registry.slugs()) == []
    assert "access-control-allow-origin" not in result.headers
