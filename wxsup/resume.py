"""Starts all clients that are to be up, as after a boot, and overrules no operator who stops one of them meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from wxsup import names
from wxsup.environment import path_of
from wxsup.errors import ClientBusy, RecordInvalid, SupervisorUnreachable, WxsupError
from wxsup.model import Client, State, Want
from wxsup.registry import Broken, Registry
from wxsup.supervisors import Supervisor

logger = logging.getLogger(__name__)

RETRY = 2.0

#: Waits for so many seconds, and tells whether to end.
Stop = Callable[[float], bool]


class Stopped(Exception):
    """It was told to end."""


class Resume:
    """One run of it; `settle` notes that a start has ended."""

    def __init__(
        self, registry: Registry, supervisor: Supervisor, settle: Callable[[Client], None], stop: Stop
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._settle = settle
        self._stop = stop
        self._failed: list[str] = []

    def run(self, patience: float) -> list[str]:
        """Return the names of those that fail, after `patience` seconds also of whom it could not be asked."""
        records = list(self._registry.list())
        self._failed = [names.name(record.slug) for record in records if isinstance(record, Broken)]
        left = [record.slug for record in records if isinstance(record, Client) and record.want is Want.UP]
        began, deadline = time.time(), time.monotonic() + patience
        since = None
        while left := self._start_all(left, since):
            if time.monotonic() >= deadline:
                return self._failed + [names.name(slug) for slug in left]
            if self._stop(RETRY):
                raise Stopped
            since = began
        return self._failed

    def _start_all(self, slugs: list[str], since: float | None) -> list[str]:
        """Start those of `slugs` that are down, and return those for whom the supervisor could not be asked.

        Nothing else passes by itself. When this is not the first try, which began at `since`, who has been up meanwhile
        is down by somebody's wish.
        """
        try:
            statuses = self._supervisor.status()
        except SupervisorUnreachable as ex:
            logger.warning("clients not started yet", extra={"action": "resume", "reason": str(ex)})
            return slugs
        left: list[str] = []
        for slug in slugs:
            state = statuses[slug].state if slug in statuses else State.STOPPED
            if state in (State.STARTING, State.RUNNING):
                continue
            if since is not None and (state is State.STOPPING or self._has_run(slug, since)):
                continue
            try:
                self._start(slug)
            except (WxsupError, OSError) as ex:
                logger.error("client not started", extra={"action": "resume", "client": slug, "reason": str(ex)})
                if isinstance(ex, (SupervisorUnreachable, ClientBusy)):
                    left.append(slug)
                else:
                    self._failed.append(names.name(slug))
        return left

    def _start(self, slug: str) -> None:
        with self._registry.claimed(slug):
            client = self._registry.find(slug)
            if client and client.want is Want.UP:
                self._supervisor.start(client)
                if self._stop(0.0):  # with all clients, perhaps, and this one came too late to be among them
                    self._supervisor.stop(client)
                    raise Stopped
                self._settle(client)

    def _has_run(self, slug: str, since: float) -> bool:
        """Tell whether a client has written its state file after `since`, as each does that starts or ends."""
        try:
            client = self._registry.find(slug)
            return client is not None and path_of(client, "state_path").stat().st_mtime >= since
        except (OSError, RecordInvalid):
            return False
