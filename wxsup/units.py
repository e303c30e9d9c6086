"""Units of systemd, asked and told over its bus; org.freedesktop.systemd1(5)."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jeepney import DBusAddress, HeaderFields, MatchRule, Properties, message_bus, new_method_call

from wxsup import faults
from wxsup.dbus import Bus, CallRefused
from wxsup.errors import StartFailed, SupervisorUnreachable
from wxsup.model import State, Status

START_TIMEOUT = 30.0
STOP_TIMEOUT = 30.0  # more than TimeoutStopSec=, after which systemd kills
CLEAN_TIMEOUT, CLEAN_RETRY = 2.0, 0.01

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", _SYSTEMD, f"{_SYSTEMD}.Manager")
_UNIT, _SERVICE = f"{_SYSTEMD}.Unit", f"{_SYSTEMD}.Service"
_NOT_LOADED, _BUSY = f"{_SYSTEMD}.NoSuchUnit", f"{_SYSTEMD}.UnitBusy"
# What StartUnit says of the unit, and not of the bus or of our rights.
_UNSTARTABLE = frozenset(
    f"{_SYSTEMD}.{name}"
    for name in ("NoSuchUnit", "LoadFailed", "BadUnitSetting", "UnitMasked", "TransactionIsDestructive", "JobFailed")
)

_STATES = {
    "active": State.RUNNING,
    "reloading": State.RUNNING,
    "activating": State.STARTING,
    "deactivating": State.STOPPING,
    "inactive": State.STOPPED,
    "maintenance": State.STOPPED,  # its folders are being cleaned
    "failed": State.FAILED,
}
DOWN = ("inactive", "maintenance")
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
_EXITED = 1  # CLD_EXITED of waitid(2); with every other code the status is the number of a signal


def _call(bus: Bus, method: str, signature: str = "", *arguments: Any) -> Any:
    return bus.call(_MANAGER, method, signature, *arguments)


def listed(bus: Bus, *patterns: str) -> list[tuple[str, str, str, str]]:
    """Return name, path, ActiveState and waiting job of the loaded units that match; who is down may not be loaded."""
    units = _call(bus, "ListUnitsByPatterns", "asas", [], list(patterns))
    return [(name, path, state, job) for name, _, _, state, _, _, path, _, job, _ in units]


def load_state(bus: Bus, unit: str) -> str:
    """Have systemd read the files of a unit and return its LoadState."""
    path = _call(bus, "LoadUnit", "s", unit)
    return str(bus.ask(Properties(DBusAddress(path, _SYSTEMD, _UNIT)).get("LoadState"))[1])


def _state(bus: Bus, unit: str) -> str:
    """Return the ActiveState of a unit; one that is not loaded is inactive."""
    return next((state for _, _, state, _ in listed(bus, unit)), "inactive")


def is_down(bus: Bus, unit: str) -> bool:
    """Tell whether a unit is down and nobody has asked for a start of it."""
    return all(state in DOWN and not job for _, _, state, job in listed(bus, unit))


def show(bus: Bus, paths: Iterable[str]) -> list[dict[str, Any]]:
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
        self.path = path_of(unit)
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


def path_of(unit: str) -> str:
    """Return the object path of a unit (sd_bus_path_encode(3))."""
    return "/org/freedesktop/systemd1/unit/" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", unit)


def start(bus: Bus, unit: str) -> dict[str, Any]:
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
    (shown,) = show(bus, [job.path])
    if job.result != "done":
        raise StartFailed(_reason(shown) or f"the start was {job.result}")
    return shown


def stop(bus: Bus, unit: str) -> bool:
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
    elif state not in DOWN:
        if result in ("done", "canceled"):
            return False
        raise SupervisorUnreachable(f"systemd could not stop {unit}: the stop was {result}")
    return True


def clean(bus: Bus, unit: str, what: str, *, timeout: float = CLEAN_TIMEOUT) -> None:
    """Remove a folder of a unit that is down: its ``runtime``, state file and login picture, or its ``state``."""
    deadline = time.monotonic() + timeout
    with _tolerated(_NOT_LOADED, f"{_SYSTEMD}.NothingToClean", _BUSY):
        while True:
            try:
                _call(bus, "CleanUnit", "sas", unit, [what])
                break
            except CallRefused as ex:  # being cleaned already, or somebody has started it again
                if ex.name != _BUSY or time.monotonic() > deadline or not is_down(bus, unit):
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


def status(shown: Mapping[str, Any]) -> Status:
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
