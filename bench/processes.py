"""What a process costs, as the kernel counts it (proc(5)), and when it says that it is ready (sd_notify(3))."""

from __future__ import annotations

import os
import queue
import re
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

READY_TIMEOUT = 30.0


def private_mib(pid: int) -> float:
    """Return the memory that would be free without this process; what several share counts for none of them."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(found) for found in re.findall(r"Private_\w+:\s+(\d+) kB", text)) / 1024


def cpu_seconds(pid: int) -> float:
    """Return what the threads that live have used; to the nanosecond, unlike /proc/PID/stat."""
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in _threads(pid)) / 1e9


def _threads(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


class Starter:
    """Starts programs that tell systemd when they are ready, in whose place it listens."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._socket.bind(str(self._path))
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, ex: BaseException | None, trace: TracebackType | None) -> None:
        self._path.unlink()

    def start(self, command: list[str], environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], float]:
        """Return a process that has just said that it is ready, and the CPU seconds from its exec up to there."""
        told = {**os.environ, **environment, "NOTIFY_SOCKET": str(self._path)}
        told.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=told)
        self._ready.get(timeout=READY_TIMEOUT)
        return process, cpu_seconds(process.pid)

    def _listen(self) -> None:
        while True:  # also what is said later: who is not listened to would wait
            if b"READY=1" in self._socket.recv(4096):
                self._ready.put(None)
