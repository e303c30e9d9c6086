"""What systemd's words become; that it says them is tested on a real one."""

from __future__ import annotations

from typing import Any

import pytest

from wxsup.model import State, Status
from wxsup.units import path_of, status

CLD_EXITED, CLD_KILLED = 1, 2


def shown(**changes: Any) -> dict[str, Any]:
    return {
        "ActiveState": "failed",
        "StateChangeTimestamp": 1_700_000_000_500_000,
        "MainPID": 0,
        "ExecMainStartTimestamp": 1_600_000_000_000_000,
        "ExecMainCode": 0,
        "ExecMainStatus": 0,
        "Result": "success",
        "NRestarts": 3,
        "ControlGroup": "",
        **changes,
    }


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, ""),
        ({"Result": "exit-code", "ExecMainCode": CLD_EXITED, "ExecMainStatus": 75}, "exit status 75"),
        ({"Result": "signal", "ExecMainCode": CLD_KILLED, "ExecMainStatus": 9}, "killed by SIGKILL"),
        ({"Result": "signal", "ExecMainCode": CLD_KILLED, "ExecMainStatus": 40}, "killed by signal 40"),
        ({"Result": "oom-kill", "ExecMainCode": CLD_KILLED, "ExecMainStatus": 9}, "oom-kill, killed by SIGKILL"),
        ({"Result": "watchdog", "ExecMainCode": CLD_KILLED, "ExecMainStatus": 6}, "watchdog, killed by SIGABRT"),
        ({"Result": "start-limit-hit"}, "start-limit-hit"),
        (
            {"Result": "start-limit-hit", "ExecMainCode": CLD_EXITED, "ExecMainStatus": 1},
            "start-limit-hit, exit status 1",
        ),
        ({"Result": "timeout"}, "timeout"),
        ({"Result": "resources"}, "resources"),
    ],
)
def test_the_reason_is_the_result_and_how_the_process_ended(said: dict[str, Any], reason: str) -> None:
    assert status(shown(**said)) == Status(State.FAILED, since=1_700_000_000.5, reason=reason, restarts=3)


@pytest.mark.parametrize(
    ("active", "state"),
    [
        ("active", State.RUNNING),
        ("reloading", State.RUNNING),
        ("activating", State.STARTING),
        ("deactivating", State.STOPPING),
        ("inactive", State.STOPPED),
        ("maintenance", State.STOPPED),
        ("failed", State.FAILED),
    ],
)
def test_every_state_of_a_unit_has_one_of_ours(active: str, state: State) -> None:
    assert status(shown(ActiveState=active)).state is state


def test_of_a_process_the_start_counts_and_no_old_reason() -> None:
    said = shown(ActiveState="active", MainPID=4711, Result="exit-code", ExecMainCode=1, ExecMainStatus=1)
    assert status(said) == Status(State.RUNNING, pid=4711, since=1_600_000_000.0, restarts=3)


def test_a_path_is_escaped_as_systemd_does() -> None:
    path = path_of("wxclient@.e5-a_1.service")
    assert path == "/org/freedesktop/systemd1/unit/wxclient_40_2ee5_2da_5f1_2eservice"
