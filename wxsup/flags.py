"""Settings on the command line: a flag for each, and those of an instance that runs already."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from wxsup import daemon, settings
from wxsup.settings import Settings


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` an option for every setting; it is called with the Settings and the flags that were given."""

    def run(config: Path | None, **options: Any) -> None:
        names = {item.name for item in fields(Settings)}
        flags = {name: value for name, value in options.items() if name in names and value is not None}
        rest = {name: value for name, value in options.items() if name not in names}
        command(config=config, flags=flags, **rest)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    for item in reversed(fields(Settings)):
        default = item.metadata["default"]
        text = item.metadata["help"] + (f" [{default}]" if default else "")
        run = click.option("--" + item.name.replace("_", "-"), item.name, metavar="VALUE", help=text)(run)
    config = click.Path(path_type=Path, exists=True, dir_okay=False)
    return click.option("--config", type=config, help="settings file [wxsup.toml or /etc/wxsup/wxsup.toml]")(run)


def in_force(config: Path | None, flags: dict[str, str]) -> Settings:
    """Return the settings of the instance that runs on the same folder; flags win."""
    from wxsup.instance import told_to

    loaded = settings.load(flags, config=config)
    if told := told_to(loaded.state_dir):
        loaded = settings.load(flags, config=config, environment={**os.environ, **told})
    daemon.set_up_logging(loaded.log_level)
    return loaded
