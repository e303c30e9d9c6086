"""The files that an operator installs, rendered for where things are; deploy/ holds them with the default values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from wxsup import render
from wxsup.model import Exit

MINFDS = 65536

UNITS = (
    "wxclient.slice",
    "wxclient@.service",
    "wxclients.target",
    "wxcontroller.service",
    "wxcontroller.socket",
    "wxsup-resume.service",
)
# What the units need of the rest of the system.
FOR_UNITS = ("50-wxsup.rules", "dbus.conf", "sysusers.conf", "tmpfiles.conf", "wxsup.toml")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things are: the programs in `programs`, the rest as the settings of the same names have it."""

    scope: str = "system"
    prefix: Path = Path("/usr/local")
    programs: Path = Path("/usr/local/lib/wxsup/bin")
    config: Path = Path("/etc/wxsup/wxsup.toml")
    state_dir: Path = Path("/var/lib/wxsup")
    session_dir: Path = Path("/var/lib/wxclient")
    run_dir: Path = Path("/run/wxsup")
    client_run_dir: Path = Path("/run/wxclient")
    log_dir: Path = Path("/var/log/wxsup")
    listen: tuple[str, ...] = ("127.0.0.1:2000",)


def of_user(**changes: object) -> Place:
    """Return the place of the user that we are, for their own systemd (XDG Base Directory Specification)."""
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state") / "wxsup"
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    found = {
        "scope": "user",
        "prefix": config,
        "config": config / "wxsup/wxsup.toml",
        "state_dir": state,
        "session_dir": state / "session",
        "run_dir": runtime / "wxsup",
        "client_run_dir": runtime / "wxclient",
        "log_dir": state / "log",
    }
    return Place(**found | changes)  # type: ignore[arg-type]


def deployed(place: Place = Place()) -> Mapping[str, str]:  # noqa: B008: it is frozen
    """Return every file of deploy/, name to text."""
    names = (
        "supervisor/supervisord.conf",
        "supervisor/wxcontroller.conf",
        *(f"systemd/{name}" for name in (*UNITS, *FOR_UNITS)),
    )
    return {name: _text(name, place) for name in names}


def units(place: Place) -> Mapping[Path, str]:
    """Return what to install for systemd, path to text, the settings file excepted."""
    if place.scope == "user":
        found = {place.prefix / "systemd/user" / name: name for name in UNITS}
    else:
        # polkit(8) before 124, and dbus-daemon(1), look into these two folders only.
        rights = Path("/usr/share" if place.prefix == Path("/usr") else "/etc")
        lib = place.prefix / "lib"
        found = {lib / "systemd/system" / name: name for name in UNITS} | {
            lib / "sysusers.d/wxsup.conf": "sysusers.conf",
            lib / "tmpfiles.d/wxsup.conf": "tmpfiles.conf",
            rights / "polkit-1/rules.d/50-wxsup.rules": "50-wxsup.rules",
            rights / "dbus-1/system.d/wxsup.conf": "dbus.conf",
        }
    return {path: _text(f"systemd/{name}", place) for path, name in found.items()}


def settings_file(place: Place) -> str:
    """Return the text of a first settings file."""
    return _text("systemd/wxsup.toml", place)


def _text(name: str, place: Place) -> str:
    return render.text(
        f"{name}.j2",
        **asdict(place),
        socket=place.run_dir / "supervisor.sock",
        include=place.state_dir / "conf.d",
        directory=place.state_dir,
        controller=[str(place.programs / "wxsup"), "serve"],
        sandbox=[],
        minfds=MINFDS,
        user="",
        exit_lost=int(Exit.LOST),
    )
