"""systemd over D-Bus: a client is an instance of the template unit ``wxclient@``; org.freedesktop.systemd1(5).

What tells one instance from another is its record, which the client reads by itself: there is nothing to install for
it, and nothing to reload. An instance that is down is the same to systemd as one that never was, so status() has
neither.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, MatchRule, Properties, message_bus, new_method_call

from wxsup import faults, files, names
from wxsup.dbus import Bus, CallRefused
from wxsup.errors import PurgeFailed, StartFailed, SupervisorUnreachable
from wxsup.model import Client, State, Status
from wxsup.supervisors import Supervisor

CALL_TIMEOUT = 20.0
START_TIMEOUT = 30.0
CLEAN_TIMEOUT, CLEAN_RETRY = 2.0, 0.01
PURGE_TIMEOUT = 30.0  # a session may hold many files
STOPS = 3  # tries of a stop that somebody's start by hand gets in the way of
STOP_TIMEOUT = 30.0  # more than TimeoutStopSec=, after which systemd kills

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", _SYSTEMD, f"{_SYSTEMD}.Manager")
_UNIT, _SERVICE = f"{_SYSTEMD}.Unit", f"{_SYSTEMD}.Service"
_NOT_LOADED, _BUSY = f"{_SYSTEMD}.NoSuchUnit", f"{_SYSTEMD}.UnitBusy"
# What StartUnit says of the unit, and not of the bus or of our rights.
_UNSTARTABLE = frozenset(
    f"{_SYSTEMD}.{name}"
    for name in ("NoSuchUnit", "LoadFailed", "BadUnitSetting", "UnitMasked", "TransactionIsDestructive", "JobFailed")
)

_FORBIDDEN = ("org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired")
_NO_CLIENT = ".00"  # no client's slug, since no name may hold such a character

_STATES = {
    "active": State.RUNNING,
    "reloading": State.RUNNING,
    "activating": State.STARTING,
    "deactivating": State.STOPPING,
    "inactive": State.STOPPED,
    "maintenance": State.STOPPED,  # its folders are being cleaned
    "failed": State.FAILED,
}
_DOWN = ("inactive", "maintenance")
# What a Status is made of, each with the interface that has it.
_PROPERTIES = {
    "ActiveState": _UNIT,
    "StateChangeTimestamp": _UNIT,
    "MainPID": _SERVICE,
    "ExecMainStartTimestamp": _SERVICE,
    "ExecMainCode": _SERVICE,
    "ExecMainStatus": _SERVICE,
    "Result": _SERVICE,
    "NRestarts": _SERVICE,
    "ControlGroup": _SERVICE,
}
# systemd's own hierarchy: one beside those of the controllers in cgroups v1, the only one in v2 (cgroups(7)).
_CGROUPS = Path("/sys/fs/cgroup/systemd")
if not _CGROUPS.is_dir():
    _CGROUPS = _CGROUPS.parent
_EXITED = 1  # CLD_EXITED of waitid(2); with every other code the status is the number of a signal


class Systemd(Supervisor):
    """The systemd on the bus at `address`, or at the ``SYSTEM`` or the ``SESSION`` bus.

    The session of a client is the folder in `sessions` that has its slug for a name. It is the unit's, and we may not
    look into it, unless the sessions are `ours`. systemd is asked at so many `connections` at once.
    """

    def __init__(self, address: str, sessions: Path, *, ours: bool = False, connections: int = 16) -> None:
        self._address = address
        self._sessions = sessions
        self._ours = ours
        self._free = threading.BoundedSemaphore(connections)
        self._known: dict[str, _Known] = {}

    def render(self, client: Client) -> Mapping[Path, str]:
        return {}

    def start(self, client: Client) -> Status:
        unit = _unit(client.slug)
        with self._asking() as bus:
            for _, path, state, _ in _listed(bus, unit):
                (shown,) = _show(bus, [path])
                if shown["MainPID"] and state != "deactivating":
                    return _status(shown)
                if state not in _DOWN:  # failed, on its way down, or waiting to be tried again, which may be long
                    _stop(bus, unit)
            try:
                shown = _start(bus, unit)
            except StartFailed:
                _stop(bus, unit)  # it would be tried again, and show as failed
                raise
            faults.point("start.spawned")
            return _status(shown)

    def stop(self, client: Client) -> None:
        unit = _unit(client.slug)
        with self._asking() as bus:
            for _ in range(STOPS):
                if _stop(bus, unit):
                    faults.point("stop.stopped")
                    _clean(bus, unit, "runtime")
                    faults.point("stop.removed")
                    if _is_down(bus, unit):
                        return
        raise SupervisorUnreachable(f"{unit} was started again and again while it was to be stopped")

    def purge(self, client: Client) -> bool:
        session = self._sessions / client.slug
        try:
            if self._ours:
                return files.remove_tree(session)
            found = os.path.lexists(session)
            with self._asking() as bus:
                _clean(bus, _unit(client.slug), "state", timeout=PURGE_TIMEOUT)
            if os.path.lexists(session):
                raise PurgeFailed(f"systemd has not deleted {session}; the journal says why")
            return found
        except OSError as ex:
            raise PurgeFailed(str(ex)) from ex

    def status(self, *slugs: str) -> Mapping[str, Status]:
        patterns = [_unit(slug) for slug in slugs] or [_unit("*")]
        with self._asking() as bus:
            up = [entry for entry in _listed(bus, *patterns) if entry[2] not in _DOWN]
            found = {
                unit: known
                for unit, _, state, _ in up
                if state == "active" and (known := self._known.get(unit)) and known.stands()
            }
            changed = {unit: path for unit, path, _, _ in up if unit not in found}
            for unit, shown in zip(changed, _show(bus, changed.values()), strict=True):
                found[unit] = _Known(_status(shown), _processes_file(shown))
        self._known = {**self._known, **found} if slugs else found
        statuses = {_slug_of(unit): known.status for unit, known in found.items()}
        return {slug: status for slug, status in statuses.items() if slug and status.state is not State.STOPPED}

    def check(self) -> None:
        unit = _unit(_NO_CLIENT)
        with self._asking() as bus:
            path = _call(bus, "LoadUnit", "s", unit)
            _, loaded = bus.ask(Properties(DBusAddress(path, _SYSTEMD, _UNIT)).get("LoadState"))
            if loaded != "loaded":
                raise SupervisorUnreachable(f"the unit wxclient@.service is {loaded}; make install brings it")
            # It never runs; what shows is whether we may.
            _stop(bus, unit)
            _clean(bus, unit, "runtime")

    @contextmanager
    def _asking(self) -> Iterator[Bus]:
        """Yield a connection of its own; turn "could not ask", and "may not", into one exception."""
        if not self._free.acquire(timeout=CALL_TIMEOUT):
            raise SupervisorUnreachable("too many questions to systemd wait already")
        try:
            with Bus(self._address, timeout=CALL_TIMEOUT) as bus:
                yield bus
        except CallRefused as ex:
            hint = "; is the polkit rule of wxsup installed, and are you its user?" if ex.name in _FORBIDDEN else ""
            raise SupervisorUnreachable(f"systemd refuses: {ex}{hint}") from ex
        except OSError as ex:
            raise SupervisorUnreachable(f"D-Bus: {ex}") from ex
        finally:
            self._free.release()


class _Known:
    """What was last said of a running unit, which stands as long as its processes are the same.

    To ask anew would take 20 times as long. `processes` is the file that lists them (cgroup.procs of cgroups(7)), None
    where they cannot be told.
    """

    def __init__(self, status: Status, processes: Path | None) -> None:
        self.status = status
        self._path = processes
        self._processes = _read(processes)
        self._told = str(status.pid) in self._processes.split()

    def stands(self) -> bool:
        """Tell whether nothing can have changed."""
        return self._told and _read(self._path) == self._processes


def _unit(slug: str) -> str:
    return f"wxclient@{slug}.service"


def _slug_of(unit: str) -> str | None:
    return names.slug_of(names.program(unit.removeprefix("wxclient@").removesuffix(".service")))


def _call(bus: Bus, method: str, signature: str = "", *arguments: Any) -> Any:
    return bus.call(_MANAGER, method, signature, *arguments)


def _listed(bus: Bus, *patterns: str) -> list[tuple[str, str, str, str]]:
    """Return name, path, ActiveState and waiting job of the loaded units that match; who is down may not be loaded."""
    units = _call(bus, "ListUnitsByPatterns", "asas", [], list(patterns))
    return [(name, path, state, job) for name, _, _, state, _, _, path, _, job, _ in units]


def _state(bus: Bus, unit: str) -> str:
    """Return the ActiveState of a unit; one that is not loaded is inactive."""
    return next((state for _, _, state, _ in _listed(bus, unit)), "inactive")


def _is_down(bus: Bus, unit: str) -> bool:
    """Tell whether a unit is down and nobody has asked for a start of it."""
    return all(state in _DOWN and not job for _, _, state, job in _listed(bus, unit))


def _show(bus: Bus, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Return the _PROPERTIES of the units at `paths`, asked for all at once."""
    questions = [
        Properties(DBusAddress(path, _SYSTEMD, interface)).get(name)
        for path in paths
        for name, interface in _PROPERTIES.items()
    ]
    values = [value for _, value in bus.ask_all(questions)]
    width = len(_PROPERTIES)
    return [dict(zip(_PROPERTIES, values[at : at + width], strict=True)) for at in range(0, len(values), width)]


class _Job:
    """A job of systemd's for one unit, watched by signals until it is removed from the queue.

    `changes` are the properties that have changed meanwhile, `result` is how it ended, "" before.
    """

    def __init__(self, bus: Bus, method: str, unit: str) -> None:
        # Who watches before asking misses nothing.
        self.path = _path(unit)
        kind = {"interface": "org.freedesktop.DBus.Properties", "member": "PropertiesChanged"}
        changed = MatchRule(type="signal", sender=_SYSTEMD, path=self.path, **kind)
        removed = MatchRule(type="signal", sender=_SYSTEMD, interface=_MANAGER.interface, member="JobRemoved")
        removed.add_arg_condition(2, unit)
        watch = [message_bus.AddMatch(changed), message_bus.AddMatch(removed), new_method_call(_MANAGER, "Subscribe")]
        with _tolerated(f"{_SYSTEMD}.AlreadySubscribed"):
            bus.ask_all(watch)
        self._bus = bus
        self._job = _call(bus, method, "ss", unit, "replace")
        self.changes: dict[str, Any] = {}
        self.result = ""

    def wait(self, deadline: float) -> None:
        """Wait for news of the unit or of the job."""
        try:
            heard = self._bus.signal(deadline)
        except TimeoutError as ex:
            raise SupervisorUnreachable("systemd has not done in time what it was asked to do") from ex
        member = heard.header.fields[HeaderFields.member]
        if member == "PropertiesChanged":
            self.changes |= {name: value for name, (_, value) in heard.body[1].items()}
        elif member == "JobRemoved" and heard.body[1] == self._job:
            self.result = heard.body[3]


def _path(unit: str) -> str:
    """Return the object path of a unit (sd_bus_path_encode(3))."""
    return "/org/freedesktop/systemd1/unit/" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", unit)


def _start(bus: Bus, unit: str) -> dict[str, Any]:
    """Start `unit` and return its properties once it has a process, or has had one; raise StartFailed if not."""
    deadline = time.monotonic() + START_TIMEOUT
    try:
        job = _Job(bus, "StartUnit", unit)
    except CallRefused as ex:
        if ex.name in _UNSTARTABLE:
            raise StartFailed(str(ex)) from ex
        raise
    faults.point("start.queued")
    while not job.result:
        job.wait(deadline)
        if job.changes.get("MainPID"):  # to ask for more would take until systemd has done the rest of its work
            return {**dict.fromkeys(_PROPERTIES, 0), "ActiveState": "activating", **job.changes}
    (shown,) = _show(bus, [job.path])
    if job.result != "done":
        raise StartFailed(_reason(shown) or f"the start was {job.result}")
    return shown


def _stop(bus: Bus, unit: str) -> bool:
    """Stop `unit` and wait until it is down; systemd then forgets why it had failed.

    Return whether it is down: not if somebody has had it started meanwhile.
    """
    deadline = time.monotonic() + STOP_TIMEOUT
    result = "done"
    with _tolerated(_NOT_LOADED):
        job = _Job(bus, "StopUnit", unit)
        while not job.result:
            job.wait(deadline)
        result = job.result
    state = _state(bus, unit)
    if state == "failed":
        _forget_failure(bus, unit)
    elif state not in _DOWN:
        if result in ("done", "canceled"):
            return False
        raise SupervisorUnreachable(f"systemd could not stop {unit}: the stop was {result}")
    return True


def _processes_file(shown: Mapping[str, Any]) -> Path | None:
    if shown["ActiveState"] != "active" or not shown["ControlGroup"]:
        return None
    return _CGROUPS / str(shown["ControlGroup"]).lstrip("/") / "cgroup.procs"


def _read(path: Path | None) -> str:
    try:
        return path.read_text(encoding="ascii") if path else ""
    except OSError:
        return ""


def _clean(bus: Bus, unit: str, what: str, *, timeout: float = CLEAN_TIMEOUT) -> None:
    """Remove a folder of a unit that is down: its ``runtime``, state file and login picture, or its ``state``."""
    deadline = time.monotonic() + timeout
    with _tolerated(_NOT_LOADED, f"{_SYSTEMD}.NothingToClean", _BUSY):
        while True:
            try:
                _call(bus, "CleanUnit", "sas", unit, [what])
                break
            except CallRefused as ex:  # being cleaned already, or somebody has started it again
                if ex.name != _BUSY or time.monotonic() > deadline or not _is_down(bus, unit):
                    raise
            time.sleep(CLEAN_RETRY)
    # It goes on after the answer; a unit that is stopped meanwhile, by whomever, ends up as failed.
    while (state := _state(bus, unit)) == "maintenance" and time.monotonic() < deadline:
        time.sleep(CLEAN_RETRY)
    if state == "failed":
        _forget_failure(bus, unit)


def _forget_failure(bus: Bus, unit: str) -> None:
    """Take a unit out of the state failed, and set its count of starts (StartLimitBurst=) to nothing."""
    with _tolerated(_NOT_LOADED):
        _call(bus, "ResetFailedUnit", "s", unit)


@contextmanager
def _tolerated(*errors: str) -> Iterator[None]:
    try:
        yield
    except CallRefused as ex:
        if ex.name not in errors:
            raise


def _status(shown: Mapping[str, Any]) -> Status:
    pid = shown["MainPID"]
    since = shown["ExecMainStartTimestamp" if pid else "StateChangeTimestamp"]
    return Status(
        _STATES[shown["ActiveState"]],
        pid=pid,
        since=since / 1e6,
        reason="" if pid else _reason(shown),
        restarts=shown["NRestarts"],
    )


def _reason(shown: Mapping[str, Any]) -> str:
    """Say why a service is down, or was when it is about to be tried again (systemd.exec(5), $SERVICE_RESULT)."""
    result, code, number = shown["Result"], shown["ExecMainCode"], shown["ExecMainStatus"]
    if result == "success":
        return ""
    ended = ""
    if code == _EXITED and number:
        ended = f"exit status {number}"
    elif code and number:
        ended = f"killed by {_signal(number)}"
    if result in ("exit-code", "signal", "core-dump") and ended:
        return ended
    return ", ".join(part for part in (result, ended) if part)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
