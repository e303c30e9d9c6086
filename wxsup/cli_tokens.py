"""The commands wxsup token ...: who may call the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from wxsup import addresses, values
from wxsup.addresses import Network
from wxsup.errors import SettingInvalid
from wxsup.flags import in_force, with_settings
from wxsup.tokens import Role, Tokens, create


@click.group()
def token() -> None:
    """Say who may call the API; each change is in force at once.

    Once there has been a token, every call needs one.
    """


def _parsed(parse: values.Parser) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Take the text of an option, or of each one, for what the settings would."""

    def convert(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            return tuple(map(parse, value)) if param.multiple else None if value is None else parse(value)
        except ValueError as ex:
            raise click.BadParameter(str(ex), ctx, param) from ex

    return convert


@token.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="admin: everything; operator: start, stop, check, login codes; app: the calls to a client",
)
@click.option("--client", "clients", metavar="PATTERN", multiple=True, help="only clients of such names, as shop-*")
@click.option(
    "--expires", metavar="TIME", callback=_parsed(values.duration), help="how long it is good for, as 12h or 30d"
)
@click.option(
    "--from",
    "addresses",
    metavar="NETWORK",
    multiple=True,
    callback=_parsed(addresses.network),
    help="only from there, as 10.0.0.0/8",
)
@with_settings
def add(
    config: Path | None,
    flags: dict[str, str],
    name: str,
    role: str,
    clients: tuple[str, ...],
    expires: float | None,
    addresses: tuple[Network, ...],
) -> None:
    """Make a token called NAME and print it; it cannot be shown again."""
    known = _tokens(config, flags)
    try:
        made, secret = create(name, Role(role), clients=clients, lasts=expires, addresses=addresses)
    except ValueError as ex:
        raise SettingInvalid(str(ex)) from ex
    first = known.read() is None
    known.add(made)
    click.echo(secret)
    if first:
        click.echo("This is the first token: from now on every call needs one.", err=True)


@token.command(name="list")
@with_settings
def list_(config: Path | None, flags: dict[str, str]) -> None:
    """List the tokens: name, role, clients, networks, when it was made and when it ends."""
    for known in _tokens(config, flags).read() or ():
        clients, networks = " ".join(known.clients) or "*", " ".join(map(str, known.addresses)) or "*"
        ends = "never" if known.expires is None else _day(known.expires) + (" (expired)" if known.expired else "")
        click.echo("\t".join((known.name, known.role.value, clients, networks, _day(known.created), ends)))


@token.command()
@click.argument("name")
@with_settings
def revoke(config: Path | None, flags: dict[str, str], name: str) -> None:
    """Take the token called NAME out of force for good."""
    _tokens(config, flags).revoke(name)


def _tokens(config: Path | None, flags: dict[str, str]) -> Tokens:
    return Tokens(in_force(config, flags).tokens_path)


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(" ", "minutes").removesuffix("+00:00")
