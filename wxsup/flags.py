"""The options that commands share: a flag for every setting, --json, and which controller a command is about."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wxsup import daemon, settings, values
from wxsup.errors import SettingInvalid
from wxsup.settings import Settings
from wxsup.terminal import Output
from wxsup.usage import Setting

if TYPE_CHECKING:
    from wxsup.sdk import Controller

Made = TypeVar("Made")

SETTINGS = frozenset(item.name for item in fields(Settings))
SHELL_SAFE = re.compile(r"[\w@%+=:,./][\w@%+=:,./-]*")
JSON = "wxsup.json"  # in ctx.meta: whether JSON was asked for
QUIET = "warn"


@dataclass(frozen=True)
class Target:
    """The controller that a command is about: the one at `url`, or else the one of the settings, in this process."""

    config: Path | None
    flags: Mapping[str, str]
    url: str | None
    token_file: Path | None

    @property
    def remote(self) -> bool:
        """Whether it is asked over the network."""
        return bool(self.url)

    def here(self) -> Settings:
        """Return the settings of the controller here."""
        return in_force(self.config, self.flags, quiet=True)

    def controller(self, *, acting: bool = False) -> AbstractContextManager[Controller]:
        """Return the controller, to be entered; `acting` for commands that change which clients there are."""
        from wxsup.sdk import Controller

        if self.url:
            try:
                return Controller(values.url(self.url), self._token())
            except ValueError as ex:
                raise SettingInvalid(f"--url or ${settings.URL}: {ex}") from ex
        from wxsup import local

        return local.controller(self.here(), prepare=acting)

    def _token(self) -> str | None:
        """Return the token; a command line that held it would be read by everybody on this machine (ps(1))."""
        from wxsup.sdk import is_token

        file, source = self.token_file, f"--token-file {self.token_file}" if self.token_file else f"${settings.TOKEN}"
        try:
            text = file.read_text(encoding="utf-8") if file else os.environ.get(settings.TOKEN, "")
        except (OSError, UnicodeDecodeError) as ex:
            raise SettingInvalid(f"{source}: {ex}") from ex
        token = text.strip()
        if token and not is_token(token):
            raise SettingInvalid(f"{source}: it does not hold one token")
        return token or None


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Call `command` with the settings file and the settings that were given as flags, which the help leaves out."""
    return _with_settings(command, shown=False)


def with_shown_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Do so, and list the settings in the help."""
    return _with_settings(command, shown=True)


def with_output(command: Callable[..., None]) -> Callable[..., None]:
    """Call `command` with an Output, which --json turns to JSON."""

    def run(as_json: bool, **options: Any) -> None:
        click.get_current_context().meta[JSON] = as_json
        command(output=Output(as_json=as_json), **options)

    _take_over(run, command)
    return click.option("--json", "as_json", is_flag=True, help="print JSON, for programs")(run)


def with_target(command: Callable[..., None]) -> Callable[..., None]:
    """Call `command` with a Target and an Output."""

    def run(config: Path | None, flags: dict[str, str], url: str | None, token_file: Path | None, **rest: Any) -> None:
        command(target=Target(config, flags, url, token_file), **rest)

    _take_over(run, command)
    found = with_settings(run)
    for option in (
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            envvar=settings.TOKEN_FILE,
            help=f"file with the token for it [${settings.TOKEN_FILE}, or the token itself in ${settings.TOKEN}]",
        ),
        click.option(
            "--url",
            envvar=settings.URL,
            help=f"a controller elsewhere, as https://wx.example.com [${settings.URL}, or else the one here]",
        ),
    ):
        found = option(found)
    return with_output(found)


def parsed(parse: values.Parser) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Take the text of an option, or of each one, for what the settings would."""

    def convert(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            return tuple(map(parse, value)) if param.multiple else None if value is None else parse(value)
        except ValueError as ex:
            raise click.BadParameter(str(ex), ctx, param) from ex

    return convert


def target_of(params: Mapping[str, Any]) -> Target:
    """Return the target that the parameters of a command speak of, as far as they are known."""
    flags = {name: value for name, value in params.items() if name in SETTINGS and value is not None}
    url = params.get("url") or os.environ.get(settings.URL)
    token_file = params.get("token_file") or os.environ.get(settings.TOKEN_FILE)
    return Target(params.get("config"), flags, url, Path(token_file) if token_file else None)


def clients_of(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a client, unless a shell would read more in it than a name: it is put in unquoted."""
    try:
        with target_of(ctx.params).controller() as wx:
            names = [str(entry["account"]) for entry in wx.check()]
            return [name for name in names if name.startswith(incomplete) and SHELL_SAFE.fullmatch(name)]
    except Exception:  # a shell in the middle of a line is no place for errors
        return []


def name_argument(function: Callable[..., Made]) -> Callable[..., Made]:
    """Give a command the argument NAME."""
    return click.argument("name", shell_complete=clients_of)(function)


def names_argument(function: Callable[..., Made]) -> Callable[..., Made]:
    """Give a command one argument NAME or more."""
    return click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=clients_of)(function)


def in_force(config: Path | None, flags: Mapping[str, str], *, quiet: bool = False) -> Settings:
    """Return the settings of the instance that runs on the same folder; flags win.

    Log lines go to standard error; of `quiet` commands, which say themselves what they do, only warnings.
    """
    loaded = settings.load(flags, config=config, environment=environment(config, flags))
    daemon.set_up_logging(QUIET if quiet and "log_level" not in flags else loaded.log_level)
    return loaded


def environment(config: Path | None, flags: Mapping[str, str]) -> dict[str, str]:
    """Return our environment with what the instance on the same folder, if one runs, was told."""
    from wxsup.instance import told_to

    return {**os.environ, **told_to(settings.load(flags, config=config).state_dir)}


def _with_settings(command: Callable[..., None], *, shown: bool) -> Callable[..., None]:
    def run(config: Path | None, **options: Any) -> None:
        flags = {name: value for name, value in options.items() if name in SETTINGS and value is not None}
        rest = {name: value for name, value in options.items() if name not in SETTINGS}
        command(config=config, flags=flags, **rest)

    _take_over(run, command)
    found: Callable[..., None] = run
    for item in reversed(fields(Settings)):
        default = item.metadata["default"]
        text = item.metadata["help"] + (f" [{default}]" if default else "")
        flag = "--" + item.name.replace("_", "-")
        found = click.option(flag, item.name, cls=Setting, hidden=not shown, metavar="VALUE", help=text)(found)
    path = click.Path(path_type=Path, exists=True, dir_okay=False)
    return click.option("--config", type=path, help="settings file [wxsup.toml or /etc/wxsup/wxsup.toml]")(found)


def _take_over(run: Callable[..., None], command: Callable[..., None]) -> None:
    """Give `run` the name, the help and the parameters of the command that it stands for."""
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a command that goes on until somebody ends it, with no complaint."""
    try:
        yield
    except KeyboardInterrupt:
        return
