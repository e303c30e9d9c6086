from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import HOSTILE_NAMES
from wxsup import manifest
from wxsup.errors import SettingInvalid
from wxsup.manifest import Action


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clients.toml"


def test_defaults_are_for_all_and_a_clients_own_win(file: Path) -> None:
    file.write_text(
        '[defaults]\nlog_level = "info"\nfresh = true\n[clients.a]\n[clients."微信 1"]\nlog_level = "debug"\n'
        "send_interval = 2.5\nqrcode_count_max = 3\n"
    )
    assert manifest.load(file) == {
        "a": {"log_level": "info", "fresh": "1"},
        "微信 1": {"log_level": "debug", "fresh": "1", "send_interval": "2.5", "qrcode_count_max": "3"},
    }


def test_an_empty_file_is_no_clients(file: Path) -> None:
    file.write_text("")
    assert manifest.load(file) == {}


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_any_name_can_stand_there(file: Path, name: str) -> None:
    import json

    file.write_text(f"[clients.{json.dumps(name, ensure_ascii=False)}]\n", encoding="utf-8")
    assert manifest.load(file) == {name: {}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[clients.a", "clients.toml: "),
        ("\xff", "clients.toml: "),
        ("[client.a]", "there is no table [client]; did you mean clients?"),
        ("clients = 3", "clients must be a table"),
        ("defaults = []", "defaults must be a table"),
        ("[clients]\na = 3", "clients.a must be a table"),
        ("[clients.a]\nlog_levl = 'info'", "parameter not allowed: log_levl; did you mean log_level?"),
        ("[clients.a]\nlog_level = 'loud'", "it must be one of"),
        ("[clients.a]\nlog_level = ['info']", "[clients.a]: log_level must be a text, a number, true or false"),
        ("[clients.a]\ntmpdir = '/tmp'", "parameter not allowed: tmpdir"),
        ("[defaults]\ncommand = 'id'", "[defaults]: parameter not allowed: command"),
        ("[clients.a]\n[clients.a]", "clients.toml: "),
        ("[clients.'']", "'' cannot be the name of a client"),
        ("[clients.0]", "'0' cannot be the name of a client"),
        ('[clients."a\\nb"]', "control characters"),
        (f"[clients.{'x' * 65}]", "1 to 64 bytes"),
        ("[clients.a]\n[clients.b]\nfresh = 'perhaps'", "[clients.b]: fresh is 'perhaps'"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_taken(file: Path, text: str, sentence: str) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingInvalid) as refused:
        manifest.load(file)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(str(file))


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(SettingInvalid, match="clients.toml"):
        manifest.load(file)


def test_what_the_settings_here_do_not_allow_is_refused_before_anything_is_done(file: Path) -> None:
    file.write_text("[clients.a]\npost_api = 'http://evil.example/'\n")
    assert manifest.load(file) == {"a": {"post_api": "http://evil.example/"}}
    with pytest.raises(SettingInvalid, match="does not allow this URL"):
        manifest.load(file, post_api_allow="http://good.example/.*")


def entry(name: str, process: str = "running", **params: str) -> dict[str, Any]:
    return {"account": name, "process": process, "params": params}


def test_the_plan_is_what_differs() -> None:
    wanted = {"new": {"fresh": "1"}, "same": {"log_level": "info"}, "other": {"log_level": "debug"}, "down": {}}
    known = [
        entry("same", log_level="info"),
        entry("other", log_level="info", fresh="1"),
        entry("down", "stopped"),
        entry("stray"),
    ]
    steps = manifest.plan(wanted, known, prune=False)
    assert [(step.name, step.action) for step in steps] == [
        ("stray", Action.STRAY),
        ("new", Action.START),
        ("same", Action.NOTHING),
        ("other", Action.CHANGE),
        ("down", Action.START),
    ]
    assert [step.changes for step in steps[1:]] == [
        {"fresh": (None, "1")},
        {},
        {"fresh": ("1", None), "log_level": ("info", "debug")},
        {},
    ]
    assert manifest.plan(wanted, known, prune=True)[0].action is Action.REMOVE


@pytest.mark.parametrize(("process", "action"), [("failed", Action.START), ("starting", Action.NOTHING)])
def test_a_client_that_failed_is_started_and_one_that_starts_is_left_alone(process: str, action: Action) -> None:
    (step,) = manifest.plan({"a": {}}, [entry("a", process)], prune=False)
    assert step.action is action


def test_a_client_whose_record_is_broken_is_to_be_changed() -> None:
    (step,) = manifest.plan({"a": {"fresh": "1"}}, [{"account": "a", "process": "running"}], prune=False)
    assert step.action is Action.CHANGE
