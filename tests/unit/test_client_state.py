"""The login state: what the file says, who is told, and what happens when it cannot be written."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from wxsup.client import state as module
from wxsup.client.state import Login, LoginState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


@pytest.fixture
def state(path: Path) -> LoginState:
    return LoginState(path, {"account": "微信一号", "pid": 42})


def told(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_the_file_is_there_from_the_start(state: LoginState, path: Path) -> None:
    state_told = told(path)
    assert state_told.pop("memory") > 1_000_000
    assert state_told == {"account": "微信一号", "pid": 42, "state": "init", "previous_state": None}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_change_is_in_the_file_before_anybody_hears_of_it(state: LoginState, path: Path) -> None:
    heard: list[tuple[Login, Login, str]] = []
    state.changed = lambda old, new: heard.append((old, new, told(path)["state"]))
    state.enter(Login.LOADING)
    state.enter(Login.SCANING, qrcode_count=1)
    assert heard == [
        (Login.INIT, Login.LOADING, "loading"),
        (Login.LOADING, Login.SCANING, "scaning"),
    ]
    assert (told(path)["previous_state"], told(path)["qrcode_count"]) == ("loading", 1)


def test_entering_the_present_state_only_notes(state: LoginState, path: Path) -> None:
    heard: list[Login] = []
    state.changed = lambda old, new: heard.append(new)
    state.enter(Login.INIT, reason="waiting")
    assert heard == []
    assert (told(path)["reason"], told(path)["previous_state"]) == ("waiting", None)


def test_nothing_comes_after_stop(state: LoginState, path: Path) -> None:
    state.enter(Login.STOP)
    state.changed = lambda old, new: pytest.fail("a change after stop")
    state.enter(Login.SCANING, login_reason="too late")
    assert (told(path)["state"], state.current) == ("stop", Login.STOP)


def test_notes_alone_do_not_write_each_time(state: LoginState, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.note(last_poll_at=1)
    assert "last_poll_at" not in told(path)
    assert state.detail("last_poll_at") == 1
    assert state.detail("never noted") is None
    monkeypatch.setattr(module, "COUNTERS_EVERY", 0.0)
    state.enter(Login.INIT)
    state.note(last_poll_at=2)
    assert told(path)["last_poll_at"] == 2


def test_a_disk_that_takes_no_file_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "gone"
    state = LoginState(folder / "state.json", {})
    heard: list[Login] = []
    state.changed = lambda old, new: heard.append(new)
    state.enter(Login.LOADING)
    assert heard == [Login.LOADING]
    assert [record.message for record in caplog.records] == ["state file not written"] * 2
    folder.mkdir()
    state.note(last_poll_at=1)
    assert told(folder / "state.json")["state"] == "loading"


def test_changes_are_told_in_their_order_also_by_two_threads(state: LoginState) -> None:
    heard: list[Login] = []
    stopper = threading.Thread(target=state.enter, args=(Login.STOP,))

    def slowly(old: Login, new: Login) -> None:
        if new is Login.RUNNING:
            stopper.start()
            stopper.join(0.2)  # as long as the later change would need to overtake us
        heard.append(new)

    state.changed = slowly
    state.enter(Login.RUNNING)
    stopper.join(20)
    assert heard == [Login.RUNNING, Login.STOP]
