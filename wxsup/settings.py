"""The settings of the server: one table; wxsup.toml < ``WXSUP_NAME`` in the environment < command-line flags."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wxsup import addresses, options, values
from wxsup.addresses import Address
from wxsup.errors import SettingInvalid
from wxsup.options import ForClients
from wxsup.values import declare

ENVIRONMENT = "WXSUP_"
CONFIG = "WXSUP_CONFIG"
#: What tells a command of a controller elsewhere; no setting, and nobody else's business.
URL, TOKEN, TOKEN_FILE = "WXSUP_URL", "WXSUP_TOKEN", "WXSUP_TOKEN_FILE"
DEFAULT = "default"
REMOTE = (URL, TOKEN, TOKEN_FILE)


@dataclass(frozen=True, kw_only=True)
class Settings(ForClients):
    """What the operator decides; names that the original document has mean what they mean there."""

    listen: tuple[Address, ...] = declare(
        "127.0.0.1:2000",
        values.many(addresses.address, least=1),
        "addresses of the HTTP API, HOST:PORT, several with commas",
    )
    trusted_hosts: tuple[str, ...] = declare(
        "",
        values.many(values.text),
        "names, besides loopback ones, under which a proxy in front is reached and whose pages may use the API",
    )
    workers: int = declare("2", values.integer(1, 64), "worker processes of the controller")
    backend_start_port: int = declare("3000", values.integer(1024, 65000), "first port given to a client")
    max_clients: int = declare("100", values.integer(1, 50000), "most clients there may be")
    post_api: str = declare("", values.url, "URL that every client posts its messages and events to")
    post_api_allow: str = declare(
        "", values.pattern, "regular expression of the URLs that start_client may set as post_api and poll_api"
    )
    post_secret_path: Path | None = declare(
        "", values.optional(values.path), "file with the secret that signs what clients post; unsigned if empty"
    )
    poll_api: str = declare("", values.url, "URL that the controller's own heartbeat asks")
    poll_interval: float = declare("5", values.seconds(1, 86400), "seconds between two heartbeats of the controller")
    check_interval: float = declare("5", values.seconds(1, 3600), "seconds between two looks for unfinished work")
    log_level: str = declare("info", values.choice(*values.LOG_LEVELS), "least severe lines that are logged")
    log_path: Path | None = declare(
        "", values.optional(values.path), "log file of the controller; standard error if empty"
    )
    state_dir: Path = declare("var", values.path, "folder of everything that is kept")
    backend_path: Path = declare("{state_dir}/clients", values.path, "folder of the client records")
    tokens_path: Path = declare(
        "{state_dir}/tokens.json",
        values.path,
        "file with the hashes of the tokens; once it is there, every call needs one",
    )
    session_dir: Path = declare("{state_dir}/session", values.path, "folder of the sessions: tokens and messages")
    run_dir: Path = declare("{state_dir}/run", values.path, "folder of the controller's own locks and sockets")
    tmpdir: Path = declare("{run_dir}", values.path, "folder of the clients' state files and login pictures")
    log_dir: Path = declare("{state_dir}/log", values.path, "folder of the logs that supervisord writes")
    pid_path: Path = declare(
        "{run_dir}/mojo_weixin_controller_process.pid", values.path, "process number of the controller"
    )
    template_path: Path | None = declare(
        "", values.optional(values.path), "template of a client's program section, in place of ours"
    )
    supervisor: str = declare(
        "supervisord", values.choice("supervisord", "systemd"), "which supervisor runs the clients"
    )
    supervisord_socket: Path = declare("{run_dir}/supervisor.sock", values.path, "unix socket of supervisord")
    supervisord_include: Path = declare(
        "{state_dir}/conf.d", values.path, "folder that supervisord includes program sections (*.conf) from"
    )
    systemd_scope: str = declare(
        "system", values.choice("system", "user"), "which systemd: that of the system or that of the user"
    )
    driver: str = declare(
        options.DRIVERS[0],
        values.choice(*options.DRIVERS, options.FOREIGN),
        "what a client is that is started without a driver; command: a program of your own",
    )
    command: str = declare(
        "", values.command, "command line of that program, which honours the MOJO_WEIXIN_* variables"
    )
    client_group: str = declare(
        "", values.text, "group that may read the records: that of the clients where they have a user of their own"
    )
    sandbox_listen: Address = declare("127.0.0.1:2080", addresses.address, "address of the sandbox")


def load(
    flags: Mapping[str, str] | None = None,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings in force; raise SettingInvalid naming the setting, its value and its source.

    The file is that of config_file().
    """
    given, sources = _given(flags or {}, config, os.environ if environment is None else environment)
    try:
        settings = values.read(Settings, given)
    except ValueError as ex:
        raise SettingInvalid(f"{sources.get(str(ex).split(' ', 1)[0], DEFAULT)}: {ex}") from ex
    if settings.driver == options.FOREIGN and not settings.command:
        raise SettingInvalid(f"{sources['driver']}: driver is {settings.driver!r}, but there is no command")
    return settings


def sources(
    flags: Mapping[str, str], *, config: Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return for every setting where its value comes from."""
    _, found = _given(flags, config, os.environ if environment is None else environment)
    return {item.name: found.get(item.name, DEFAULT) for item in fields(Settings)}


def _given(
    flags: Mapping[str, str], config: Path | None, environment: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is given as texts, and the source of each."""
    sources: dict[str, str] = {}
    given: dict[str, str] = {}
    for source, found in (
        ("environment", _from_systemd(environment)),
        *_from_file(config, environment),
        ("environment", _from_environment(environment)),
        ("command line", dict(flags)),
    ):
        _refuse_unknown(found, source)
        given.update(found)
        sources.update(dict.fromkeys(found, source))
    return given, sources


def as_environment(flags: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hand `flags` on to a process of ours."""
    return {ENVIRONMENT + name.upper(): value for name, value in flags.items()}


def _from_systemd(environment: Mapping[str, str]) -> dict[str, str]:
    """Take the folders that systemd made for the unit (systemd.exec(5), StateDirectory= and its relatives)."""
    names = {"STATE_DIRECTORY": "state_dir", "RUNTIME_DIRECTORY": "run_dir", "LOGS_DIRECTORY": "log_dir"}
    return {names[name]: environment[name] for name in names if name in environment}


def config_file(config: Path | None, environment: Mapping[str, str] | None = None) -> Path | None:
    """Return the settings file in force: `config`, what WXSUP_CONFIG names, or the first of config_files()."""
    environment = os.environ if environment is None else environment
    named = config or (Path(environment[CONFIG]) if CONFIG in environment else None)
    return named or next((path for path in config_files() if os.access(path, os.F_OK)), None)


def config_files() -> tuple[Path, ...]:
    """Return where a settings file is looked for: here, among the user's own settings, among the system's."""
    return Path("wxsup.toml"), config_home() / "wxsup/wxsup.toml", Path("/etc/wxsup/wxsup.toml")


def config_home() -> Path:
    """Return the folder of the user's own settings (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))


def _from_file(config: Path | None, environment: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    path = config_file(config, environment)
    if path is None:
        return []
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, ValueError) as ex:  # no TOML, or not even UTF-8
        raise SettingInvalid(f"{path}: {ex}") from ex
    return [(str(path), {name: _as_text(name, value, path) for name, value in table.items()})]


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(ENVIRONMENT).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT) and name not in (CONFIG, *REMOTE)
    }


def _as_text(name: str, value: Any, path: Path) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, list):
        return ",".join(_as_text(name, item, path) for item in value)
    raise SettingInvalid(f"{path}: {name} is {value!r}: it must be a text, a number, true, false or a list of these")


def _refuse_unknown(found: Mapping[str, str], source: str) -> None:
    known = [item.name for item in fields(Settings)]
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise SettingInvalid(
                f"{source}: there is no setting {name}" + (f"; did you mean {near[0]}?" if near else "")
            )
