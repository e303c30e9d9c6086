"""The files that an operator installs, rendered for where things are; deploy/ holds them with the default values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wxsup import render
from wxsup.model import Exit

MINFDS = 65536


def deployed(
    *,
    prefix: Path = Path("/usr/lib/wxsup"),
    state_dir: Path = Path("/var/lib/wxsup"),
    run_dir: Path = Path("/run/wxsup"),
    log_dir: Path = Path("/var/log/wxsup"),
) -> Mapping[str, str]:
    """Return every file of deploy/, name to text."""
    values: dict[str, Any] = {
        "prefix": prefix,
        "state_dir": state_dir,
        "run_dir": run_dir,
        "log_dir": log_dir,
        "socket": run_dir / "supervisor.sock",
        "include": state_dir / "conf.d",
        "directory": state_dir,
        "controller": [f"{prefix}/bin/wxsup", "serve"],
        "sandbox": [],
        "minfds": MINFDS,
        "user": "",
        "exit_lost": int(Exit.LOST),
    }
    templates = (
        "supervisor/supervisord.conf",
        "supervisor/wxcontroller.conf",
        "systemd/wxclient@.service",
        "systemd/wxcontroller.service",
    )
    return {name: render.text(f"{name}.j2", **values) for name in templates}
