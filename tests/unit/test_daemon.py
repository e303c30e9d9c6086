from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deadline import TIMEOUT, eventually
from wxsup import daemon
from wxsup.values import LOG_LEVELS


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Put back what pytest set up."""
    root, ours = logging.getLogger(), logging.getLogger("wxsup")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def own_signals() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def line(**extra: Any) -> str:
    """Return the line of one record without its time."""
    record = logging.makeLogRecord({"msg": "client started", "levelname": "INFO", "levelno": logging.INFO, **extra})
    return daemon.Formatter().format(record).split(" ", 2)[2]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, ""),
        ({"action": "start", "port": 3000}, " action=start port=3000"),
        ({"client": "微信"}, " client=微信"),
        ({"client": "my client"}, ' client="my client"'),
        ({"reason": 'no "x"'}, ' reason="no \\"x\\""'),
        ({"reason": "a\nb"}, ' reason="a\\nb"'),
        ({"reason": ""}, " reason="),
    ],
)
def test_a_record_is_a_sentence_and_its_extras(extra: dict[str, object], expected: str) -> None:
    assert line(**extra) == "INFO    client started" + expected


@given(st.text())
def test_no_extra_breaks_the_line(value: str) -> None:
    """Paths of requests, names and reasons come from outside: none may pass for a line of ours."""
    assert len(line(path=value).splitlines()) == 1


def test_a_trace_comes_after_the_extras() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        first, *rest = line(exc_info=sys.exc_info(), action="a").splitlines()
    assert first.endswith("client started action=a")
    assert rest[0].startswith("Traceback") and rest[-1] == "ValueError: x"


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("level", LOG_LEVELS)
def test_lines_below_the_level_are_left_out(tmp_path: Path, level: str) -> None:
    path = tmp_path / "log"
    daemon.set_up_logging(level, path)
    numbers = dict(zip(LOG_LEVELS, (10, 20, daemon.MSG, 30, 40, 50), strict=True))
    for name, number in numbers.items():
        logging.getLogger("wxsup.x").log(number, "said %s", name)
    assert [text.split()[-1] for text in path.read_text().splitlines()] == list(LOG_LEVELS[LOG_LEVELS.index(level) :])


@pytest.mark.usefixtures("own_logging")
def test_libraries_say_warnings_only(tmp_path: Path) -> None:
    daemon.set_up_logging("debug", tmp_path / "log")
    logging.getLogger("urllib3").info("quiet")
    logging.getLogger("urllib3").warning("loud")
    assert (tmp_path / "log").read_text().split()[-1] == "loud"
    assert "quiet" not in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("own_logging")
def test_a_rotated_log_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    daemon.set_up_logging("info", path)
    logging.getLogger("wxsup").info("before")
    path.rename(tmp_path / "log.1")
    logging.getLogger("wxsup").info("after 微信")
    assert path.read_text(encoding="utf-8").endswith("after 微信\n")


@pytest.mark.usefixtures("own_logging")
def test_without_a_file_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    daemon.set_up_logging("info")
    logging.getLogger("wxsup").info("here")
    assert capsys.readouterr().err.endswith("INFO    here\n")


def python(code: str, *, supervised: bool = True) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"from wxsup import daemon\n{code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **({"SUPERVISOR_ENABLED": "1"} if supervised else {})},
    )


def test_ps_shows_the_title() -> None:
    with python("daemon.set_title('wxclient(微信)'); print('ready', flush=True); input()") as child:
        assert child.stdout and child.stdout.readline() == "ready\n"
        told = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        child.communicate("\n", timeout=TIMEOUT)
    assert told == "wxclient(微信)"


def test_a_client_ends_with_its_supervisord() -> None:
    """Also with one that is killed. The pipe ends when the last process that holds it does."""
    reading, writing = os.pipe()
    child = "from wxsup import daemon; daemon.stop_with_supervisord(); print('on', flush=True); input()"
    parent = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=-1, stdin=-1, pass_fds=[{writing}])\n"
        f"os.close({writing}); os.write(1, child.stdout.readline()); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[writing],
        env={**os.environ, "SUPERVISOR_ENABLED": "1"},
    ) as supervisord:
        os.close(writing)
        os.set_blocking(reading, False)
        assert supervisord.stdout and supervisord.stdout.readline() == b"on\n"
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        supervisord.kill()

    def ended() -> bool:
        try:
            return os.read(reading, 1) == b""
        except BlockingIOError:
            return False

    eventually(ended, what="the end of the child")
    os.close(reading)


ORPHAN = "input(); daemon.stop_with_supervisord(); import sys; sys.exit(7)"


@pytest.mark.parametrize(("supervised", "status"), [(True, -signal.SIGTERM), (False, 7)])
def test_a_client_whose_supervisord_is_dead_already_ends_at_once(supervised: bool, status: int) -> None:
    """What reads our output is no parent of ours where supervisord is not there, so its end means nothing."""
    with python(ORPHAN, supervised=supervised) as child:
        assert child.stdout and child.stdin
        child.stdout.close()
        child.stdin.write("\n")
        child.stdin.close()
        assert child.wait(TIMEOUT) == status


def test_a_client_whose_supervisord_lives_goes_on() -> None:
    with python(ORPHAN) as child:
        child.communicate("\n", timeout=TIMEOUT)
    assert child.returncode == 7


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_heeded_is_a_wish_to_stop(number: signal.Signals) -> None:
    stop = daemon.Stop()
    stop.heed_signals()
    assert not stop.is_set()
    os.kill(os.getpid(), number)
    assert stop.is_set()


def test_a_wish_to_stop_stays_for_all_who_wait() -> None:
    stop = daemon.Stop()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(stop.wait) for _ in range(4)]
        assert not any(each.done() for each in waiting)
        stop.set()
        assert all(each.result(TIMEOUT) for each in waiting)
    assert stop.wait() and stop.wait(0) and stop.is_set()


def test_a_wait_with_a_limit_tells_that_nobody_wished_to_stop() -> None:
    assert daemon.Stop().wait(0.001) is False


def test_one_may_wish_to_stop_again_and_again() -> None:
    """More often than a pipe has room for (pipe(7): 64 KiB)."""
    stop = daemon.Stop()
    for _ in range(70_000):
        stop.set()
    assert stop.is_set()


def test_systemd_is_told_where_it_listens(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(short_path / "notify"))
        systemd.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        daemon.notify("READY=1\nSTATUS=微信")
        assert systemd.recv(1000).decode() == "READY=1\nSTATUS=微信"


def test_systemd_may_listen_in_the_abstract_namespace(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{short_path}")
        systemd.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{short_path}")
        daemon.notify("STOPPING=1")
        assert systemd.recv(1000) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@nobody-listens-here"])
def test_where_systemd_does_not_listen_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Also for a variable inherited from a unit that is long gone."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    daemon.notify("READY=1")


def test_a_program_that_was_installed_with_us_is_found() -> None:
    found = Path(daemon.script("wxclient"))
    assert found.name == "wxclient"
    assert os.access(found, os.X_OK)


def state_of(pid: int) -> str:
    """Return what proc(5) says of the main thread of a process: S while it sleeps."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have one pool anyway")
@pytest.mark.parametrize(("asked", "pools"), [("daemon.use_one_pool()", 1), ("", 5)])
def test_threads_share_one_pool_of_memory(asked: str, pools: int) -> None:
    """malloc_info(3) lists them as "heaps"."""
    program = (
        "import ctypes, threading\n"
        "from wxsup import daemon\n"
        f"{asked}\n"
        "met = threading.Barrier(5)\n"
        "threads = [threading.Thread(target=lambda: (bytearray(1000), met.wait())) for _ in range(4)]\n"
        "[thread.start() for thread in threads]\n"
        "met.wait()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, 'stdout'))\n"
        "libc.fflush(None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    assert done.stdout.count("<heap nr=") == pools


# A main thread that is just about to wait, in one way or another.
LOOKS = "while not stop.wait(0): pass"
BEGINS = "while not stop.is_set(): time.sleep(0.00001)"  # each is another moment at which the signal may come
WAITS = "stop.wait()"
ASKS_FIRST = "stop.is_set() or stop.wait()"


@pytest.mark.parametrize("waiting", [LOOKS, BEGINS, WAITS, ASKS_FIRST])
@pytest.mark.parametrize("beside", ["", "threading.Thread(target=spin, daemon=True).start()"])
def test_a_signal_that_comes_while_the_main_thread_begins_to_wait_is_heard(waiting: str, beside: str) -> None:
    """Also in the moment before it waits without a limit, and while another thread keeps it from its handlers."""
    program = (
        "import threading, time\n"
        "from wxsup import daemon\n"
        "def spin():\n"
        "    while True: pass\n"
        "stop = daemon.Stop()\n"
        "stop.heed_signals()\n"
        f"{beside}\n"
        "print('ready', flush=True)\n"
        f"{waiting}\n"
    )
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            process.terminate()
            try:
                assert process.wait(TIMEOUT) == 0
            finally:
                process.kill()


def test_a_signal_that_does_not_interrupt_the_main_thread_is_heard() -> None:
    """The kernel hands it to a thread that takes it; to the main thread that is as if it came just before its wait."""
    program = (
        "import signal, threading\n"
        "from wxsup import daemon\n"
        "stop = daemon.Stop()\n"
        "stop.heed_signals()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "print('ready', flush=True)\n"
        "stop.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        eventually(lambda: state_of(process.pid) == "S", what="its wait")
        process.terminate()
        try:
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()


def test_signals_that_are_left_alone_end_a_program_at_once() -> None:
    program = (
        "import os, signal\nfrom wxsup import daemon\nstop = daemon.Stop()\nstop.heed_signals()\n"
        "stop.leave_signals()\nos.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=TIMEOUT, check=False).returncode == -signal.SIGTERM


class Systemd:
    """Listens where a service tells systemd how it is."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    found = Systemd(short_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(found.path))
    yield found
    found.close()


@contextmanager
def watching(ailing: Callable[[], str]) -> Iterator[None]:
    """Run a watchdog in a thread of its own."""
    stop = daemon.Stop()
    thread = threading.Thread(target=daemon.Watchdog(ailing).watch, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_the_watchdog_is_fed_while_all_is_well(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["", "", "a thread hangs", ""]
    monkeypatch.setenv("WATCHDOG_USEC", "3000")
    with watching(lambda: answers.pop(0) if answers else "it hangs for good"):
        eventually(lambda: not answers, what="looks at us")
    assert systemd.told() == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize(("microseconds", "seconds"), [("30000000", 10.0), ("0", None), (None, None)])
def test_the_watchdog_is_fed_thrice_in_its_time(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, seconds: float | None
) -> None:
    """Where none watches, the main thread sleeps without a limit."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if microseconds is not None:
        monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    waits: list[float | None] = []

    class Impatient(daemon.Stop):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return True

    daemon.Watchdog(lambda: pytest.fail("asked")).watch(Impatient())
    assert waits == [seconds]


def test_a_systemd_that_is_gone_is_no_error(systemd: Systemd) -> None:
    systemd.path.unlink()
    daemon.notify("READY=1")


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", 7), ("info", 6), ("msg", 5), ("warn", 4), ("error", 3), ("fatal", 2)],
)
def test_lines_for_the_journal_begin_with_their_priority(level: str, priority: int) -> None:
    record = logging.makeLogRecord({"msg": "client started", "levelno": daemon._LEVELS[level], "client": "客"})
    assert daemon.JournalFormatter().format(record) == f"<{priority}>client started client=客"


def test_every_line_of_a_trace_has_its_priority() -> None:
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "levelno": logging.ERROR, "exc_info": sys.exc_info()})
    assert all(line.startswith("<3>") for line in daemon.JournalFormatter().format(record).splitlines())


def test_the_journal_is_known_by_its_device_and_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(sys.stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert daemon._to_journal()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
    assert not daemon._to_journal()


def test_a_hidden_process_is_not_dumpable() -> None:
    """That others of its user then cannot look into it is for tests/integration/test_systemd.py to see."""
    pr_get_dumpable = 3
    code = f"from wxsup import daemon; import ctypes; daemon.hide(); print(ctypes.CDLL(None).prctl({pr_get_dumpable}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
