from __future__ import annotations

import pytest

from wxsup.client.pulse import MARGIN, Pulse


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("wxsup.client.pulse.time.monotonic", lambda: now[0])
    return now


def test_a_thread_that_has_not_begun_is_not_late(clock: list[float]) -> None:
    found = Pulse()
    clock[0] += 1e9
    assert not found.late


def test_a_step_may_take_as_long_as_it_said_and_a_margin(clock: list[float]) -> None:
    found = Pulse()
    found.within(35)
    clock[0] += 35 + MARGIN
    assert not found.late
    clock[0] += 1
    assert found.late


def test_a_new_step_has_a_time_of_its_own(clock: list[float]) -> None:
    found = Pulse()
    found.within(1)
    clock[0] += 1e9
    found.within(0)
    assert not found.late


def test_who_rests_is_never_late(clock: list[float]) -> None:
    found = Pulse()
    found.within(1)
    found.rest()
    clock[0] += 1e9
    assert not found.late
