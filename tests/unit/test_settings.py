from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wxsup import settings
from wxsup.addresses import Address
from wxsup.errors import SettingInvalid
from wxsup.settings import Settings


@pytest.fixture(autouse=True)
def no_file_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wxsup.toml of this machine must not decide a test."""
    monkeypatch.setattr(settings, "config_files", lambda: (Path("wxsup.toml"), Path("no", "such", "wxsup.toml")))


LOOKED_FOR = settings.config_files


def load(
    toml: str | bytes = "", environment: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> Settings:
    Path("wxsup.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return settings.load(flags, environment=environment or {})


def test_without_anything_given_the_defaults_hold(tmp_path: Path) -> None:
    found = settings.load(environment={})
    assert found.listen == (Address("127.0.0.1", 2000),)
    assert (found.workers, found.backend_start_port, found.max_clients) == (2, 3000, 100)
    assert (found.post_api, found.poll_api, found.poll_interval, found.check_interval) == ("", "", 5.0, 5.0)
    assert (found.post_api_allow, found.log_level, found.log_path, found.template_path) == ("", "info", None, None)
    assert found.state_dir == tmp_path / "var"
    assert found.backend_path == tmp_path / "var/clients"
    assert found.pid_path == tmp_path / "var/run/mojo_weixin_controller_process.pid"


def test_a_flag_beats_the_environment_beats_the_file() -> None:
    toml = "workers = 3\nmax_clients = 7\nlog_level = 'warn'"
    environment = {"WXSUP_WORKERS": "4", "WXSUP_MAX_CLIENTS": "8"}
    flags = {"workers": "5"}
    found = load(toml, environment, flags)
    assert (found.workers, found.max_clients, found.log_level) == (5, 8, "warn")


def test_systemd_names_the_folders_and_all_others_can_overrule_it() -> None:
    systemd = {"STATE_DIRECTORY": "/var/lib/wx", "RUNTIME_DIRECTORY": "/run/wx", "LOGS_DIRECTORY": "/var/log/wx"}
    found = load(environment=systemd)
    assert (found.state_dir, found.tmpdir, found.log_dir) == (Path("/var/lib/wx"), Path("/run/wx"), Path("/var/log/wx"))
    assert found.backend_path == Path("/var/lib/wx/clients")
    assert load("tmpdir = '/srv/run'", systemd).tmpdir == Path("/srv/run")


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("workers = 3", "workers", 3),
        ("workers = '3'", "workers", 3),
        ("poll_interval = 2.5", "poll_interval", 2.5),
        ("poll_interval = 2", "poll_interval", 2.0),
        ("ilink_allow_hosts = ['a.example', 'b.example']", "ilink_allow_hosts", ("a.example", "b.example")),
        ("ilink_allow_hosts = 'a.example,b.example'", "ilink_allow_hosts", ("a.example", "b.example")),
        ("ilink_allow_hosts = []", "ilink_allow_hosts", ()),
        ("listen = ['127.0.0.1:1', '[::1]:1']", "listen", (Address("127.0.0.1", 1), Address("::1", 1))),
        ("log_path = '/var/log/wx'", "log_path", Path("/var/log/wx")),
        ("log_path = ''", "log_path", None),
        ("trusted_hosts = '微信.example'", "trusted_hosts", ("微信.example",)),
    ],
)
def test_the_file_may_use_the_types_of_toml(line: str, name: str, expected: object) -> None:
    assert getattr(load(line), name) == expected


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("workers = 0", "wxsup.toml: workers is '0': it must be a whole number from 1 to 64"),
        ("log_level = 'loud'", "wxsup.toml: log_level is 'loud': it must be one of debug, info, msg"),
        ("worker = 1", "wxsup.toml: there is no setting worker; did you mean workers?"),
        ("xyzzy = 1", "wxsup.toml: there is no setting xyzzy"),
        ("config = 'x'", "wxsup.toml: there is no setting config"),
        ("[listen]\nhost = 'x'", "wxsup.toml: listen is {'host': 'x'}: it must be a text, a number"),
        ("poll_interval = 1979-05-27", "wxsup.toml: poll_interval is datetime.date"),
        ("poll_interval = nan", "wxsup.toml: poll_interval is 'nan': it must be a number of seconds"),
        ("workers = ", "wxsup.toml: Invalid value"),
        (b"ilink_base = '\xff'", "wxsup.toml: 'utf-8' codec can't decode"),
    ],
)
def test_a_bad_file_is_refused_with_setting_value_and_source(toml: str | bytes, message: str) -> None:
    with pytest.raises(SettingInvalid) as refused:
        load(toml)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({"WXSUP_WORKERS": "x"}, {}, "environment: workers is 'x': it must be a whole number from 1 to 64"),
        ({"WXSUP_WORKER": "1"}, {}, "environment: there is no setting worker; did you mean workers?"),
        ({"STATE_DIRECTORY": "/a;b"}, {}, "environment: state_dir is '/a;b': a path may not"),
        ({}, {"workers": "x"}, "command line: workers is 'x': it must be a whole number from 1 to 64"),
        ({"WXSUP_WORKERS": "x"}, {"workers": "y"}, "command line: workers is 'y'"),
        ({}, {"listen": ""}, "command line: listen is ''"),
    ],
)
def test_a_bad_setting_is_refused_with_its_source(
    environment: dict[str, str], flags: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingInvalid) as refused:
        load(environment=environment, flags=flags)
    assert str(refused.value).startswith(message)


def test_the_file_is_the_one_that_is_named(tmp_path: Path) -> None:
    named, variable = tmp_path / "named.toml", tmp_path / "variable.toml"
    named.write_text("workers = 3")
    variable.write_text("workers = 4")
    Path("wxsup.toml").write_text("workers = 5")
    environment = {"WXSUP_CONFIG": str(variable)}
    assert settings.load(config=named, environment=environment).workers == 3
    assert settings.load(environment=environment).workers == 4
    assert settings.load(environment={}).workers == 5


@pytest.mark.parametrize("named", ["nowhere.toml", "folder"])
def test_a_named_file_that_cannot_be_read_is_an_error(tmp_path: Path, named: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingInvalid, match=named):
        settings.load(environment={"WXSUP_CONFIG": str(tmp_path / named)})


def test_the_environment_is_that_of_the_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WXSUP_WORKERS", "9")
    assert settings.load().workers == 9


def test_flags_reach_a_process_of_ours_as_its_environment() -> None:
    flags = {"workers": "7", "ilink_allow_hosts": "127.0.0.1"}
    handed_on = settings.as_environment(flags)
    assert handed_on == {"WXSUP_WORKERS": "7", "WXSUP_ILINK_ALLOW_HOSTS": "127.0.0.1"}
    assert load(environment=handed_on) == load(flags=flags)


@given(st.sampled_from([item.name for item in fields(Settings)]), st.text(st.characters(exclude_characters="\0")))
def test_whatever_is_given_the_settings_load_or_say_why_not(name: str, value: str) -> None:
    try:
        found = settings.load({name: value}, environment={})
    except SettingInvalid as ex:
        assert name in str(ex)
    else:
        assert found.listen and os.path.isabs(found.state_dir)


def test_the_users_own_file_comes_after_the_one_here_and_before_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    system = Path("/etc/wxsup/wxsup.toml")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert LOOKED_FOR() == (Path("wxsup.toml"), Path("/home/me/.config/wxsup/wxsup.toml"), system)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/srv/config")
    assert LOOKED_FOR() == (Path("wxsup.toml"), Path("/srv/config/wxsup/wxsup.toml"), system)


def test_a_program_of_ones_own_needs_a_command() -> None:
    with pytest.raises(SettingInvalid, match="driver is 'command', but there is no command"):
        load('driver = "command"')
    assert load("driver = 'command'\ncommand = '/usr/bin/perl \"a b.pl\"'").command == '/usr/bin/perl "a b.pl"'
    with pytest.raises(SettingInvalid, match="not a command line"):
        load("command = 'perl \"'")
