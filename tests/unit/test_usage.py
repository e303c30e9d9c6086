from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from tests.unit.test_docs import COMMANDS, errors
from wxsup.cli import SECTIONS, main
from wxsup.errors import (
    ClientUnknown,
    ControllerUnreachable,
    Forbidden,
    NotLoggedIn,
    ParameterRefused,
    Refusal,
    StartFailed,
    SupervisorUnreachable,
    TokenRefused,
    TokensUnreadable,
    WxsupError,
)
from wxsup.usage import EXITS, Command, Exit, exit_of

OPERATORS = ("|", "&&", ">", "$(", ")")


def typed(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of ours in a line of shell."""
    lexer = shlex.shlex(line.removeprefix('eval "$(').removesuffix(')"'), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for operator, words in itertools.groupby(lexer, lambda word: word in OPERATORS):
        found = list(words)
        if not operator and found[0] == "wxsup":
            yield found[1:]


EXAMPLES = [
    (name, line) for name, command in COMMANDS.items() if isinstance(command, Command) for line, _ in command.examples
]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClientUnknown(), 3),
        (ControllerUnreachable(), 4),
        (SupervisorUnreachable(), 4),
        (NotLoggedIn(), 5),
        (TokenRefused(), 6),
        (Forbidden(), 6),
        (TokensUnreadable(), 1),
        (ParameterRefused("x"), 2),
        (StartFailed(), 1),
        (Refusal("x"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_its_exit_status(error: Exception, status: int) -> None:
    assert exit_of(error) == status


@pytest.mark.parametrize("kind", list(errors()), ids=lambda kind: kind.__name__)
def test_no_error_passes_for_success(kind: type[WxsupError]) -> None:
    error = kind.__new__(kind)
    WxsupError.__init__(error)
    assert exit_of(error) != Exit.DONE


def test_every_exit_status_has_a_meaning() -> None:
    assert set(EXITS) == set(Exit)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_teaches_by_examples(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, Command)
    assert command.examples
    assert command.help


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_is_of_its_command_and_can_be_typed(name: str, line: str) -> None:
    commands = list(typed(line))
    assert any(" ".join(words).startswith(name) for words in commands)
    for words in commands:
        command: click.Command = main
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        command.make_parser(click.Context(command)).parse_args(words)


def test_every_command_is_listed_once_under_what_it_is_for() -> None:
    listed = [command.name for commands in SECTIONS.values() for command in commands]
    assert sorted(map(str, listed)) == sorted(main.commands)


def test_nothing_that_a_command_may_not_need_is_loaded_before_it_does() -> None:
    """The server needs gevent to patch the standard library first, and people do not like to wait."""
    heavy = ("requests", "urllib3", "gevent", "falcon", "rich", "jinja2", "segno", "gunicorn")
    code = f"import sys, wxsup.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
