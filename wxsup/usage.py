"""How a command shows itself: its examples and its options in the help, and the exit status that tells how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import click

from wxsup.errors import (
    ClientMissing,
    ClientUnknown,
    ClientUnreachable,
    ControllerUnreachable,
    NameInvalid,
    NotLoggedIn,
    ObjectNotFound,
    ParameterRefused,
    SettingInvalid,
    SupervisorUnreachable,
    TokensUnreadable,
    WxsupError,
)

Examples = Sequence[tuple[str, str]]

MANY_SETTINGS = "Each setting is an option too, as --state-dir DIR; wxsup config --help lists them."


class Exit(IntEnum):
    """The exit statuses of wxsup."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNKNOWN = 3
    UNREACHABLE = 4
    NOT_LOGGED_IN = 5
    DENIED = 6
    TIMEOUT = 7
    INTERRUPTED = 130


EXITS = {
    Exit.DONE: "done",
    Exit.FAILED: "it could not be done; standard error says why, unless whoever read the output left before its end",
    Exit.USAGE: "called wrongly, or a name, a parameter, a setting or a file of clients is bad; nothing was done",
    Exit.UNKNOWN: "there is no such client, or it has no such friend",
    Exit.UNREACHABLE: "the controller, the supervisor or the client cannot be reached, or is busy; try again",
    Exit.NOT_LOGGED_IN: "the client is not logged in",
    Exit.DENIED: "the token is missing, wrong, or not for that",
    Exit.TIMEOUT: "the time given with --timeout is over",
    Exit.INTERRUPTED: "interrupted, by Ctrl-C",
}

_KINDS: tuple[tuple[type[WxsupError], Exit], ...] = (
    (SettingInvalid, Exit.USAGE),
    (NameInvalid, Exit.USAGE),
    (ParameterRefused, Exit.USAGE),
    (ClientMissing, Exit.USAGE),
    (ClientUnknown, Exit.UNKNOWN),
    (ObjectNotFound, Exit.UNKNOWN),
    (ControllerUnreachable, Exit.UNREACHABLE),
    (SupervisorUnreachable, Exit.UNREACHABLE),
    (ClientUnreachable, Exit.UNREACHABLE),
    (NotLoggedIn, Exit.NOT_LOGGED_IN),
)
_BUSY, _DENIED = 7, -6  # codes that several errors share


def exit_of(error: Exception) -> Exit:
    """Return the exit status that says what `error` is."""
    if isinstance(error, TokensUnreadable):
        return Exit.FAILED  # it is nothing that whoever asks could mend with another token
    if isinstance(error, WxsupError) and error.code in (_BUSY, _DENIED):
        return Exit.UNREACHABLE if error.code == _BUSY else Exit.DENIED
    return next((status for kind, status in _KINDS if isinstance(error, kind)), Exit.FAILED)


class Setting(click.Option):
    """An option that is a setting; the help shows it apart from the command's own."""


class Command(click.Command):
    """A command whose help ends with examples: what to type, and what that does."""

    def __init__(self, *arguments: Any, examples: Examples = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the command, then the settings."""
        for title, settings in (("Options", False), ("Settings", True)):
            options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
            params = [option for option in options if isinstance(option, Setting) is settings]
            if records := [record for param in params if (record := param.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        if self.hides_settings:
            formatter.write_paragraph()
            formatter.write_text(MANY_SETTINGS)
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
                    with formatter.indentation(), formatter.indentation():
                        formatter.write_text(meaning)

    @property
    def hides_settings(self) -> bool:
        """Whether it takes settings that its help does not list."""
        return any(isinstance(param, Setting) and param.hidden for param in self.params)


def command(*, examples: Examples, name: str | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, with its docstring as help."""
    return click.command(name=name, cls=Command, examples=examples)
