"""The command wxsup completion: what a shell needs to complete commands, options and names of clients."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from wxsup.usage import command

SHELLS = ("bash", "zsh", "fish")


@command(
    examples=[
        ('eval "$(wxsup completion bash)"', "in ~/.bashrc"),
        ('eval "$(wxsup completion zsh)"', "in ~/.zshrc, after compinit"),
        ("wxsup completion fish > ~/.config/fish/completions/wxsup.fish", "once"),
    ]
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion for a shell.

    It completes commands, options and names of clients.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    made = kind(root.command, {}, "wxsup", "_WXSUP_COMPLETE")
    click.echo(made.source_template % made.source_vars())
