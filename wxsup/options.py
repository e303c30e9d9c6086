"""What a client can be told: one table of names, types, defaults and help, and who may set each.

A client reads them from its record as ``MOJO_WEIXIN_NAME``, the contract of the original's template
(openwx-api.md 9.4 and 10). start_client takes those marked `http`, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wxsup import values
from wxsup.errors import ParameterRefused
from wxsup.values import declare

PREFIX = "MOJO_WEIXIN_"
#: The drivers of our own client, and the word for a program in its place, which only the settings can choose.
DRIVERS = ("ilink",)
FOREIGN = "command"
#: The variable with that program's command line.
COMMAND = "WXCLIENT_COMMAND"

#: Taken over HTTP for the sake of old callers, recorded, and of no effect here.
WITHOUT_EFFECT = (
    "log_encoding",
    "log_console",
    "disable_color",
    "http_debug",
    "emoji_to_text",
    "fix_media_loop",
    "synccheck_interval",
    "synccheck_delay",
    "stop_with_mobile",
    "ua_retry_times",
)

#: Start parameters that become an option of another name, with ``client=NAME`` put into the URL.
REPORTING = {"post_api": "plugin_openwx_post_api", "poll_api": "plugin_openwx_poll_api"}


@dataclass(frozen=True, kw_only=True)
class Ilink:
    """Where Tencent's bot channel is and how to treat it: settings of the operator, never parameters of a request."""

    ilink_base: str = declare("https://ilinkai.weixin.qq.com", values.url, "iLink server that hands out login codes")
    ilink_cdn: str = declare(
        "https://novac2c.cdn.weixin.qq.com/c2c", values.url, "iLink server that files are sent to and come from"
    )
    ilink_allow_hosts: tuple[str, ...] = declare(
        "weixin.qq.com,qq.com",
        values.many(values.text),
        "domains, with all hosts below them, that a server reply may send us to",
    )
    ilink_client_version: str = declare("2.4.9", values.version, "iLink client version that we declare")
    ilink_owner: str = declare(
        "same", values.choice("same", "any"), "who may scan a client's later login codes: the same WeChat user or any"
    )
    ilink_filehelper: str = declare(
        "none", values.choice("none", "owner"), "owner: a message to filehelper goes to the owner of the client"
    )
    ilink_on_lost: str = declare(
        "park", values.choice("park", "exit"), "when nobody scans: park and wait, or exit with code 77"
    )


@dataclass(frozen=True, kw_only=True)
class ForClients(Ilink):
    """What the operator decides for all clients, and no request can change."""

    media_url_allow: str = declare(
        "https?://.*", values.pattern, "regular expression of the URLs that media_path may fetch a file from"
    )
    media_private_hosts: tuple[str, ...] = declare(
        "", values.many(values.text), "hosts that media_path may fetch from although their address is not public"
    )
    media_size_max: int = declare("104857600", values.integer(1, 2**31), "bytes of the largest file, in or out")
    media_max_age: float = declare(
        "2592000", values.seconds(60, 999999999), "seconds that a file is kept in the media folder of its client"
    )
    media_total_max: int = declare(
        "1073741824", values.integer(1, 2**50), "bytes in the media folder of a client, before the oldest files go"
    )


@dataclass(frozen=True, kw_only=True)
class Options(ForClients):
    """The options of one client."""

    account: str = declare("default", values.text, "client name")
    plugin_openwx_port: int = declare("0", values.integer(0, 65535), "port on 127.0.0.1")
    tmpdir: Path = declare("/tmp", values.path, "folder of the runtime files")
    state_path: Path = declare("{tmpdir}/mojo_weixin_state.json", values.path, "state file")
    qrcode_path: Path = declare("{tmpdir}/mojo_weixin_qrcode.jpg", values.path, "login code as a picture")
    pid_path: Path = declare("{tmpdir}/mojo_weixin_pid.pid", values.path, "process number")
    cookie_path: Path = declare("{tmpdir}/mojo_weixin_cookie.dat", values.path, "session: token and identity")
    media_dir: Path = declare("{tmpdir}/media", values.path, "folder for received files")
    plugin_openwx_post_api: str = declare("", values.url, "URL that messages and events are posted to")
    plugin_openwx_poll_api: str = declare("", values.url, "URL that the client's heartbeat asks")
    plugin_openwx_poll_interval: float = declare(
        "5", values.seconds(1, 86400), "seconds between two heartbeats of the client", http=True
    )
    plugin_openwx_post_event: bool = declare("1", values.flag, "report events, not only messages", http=True)
    plugin_openwx_post_media_data: bool = declare("1", values.flag, "put the file's content into reports", http=True)
    log_level: str = declare("info", values.choice(*values.LOG_LEVELS), "least severe lines that are logged", http=True)
    download_media: bool = declare("1", values.flag, "fetch received files", http=True)
    keep_cookie: bool = declare("1", values.flag, "keep the session, so that a restart needs no scan", http=True)
    fresh: bool = declare("0", values.flag, "set the session aside and ask for a new scan, once", http=True)
    qrcode_count_max: int = declare(
        "10", values.integer(1, 1000), "login codes shown before the client parks", http=True
    )
    check_event_list_max_size: int = declare("20", values.integer(1, 1000), "events kept for check_event", http=True)
    check_event_log_max_size: int = declare(
        "1000", values.integer(1, 10000), "events kept for readers of check_event with a cursor", http=True
    )
    post_max_size: int = declare(
        "10000", values.integer(1, 1000000), "reports that wait for post_api; more become dead letters", http=True
    )
    post_max_age: float = declare(
        "86400", values.seconds(1, 2592000), "seconds that a report waits before it is a dead letter", http=True
    )
    send_max_age: float = declare(
        "86400", values.seconds(1, 2592000), "seconds that a send with async=1 may take", http=True
    )
    send_interval: float = declare("1", values.seconds(0, 60), "least seconds between two sends", http=True)
    ilink_gate: str = declare(
        "strict", values.choice("strict", "try"), "refuse a send that WeChat's rules forbid, or try it", http=True
    )
    ilink_text_limit: int = declare(
        "2000", values.integer(20, 4000), "characters in one message; longer text is split", http=True
    )
    ilink_label: str = declare("", values.text, "name shown for the account itself", http=True)


def accept(given: Mapping[str, str], *, post_api_allow: str = "") -> dict[str, str]:
    """Return the start parameters in `given` if a caller may set them all, else raise ParameterRefused.

    post_api and poll_api are taken where the whole URL matches the pattern `post_api_allow`.
    """
    table = {item.name: item for item in fields(Options)}
    for name, value in given.items():
        if name == "driver":
            _take(name, value, values.choice(*DRIVERS))
        elif name in REPORTING:
            _take(name, value, values.url)
            if not values.matches(post_api_allow, value):
                raise ParameterRefused(name, "the setting post_api_allow does not allow this URL")
        elif name in WITHOUT_EFFECT:
            _take(name, value, values.text)
        elif name in table and table[name].metadata["http"]:
            _take(name, value, table[name].metadata["parse"])
        else:
            raise ParameterRefused(name)
    return dict(given)


def http_names() -> tuple[str, ...]:
    """Return the parameters that start_client takes and that have an effect."""
    return ("driver", *REPORTING, *(item.name for item in fields(Options) if item.metadata["http"]))


def from_environment(environment: Mapping[str, str]) -> Options:
    """Return the options in a client's environment; raise ValueError for a bad value."""
    given = {
        item.name: environment[PREFIX + item.name.upper()]
        for item in fields(Options)
        if PREFIX + item.name.upper() in environment
    }
    return values.read(Options, given)


def _take(name: str, value: str, parse: values.Parser) -> Any:
    try:
        return parse(value)
    except ValueError as ex:
        raise ParameterRefused(name, f"{name} is {value!r}: {ex}") from ex
