from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from wxsup import options
from wxsup.errors import ParameterRefused
from wxsup.options import Options

#: DESIGN.md 7, apart from `client`, which names the client and is no option of it.
IN_EFFECT = {
    "driver": "ilink",
    "log_level": "debug",
    "download_media": "0",
    "keep_cookie": "0",
    "fresh": "1",
    "qrcode_count_max": "3",
    "check_event_list_max_size": "50",
    "check_event_log_max_size": "500",
    "post_max_size": "50",
    "post_max_age": "3600",
    "send_max_age": "60",
    "send_interval": "0.5",
    "ilink_gate": "try",
    "ilink_text_limit": "100",
    "ilink_label": "我的 店",
    "plugin_openwx_post_event": "0",
    "plugin_openwx_post_media_data": "0",
    "plugin_openwx_poll_interval": "60",
}
WITHOUT_EFFECT = {
    "log_encoding": "utf8",
    "log_console": "1",
    "disable_color": "1",
    "http_debug": "0",
    "emoji_to_text": "1",
    "fix_media_loop": "2",
    "synccheck_interval": "1",
    "synccheck_delay": "1",
    "stop_with_mobile": "0",
    "ua_retry_times": "5",
}
ALLOW = r"https://report\.example/.*"


@pytest.mark.parametrize(("name", "value"), [*IN_EFFECT.items(), *WITHOUT_EFFECT.items()])
def test_a_parameter_of_the_list_is_accepted(name: str, value: str) -> None:
    assert options.accept({name: value}) == {name: value}


def test_all_parameters_together_are_accepted() -> None:
    assert options.accept({**IN_EFFECT, **WITHOUT_EFFECT}) == {**IN_EFFECT, **WITHOUT_EFFECT}


def test_nothing_else_comes_over_http() -> None:
    assert {item.name for item in fields(Options) if item.metadata["http"]} == set(IN_EFFECT) - {"driver"}
    assert set(options.WITHOUT_EFFECT) == set(WITHOUT_EFFECT)


@pytest.mark.parametrize(
    "name",
    [
        *(item.name for item in fields(Options) if not item.metadata["http"]),
        "account",
        "pid",
        "code",
        "status",
        "load",
        "exit",
        "log_path",
        "log_head",
        "controller_pid",
        "command",
        "ilink_cdn",
        "LOG_LEVEL",
        "",
        "__class__",
        "微信",
    ],
)
def test_any_other_parameter_is_refused_by_name(name: str) -> None:
    with pytest.raises(ParameterRefused) as refused:
        options.accept({"log_level": "info", name: "1"})
    assert refused.value.body() == {"code": 6, "status": f"parameter not allowed: {name}"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("driver", "perl"),
        ("driver", ""),
        ("log_level", "loud"),
        ("send_interval", "-1"),
        ("fresh", "maybe"),
        ("qrcode_count_max", "0"),
        ("post_max_size", "0"),
        ("post_max_size", "1000001"),
        ("post_max_size", "many"),
        ("post_max_age", "0"),
        ("post_max_age", "nan"),
        ("post_max_age", "inf"),
        ("send_max_age", "0.5"),
        ("check_event_log_max_size", "0"),
        ("check_event_log_max_size", "-1"),
        ("ilink_label", "a\nMOJO_WEIXIN_TMPDIR=/etc"),
        ("log_encoding", "a\nb"),
        ("plugin_openwx_poll_interval", ""),
    ],
)
def test_a_bad_value_is_refused_with_the_reason(name: str, value: str) -> None:
    with pytest.raises(ParameterRefused, match=f"{name} is ") as refused:
        options.accept({name: value})
    assert refused.value.status == f"parameter not allowed: {name}"


@pytest.mark.parametrize("name", ["post_api", "poll_api"])
def test_a_report_url_is_accepted_where_the_operator_allows_it(name: str) -> None:
    given = {name: "https://report.example/in?key=1"}
    assert options.accept(given, post_api_allow=ALLOW) == given


@pytest.mark.parametrize("name", ["post_api", "poll_api"])
@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("", "https://report.example/"),
        ("", ""),
        (ALLOW, "https://report.example.evil/"),
        (ALLOW, "https://evil/?https://report.example/"),
        (ALLOW, "http://169.254.169.254/"),
        (".*", "file:///etc/passwd"),
        (".*", "https://report.example/\r\nX: y"),
    ],
)
def test_any_other_report_url_is_refused(name: str, allow: str, url: str) -> None:
    with pytest.raises(ParameterRefused) as refused:
        options.accept({name: url}, post_api_allow=allow)
    assert refused.value.status == f"parameter not allowed: {name}"


def test_options_come_from_the_environment_of_a_client() -> None:
    found = options.from_environment(
        {
            "MOJO_WEIXIN_ACCOUNT": "微信",
            "MOJO_WEIXIN_PLUGIN_OPENWX_PORT": "3007",
            "MOJO_WEIXIN_TMPDIR": "/run/wx",
            "MOJO_WEIXIN_DOWNLOAD_MEDIA": "0",
            "MOJO_WEIXIN_ILINK_ALLOW_HOSTS": "a.example, b.example",
            "MOJO_WEIXIN_NO_SUCH_OPTION": "x",
            "TMPDIR": "/elsewhere",
        }
    )
    assert (found.account, found.plugin_openwx_port, found.download_media) == ("微信", 3007, False)
    assert found.state_path == Path("/run/wx/mojo_weixin_state.json")
    assert found.ilink_allow_hosts == ("a.example", "b.example")


def test_the_defaults_are_those_of_the_document() -> None:
    """openwx-api.md 10, where we do not differ on purpose."""
    found = options.from_environment({})
    assert (found.account, found.log_level, found.qrcode_count_max) == ("default", "info", 10)
    assert (found.keep_cookie, found.download_media, found.plugin_openwx_poll_interval) == (True, True, 5.0)
    assert (found.plugin_openwx_post_event, found.plugin_openwx_post_media_data) == (True, True)
    assert (found.plugin_openwx_post_api, found.plugin_openwx_poll_api) == ("", "")


def test_a_bad_variable_is_an_error_that_names_the_option() -> None:
    with pytest.raises(ValueError, match="send_interval is 'x'"):
        options.from_environment({"MOJO_WEIXIN_SEND_INTERVAL": "x"})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value in IN_EFFECT.items() if name != "driver"])
def test_an_accepted_parameter_means_to_the_client_what_it_says(name: str, value: str) -> None:
    found = options.from_environment({f"MOJO_WEIXIN_{name.upper()}": value})
    assert getattr(found, name) != getattr(options.from_environment({}), name)
