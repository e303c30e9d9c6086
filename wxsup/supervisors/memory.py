"""A supervisor whose processes are only remembered: complete, for tests and for trying things."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from wxsup.errors import StartFailed, SupervisorUnreachable
from wxsup.model import Client, State, Status
from wxsup.supervisors import ALIVE, Supervisor


class Memory(Supervisor):
    """Remembers what it was told; `refuse` maps a slug to the reason why it cannot be started."""

    def __init__(self, render: Callable[[Client], str] = lambda client: f"{client.slug}\n") -> None:
        self.refuse: dict[str, str] = {}
        self.reachable = True
        self._render = render
        self._processes: dict[str, Status] = {}
        self.sessions: set[str] = set()
        self._pids = itertools.count(1000)

    def render(self, client: Client) -> Mapping[Path, str]:
        return {Path("/nowhere") / client.slug: self._render(client)}

    def start(self, client: Client) -> Status:
        self._ask()
        known = self._processes.get(client.slug)
        if known is None or known.state not in ALIVE:
            if client.slug in self.refuse:
                raise StartFailed(self.refuse[client.slug])
            self._processes[client.slug] = Status(State.RUNNING, pid=next(self._pids), since=time.time())
            self.sessions.add(client.slug)
        return self._processes[client.slug]

    def stop(self, client: Client) -> None:
        self._ask()
        self._processes.pop(client.slug, None)

    def purge(self, client: Client) -> bool:
        self._ask()
        if client.slug not in self.sessions:
            return False
        self.sessions.remove(client.slug)
        return True

    def status(self, *slugs: str) -> Mapping[str, Status]:
        self._ask()
        return {slug: status for slug, status in self._processes.items() if not slugs or slug in slugs}

    def end(self, slug: str, state: State = State.STOPPED, reason: str = "") -> None:
        """Let the process of `slug` end, as a crash or an operator would."""
        self._processes[slug] = Status(state, since=time.time(), reason=reason)

    def _ask(self) -> None:
        if not self.reachable:
            raise SupervisorUnreachable("the memory supervisor was made unreachable")
