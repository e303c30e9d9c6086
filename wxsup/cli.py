"""The command wxsup; each command is a few lines over a module that does the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wxsup import __version__, cli_tokens, daemon, files, settings
from wxsup.errors import Refusal, SettingInvalid, WxsupError
from wxsup.flags import in_force, with_settings
from wxsup.settings import Settings

if TYPE_CHECKING:
    from wxsup.controller import Controller
    from wxsup.deployment import Place


class _Group(click.Group):
    """Says our errors in one sentence: exit code 2 for a bad setting, 1 for the rest."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingInvalid as ex:
            raise click.UsageError(str(ex)) from ex
        except (WxsupError, OSError) as ex:
            raise click.ClickException(str(ex)) from ex


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wxsup")
def main() -> None:
    """Run many WeChat accounts on one server, each as a process of its own, behind one HTTP API.

    Every setting can stand in wxsup.toml, in the environment as WXSUP_NAME, or on the command line as --name; the
    later wins.
    """


main.add_command(cli_tokens.token)


@main.command()
@click.option("--sandbox", is_flag=True, help="also run the sandbox, a pretend WeChat, and turn all clients to it")
@with_settings
def up(config: Path | None, flags: dict[str, str], sandbox: bool) -> None:
    """Run everything in the foreground under a supervisord of its own; Ctrl-C stops it."""
    from wxsup.instance import Instance, sandbox_settings

    loaded = settings.load(flags, config=config)
    if loaded.supervisor != "supervisord":
        raise Refusal(f"up runs a supervisord of its own, but supervisor is {loaded.supervisor!r}; start wxcontroller")
    if sandbox:
        flags = {**sandbox_settings(loaded), **flags}
        loaded = settings.load(flags, config=config)
    config = settings.config_file(config)
    daemon.set_up_logging(loaded.log_level)
    for name in flags:  # a command beside it may be called elsewhere
        if isinstance(path := getattr(loaded, name), Path):
            flags[name] = str(path)
    environment = settings.as_environment(flags) | ({settings.CONFIG: str(config.absolute())} if config else {})
    Instance(loaded, sandbox=sandbox).run(environment, ready=lambda instance: _banner(loaded, instance.config, sandbox))


def _banner(loaded: Settings, config: Path, sandbox: bool) -> None:
    from wxsup.access import open_tokens

    api = loaded.listen[0].url
    curl = """curl -H "Authorization: Bearer $TOKEN\"""" if open_tokens(loaded).exist() else "curl"
    click.echo(f"wxsup {__version__} is up; Ctrl-C stops everything.\n")
    click.echo(f"  controller    {api}/openwx/...    log: {loaded.log_dir}/wxcontroller.log")
    if sandbox:
        click.echo(f"  sandbox       {loaded.sandbox_listen.url}/             a pretend WeChat with a phone page")
    click.echo(f"  supervisord   {daemon.script('supervisorctl')} -c {config} status\n")
    click.echo("Next:")
    click.echo(f"  {curl} '{api}/openwx/start_client?client=demo'")
    if sandbox:
        click.echo(f"  open {loaded.sandbox_listen.url}/ in a browser: scan the code there, confirm, write something")
    else:
        click.echo(f"  {curl} -o qr.png '{api}/openwx/get_qrcode?client=demo'    # scan it with WeChat")
    click.echo(f"  {curl} '{api}/openwx/check_event?client=demo'")


@main.command()
@with_settings
def serve(config: Path | None, flags: dict[str, str]) -> None:
    """Run the controller in the foreground, for a supervisor to start."""
    from wxsup import serve as server

    daemon.stop_with_supervisord()
    server.serve(lambda: settings.load(flags, config=config))


@main.command()
@click.option("--hold", type=float, default=25.0, show_default=True, help="seconds for which polls are held")
@with_settings
def sandbox(config: Path | None, flags: dict[str, str], hold: float) -> None:
    """Run the sandbox, a pretend WeChat with a phone page, in the foreground."""
    from wxsup.sandbox import app

    daemon.stop_with_supervisord()
    loaded = settings.load(flags, config=config)
    daemon.set_up_logging(loaded.log_level)
    daemon.set_title("wxsandbox")
    address = loaded.sandbox_listen
    app.serve((address.host, address.port), state=loaded.state_dir / "sandbox.json", hold=hold)


@main.command()
@click.argument("name")
@click.argument("parameters", nargs=-1, metavar="[PARAMETER=VALUE]...")
@with_settings
def start(config: Path | None, flags: dict[str, str], name: str, parameters: tuple[str, ...]) -> None:
    """Start the client NAME, as start_client does, and print the reply."""
    pairs = [parameter.partition("=")[::2] for parameter in parameters]
    _print(_prepared(config, flags).start(name, dict(pairs)))


@main.command()
@click.argument("name")
@with_settings
def stop(config: Path | None, flags: dict[str, str], name: str) -> None:
    """Stop the client NAME, as stop_client does, and print the reply; its session stays."""
    _print(_prepared(config, flags).stop(name))


def _controller(config: Path | None, flags: dict[str, str]) -> Controller:
    from wxsup.controller import open_controller

    return open_controller(in_force(config, flags))


def _prepared(config: Path | None, flags: dict[str, str]) -> Controller:
    controller = _controller(config, flags)
    controller.prepare()
    return controller


def _print(reply: dict[str, Any]) -> None:
    click.echo(json.dumps(reply, ensure_ascii=False, sort_keys=True))


@main.command()
@click.argument("name")
@with_settings
def render(config: Path | None, flags: dict[str, str], name: str) -> None:
    """Show the files that starting the client NAME would write, without writing any."""
    for path, text in _controller(config, flags).render(name).items():
        click.echo(f"# {path}\n{text}")


@main.command()
@click.option("--for-start", is_flag=True, help="fail only for what a controller cannot be started without")
@with_settings
def check(config: Path | None, flags: dict[str, str], for_start: bool) -> None:
    """Look whether the controller could do its work here: settings, folders, records, supervisor."""
    from wxsup import doctor

    findings = []
    for finding in doctor.examine(in_force(config, flags)):
        findings.append(finding)
        click.echo(f"FAIL  {finding.what}: {finding.problem}" if finding.problem else f"ok    {finding.what}")
    if any(finding.problem and (finding.vital or not for_start) for finding in findings):
        raise click.exceptions.Exit(1)


@main.command()
@with_settings
def refresh(config: Path | None, flags: dict[str, str]) -> None:
    """Bring the records of all clients up to changed settings; each follows when it is started again."""
    _prepared(config, flags).refresh()


@main.command()
@click.option("--patience", type=float, default=0.0, help="seconds for which to go on asking a supervisor that is away")
@with_settings
def resume(config: Path | None, flags: dict[str, str], patience: float) -> None:
    """Start every client that is to be up and is not, as after a boot."""
    stop = daemon.Stop()
    stop.heed_signals()
    if failed := _prepared(config, flags).resume(patience=patience, stop=stop.wait):
        raise Refusal(f"not started: {', '.join(failed)}")


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


@main.command()
@_with_place
def install(prefix: Path, root: Path, user: bool) -> None:
    """Write the units of systemd and what belongs to them, and first settings where there are none."""
    from wxsup import deployment

    place = _place(prefix, root, user)
    for path, text in deployment.units(place).items():
        _install(_below(root, path), text, 0o644)
    if not _below(root, place.config).exists():
        _install(_below(root, place.config), deployment.settings_file(place), 0o600 if user else 0o640)


def _install(target: Path, text: str, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    files.replace(target, text, mode=mode)
    click.echo(target)


@main.command()
@_with_place
def uninstall(prefix: Path, root: Path, user: bool) -> None:
    """Remove what install wrote, the settings excepted; clients, their sessions and their records stay."""
    from wxsup import deployment

    for path in deployment.units(deployment.of_user() if user else deployment.Place(prefix=prefix)):
        target = _below(root, path)
        if target.exists():
            files.remove(target)
            click.echo(target)


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


@main.command()
@with_settings
def sync(config: Path | None, flags: dict[str, str]) -> None:
    """Finish starts and stops that a crash cut short; the running controller does so by itself."""
    _prepared(config, flags).sync()
