"""The commands that look: wxsup check, and wxsup config."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click

from wxsup import settings
from wxsup.flags import environment, in_force, with_output, with_settings, with_shown_settings
from wxsup.settings import Settings
from wxsup.terminal import Column, Output, clean
from wxsup.usage import Exit, command

LEVELS = {"ok": "green", "warn": "yellow", "FAIL": "red"}
FINDINGS = (Column("", "level"), Column("", "what"), Column("", "problem"), Column("", "remedy"))
SETTINGS = (
    Column("SETTING", "name"),
    Column("VALUE", "value", folds=True),
    Column("FROM", "source", style=lambda value: "dim" if value == settings.DEFAULT else "", folds=True),
)
INSTANCE = "the running wxsup up"


@command(
    examples=[
        ("wxsup check", "each thing in a line, with a remedy; in a pipe as TSV: level, what, problem, remedy"),
        ("wxsup check --json | jq '.findings[] | select(.level != \"ok\")'", "for programs"),
        ("wxsup check --for-start", "what wxcontroller.service asks before its start"),
    ]
)
@click.option("--for-start", is_flag=True, help="look at what a start needs, fail for what it cannot do without")
@with_output
@with_settings
def check(config: Path | None, flags: dict[str, str], output: Output, for_start: bool) -> None:
    """Look what is in the way of the controller, and how to mend it.

    It looks at folders and rights, records, secrets, tokens, addresses, the supervisor, ports, file descriptors, stale
    files and the clock, and makes folders that are missing. Exits with 1 if anything has failed; a warning fails
    nothing.
    """
    from wxsup import doctor

    findings = []
    for finding in doctor.examine(in_force(config, flags, quiet=True), for_start=for_start):
        findings.append(finding)
        if output.for_people:
            _print(output, finding)
        elif not output.as_json:
            output.rows(FINDINGS, [{**vars(finding), "level": finding.level}])
    failed = any(finding.level == "FAIL" and (finding.vital or not for_start) for finding in findings)
    if output.as_json:
        keys = ("what", "problem", "remedy", "vital")
        told = [{"level": finding.level, **{key: getattr(finding, key) for key in keys}} for finding in findings]
        output.document({"ok": not failed, "findings": told})
    if failed:
        raise click.exceptions.Exit(Exit.FAILED)


def _print(output: Output, finding: Any) -> None:
    level = output.styled(f"{finding.level:4}", LEVELS[finding.level])
    trouble = f": {finding.problem}; {finding.remedy}" if finding.problem else ""
    click.echo(f"{level}  {clean(finding.what + trouble)}")


@command(
    examples=[
        ("wxsup config", "every setting, its value and where that comes from; in a pipe as TSV"),
        ("wxsup config --json | jq -r .state_dir.value", "one of them"),
        ("wxsup config --workers=4", "as it would be with this flag"),
    ]
)
@with_output
@with_shown_settings
def config(config: Path | None, flags: dict[str, str], output: Output) -> None:
    """Show every setting in force, and where it comes from.

    That is a default, a file, the environment or the command line. Beside a running `wxsup up` these are its settings.
    Secrets are no settings, only the paths of their files are; what stands behind the ? of a URL is left out.
    """
    loaded = in_force(config, flags, quiet=True)
    told = environment(config, flags)
    sources = settings.sources(flags, config=config, environment=told)
    rows = [
        {"name": name, "value": _shown(getattr(loaded, name)), "source": _source(name, sources[name], told)}
        for name in (item.name for item in fields(Settings))
    ]
    if output.as_json:
        output.document({row.pop("name"): row for row in rows})
    else:
        output.rows(SETTINGS, rows)


def _shown(value: object) -> str:
    text = "" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if not text.startswith(("http://", "https://")):
        return text
    parts = urlsplit(text)
    return urlunsplit(parts._replace(query="..." if parts.query else ""))


def _source(name: str, source: str, told: dict[str, str]) -> str:
    variable = settings.ENVIRONMENT + name.upper()
    if source != "environment":
        return source
    if told.get(variable) != os.environ.get(variable):
        return INSTANCE
    return f"${variable}" if variable in told else source
