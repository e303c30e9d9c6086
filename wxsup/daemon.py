"""How our long-running programs meet the system: log lines, process title, signals, parent, systemd."""

from __future__ import annotations

import _thread
import ctypes
import json
import logging
import logging.handlers
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from wxsup.values import LOG_LEVELS

#: The original's level between info and warning, for messages of people.
MSG = 25

_LEVELS = dict(
    zip(LOG_LEVELS, (logging.DEBUG, logging.INFO, MSG, logging.WARNING, logging.ERROR, logging.CRITICAL), strict=True)
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """One line per record: time, level, sentence, then ``key=value`` for each extra."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {key}={_quoted(value)}" for key, value in vars(record).items() if key not in _STANDARD)
        line, newline, trace = super().format(record).partition("\n")
        return line + extra + newline + trace


def set_up_logging(level: str, path: Path | None = None) -> None:
    """Send our log lines of `level` and above to `path`, or to standard error."""
    logging.addLevelName(MSG, "MSG")
    handler: logging.Handler = (
        logging.handlers.WatchedFileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    )
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("wxsup").setLevel(_LEVELS[level])


def script(name: str) -> str:
    """Return the path of a program that was installed with us, into a virtual environment, the system or a home."""
    import sysconfig  # here: a client never needs it

    folders = [Path(sysconfig.get_path("scripts")), Path(sysconfig.get_path("scripts", "posix_user"))]
    return str(next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name))


def set_title(title: str) -> None:
    """Make ps(1) and top(1) show `title`."""
    import setproctitle

    setproctitle.setproctitle(title)


def stop_with_supervisord() -> None:
    """Where supervisord is our parent, have the kernel send us SIGTERM when it dies; end now if it is dead already.

    A killed supervisord would otherwise leave us running beside its next copy (prctl(2), PR_SET_PDEATHSIG). A parent
    that died before we asked shows as a pipe without a reader on our output.
    """
    if "SUPERVISOR_ENABLED" not in os.environ:  # supervisord.org/subprocess.html, "Subprocess Environment"
        return
    parent = os.getppid()
    set_parent_death_signal()
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    orphaned = any(event & select.POLLERR for _, event in output.poll(0))
    if orphaned or os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def set_parent_death_signal() -> None:
    """Ask the kernel for SIGTERM at our parent's death (prctl(2)); also fit to run between fork and exec."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def on_stop(stop: Any) -> None:
    """Call `stop` at SIGTERM, SIGINT and SIGHUP.

    In a thread of its own: a handler interrupts the main thread, perhaps while that holds the very lock that `stop`
    wants, such as the one inside of an Event that it begins to wait for. Starting a bare thread takes no lock.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _thread.start_new_thread(stop, ())

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)


def wait(stop: threading.Event) -> None:
    """Wait for `stop` in the main thread, looking up every second.

    Python runs a handler between two steps of the main thread: a signal that comes just before a wait without a limit
    would be heard only when that ends.
    """
    while not stop.wait(1.0):
        pass


def notify(state: str) -> None:
    """Tell systemd `state`, such as READY=1 (sd_notify(3)); nothing where systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel, suppress(OSError):
        channel.sendto(state.encode(), address)


def _quoted(value: object) -> str:
    """Return `value` so that it can neither end its line nor pass for another key."""
    text = str(value)
    if text.isprintable() and not set(text) & {" ", '"'}:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
