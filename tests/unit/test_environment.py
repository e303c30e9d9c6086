from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.unit.conftest import HOSTILE_NAMES
from wxsup import names, options, record, values
from wxsup.environment import environment, path_of
from wxsup.errors import RecordInvalid
from wxsup.model import Client
from wxsup.settings import Settings


def settings(**given: str) -> Settings:
    return values.read(Settings, {"state_dir": "/srv/wx", **given})


def client(name: str = "alice", **params: str) -> Client:
    return Client(name=name, slug=names.slug(name), port=3000, driver="ilink", params=params)


def test_everything_of_a_client_lies_in_folders_of_its_own() -> None:
    found = environment(client("../x"), settings())
    assert {key: value for key, value in found.items() if value.startswith("/")} == {
        "MOJO_WEIXIN_TMPDIR": "/srv/wx/run/.2e.2e.2fx",
        "MOJO_WEIXIN_STATE_PATH": "/srv/wx/run/.2e.2e.2fx/mojo_weixin_state_.2e.2e.2fx.json",
        "MOJO_WEIXIN_QRCODE_PATH": "/srv/wx/run/.2e.2e.2fx/mojo_weixin_qrcode_.2e.2e.2fx.jpg",
        "MOJO_WEIXIN_PID_PATH": "/srv/wx/run/.2e.2e.2fx/mojo_weixin_pid_.2e.2e.2fx.pid",
        "MOJO_WEIXIN_COOKIE_PATH": "/srv/wx/session/.2e.2e.2fx/mojo_weixin_cookie_.2e.2e.2fx.dat",
        "MOJO_WEIXIN_MEDIA_DIR": "/srv/wx/session/.2e.2e.2fx/media",
    }


def test_the_folders_are_those_of_the_settings() -> None:
    found = environment(client(), settings(tmpdir="/run/wx", session_dir="/var/lib/wx"))
    assert found["MOJO_WEIXIN_STATE_PATH"].startswith("/run/wx/alice/")
    assert found["MOJO_WEIXIN_COOKIE_PATH"].startswith("/var/lib/wx/alice/")


def test_no_parameter_moves_a_path() -> None:
    """options.accept refuses it; a record written by hand must not bring it in either."""
    hostile = dict.fromkeys(("tmpdir", "state_path", "qrcode_path", "pid_path", "cookie_path", "media_dir"), "/etc/x")
    assert environment(client(**hostile), settings()) == environment(client(), settings())


def test_the_client_reads_back_what_was_meant() -> None:
    one = client("微信", log_level="debug", send_interval="2.5", ilink_label="我的 店")
    told = {
        **environment(one, settings(ilink_base="http://127.0.0.1:2080")),
        record.ACCOUNT: one.name,
        record.PORT: "3000",
    }
    found = options.from_environment(told)
    assert (found.account, found.plugin_openwx_port) == ("微信", 3000)
    assert (found.log_level, found.send_interval, found.ilink_label) == ("debug", 2.5, "我的 店")
    assert found.ilink_base == "http://127.0.0.1:2080"
    assert found.ilink_allow_hosts == ("weixin.qq.com", "qq.com")


@pytest.mark.parametrize(("params", "expected"), [({}, "warn"), ({"log_level": "debug"}, "debug")])
def test_a_parameter_wins_over_a_setting(params: dict[str, str], expected: str) -> None:
    assert environment(client(**params), settings(log_level="warn"))["MOJO_WEIXIN_LOG_LEVEL"] == expected


def test_the_driver_is_no_variable_of_the_contract() -> None:
    assert "MOJO_WEIXIN_DRIVER" not in environment(client(driver="ilink"), settings())


def test_without_a_url_there_is_no_report() -> None:
    found = environment(client(), settings())
    assert (found["MOJO_WEIXIN_PLUGIN_OPENWX_POST_API"], found["MOJO_WEIXIN_PLUGIN_OPENWX_POLL_API"]) == ("", "")
    assert "MOJO_WEIXIN_POST_API" not in found


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_a_report_url_names_the_client(name: str) -> None:
    found = environment(client(name), settings(post_api="https://r.example/in?key=1"))
    query = parse_qs(urlsplit(found["MOJO_WEIXIN_PLUGIN_OPENWX_POST_API"]).query)
    assert query == {"key": ["1"], "client": [name]}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://r.example", "https://r.example?client=alice"),
        ("https://r.example/in", "https://r.example/in?client=alice"),
        ("https://r.example/in?", "https://r.example/in?client=alice"),
        ("https://r.example/in?client=bob&a=1", "https://r.example/in?a=1&client=alice"),
        ("https://r.example/in?%63lient=bob", "https://r.example/in?client=alice"),
        ("https://r.example/in?a=1&a=2#x", "https://r.example/in?a=1&a=2&client=alice#x"),
        ("https://r.example/in?token&b=", "https://r.example/in?token&b=&client=alice"),
        ("https://r.example/in?sign=a%2Fb/c+d%20e", "https://r.example/in?sign=a%2Fb/c+d%20e&client=alice"),
        ("https://r.example/in?raw=%ff", "https://r.example/in?raw=%ff&client=alice"),
    ],
)
def test_the_rest_of_a_report_url_stays_as_it_was(url: str, expected: str) -> None:
    assert environment(client(), settings(post_api=url))["MOJO_WEIXIN_PLUGIN_OPENWX_POST_API"] == expected


def test_a_report_url_of_the_caller_wins_and_the_heartbeat_has_no_default() -> None:
    one = client(post_api="https://caller.example/a", poll_api="https://caller.example/b")
    found = environment(one, settings(post_api="https://r.example/", poll_api="https://r.example/"))
    assert found["MOJO_WEIXIN_PLUGIN_OPENWX_POST_API"] == "https://caller.example/a?client=alice"
    assert found["MOJO_WEIXIN_PLUGIN_OPENWX_POLL_API"] == "https://caller.example/b?client=alice"
    without = environment(client(), settings(poll_api="https://r.example/"))
    assert without["MOJO_WEIXIN_PLUGIN_OPENWX_POLL_API"] == ""


def test_a_path_of_a_record_is_found_by_its_option() -> None:
    one = Client(name="a", slug="a", port=1, driver="ilink", environment={"MOJO_WEIXIN_STATE_PATH": "/run/a.json"})
    assert path_of(one, "state_path") == Path("/run/a.json")
    with pytest.raises(RecordInvalid, match="MOJO_WEIXIN_QRCODE_PATH is missing"):
        path_of(one, "qrcode_path")
