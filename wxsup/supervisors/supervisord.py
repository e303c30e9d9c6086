"""supervisord over XML-RPC on its unix socket; http://supervisord.org/api.html.

Each client is a program, and so a process group, of its own with a section file of its own: a group whose members
changed would be restarted as a whole by ``supervisorctl update``.
"""

from __future__ import annotations

import http.client
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from wxsup import faults, files, names
from wxsup.errors import PurgeFailed, StartFailed, SupervisorUnreachable
from wxsup.model import Client, State, Status
from wxsup.supervisors import Supervisor

CALL_TIMEOUT = 20.0
STOP_TIMEOUT = 30.0  # more than stopwaitsecs, after which supervisord kills
RESEND_AFTER = 1.0  # a SIGTERM in the first milliseconds of a process can be lost

# supervisor/xmlrpc.py, class Faults
SHUTDOWN_STATE, BAD_NAME, NOT_RUNNING, ALREADY_STARTED, ALREADY_ADDED, CANT_REREAD = 6, 10, 70, 60, 90, 92

# supervisor/states.py, class ProcessStates
_STATES = {
    0: State.STOPPED,
    10: State.STARTING,
    20: State.RUNNING,
    30: State.STARTING,  # BACKOFF: it ended too soon and is about to be tried again
    40: State.STOPPING,
    100: State.STOPPED,  # EXITED
    200: State.FAILED,  # FATAL
    1000: State.FAILED,  # UNKNOWN: an error inside supervisord
}
_BACKOFF, _FATAL, _EXITED, _UNKNOWN = 30, 200, 100, 1000
_STARTED = (10, 20)
_UNSTOPPED = (*_STARTED, 30, 40)


class Supervisord(Supervisor):
    """The supervisord behind `socket_path`, which includes ``*.conf`` from `include`; `section` renders a client.

    The session of a client is the folder in `sessions` that has its slug for a name.
    """

    def __init__(self, socket_path: Path, include: Path, section: Callable[[Client], str], sessions: Path) -> None:
        self._socket = socket_path
        self._include = include
        self._section = section
        self._sessions = sessions

    def render(self, client: Client) -> Mapping[Path, str]:
        return {self._path(client): self._section(client)}

    def start(self, client: Client) -> Status:
        program = names.program(client.slug)
        with _asking(self._socket) as supervisor:
            info = _info(supervisor, program)
            if info and info["pid"] and info["state"] in _STARTED:
                return _status(info)
            if info and info["state"] in _UNSTOPPED:
                self._stop(supervisor, program)
            before = _read(self._path(client))
            changed = self._install(client, before)
            faults.point("start.installed")
            try:
                self._spawn(supervisor, program, known=info is not None, changed=changed)
            except StartFailed:
                if changed:
                    self._forget(supervisor, program)
                    self._restore(client, before)
                raise
            faults.point("start.spawned")
            return _status(_info(supervisor, program) or {})

    def stop(self, client: Client) -> None:
        program = names.program(client.slug)
        with _asking(self._socket) as supervisor:
            self._forget(supervisor, program)
            faults.point("stop.removed")
            files.remove(self._path(client))
            faults.point("stop.uninstalled")

    def purge(self, client: Client) -> bool:
        try:
            return files.remove_tree(self._sessions / client.slug)
        except OSError as ex:
            raise PurgeFailed(str(ex)) from ex

    def status(self, *slugs: str) -> Mapping[str, Status]:
        with _asking(self._socket) as supervisor:
            if len(slugs) == 1:
                found = [_info(supervisor, names.program(slugs[0]))]
            else:
                found = supervisor.getAllProcessInfo()
        by_slug = {names.slug_of(info["name"]): _status(info) for info in found if info}
        return {slug: status for slug, status in by_slug.items() if slug and (not slugs or slug in slugs)}

    def _path(self, client: Client) -> Path:
        return self._include / f"{names.program(client.slug)}.conf"

    def _install(self, client: Client, before: str | None) -> bool:
        """Write what defines the client; tell whether that changed anything."""
        ((path, text),) = self.render(client).items()
        if text == before:
            return False
        try:
            files.replace(path, text)
        except OSError as ex:
            raise StartFailed(f"{path}: {ex.strerror}") from ex
        return True

    def _restore(self, client: Client, before: str | None) -> None:
        path = self._path(client)
        if before is None:
            files.remove(path)
        else:
            with suppress(OSError):  # a full disk: the newer text stays, and is written again by the next start
                files.replace(path, before)

    def _spawn(self, supervisor: Any, program: str, *, known: bool, changed: bool) -> None:
        calls: list[tuple[Any, ...]] = [("startProcess", program, False)]
        if changed or not known:
            try:
                supervisor.reloadConfig()
            except xmlrpc.client.Fault as ex:
                if ex.faultCode != CANT_REREAD:
                    raise
                raise StartFailed(f"supervisord cannot read its configuration: {ex.faultString}") from ex
            faults.point("start.reread")
            calls.insert(0, ("addProcessGroup", program))
            if known:
                calls.insert(0, ("removeProcessGroup", program))
        # In one call, so that supervisord's own autostart cannot come in between and hide why a start failed.
        batch = xmlrpc.client.MultiCall(supervisor.server)
        for method, *arguments in calls:
            getattr(batch.supervisor, method)(*arguments)
        answers: Any = batch()
        for answer in answers.results:
            if isinstance(answer, dict) and answer["faultCode"] not in (ALREADY_STARTED, ALREADY_ADDED):
                if answer["faultCode"] == SHUTDOWN_STATE:
                    raise SupervisorUnreachable("supervisord is shutting down")
                info = _info(supervisor, program)
                raise StartFailed((info and info["spawnerr"]) or answer["faultString"])

    def _forget(self, supervisor: Any, program: str) -> None:
        """Stop the process if there is one and take its group away."""
        try:
            self._stop(supervisor, program)
            faults.point("stop.stopped")
            supervisor.removeProcessGroup(program)
        except xmlrpc.client.Fault as ex:
            if ex.faultCode != BAD_NAME:
                raise

    def _stop(self, supervisor: Any, program: str) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT
        resend = time.monotonic() + RESEND_AFTER
        pause = 0.01
        try:
            supervisor.stopProcess(program, False)
        except xmlrpc.client.Fault as ex:
            if ex.faultCode != NOT_RUNNING:
                raise
        while (info := _info(supervisor, program)) and info["state"] in _UNSTOPPED:
            now = time.monotonic()
            if now > deadline:
                raise SupervisorUnreachable(f"supervisord could not stop {program} in {STOP_TIMEOUT:g} s")
            if now > resend:
                resend = deadline
                with suppress(xmlrpc.client.Fault):
                    supervisor.signalProcess(program, "TERM")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)


def halt(socket_path: Path) -> None:
    """Stop every program at once, then supervisord itself: left to itself it stops one after the other."""
    with _asking(socket_path) as supervisor:
        supervisor.stopAllProcesses(False)
        supervisor.shutdown()


@contextmanager
def _asking(socket_path: Path) -> Iterator[Any]:
    """Yield the ``supervisor`` namespace over a connection of its own; turn "could not ask" into one exception."""
    transport = _UnixTransport(str(socket_path))
    try:
        yield _Namespace(xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport))
    except xmlrpc.client.Fault as ex:
        said = "is shutting down" if ex.faultCode == SHUTDOWN_STATE else f"says {ex.faultString}"
        raise SupervisorUnreachable(f"supervisord {said}") from ex
    except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError) as ex:
        raise SupervisorUnreachable(f"supervisord at {socket_path}: {ex}") from ex
    finally:
        transport.close()


class _Namespace:
    """Calls in supervisord's own namespace, and the server they go to."""

    def __init__(self, server: xmlrpc.client.ServerProxy) -> None:
        self.server = server

    def __getattr__(self, method: str) -> Any:
        return getattr(self.server.supervisor, method)


class _UnixTransport(xmlrpc.client.Transport):
    """HTTP over a unix socket, with a time-out: a supervisord that hangs must not hang its callers."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._made: _UnixConnection | None = None

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._made is None:
            self._made = _UnixConnection(self._path)
        return self._made

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CALL_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_TIMEOUT)
        self.sock.connect(self._path)


def _info(supervisor: Any, program: str) -> dict[str, Any] | None:
    """Ask for one program; None when supervisord does not know it."""
    try:
        info: dict[str, Any] = supervisor.getProcessInfo(program)
    except xmlrpc.client.Fault as ex:
        if ex.faultCode != BAD_NAME:
            raise
        return None
    return info


def _status(info: Mapping[str, Any]) -> Status:
    if not info:
        return Status(State.STOPPED)
    return Status(
        _STATES[info["state"]],
        pid=info["pid"],
        since=float(info["start"] if info["pid"] else info["stop"]),
        reason=_reason(info),
    )


def _reason(info: Mapping[str, Any]) -> str:
    exited = f"exit status {info['exitstatus']}" if info["exitstatus"] else ""
    if info["state"] in (_BACKOFF, _FATAL):
        return ", ".join(part for part in (info["spawnerr"], exited) if part)
    if info["state"] == _UNKNOWN:
        return "supervisord does not know its state"
    return exited if info["state"] == _EXITED else ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
