"""The command wxsup apply: the clients that a file says, no more and no less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wxsup import manifest
from wxsup.errors import WxsupError
from wxsup.flags import Target, with_target
from wxsup.manifest import Action, Step
from wxsup.terminal import Column, Output, clean
from wxsup.usage import command

if TYPE_CHECKING:
    from wxsup.sdk import Controller

QUIET = (Action.NOTHING, Action.STRAY)
COLUMNS = (
    Column("NAME", "client"),
    Column("", "action", style=lambda value: {"removed": "red", "unchanged": "dim"}.get(value, "green")),
)


@command(
    examples=[
        ("wxsup apply clients.toml --check --diff", "what it would do, with each parameter that differs"),
        ("wxsup apply clients.toml", "start what is missing, restart what has changed, leave the rest alone"),
        ("wxsup apply clients.toml --prune", "also stop clients that are not in the file; their sessions stay"),
        ("wxsup apply clients.toml --json | jq .changed", "for Ansible: true if anything was, or would be, changed"),
    ]
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--prune", is_flag=True, help="stop and forget clients that are not in the file")
@click.option("--diff", is_flag=True, help="show the parameters that differ")
@click.option("--check", is_flag=True, help="change nothing, say what would be; exits with 0 all the same")
@with_target
def apply(target: Target, output: Output, file: Path, prune: bool, diff: bool, check: bool) -> None:
    """Make the clients those that a file says.

    It tells what it changed; a second run changes nothing.

    FILE is TOML: a table [clients.NAME] for each, with its start parameters, and [defaults] for all. A client whose
    parameters have changed is restarted on its port, one that is down is started. A file with a mistake in it changes
    nothing at all.
    """
    allowed = {} if target.remote else {"post_api_allow": target.here().post_api_allow}
    wanted = manifest.load(file, **allowed)
    with target.controller(acting=not check) as wx:
        steps = manifest.plan(wanted, wx.check(), prune=prune)
        failures = {} if check else _carry_out(output, wx, steps)
    done = [step for step in steps if step.name not in failures]
    changed = any(step.action not in QUIET for step in done)
    if output.as_json:
        told = [_told(step, failures.get(step.name)) for step in steps]
        output.document({"changed": changed, "check": check, "clients": told})
    else:
        _print(output, done, diff=diff, check=check)
    statuses = [_error(name, ex) for name, ex in failures.items()]
    if statuses:
        raise click.exceptions.Exit(statuses[0])


def _carry_out(output: Output, wx: Controller, steps: list[Step]) -> dict[str, WxsupError]:
    """Do each step; return what went wrong, by name. One that fails keeps no other from its turn."""
    act: dict[Action, Callable[[Step], object]] = {
        Action.START: lambda step: wx.start(step.name, **step.params),
        Action.CHANGE: lambda step: wx.change(step.name, **step.params),
        Action.REMOVE: lambda step: wx.remove(step.name),
    }
    failures = {}
    for step in output.progress([step for step in steps if step.action in act], "applying"):
        try:
            act[step.action](step)
        except WxsupError as ex:
            failures[step.name] = ex
    return failures


def _error(name: str, error: WxsupError) -> int:
    return Output().trouble(error, name)


def _told(step: Step, error: WxsupError | None) -> dict[str, Any]:
    told = {"client": step.name, "action": step.action.value, "changes": {k: list(v) for k, v in step.changes.items()}}
    return {**told, "error": error.body()} if error else told


def _print(output: Output, steps: list[Step], *, diff: bool, check: bool) -> None:
    shown = [step for step in steps if not (output.for_people and step.action is Action.NOTHING)]
    if not diff:
        output.rows(COLUMNS, [{"client": step.name, "action": step.action.value} for step in shown])
    for step in shown if diff else ():
        click.echo(f"{clean(step.name)}\t{step.action.value}")
        for name, (old, new) in step.changes.items():
            for sign, colour, value in (("-", "red", old), ("+", "green", new)):
                if value is not None:
                    click.echo(output.styled(f"  {sign} {name} = {clean(value)}", colour))
    unchanged = sum(step.action is Action.NOTHING for step in steps)
    output.say(f"{unchanged} unchanged." + (" Nothing was done: --check." if check else ""))
