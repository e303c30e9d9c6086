"""Walks through what is done to a client, on which somebody dies by kill -9 between two steps; any supervisor."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import CompletedProcess

from tests.deadline import eventually
from tests.installation import Calls
from wxsup import names, record

#: Up to these points the record does not say yet what is meant: it will be as if nobody had asked.
CLAIMED = {"start.claimed", "stop.claimed", "remove.claimed"}
UNTOLD = CLAIMED | {"replace.written"}

_numbers = itertools.count(1)


def every_step(start: Iterable[str], stop: Iterable[str]) -> list[tuple[str, str]]:
    """Return every fault point with the verb that comes by it."""
    steps = [("start", f"start.{step}") for step in start] + [("stop", f"stop.{step}") for step in stop]
    steps += [("restart", f"restart.{step}") for step in ("claimed", "marked", "stopped", "recorded")]
    steps += [("remove", f"remove.{step}") for step in ("claimed", "marked", "purged")]
    return [*steps, ("start", "replace.written"), ("stop", "replace.written")]


def slugs(paths: Iterable[Path]) -> frozenset[str]:
    """Return the slugs of the clients whose files these are."""
    return frozenset(slug for path in paths if (slug := names.slug_of(path.stem)))


class Walks(ABC):
    """Walks on `wx`, whose records are in the folder `records`."""

    def __init__(self, wx: Calls, records: Path) -> None:
        self.wx = wx
        self.records = records

    @abstractmethod
    def command(self, verb: str, name: str, fault: str, victim: str) -> CompletedProcess[str]:
        """Start, stop, restart or remove a client with a fault armed, as a controller of its own."""

    @abstractmethod
    def processes(self, name: str) -> int:
        """Count the processes of a client, whoever started them."""

    @abstractmethod
    def traces(self) -> dict[str, frozenset[str]]:
        """Return, for each kind of thing that a client has beside its record, the slugs of those who have it."""

    def walk(
        self, verb: str, fault: str, victim: str, *, told: bool = True, revive: Callable[[], object] = lambda: None
    ) -> CompletedProcess[str]:
        """Go one way; in the end all must be as the command asked, or, when nobody was `told`, as it was.

        After a restart the client runs in either case.
        """
        name = f"客 {verb} {next(_numbers)}"
        first_port = self._next_port()
        if verb != "start":
            self.wx.json("start_client", client=name)
            self.wx.until(name, "scaning")
        done = self.command(verb, name, fault, victim.format(slug=names.slug(name)))
        revive()
        assert "Traceback" not in done.stderr, done.stderr
        self.settled(name, running=verb == "restart" or (verb == "start") is told)
        assert self._next_port() == first_port, "a port was leaked"
        return done

    def walk_without_record(self) -> CompletedProcess[str]:
        """Start a client that runs, but whose record was deleted, and let the controller die on the way."""
        self.wx.json("start_client", client="orphan")
        self.wx.until("orphan", "scaning")
        (self.records / "wxclient-orphan.env").unlink()
        done = self.command("start", "orphan", "start.recorded", "self")
        eventually(lambda: not self._unfinished(), what="the end of what was cut short")
        self.wx.until("orphan", "scaning")
        told = self.wx.json("get_client_info", client="orphan")
        assert told["code"] == 0, "the port in the record is the one it listens on"
        self.settled("orphan", running=True)
        return done

    def settled(self, name: str, *, running: bool) -> None:
        """Check that all is finished: exactly one process and everything in its place, or nothing at all."""
        eventually(lambda: not self._unfinished(), what="the end of what was cut short")
        if running:
            self.wx.until(name, "scaning")
        else:
            assert self.wx.json("check_client", client=name)["code"] == 1
        eventually(lambda: self.processes(name) == int(running), what="one process, or none")
        records = slugs(self.records.glob("*.env"))
        assert (names.slug(name) in records) is running
        eventually(
            self.traces,
            holds=lambda traces: all(found == records for found in traces.values()),
            what=f"nothing beside the records of {set(records)}, and nothing missing,",
        )
        if running:
            assert self.wx.json("stop_client", client=name)["code"] == 0
            assert self.processes(name) == 0

    def _unfinished(self) -> list[str]:
        """Return the records that say of themselves that something is left to do."""
        texts = {path.name: path.read_text() for path in self.records.glob("*.env")}
        return [
            name for name, text in texts.items() if (client := record.loads(text)).pending or client.want.value != "up"
        ]

    def _next_port(self) -> int:
        """Return the port that a new client gets."""
        port = self.wx.json("start_client", client="probe")["port"]
        self.wx.json("stop_client", client="probe")
        assert isinstance(port, int)
        return port
