"""How our long-running programs meet the system: log lines, process title, signals, parent, systemd."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
    handler = _file_handler(path) if path else logging.StreamHandler()
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


def use_one_pool() -> None:
    """Let all threads allocate from one pool (mallopt(3)) before there is a second thread.

    Else each gets one of its own, which keeps what it once needed: 1.7 MiB after a burst of calls. Threads that hold
    the GIL one after another gain nothing from it.
    """
    m_arena_max = -8
    with suppress(AttributeError):  # a C library that has none
        ctypes.CDLL(None).mallopt(m_arena_max, 1)


class Stop:
    """The wish that we end, of a signal or of our own; it stays. Any thread may wait for it, and sleeps meanwhile.

    It is a pipe that is written to and never read. Python runs a handler between two steps of the main thread, too late
    for one that has just decided to wait without a limit; but in the moment of the signal itself there is a byte in the
    pipe (docs.python.org/3/library/signal.html#signal.set_wakeup_fd), which needs no lock that we might hold.
    """

    def __init__(self) -> None:
        self._seen, self._told = os.pipe()
        os.set_blocking(self._told, False)

    def heed_signals(self) -> None:
        """Be set by SIGTERM, SIGINT and SIGHUP from now on, in place of what other handlers do."""
        signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: None)  # the byte is enough

    def leave_signals(self) -> None:
        """Let these signals end us at once again, as they do a program that knows nothing of them."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def set(self) -> None:
        """End us."""
        with suppress(BlockingIOError):  # it is full of wishes
            os.write(self._told, b"\0")

    def is_set(self) -> bool:
        """Tell whether we are to end."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until we are to end, for so many seconds at most; tell whether we are."""
        look = select.poll()
        look.register(self._seen, select.POLLIN)
        return bool(look.poll(None if timeout is None else timeout * 1000))


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
        self._every = int(os.environ.get("WATCHDOG_USEC", 0)) / 1e6 / 3 or None

    def watch(self, stop: Stop) -> None:
        """Do so until `stop`; only wait for that where no watchdog watches."""
        while not stop.wait(self._every):
            self.feed()

    def feed(self) -> None:
        """Do so once."""
        if reason := self._ailing():
            logger.error("not well", extra={"action": "watchdog", "reason": reason})
        else:
            notify("WATCHDOG=1")


def _file_handler(path: Path) -> logging.Handler:
    from logging.handlers import WatchedFileHandler  # here: it takes 0.5 MiB, and a client logs to its supervisor

    return WatchedFileHandler(path, encoding="utf-8")


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
