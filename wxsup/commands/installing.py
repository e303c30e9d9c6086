"""The commands wxsup install and wxsup uninstall: what systemd needs, where an operator has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wxsup import daemon, files, settings
from wxsup.flags import with_output
from wxsup.terminal import Output
from wxsup.usage import command

if TYPE_CHECKING:
    from wxsup.deployment import Place


def _place(prefix: Path, root: Path, user: bool) -> Place:
    """Return where an installation is, as its settings have it if there are any yet."""
    from wxsup import deployment

    programs = Path(daemon.script("wxsup")).parent
    if programs.is_relative_to(root):  # a package is being made there
        programs = Path("/") / programs.relative_to(root)
    place = deployment.of_user(programs) if user else deployment.Place(prefix=prefix, programs=programs)
    # What this machine is set to is no business of a package.
    if root != Path("/") or not place.config.exists():
        return place
    return deployment.as_set(place, settings.load(config=place.config, environment={}))


def _with_place(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options that say where an installation is."""
    for option in (
        click.option("--user", is_flag=True, help="for the systemd of the user that you are"),
        click.option(
            "--root", type=click.Path(path_type=Path), default="/", help="folder in place of /, for packagers"
        ),
        click.option("--prefix", type=click.Path(path_type=Path), default="/usr/local", show_default=True),
    ):
        command = option(command)
    return command


@command(
    examples=[
        ("wxsup install --user", "for the systemd of your own user, without root"),
        ("wxsup install --root build/root --prefix /usr", "into the folder that a package is made from"),
    ]
)
@with_output
@_with_place
def install(prefix: Path, root: Path, user: bool, output: Output) -> None:
    """Write the units of systemd and what belongs to them.

    Where there are no settings yet it writes the first ones. make install calls it.
    """
    from wxsup import deployment

    place = _place(prefix, root, user)
    written = [_install(_below(root, path), text, 0o644) for path, text in deployment.units(place).items()]
    if not _below(root, place.config).exists():
        text = deployment.settings_file(place)
        written.append(_install(_below(root, place.config), text, 0o600 if user else 0o640))
    _print(output, "written", written)


def _install(target: Path, text: str, mode: int) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    files.replace(target, text, mode=mode)
    return target


@command(examples=[("wxsup uninstall --user", "take back what wxsup install --user wrote")])
@with_output
@_with_place
def uninstall(prefix: Path, root: Path, user: bool, output: Output) -> None:
    """Remove what install wrote.

    The settings stay, and so do clients, their sessions and their records.
    """
    from wxsup import deployment

    units = deployment.units(deployment.of_user() if user else deployment.Place(prefix=prefix))
    found = [target for path in units if (target := _below(root, path)).exists()]
    for target in found:
        files.remove(target)
    _print(output, "removed", found)


def _print(output: Output, what: str, paths: list[Path]) -> None:
    if output.as_json:
        output.document({what: [str(path) for path in paths]})
    else:
        for path in paths:
            click.echo(path)


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
