"""Reads what one account was told, and becomes it: our own client, or the program that takes its place."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from wxsup import daemon, names, options, record
from wxsup.client.keys import Keys, read
from wxsup.errors import RecordInvalid
from wxsup.model import Exit

logger = logging.getLogger(__name__)


def run(slug: str, record_path: Path | None, secret_path: Path | None, stop: daemon.Stop) -> Exit:
    """Run the client `slug` until `stop`; its options come from its record, or from the environment without one."""
    daemon.set_up_logging("info")
    if "INVOCATION_ID" in os.environ:  # of systemd, which keeps clients apart: let them not look into each other
        daemon.hide()
    try:
        environment = record.variables(record_path.read_text(encoding="utf-8")) if record_path else os.environ
        chosen = options.from_environment(environment)
        if names.slug(chosen.account) != slug:
            raise RecordInvalid(f"the record is of {chosen.account!r}, not of {slug}")
        foreign = environment.get(record.DRIVER) == options.FOREIGN
        keys = Keys() if foreign else _keys(secret_path)
    except (OSError, ValueError, RecordInvalid) as ex:
        logger.error("record not usable", extra={"action": "start", "client": slug, "reason": str(ex)})
        return Exit.USAGE
    daemon.set_up_logging(chosen.log_level)
    if foreign:
        from wxsup.client import launch  # here: each needs only its own

        return launch.launch(chosen, environment, stop)
    from wxsup.client import account

    return account.run(slug, chosen, environment, keys, stop)


def _keys(path: Path | None) -> Keys:
    if path is None:
        logger.warning("no secret: whoever can reach the port can use the account", extra={"action": "start"})
        return Keys()
    return read(path)
