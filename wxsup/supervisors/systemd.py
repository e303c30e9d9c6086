"""systemd over D-Bus: a client is an instance of the template unit ``wxclient@``; org.freedesktop.systemd1(5).

What tells one instance from another is its record, which the client reads by itself: there is nothing to install for
it, and nothing to reload. An instance that is down is the same to systemd as one that never was, so status() has
neither.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wxsup import faults, files, names, units
from wxsup.dbus import Bus, CallRefused
from wxsup.errors import PurgeFailed, StartFailed, SupervisorUnreachable
from wxsup.model import Client, State, Status
from wxsup.supervisors import Supervisor

CALL_TIMEOUT = 20.0
PURGE_TIMEOUT = 30.0  # a session may hold many files
STOPS = 3  # tries of a stop that somebody's start by hand gets in the way of

_FORBIDDEN = ("org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired")
_NO_CLIENT = ".00"  # no client's slug, since no name may hold such a character

# systemd's own hierarchy: one beside those of the controllers in cgroups v1, the only one in v2 (cgroups(7)).
_CGROUPS = Path("/sys/fs/cgroup/systemd")
if not _CGROUPS.is_dir():
    _CGROUPS = _CGROUPS.parent


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
            for _, path, state, _ in units.listed(bus, unit):
                (shown,) = units.show(bus, [path])
                if shown["MainPID"] and state != "deactivating":
                    return units.status(shown)
                if state not in units.DOWN:  # failed, on its way down, or waiting to be tried again, which may be long
                    units.stop(bus, unit)
            try:
                shown = units.start(bus, unit)
            except StartFailed:
                units.stop(bus, unit)  # it would be tried again, and show as failed
                raise
            faults.point("start.spawned")
            return units.status(shown)

    def stop(self, client: Client) -> None:
        unit = _unit(client.slug)
        with self._asking() as bus:
            for _ in range(STOPS):
                if units.stop(bus, unit):
                    faults.point("stop.stopped")
                    units.clean(bus, unit, "runtime")
                    faults.point("stop.removed")
                    if units.is_down(bus, unit):
                        return
        raise SupervisorUnreachable(f"{unit} was started again and again while it was to be stopped")

    def purge(self, client: Client) -> bool:
        session = self._sessions / client.slug
        try:
            if self._ours:
                return files.remove_tree(session)
            found = os.path.lexists(session)
            with self._asking() as bus:
                units.clean(bus, _unit(client.slug), "state", timeout=PURGE_TIMEOUT)
            if os.path.lexists(session):
                raise PurgeFailed(f"systemd has not deleted {session}; the journal says why")
            return found
        except OSError as ex:
            raise PurgeFailed(str(ex)) from ex

    def status(self, *slugs: str) -> Mapping[str, Status]:
        patterns = [_unit(slug) for slug in slugs] or [_unit("*")]
        with self._asking() as bus:
            up = [entry for entry in units.listed(bus, *patterns) if entry[2] not in units.DOWN]
            found = {
                unit: known
                for unit, _, state, _ in up
                if state == "active" and (known := self._known.get(unit)) and known.stands()
            }
            changed = {unit: path for unit, path, _, _ in up if unit not in found}
            for unit, shown in zip(changed, units.show(bus, changed.values()), strict=True):
                found[unit] = _Known(units.status(shown), _processes_file(shown))
        self._known = {**self._known, **found} if slugs else found
        statuses = {_slug_of(unit): known.status for unit, known in found.items()}
        return {slug: status for slug, status in statuses.items() if slug and status.state is not State.STOPPED}

    def check(self) -> None:
        unit = _unit(_NO_CLIENT)
        with self._asking() as bus:
            loaded = units.load_state(bus, unit)
            if loaded != "loaded":
                raise SupervisorUnreachable(f"the unit wxclient@.service is {loaded}; make install brings it")
            # It never runs; what shows is whether we may.
            units.stop(bus, unit)
            units.clean(bus, unit, "runtime")

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


def _processes_file(shown: Mapping[str, Any]) -> Path | None:
    if shown["ActiveState"] != "active" or not shown["ControlGroup"]:
        return None
    return _CGROUPS / str(shown["ControlGroup"]).lstrip("/") / "cgroup.procs"


def _read(path: Path | None) -> str:
    try:
        return path.read_text(encoding="ascii") if path else ""
    except OSError:
        return ""
