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
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from wxsup.values import LOG_LEVELS

logger = logging.getLogger(__name__)

#: The original's level between info and warning, for messages of people.
MSG = 25

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_LEVELS = dict(
    zip(LOG_LEVELS, (logging.DEBUG, logging.INFO, MSG, logging.WARNING, logging.ERROR, logging.CRITICAL), strict=True)
)
# syslog(3)
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (MSG, 5), (logging.INFO, 6))
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Formatter(logging.Formatter):
    """One line per record: time, level, sentence, then ``key=value`` for each extra."""

    def __init__(self, form: str = "%(asctime)s %(levelname)-7s %(message)s") -> None:
        super().__init__(form)

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {key}={_quoted(value)}" for key, value in vars(record).items() if key not in _STANDARD)
        line, newline, trace = super().format(record).partition("\n")
        return line + extra + newline + trace


class JournalFormatter(Formatter):
    """Lines for the journal, which has the time by itself: each begins with its priority (sd-daemon(3))."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def set_up_logging(level: str, path: Path | None = None) -> None:
    """Send our log lines of `level` and above to `path`, or to standard error."""
    logging.addLevelName(MSG, "MSG")
    handler: logging.Handler = (
        logging.handlers.WatchedFileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    )
    handler.setFormatter(JournalFormatter() if path is None and _to_journal() else Formatter())
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


def set_parent_death_signal(number: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal at our parent's death (prctl(2)); also fit to run between fork and exec."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def hide() -> None:
    """Keep our memory and environment from other processes of our user (prctl(2), PR_SET_DUMPABLE)."""
    pr_set_dumpable = 4
    ctypes.CDLL(None).prctl(pr_set_dumpable, 0)


def on_stop(stop: Any) -> None:
    """Call `stop` at SIGTERM, SIGINT and SIGHUP.

    In a thread of its own: a handler interrupts the main thread, perhaps while that holds the very lock that `stop`
    wants, such as the one inside of an Event that it begins to wait for. Starting a bare thread takes no lock.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            _thread.start_new_thread(stop, ())
        except RuntimeError:  # no more threads are allowed us
            stop()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)


def hold_stop() -> None:
    """Have the signals of on_stop() wait until stop_told() asks for them: what is under way is not broken off."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def stop_told(seconds: float) -> bool:
    """Tell whether a held signal has come, waiting so long for one (sigtimedwait(2))."""
    return signal.sigtimedwait(STOP_SIGNALS, seconds) is not None


def on_stop_end() -> None:
    """Let the signals of on_stop() end us at once again, as they do a program that knows nothing of them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def wait(stop: threading.Event, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait for `stop` in the main thread, looking up every second, and then doing `meanwhile`.

    Python runs a handler between two steps of the main thread: a signal that comes just before a wait without a limit
    would be heard only when that ends.
    """
    while not stop.wait(1.0):
        meanwhile()


def notify(state: str) -> None:
    """Tell systemd `state`, such as READY=1 (sd_notify(3)); nothing where systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel, suppress(OSError):
        channel.sendto(state.encode(), address)


class Watchdog:
    """Tells systemd again and again that we are well, while `ailing` returns "" (systemd.service(5), WatchdogSec=)."""

    def __init__(self, ailing: Callable[[], str]) -> None:
        self._ailing = ailing
        self._every = int(os.environ.get("WATCHDOG_USEC", 0)) / 1e6 / 3
        self._next = 0.0

    def tick(self) -> None:
        """Do so if it is time; do nothing where no watchdog watches."""
        now = time.monotonic()
        if not self._every or now < self._next:
            return
        self._next = now + self._every
        if reason := self._ailing():
            logger.error("not well", extra={"action": "watchdog", "reason": reason})
        else:
            notify("WATCHDOG=1")


def _to_journal() -> bool:
    """Tell whether our standard error is the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _quoted(value: object) -> str:
    """Return `value` so that it can neither end its line nor pass for another key."""
    text = str(value)
    if text.isprintable() and not set(text) & {" ", '"'}:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
