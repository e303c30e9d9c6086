"""Reads what one account was told, and becomes it: our own client, or the program that takes its place."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from wxsup import daemon, files, names, options, record
from wxsup.client import seccomp
from wxsup.client.keys import Keys, read
from wxsup.errors import RecordInvalid
from wxsup.model import Exit, Want

logger = logging.getLogger(__name__)


def run(
    slug: str, record_path: Path | None, secret_path: Path | None, stop: daemon.Stop, *, handed_over: bool = False
) -> Exit:
    """Run the client `slug` until `stop`; its options come from its record, or from the environment without one.

    With `handed_over` nothing runs unless both files are the controller's gift (files.read_plain).
    """
    daemon.set_up_logging("info")
    if "INVOCATION_ID" in os.environ:  # of systemd, which keeps clients apart: let them not look into each other
        daemon.hide()
        seccomp.signal_no_owners()
    try:
        environment: Mapping[str, str] = os.environ
        if record_path:
            environment = record.variables(files.read_plain(record_path, handed_over=handed_over).decode())
        chosen = options.from_environment(environment)
        if names.slug(chosen.account) != slug:
            raise RecordInvalid(f"the record is of {chosen.account!r}, not of {slug}")
        if environment.get(record.WANT) == Want.GONE.value:  # somebody starts it by hand while it is being removed
            raise RecordInvalid("this client was stopped by the controller, which is about to remove it")
        foreign = environment.get(record.DRIVER) == options.FOREIGN
        keys = _keys(secret_path, foreign, handed_over)
    except (OSError, ValueError, RecordInvalid) as ex:
        logger.error("record not usable", extra={"action": "start", "client": slug, "reason": str(ex)})
        return Exit.USAGE
    daemon.set_up_logging(chosen.log_level)
    if foreign:
        from wxsup.client import launch  # here: each needs only its own

        return launch.launch(chosen, environment, stop)
    from wxsup.client import account

    return account.run(slug, chosen, environment, keys, stop)


def _keys(path: Path | None, foreign: bool, handed_over: bool) -> Keys:
    if foreign:
        if path and handed_over:  # the program could read what lies there
            files.read_plain(path, handed_over=True)
        return Keys()
    if path is None:
        logger.warning("no secret: whoever can reach the port can use the account", extra={"action": "start"})
        return Keys()
    return read(path, handed_over=handed_over)
