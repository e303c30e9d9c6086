"""The commands that run the programs themselves, and look after what they work with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wxsup import __version__, daemon, settings, values
from wxsup.errors import Refusal
from wxsup.flags import clients_of, in_force, parsed, with_output, with_settings, with_shown_settings
from wxsup.settings import Settings
from wxsup.terminal import Output, clean
from wxsup.usage import command

if TYPE_CHECKING:
    from wxsup.controller import Controller


@command(
    examples=[
        ("wxsup up --sandbox", "try it with a pretend WeChat; its phone page is the second address that is printed"),
        ("wxsup up", "run clients of the real WeChat"),
        ("wxsup up --listen=127.0.0.1:2001 --state-dir=/srv/wx", "elsewhere, beside another one"),
    ]
)
@click.option("--sandbox", is_flag=True, help="also run the sandbox, a pretend WeChat, and turn all clients to it")
@with_shown_settings
def up(config: Path | None, flags: dict[str, str], sandbox: bool) -> None:
    """Run everything under a supervisord of its own; Ctrl-C stops it."""
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


@command(examples=[("wxsup serve --workers=4", "what the unit wxcontroller.service runs, with more workers")])
@with_shown_settings
def serve(config: Path | None, flags: dict[str, str]) -> None:
    """Run the controller, for a supervisor to start."""
    from wxsup import serve as server

    daemon.stop_with_supervisord()
    server.serve(lambda: settings.load(flags, config=config))


@command(
    examples=[
        ("wxsup sandbox", "a pretend WeChat on 127.0.0.1:2080; point clients at it with the setting ilink_base"),
        ("wxsup sandbox --sandbox-listen=127.0.0.1:2081", "at another address"),
    ]
)
@click.option(
    "--hold",
    default="25",
    callback=parsed(values.seconds(0, 3600)),
    show_default=True,
    help="seconds for which polls are held",
)
@with_settings
def sandbox(config: Path | None, flags: dict[str, str], hold: float) -> None:
    """Run the sandbox, a pretend WeChat with a phone page."""
    from wxsup.sandbox import app

    daemon.stop_with_supervisord()
    loaded = settings.load(flags, config=config)
    daemon.set_up_logging(loaded.log_level)
    daemon.set_title("wxsandbox")
    address = loaded.sandbox_listen
    app.serve((address.host, address.port), state=loaded.state_dir / "sandbox.json", hold=hold)


@command(
    examples=[
        ("wxsup render demo", "what a start of demo would write"),
        ("wxsup render demo --json", 'the same as {"PATH": "TEXT"}'),
    ]
)
@click.argument("name", shell_complete=clients_of)
@with_output
@with_settings
def render(config: Path | None, flags: dict[str, str], output: Output, name: str) -> None:
    """Show the files that a start of the client NAME would write."""
    files = {str(path): text for path, text in _controller(config, flags).render(name).items()}
    if output.as_json:
        output.document(files)
    else:
        for path, text in files.items():
            click.echo(f"# {path}\n{text}")


@command(examples=[("wxsup refresh && wxsup restart demo", "after a change of wxsup.toml, for the client demo")])
@with_output
@with_settings
def refresh(config: Path | None, flags: dict[str, str], output: Output) -> None:
    """Bring the records of all clients up to changed settings.

    Each client follows when it is started again. Prints whose records have changed.
    """
    changed = _prepared(config, flags).refresh()
    _print_names(output, "refreshed", changed)


@command(
    examples=[
        ("wxsup resume", "start whom a reboot, or an operator, has stopped"),
        ("wxsup resume --patience 300", "what wxsup-resume.service runs at boot, while systemd is still busy"),
    ]
)
@click.option(
    "--patience",
    default="0",
    callback=parsed(values.seconds(0, 86400)),
    help="seconds for which to go on asking a supervisor that is away",
)
@with_output
@with_settings
def resume(config: Path | None, flags: dict[str, str], output: Output, patience: float) -> None:
    """Start every client that is to be up and is not, as after a boot."""
    stop = daemon.Stop()
    stop.heed_signals()
    failed = _prepared(config, flags).resume(patience=patience, stop=stop.wait)
    if output.as_json:
        _print_names(output, "failed", failed)
    if failed:
        raise Refusal(f"not started: {', '.join(map(clean, failed))}")


@command(examples=[("wxsup sync", "finish what a kill -9 has cut short, with no controller running")])
@with_output
@with_settings
def sync(config: Path | None, flags: dict[str, str], output: Output) -> None:
    """Finish starts and stops that a crash cut short.

    The running controller does so by itself, every check_interval. Prints whose work it was.
    """
    _print_names(output, "finished", _prepared(config, flags).sync())


def _controller(config: Path | None, flags: dict[str, str]) -> Controller:
    from wxsup.controller import open_controller

    return open_controller(in_force(config, flags))


def _prepared(config: Path | None, flags: dict[str, str]) -> Controller:
    controller = _controller(config, flags)
    controller.prepare()
    return controller


def _print_names(output: Output, what: str, names: list[str]) -> None:
    if output.as_json:
        output.document({what: names})
    else:
        for name in names:
            click.echo(clean(name))
