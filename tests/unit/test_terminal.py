from __future__ import annotations

import io
import json
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from wxsup import names, terminal
from wxsup.commands.clients import STATES, row, trouble
from wxsup.errors import ClientUnknown, ControllerUnreachable, StartFailed
from wxsup.terminal import Column, Output, ago, clean, size, stamp, table

TURNING = ("RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI", "PDI", "PDF")
COLUMNS = (Column("NAME", "name"), Column("SINCE", "since", show=ago, plain=stamp))


def test_in_a_pipe_there_is_a_line_for_each_row_and_a_tab_between_values(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(COLUMNS, [{"name": "客服 02", "since": 1789012345.7}, {"name": "b", "since": None}, {"name": "c"}])
    assert capsys.readouterr().out == "客服 02\t2026-09-10T03:52:25Z\nb\t\nc\t\n"


@given(st.text())
def test_nothing_that_is_told_can_steer_a_terminal_or_break_a_line(text: str) -> None:
    shown = clean(text)
    assert not names.has_control(shown)
    assert {unicodedata.bidirectional(character) for character in shown}.isdisjoint(TURNING)
    assert len(shown) == len(text)
    assert terminal.plain(Column("", "x"), {"x": text}).count("\t") == 0


@given(
    st.dictionaries(
        st.sampled_from(["since", "restarts", "memory", "last_inbound_at", "reason", "error", "parked", "process"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    )
)
def test_whatever_a_client_tells_of_itself_is_shown_or_left_out(told: dict[str, object]) -> None:
    entry = {"account": "a", "process": "running", "state": "running", **told}
    table(Console(), STATES, [row(entry)])
    for column in STATES:
        terminal.plain(column, row(entry))


def test_the_reason_is_shown_at_a_narrow_terminal() -> None:
    entry = {"account": "a" * 30, "process": "failed", "state": "stop", "since": 1.0, "reason": "exit status 75"}
    for width, told in ((60, f"{'a' * 30}: exit status 75"), (160, f"{'a' * 30}  failed")):
        console = Console(width=width, file=io.StringIO(), color_system=None)
        with console.capture() as shown:
            console.print(table(console, STATES, [row(entry)]))
        assert told in shown.get() and "exit status 75" in shown.get()


def test_json_is_one_line_in_utf_8_and_can_say_half_a_surrogate(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).document({"b": "客", "a": "\ud83d"})
    said = capsys.readouterr().out
    assert said == '{"a": "\\ud83d", "b": "客"}\n'
    assert json.loads(said) == {"b": "客", "a": "\ud83d"}


def test_trouble_is_a_sentence_and_in_json_what_the_api_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert Output().trouble(ClientUnknown(), "bob") == 3
    assert Output(as_json=True).trouble(StartFailed("no such program"), client="bob") == 1
    assert Output(as_json=True).trouble(ControllerUnreachable("refused")) == 4
    assert Output(as_json=True).trouble(OSError(2, "No such file")) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[:2] == ["Error: bob: There is no client of that name.", "Error: no such program"]
    first, second, third = map(json.loads, said.out.splitlines())
    assert first == {"client": "bob", "code": 3, "status": "failure", "reason": "no such program"}
    assert (second["reason"], third["reason"]) == ("refused", "[Errno 2] No such file")


def test_times_and_sizes_are_for_people() -> None:
    now = time.time()
    assert [ago(now - seconds) for seconds in (-5, 0, 59, 60, 7200, 200000)] == [
        "0 s",
        "0 s",
        "59 s",
        "1 min",
        "2 h",
        "2 d",
    ]
    assert size(17301504) == "16.5 MiB"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"reason": "exit status 1", "error": "x", "parked": True}, "exit status 1"),
        ({"error": "port 3000 cannot be opened", "trouble": "x"}, "port 3000 cannot be opened"),
        ({"trouble": "disk full"}, "disk full"),
        ({"parked": True, "qrcode_expires_at": None}, "nobody scanned; wxsup qr --new asks for a new code"),
        ({"parked": True, "qrcode_expires_at": 1789012345}, ""),
        ({"verify_code_needed": True}, "wants the digits that the phone shows; wxsup qr"),
        ({}, ""),
    ],
)
def test_what_is_wrong_is_said_before_what_is_waited_for(entry: dict[str, object], sentence: str) -> None:
    assert trouble(entry) == sentence


def test_only_a_terminal_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Output().for_people
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert Output().for_people and Output().colours
    assert not Output(as_json=True).for_people
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Output().colours
