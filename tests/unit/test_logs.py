from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from wxsup import settings
from wxsup.commands import logs
from wxsup.errors import ClientUnknown, ClientUnreachable, ControllerUnreachable, Refusal
from wxsup.sdk import Controller


def line(n: int, time: float) -> dict[str, Any]:
    return {"n": n, "time": time, "level": "INFO", "text": f"line {n}"}


class Told(Controller):
    """A controller that gives these answers; an exception is raised. It remembers what it was asked."""

    def __init__(self, *answers: list[dict[str, Any]] | Exception) -> None:
        super().__init__()
        self._answers = list(answers)
        self.asked: list[int | None] = []

    def log(self, name: str, *, lines: int = 200, after: int | None = None) -> dict[str, Any]:
        self.asked.append(after)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"lines": answer, "next": answer[-1]["n"] if answer else after or 0}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "AGAIN", 0.0)


def read(wx: Controller) -> Iterator[tuple[int, float]]:
    return ((found["n"], found["time"]) for found in logs._read(wx, "a", 200, follow=True))


def test_without_following_it_is_asked_once() -> None:
    wx = Told([line(1, 1.0)])
    assert [found["n"] for found in logs._read(wx, "a", 200, follow=False)] == [1]
    assert wx.asked == [None]


def test_it_goes_on_behind_what_was_read_also_where_lines_have_the_same_time() -> None:
    wx = Told([line(1, 1.0), line(2, 1.0)], [line(3, 1.0), line(4, 1.0)], [], [line(4, 1.0)], [line(5, 2.0)])
    assert list(islice(read(wx), 5)) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0)]
    assert wx.asked == [None, 2, 4, None, 4]


@pytest.mark.parametrize("away", [ClientUnreachable(), ControllerUnreachable()])
def test_a_process_that_counts_anew_is_read_from_where_the_old_one_ended(away: Exception) -> None:
    wx = Told([line(7, 5.0)], away, away, [line(1, 6.0), line(2, 6.5)], [line(3, 7.0)])
    assert list(islice(read(wx), 4)) == [(7, 5.0), (1, 6.0), (2, 6.5), (3, 7.0)]
    assert wx.asked == [None, 7, None, None, 2]


def test_it_is_found_out_also_when_nobody_was_away_as_far_as_we_saw() -> None:
    wx = Told([line(7, 5.0)], [], [line(1, 6.0)], [line(2, 7.0)])
    assert list(islice(read(wx), 3)) == [(7, 5.0), (1, 6.0), (2, 7.0)]
    assert wx.asked == [None, 7, None, 1]


def test_a_client_that_is_gone_ends_it() -> None:
    with pytest.raises(ClientUnknown):
        list(read(Told([line(1, 1.0)], ClientUnknown())))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"supervisor": "systemd"}, "--unit=wxclient@.e5.ae.a2.service --lines=5 -f"),
        ({"supervisor": "systemd", "systemd_scope": "user"}, "--user --no-pager"),
        ({}, "tail --lines=5 -F --"),
    ],
)
def test_what_is_kept_is_shown_by_the_program_that_is_there_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], words: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    chosen = settings.load({"state_dir": str(tmp_path), **given}, environment={})
    chosen.log_dir.mkdir()
    (chosen.log_dir / "wxclient-.e5.ae.a2.log").touch()
    assert words in " ".join(logs.kept(chosen, "客", follow=True, lines=5))


def test_where_nothing_is_kept_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for supervisor, sentence in (("systemd", "there is no journalctl here"), ("supervisord", "wxclient-a.log")):
        chosen = settings.load({"state_dir": str(tmp_path), "supervisor": supervisor}, environment={})
        with pytest.raises(Refusal, match=sentence):
            logs.kept(chosen, "a", follow=False, lines=5)
