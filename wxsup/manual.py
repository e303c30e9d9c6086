"""The man pages of the commands, written from what the commands say of themselves: python -m wxsup.manual FOLDER.

man(7), and man-pages(7) for what stands in which section.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from wxsup import __version__, settings
from wxsup.cli import SECTIONS, main
from wxsup.usage import EXITS, MANY_SETTINGS, Command, Setting

ENVIRONMENT = (
    ("WXSUP_NAME", "The setting NAME, in capitals; an option wins over it, and it wins over the settings file."),
    (settings.CONFIG, "The settings file."),
    (settings.URL, "A controller elsewhere for the commands for clients, as --url."),
    (settings.TOKEN_FILE, "File with the token for it, as --token-file."),
    (settings.TOKEN, "The token itself. There is no such option: all users of a machine can read command lines."),
    ("NO_COLOR", "If set, nothing is shown in colours."),
)
FILES = (
    ("./wxsup.toml, ~/.config/wxsup/wxsup.toml, /etc/wxsup/wxsup.toml", "Settings; the first that there is counts."),
)


def pages() -> Iterator[tuple[str, str]]:
    """Yield name and text of every page."""
    root = click.Context(main, info_name="wxsup")
    yield "wxsup.1", _overview(root)
    yield from _of(root)


def _of(parent: click.Context) -> Iterator[tuple[str, str]]:
    assert isinstance(parent.command, click.Group)
    for name, command in sorted(parent.command.commands.items()):
        ctx = click.Context(command, info_name=name, parent=parent)
        yield f"{_page(ctx)}.1", _command(ctx)
        if isinstance(command, click.Group):
            yield from _of(ctx)


def _page(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _overview(ctx: click.Context) -> str:
    parts = [_head(ctx, "run many WeChat accounts on one server")]
    parts.append(_section("DESCRIPTION", _text(ctx.command.help or "")))
    parts += _options(ctx)
    for title, commands in SECTIONS.items():
        parts.append(_section(title.upper(), _entries(_listed("wxsup", commands))))
    parts += [_section("EXIT STATUS", _statuses()), _section("ENVIRONMENT", _entries(ENVIRONMENT))]
    parts.append(_section("FILES", _entries(FILES)))
    others = ", ".join(f"{_bold(f'wxsup-{command.name}')}(1)" for commands in SECTIONS.values() for command in commands)
    return "".join([*parts, _section("SEE ALSO", others + "\n")])


def _command(ctx: click.Context) -> str:
    command = ctx.command
    parts = [_head(ctx, command.get_short_help_str(200).rstrip("."))]
    parts.append(_section("DESCRIPTION", _text(command.help or "")))
    parts += _options(ctx)
    if isinstance(command, click.Group):
        parts.append(_section("COMMANDS", _entries(_listed(ctx.command_path, command.commands.values()))))
    if isinstance(command, Command):
        if command.hides_settings:
            parts.append(_section("SETTINGS", _text(MANY_SETTINGS)))
        parts.append(_section("EXAMPLES", _entries(command.examples)))
    parts.append(_section("EXIT STATUS", _statuses()))
    return "".join([*parts, _section("SEE ALSO", f"{_bold('wxsup')}(1)\n")])


def _options(ctx: click.Context) -> Iterator[str]:
    options = [param for param in ctx.command.params if isinstance(param, click.Option)]
    for title, kind in (("OPTIONS", False), ("SETTINGS", True)):
        shown = [option for option in options if isinstance(option, Setting) is kind]
        if records := [record for option in shown if (record := option.get_help_record(ctx))]:
            yield _section(title, _entries(records))


def _listed(before: str, commands: Iterable[click.Command]) -> list[tuple[str, str]]:
    return [(f"{before} {command.name}", command.get_short_help_str(200)) for command in commands]


def _head(ctx: click.Context, what: str) -> str:
    usage = " ".join(ctx.command.collect_usage_pieces(ctx))
    title = f'.TH "{_page(ctx).upper()}" 1 "" "wxsup {__version__}" "wxsup"\n'
    name = f"{_escaped(_page(ctx))} \\- {_escaped(what[0].lower() + what[1:])}\n"
    return title + _section("NAME", name) + _section("SYNOPSIS", f"{_bold(ctx.command_path)} {_escaped(usage)}\n")


def _section(title: str, text: str) -> str:
    return f".SH {title}\n{text}"


def _statuses() -> str:
    return _entries([(str(int(status)), f"{meaning[0].upper()}{meaning[1:]}.") for status, meaning in EXITS.items()])


def _entries(entries: Iterable[tuple[str, str]]) -> str:
    return "".join(f".TP\n{_bold(term)}\n{_line(meaning)}" for term, meaning in entries)


def _text(text: str) -> str:
    """Return paragraphs of help, which blank lines part."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return ".PP\n".join(_line(" ".join(paragraph.split())) for paragraph in paragraphs)


def _bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fR"


def _line(text: str) -> str:
    """Return a line of text, whatever it begins with: a dot would make it a request."""
    escaped = _escaped(text)
    return ("\\&" if escaped[:1] in (".", "'") else "") + escaped + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for page, content in pages():
        (folder / page).write_text(content, encoding="utf-8")
