"""The commands wxsup token ...: who may call the API."""

from __future__ import annotations

from pathlib import Path

import click

from wxsup import addresses as networks
from wxsup import values
from wxsup.errors import SettingInvalid
from wxsup.flags import in_force, parsed, with_output, with_settings
from wxsup.terminal import Column, Output, stamp
from wxsup.tokens import Role, Token, Tokens, create
from wxsup.usage import command

COLUMNS = (
    Column("NAME", "name"),
    Column("ROLE", "role"),
    Column("CLIENTS", "clients", show=" ".join, plain=" ".join, folds=True),
    Column("FROM", "addresses", show=" ".join, plain=" ".join, folds=True),
    Column("MADE", "created", show=stamp, plain=stamp),
    Column("ENDS", "ends", style=lambda value: "red" if "expired" in value else ""),
)


@click.group()
def token() -> None:
    """Say who may call the API; each change is in force at once.

    Once there has been a token, every call needs one.
    """


@command(
    examples=[
        ("wxsup token add office --role admin", "everything"),
        ("wxsup token add shop --role app --client 'shop-*'", "the calls to some clients"),
        ("wxsup token add night --role operator --expires 12h", "start and stop, for a while"),
    ]
)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="admin: everything; operator: start, stop, restart, check, login codes; app: the calls to a client",
)
@click.option("--client", "clients", metavar="PATTERN", multiple=True, help="only clients of such names, as shop-*")
@click.option(
    "--expires", metavar="TIME", callback=parsed(values.duration), help="how long it is good for, as 12h or 30d"
)
@click.option(
    "--from",
    "addresses",
    metavar="NETWORK",
    multiple=True,
    callback=parsed(networks.network),
    help="only from there, as 10.0.0.0/8",
)
@with_output
@with_settings
def add(
    config: Path | None,
    flags: dict[str, str],
    output: Output,
    name: str,
    role: str,
    clients: tuple[str, ...],
    expires: float | None,
    addresses: tuple[networks.Network, ...],
) -> None:
    """Make a token called NAME and print it; it cannot be shown again."""
    known = _tokens(config, flags)
    try:
        made, secret = create(name, Role(role), clients=clients, lasts=expires, addresses=addresses)
    except ValueError as ex:
        raise SettingInvalid(str(ex)) from ex
    first = known.read() is None
    known.add(made)
    try:
        if output.as_json:
            output.document({**_shown(made), "token": secret})
        else:
            click.echo(secret)
    except OSError:
        known.revoke(name)  # nobody has it
        raise
    if first:
        click.echo("This is the first token: from now on every call needs one.", err=True)


@command(
    name="list",
    examples=[
        ("wxsup token list", "in a pipe as TSV: name, role, clients, networks, made, ends"),
        ("wxsup token list --json | jq -r '.[].name'", "for programs"),
    ],
)
@with_output
@with_settings
def list_(config: Path | None, flags: dict[str, str], output: Output) -> None:
    """List the tokens, without their secrets."""
    found = _tokens(config, flags).read() or ()
    if output.as_json:
        output.document([_shown(known) for known in found])
        return
    rows = [_shown(known) for known in found]
    output.rows(COLUMNS, [{**row, **{key: row[key] or ["*"] for key in ("clients", "addresses")}} for row in rows])


@command(examples=[("wxsup token revoke night", "at once, in every worker")])
@click.argument("name")
@with_output
@with_settings
def revoke(config: Path | None, flags: dict[str, str], output: Output, name: str) -> None:
    """Take the token called NAME out of force for good."""
    _tokens(config, flags).revoke(name)
    if output.as_json:
        output.document({"revoked": name})


for _command in (add, list_, revoke):
    token.add_command(_command)


def _tokens(config: Path | None, flags: dict[str, str]) -> Tokens:
    return Tokens(in_force(config, flags, quiet=True).tokens_path)


def _shown(known: Token) -> dict[str, object]:
    """Return what may be shown of a token: not even its hash."""
    ends = "never" if known.expires is None else stamp(known.expires) + (" (expired)" if known.expired else "")
    return {
        "name": known.name,
        "role": known.role.value,
        "clients": list(known.clients),
        "addresses": [str(network) for network in known.addresses],
        "created": known.created,
        "expires": known.expires,
        "ends": ends,
    }
