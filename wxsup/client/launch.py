"""Turns into a foreign client program: any that takes its options from MOJO_WEIXIN_* variables (openwx-api.md 9.4).

The process stays the supervisor's: its number, its output, and the signal at the supervisor's death remain.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping

from wxsup import daemon, files, options
from wxsup.client.lock import only_copy
from wxsup.model import Exit
from wxsup.options import Options

logger = logging.getLogger(__name__)

# Ours alone: a program that does not know of systemd must not speak in our name by accident.
_KEPT_BACK = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})


def launch(chosen: Options, environment: Mapping[str, str], stop: daemon.Stop) -> Exit:
    """Become the program that the record names; return how to end when that is not possible."""
    words = shlex.split(environment.get(options.COMMAND, ""))
    if not words:
        return _refuse(chosen, "the setting command is empty", Exit.USAGE)
    stop.leave_signals()
    try:
        for folder in (chosen.tmpdir, chosen.cookie_path.parent):
            files.private_directory(folder)
        with only_copy(chosen.cookie_path.parent / "lock", stop) as lock:
            os.set_inheritable(lock, True)  # the program holds it for as long as it lives
            # It will not do so itself, so from now on "it runs" is all that systemd can know (sd_notify(3)).
            daemon.notify("READY=1\nWATCHDOG_USEC=0\nSTATUS=runs a program of its own")
            told = {**os.environ, **environment}
            if stop.is_set():
                return Exit.STOPPED
            os.execvpe(words[0], words, {name: told[name] for name in told.keys() - _KEPT_BACK})
    except BlockingIOError:
        return _refuse(chosen, "another process holds this account", Exit.BUSY)
    except OSError as ex:
        return _refuse(chosen, f"{ex.filename or words[0]}: {ex.strerror}", Exit.FAILED)


def _refuse(chosen: Options, reason: str, code: Exit) -> Exit:
    logger.error("client not started", extra={"action": "start", "client": chosen.account, "reason": reason})
    return code
