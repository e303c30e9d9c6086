"""The use cases: start, stop, restart, remove, check, qrcode, sync. Here the records meet the supervisor.

Start: record (pending) -> supervisor -> pending off. Stop: record (gone) -> supervisor -> record removed. A crash in
between leaves a record that says what was meant, and sync() finishes it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wxsup import entries, faults, files, kinds, names, options, record
from wxsup.environment import path_of
from wxsup.errors import (
    ClientMissing,
    ClientUnknown,
    NoPid,
    RecordInvalid,
    StartFailed,
    WxsupError,
)
from wxsup.model import Client, State, Status, Want
from wxsup.refresh import Refresh
from wxsup.registry import Broken, Registry
from wxsup.resume import Resume, Stop, Stopped
from wxsup.settings import Settings
from wxsup.supervisors import ALIVE, Supervisor

logger = logging.getLogger(__name__)

SCANNABLE = ("scaning", "confirming")


class Controller:
    """What the API and the commands do with clients; keeps nothing that a restart would lose."""

    def __init__(self, settings: Settings, registry: Registry, supervisor: Supervisor) -> None:
        self._settings = settings
        self._registry = registry
        self._supervisor = supervisor
        self._refresh = Refresh(settings, registry, supervisor)

    def start(self, name: str, params: Mapping[str, str]) -> dict[str, Any]:
        """Start the client `name` and return the entry that start_client answers with.

        A client that runs is left alone. One that was stopped keeps its port and takes the new parameters.
        """
        slug = _slug(name)
        accepted = options.accept(params, post_api_allow=self._settings.post_api_allow)
        with self._registry.claimed(slug):
            faults.point("start.claimed")
            known = self._registry.find(slug)
            status = self._supervisor.status(slug).get(slug)
            if known and known.want is Want.UP and status and status.pid and status.state is not State.STOPPING:
                self._settle(known)
                return {"code": 0, "status": "client already exists", **entries.entry(known, status)}
            if known and known.want is Want.GONE:
                self._remove(known)
                known = None
            if known is None and status:
                # What runs without a record runs on a port that nobody knows.
                self._supervisor.stop(Client(name=name, slug=slug, port=0, driver=""))
            client = self._record(name, slug, accepted, known)
            faults.point("start.recorded")
            status = self._launch(client, known)
            faults.point("start.settled")
        return self._started(client, status)

    def restart(self, name: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Stop and start the client `name` on its port, and return the entry that start_client answers with.

        With `params` these take the place of those that it was started with. One that is down is started.
        """
        slug = _slug(name)
        accepted = None if params is None else options.accept(params, post_api_allow=self._settings.post_api_allow)
        self._known(slug)
        with self._registry.claimed(slug):
            faults.point("restart.claimed")
            known = self._known(slug)
            if known.want is Want.GONE:
                self._remove(known)
                raise ClientUnknown
            self._supervisor.status(slug)  # one that cannot be asked cannot be told either
            # Until it is down the record is that of the process; from here on sync() starts it again.
            client = dataclasses.replace(known, pending=True)
            self._save(client)
            faults.point("restart.marked")
            self._supervisor.stop(client)
            faults.point("restart.stopped")
            if accepted is not None:
                driver = accepted.get("driver", self._settings.driver)
                client = self._refresh.derived(dataclasses.replace(client, params=accepted, driver=driver))
                self._save(client)
            faults.point("restart.recorded")
            status = self._launch(client, known)
        return self._started(client, status)

    def _started(self, client: Client, status: Status) -> dict[str, Any]:
        """Return the answer to a start that has come to its end."""
        name = client.name
        if not status.pid:
            raise NoPid(status.reason, client=name)
        if ignored := sorted(client.params.keys() & set(options.WITHOUT_EFFECT)):
            logger.info(
                "parameters without effect", extra={"action": "start", "client": name, "names": ",".join(ignored)}
            )
        logger.info("client started", extra={"action": "start", "client": name, "port": client.port, "pid": status.pid})
        return {"code": 0, "status": "success", **entries.entry(client, status)}

    def stop(self, name: str) -> dict[str, Any]:
        """Stop the client `name`, forget it, and return the entry that stop_client answers with; its session stays."""
        slug = _slug(name)
        self._known(slug)
        with self._registry.claimed(slug):
            faults.point("stop.claimed")
            client = self._known(slug)
            status = self._supervisor.status(slug).get(slug, Status(State.STOPPED))
            self._mark(client, want=Want.GONE)
            faults.point("stop.marked")
            self._remove(client)
            faults.point("stop.forgotten")
        logger.info("client stopped", extra={"action": "stop", "client": name, "pid": status.pid})
        return {"code": 0, "status": "success", **entries.entry(client, status)}

    def remove(self, name: str, *, purge: bool = False) -> dict[str, Any]:
        """Stop and forget the client `name`, whatever has become of it, and with `purge` delete its session.

        Return the entry that stop_client answers with. With `purge` it may have been forgotten before, and a record
        that cannot be read is in the way of nothing.
        """
        slug = _slug(name)
        with self._registry.claimed(slug):
            faults.point("remove.claimed")
            status = self._supervisor.status(slug).get(slug, Status(State.STOPPED))
            client, known = Client(name=name, slug=slug, port=0, driver=""), slug in self._registry.slugs()
            with suppress(RecordInvalid):
                if found := self._registry.find(slug):
                    client = found
                    self._mark(client, want=Want.GONE)
            faults.point("remove.marked")
            if known or status.pid:
                self._down(client)
            purged = purge and self._supervisor.purge(client)
            faults.point("remove.purged")
            if not (known or status.pid or purged):
                raise ClientUnknown
            self._registry.remove(client)
        logger.info("client removed", extra={"action": "remove", "client": name, "pid": status.pid, "purged": purged})
        return {"code": 0, "status": "success", **entries.entry(client, status), "purged": purged}

    def check(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the whole state of every client, or of one; one that cannot be read spoils only its own entry."""
        if name is None:
            statuses = self._supervisor.status()
            return [entries.state(entry, statuses.get(entry.slug)) for entry in self._registry.list()]
        slug = _slug(name, missing=ClientUnknown)
        try:
            entry: Client | Broken = self._known(slug)
        except RecordInvalid as ex:
            entry = Broken(slug, str(ex))
        return [entries.state(entry, self._supervisor.status(slug).get(slug))]

    def qrcode(self, name: str) -> bytes | None:
        """Return the picture of the code that the client `name` wants scanned, None when it wants none."""
        client = self._known(_slug(name))
        (state,) = self.check(name)
        if state["state"] not in SCANNABLE:
            return None
        try:
            return files.read_plain(path_of(client, "qrcode_path"))
        except OSError:
            return None

    def reach(self, name: str) -> tuple[tuple[str, int], str]:
        """Return where the client `name` listens, and the secret that it wants to see, "" for a foreign program."""
        client = self._known(_slug(name))
        secret = "" if client.driver == options.FOREIGN else self._registry.secret(client.slug)
        return self._supervisor.address(client), secret

    def alive(self, name: str) -> bool:
        """Tell whether the client `name` has a process or is about to get one."""
        slug = _slug(name)
        status = self._supervisor.status(slug).get(slug)
        return status is not None and status.state in ALIVE

    def clients(self) -> list[Client]:
        """Return every record that can be read."""
        return [entry for entry in self._registry.list() if isinstance(entry, Client)]

    def broken(self) -> list[Broken]:
        """Return every record that cannot be read."""
        return [entry for entry in self._registry.list() if isinstance(entry, Broken)]

    def render(self, name: str) -> Mapping[Path, str]:
        """Return the files that a start of the client `name` would write, path to text; writes none."""
        slug = _slug(name)
        client = self._registry.find(slug) or Client(
            name=name, slug=slug, port=self._registry.allocate(), driver=self._settings.driver
        )
        derived = self._refresh.derived(client)
        return {self._registry.path(slug): record.dumps(derived), **self._supervisor.render(derived)}

    def refresh(self, *, definitions: bool = False) -> list[str]:
        """Bring records up to the settings in force; return the names of those that have changed (`Refresh.run`)."""
        return self._refresh.run(definitions=definitions)

    def prepare(self) -> None:
        """Make the folders that everything below works in."""
        settings = self._settings
        folders = [settings.state_dir, settings.run_dir]
        if settings.supervisor == "supervisord":  # systemd makes the clients' folders, and keeps their logs
            folders += [settings.session_dir, settings.tmpdir, settings.log_dir, settings.supervisord_include]
        for folder in folders:
            files.private_directory(folder)
        self._registry.prepare()

    def ask(self) -> None:
        """Raise SupervisorUnreachable, with what to do about it, unless the supervisor would start and stop clients."""
        self._supervisor.check()

    def resume(self, *, patience: float = 0.0, stop: Stop = lambda seconds: False) -> list[str]:
        """Start every client that is to be up and is not, as after a boot; return the names of those that fail.

        A supervisor that cannot be asked is asked again until `patience` seconds have passed. `stop` waits for so many
        seconds and tells whether to end; a start that it meets is taken back.
        """
        for client in self.clients():
            if client.want is Want.GONE:
                self._finish(client.slug)
        try:
            return Resume(self._registry, self._supervisor, self._settle, stop).run(patience)
        except Stopped:
            return []

    def sync(self) -> list[str]:
        """Finish every start and stop that was cut short, and return the names of these clients.

        Start nothing else, whatever the supervisor says of it.
        """
        left = [client for client in self.clients() if client.pending or client.want is Want.GONE]
        return [client.name for client in left if self._finish(client.slug)]

    def _record(self, name: str, slug: str, params: Mapping[str, str], known: Client | None) -> Client:
        """Write the record of a start that is about to happen."""
        with self._registry.locked():
            client = self._refresh.derived(
                Client(
                    name=name,
                    slug=slug,
                    port=known.port if known else self._registry.allocate(),
                    driver=params.get("driver", self._settings.driver),
                    params=params,
                    pending=True,
                    created=time.time(),
                )
            )
            try:
                self._save(client)
            except StartFailed:
                if known is None:
                    self._registry.remove(client)  # its secret may be there already
                raise
        return client

    def _save(self, client: Client) -> None:
        try:
            self._registry.save(client)
        except OSError as ex:
            raise StartFailed(f"the record cannot be written: {ex}", client=client.name) from ex

    def _launch(self, client: Client, before: Client | None) -> Status:
        """Have the supervisor start what was recorded; take the record back when it says at once that it cannot."""
        try:
            status = self._supervisor.start(client)
        except StartFailed as ex:
            if before:
                self._registry.save(dataclasses.replace(before, pending=False))
            else:
                self._registry.remove(client)
            ex.fields["client"] = client.name
            logger.error("client not started", extra={"action": "start", "client": client.name, "reason": ex.reason})
            raise
        self._settle(client)
        return status

    def _settle(self, client: Client) -> None:
        if client.pending:
            self._mark(client, pending=False)

    def _mark(self, client: Client, **changes: Any) -> None:
        """Change the record of `client`; on a full disk go on without: it is only read again after a crash."""
        try:
            self._registry.save(dataclasses.replace(client, **changes))
        except OSError as ex:
            logger.error("record not changed", extra={"action": "record", "client": client.name, "reason": str(ex)})

    def _remove(self, client: Client) -> None:
        self._down(client)
        faults.point("stop.cleaned")
        self._registry.remove(client)

    def _down(self, client: Client) -> None:
        """Stop `client` and delete what tells of its process."""
        self._supervisor.stop(client)
        for option in ("state_path", "qrcode_path", "pid_path"):
            # They are another user's, and systemd cleans them; or the record does not say where they are.
            with suppress(PermissionError, RecordInvalid):
                path_of(client, option).unlink(missing_ok=True)

    def _finish(self, slug: str) -> bool:
        try:
            with self._registry.claimed(slug, timeout=0):
                client = self._registry.find(slug)
                if client and client.want is Want.GONE:
                    self._remove(client)
                elif client and client.pending:
                    self._supervisor.start(client)
                    self._settle(client)
                else:
                    return False
            logger.info("unfinished work finished", extra={"action": "sync", "client": client.name})
        except (WxsupError, OSError) as ex:  # busy, unreachable, not startable: the next sync tries again
            logger.warning("unfinished work left", extra={"action": "sync", "client": slug, "reason": str(ex)})
            return False
        return True

    def _known(self, slug: str) -> Client:
        client = self._registry.find(slug)
        if client is None:
            raise ClientUnknown
        return client


def open_controller(settings: Settings) -> Controller:
    """Return the controller that `settings` describe; the one place where its parts are put together."""
    registry = Registry(
        settings.backend_path,
        first_port=settings.backend_start_port,
        max_clients=settings.max_clients,
        readers=settings.client_group,
        post_secret=settings.post_secret_path,
    )
    return Controller(settings, registry, kinds.supervisor(settings, registry))


def _slug(name: str, *, missing: type[WxsupError] = ClientMissing) -> str:
    """Return the slug of `name`; no name, and the "0" that the original took for none, is an error of its own."""
    if name in ("", "0"):
        raise missing
    return names.slug(name)
