"""The files that an operator installs, rendered for where things are; deploy/ holds them with the default values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wxsup import render
from wxsup.errors import Refusal
from wxsup.model import Exit
from wxsup.settings import Settings, config_home

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


def of_user(programs: Path = Place.programs) -> Place:
    """Return the place of the user that we are, for their own systemd (XDG Base Directory Specification)."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "wxsup"
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    return Place(
        scope="user",
        prefix=config_home(),
        programs=programs,
        config=config_home() / "wxsup/wxsup.toml",
        state_dir=state,
        session_dir=state / "session",
        run_dir=runtime / "wxsup",
        client_run_dir=runtime / "wxclient",
        log_dir=state / "log",
    )


def as_set(place: Place, settings: Settings) -> Place:
    """Return `place` with the addresses that `settings` have; raise Refusal where they are for other units."""
    wanted = {
        "supervisor": "systemd",
        "systemd_scope": place.scope,
        "state_dir": place.state_dir,
        "backend_path": place.state_dir / "clients",
        "session_dir": place.session_dir,
        "run_dir": place.run_dir,
        "tmpdir": place.client_run_dir,
    }
    for name, value in wanted.items():
        if (found := getattr(settings, name)) != value:
            raise Refusal(
                f"{place.config}: {name} is {str(found)!r}, but the units want {str(value)!r}; "
                f"the file needs these lines:\n\n{settings_file(place)}"
            )
    return replace(place, listen=tuple(map(str, settings.listen)))


def deployed(place: Place = Place()) -> Mapping[str, str]:
    """Return every file of deploy/, name to text."""
    names = (
        "supervisor/supervisord.conf",
        "supervisor/wxcontroller.conf",
        *(f"systemd/{name}" for name in (*UNITS, *FOR_UNITS)),
    )
    return {name: _text(name, place) for name in names}


def units(place: Place) -> Mapping[Path, str]:
    """Return what to install for systemd, path to text, the settings file excepted; raise Refusal if it cannot be."""
    for path in filter(lambda value: isinstance(value, Path), asdict(place).values()):
        if re.search(r"[\s%]", str(path)):  # each directive has rules of its own for them
            raise Refusal(f"{path}: a path in a unit may not hold blanks or %")
    if place.scope == "user":
        found = {place.prefix / "systemd/user" / name: name for name in UNITS}
    else:
        # polkit(8) before 124, and dbus-daemon(1), look into these two folders only.
        rights = Path("/usr/share" if place.prefix == Path("/usr") else "/etc")
        # And systemd into these (systemd.unit(5), sysusers.d(5), tmpfiles.d(5)).
        lib = place.prefix / "lib" if place.prefix in (Path("/usr"), Path("/usr/local")) else Path("/etc")
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
