"""A client's record as text: the env file that systemd, wxclient and the launcher all read.

Each line is ``KEY=value`` quoted as shlex.quote does; systemd's parser takes exactly that (systemd.exec(5),
EnvironmentFile=). Control characters are refused, so a value never spans lines.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from wxsup import names
from wxsup.errors import NameInvalid, RecordInvalid
from wxsup.model import Client, Want

SCHEMA = "1"

DRIVER = "WXCLIENT_DRIVER"
WANT = "WXCLIENT_WANT"
ACCOUNT = "MOJO_WEIXIN_ACCOUNT"
PORT = "MOJO_WEIXIN_PLUGIN_OPENWX_PORT"


# What a record says of itself; the rest is the environment of the client.
_OWN = frozenset(
    f"WXCLIENT_{name}" for name in ("RECORD", "SLUG", "WANT", "PENDING", "CREATED", "DRIVER", "PARAMS")
) | {ACCOUNT, PORT}


def dumps(client: Client) -> str:
    """Return the text of a record: its header, then the environment of the client."""
    header = {
        "WXCLIENT_RECORD": SCHEMA,
        "WXCLIENT_SLUG": client.slug,
        WANT: client.want.value,
        "WXCLIENT_PENDING": str(int(client.pending)),
        "WXCLIENT_CREATED": repr(client.created),
        DRIVER: client.driver,
        "WXCLIENT_PARAMS": json.dumps(dict(client.params), ensure_ascii=False, sort_keys=True),
    }
    own = {ACCOUNT: client.name, PORT: str(client.port)}
    return "".join(_line(key, value) for key, value in {**header, **client.environment, **own}.items())


def loads(text: str) -> Client:
    """Return the Client in a record's text; raise RecordInvalid with what is wrong with it."""
    values = variables(text)
    try:
        if values["WXCLIENT_RECORD"] != SCHEMA:
            raise RecordInvalid(f"schema {values['WXCLIENT_RECORD']!r} is not {SCHEMA}")
        name, slug = values[ACCOUNT], values["WXCLIENT_SLUG"]
        if names.slug(name) != slug:
            raise RecordInvalid("name and slug differ")
        params = json.loads(values["WXCLIENT_PARAMS"])
        if not isinstance(params, dict) or not all(isinstance(value, str) for value in params.values()):
            raise RecordInvalid("WXCLIENT_PARAMS is not an object of strings")
        port = int(values[PORT])
        if not 0 < port < 65536:
            raise RecordInvalid(f"{port} is not a port")
        return Client(
            name=name,
            slug=slug,
            port=port,
            driver=values[DRIVER],
            params=params,
            environment={key: value for key, value in values.items() if key not in _OWN},
            want=Want(values[WANT]),
            pending=values["WXCLIENT_PENDING"] == "1",
            created=float(values["WXCLIENT_CREATED"]),
        )
    except KeyError as ex:
        raise RecordInvalid(f"{ex.args[0]} is missing") from ex
    except (ValueError, NameInvalid) as ex:
        raise RecordInvalid(str(ex)) from ex


def variables(text: str) -> Mapping[str, str]:
    """Return every variable of a record's text; raise RecordInvalid for a line that is not ``KEY=value``."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, quoted = line.partition("=")
        try:
            words = shlex.split(quoted)
        except ValueError as ex:
            raise RecordInvalid(f"line {number}: {ex}") from ex
        if not equals or not key.isidentifier() or len(words) > 1:
            raise RecordInvalid(f"line {number} is not KEY=value")
        found[key] = words[0] if words else ""
    return found


def _line(key: str, value: str) -> str:
    if names.has_control(value):
        raise RecordInvalid(f"{key} may not hold control characters")
    return f"{key}={shlex.quote(value)}\n"
