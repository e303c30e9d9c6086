"""The environment of a client: what follows from its name, its port, its start parameters and the settings.

The variables are those of openwx-api.md 9.4; a parameter wins over a setting, nothing else gets in.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlencode, urlsplit, urlunsplit

from wxsup import names, options
from wxsup.errors import RecordInvalid
from wxsup.model import Client
from wxsup.options import ForClients
from wxsup.settings import Settings


def environment(client: Client, settings: Settings) -> dict[str, str]:
    """Return every variable of the record of `client`, apart from its name and port."""
    runtime, session = settings.tmpdir / client.slug, settings.session_dir / client.slug
    paths = {
        "tmpdir": runtime,
        "state_path": runtime / names.document_file("state", client.slug, "json"),
        "qrcode_path": runtime / names.document_file("qrcode", client.slug, "jpg"),
        "pid_path": runtime / names.document_file("pid", client.slug, "pid"),
        "cookie_path": session / names.document_file("cookie", client.slug, "dat"),
        "media_dir": session / "media",
    }
    reporting = {
        option: _for_client(client.params.get(name, default), client.name)
        for (name, option), default in zip(options.REPORTING.items(), (settings.post_api, ""), strict=True)
    }
    given = {name: value for name, value in client.params.items() if name not in ("driver", *options.REPORTING)}
    operator = {item.name: _as_text(getattr(settings, item.name)) for item in fields(ForClients)}
    found = {"log_level": settings.log_level, **operator, **given, **paths, **reporting}
    foreign = {options.COMMAND: settings.command} if client.driver == options.FOREIGN else {}
    return {options.PREFIX + name.upper(): str(value) for name, value in found.items()} | foreign


def path_of(client: Client, option: str) -> Path:
    """Return a path that the record of `client` names, such as state_path; raise RecordInvalid if it names none."""
    try:
        return Path(client.environment[options.PREFIX + option.upper()])
    except KeyError as ex:
        raise RecordInvalid(f"{ex.args[0]} is missing") from ex


def _as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _for_client(url: str, name: str) -> str:
    """Put ``client=NAME`` into the query of `url`, in place of one that is there; the rest may be signed and stays."""
    if not url:
        return ""
    parts = urlsplit(url)
    rest = [pair for pair in parts.query.split("&") if pair and unquote_plus(pair.partition("=")[0]) != "client"]
    return urlunsplit(parts._replace(query="&".join([*rest, urlencode({"client": name})])))
