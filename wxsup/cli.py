"""The command wxsup: one group of all the commands, which says errors in one sentence and one exit status."""

from __future__ import annotations

import io
import sys
from typing import Any

import click

from wxsup import __version__
from wxsup.commands import apply, clients, completion, doctor, installing, login, logs, messages, server, tokens, watch
from wxsup.errors import SettingInvalid, WxsupError
from wxsup.flags import JSON
from wxsup.terminal import Output, body
from wxsup.usage import Exit

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Run it": (server.up, server.serve, server.sandbox),
    "Clients": (
        clients.start,
        clients.stop,
        clients.restart,
        clients.remove,
        clients.status,
        watch.watch,
        login.qr,
        logs.logs,
        messages.send,
        apply.apply,
    ),
    "Look after it": (
        doctor.check,
        doctor.config,
        tokens.token,
        server.render,
        server.refresh,
        server.sync,
        server.resume,
    ),
    "Install it": (installing.install, installing.uninstall, completion.completion),
}


class Group(click.Group):
    """Says our errors in one sentence, and by the exit status; lists the commands by what they are for."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (SettingInvalid, click.UsageError) as ex:
            if ctx.meta.get(JSON):
                Output(as_json=True).document(body(ex))
            if isinstance(ex, click.UsageError):
                raise
            raise click.UsageError(str(ex)) from ex
        except BrokenPipeError:
            raise  # whoever reads has seen enough; click knows what to do
        except (WxsupError, OSError) as ex:
            raise click.exceptions.Exit(Output(as_json=ctx.meta.get(JSON, False)).trouble(ex)) from ex
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(Exit.INTERRUPTED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in their sections."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(200)) for command in commands])


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wxsup")
def main() -> None:
    """Run many WeChat accounts on one server, each as a process of its own, behind one HTTP API.

    Begin with `wxsup up --sandbox`; then, in a second terminal, `wxsup start demo` and `wxsup qr demo`.

    Every setting can stand in wxsup.toml, in the environment as WXSUP_NAME, or on the command line as --name; the
    later wins. The commands for clients work on the controller here, or with --url on one elsewhere.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale has no letters for is no reason to fail
            stream.reconfigure(errors="replace")


for _command in (command for commands in SECTIONS.values() for command in commands):
    main.add_command(_command)
