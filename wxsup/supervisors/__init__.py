"""The contract of a supervisor: the program of the operating system that runs the clients.

    status = supervisor.start(client)      # its process exists now, or StartFailed says why not
    supervisor.status()                    # {"alice": Status(State.RUNNING, pid=4711, ...), ...}
    supervisor.stop(client)                # its process is gone now

Each kind is one file of mechanism and passes tests/contract/test_supervisor.py. What it could not ask it says with
SupervisorUnreachable, never with a State.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from wxsup.model import Client, State, Status

#: There is a process, or the supervisor is about to make one.
ALIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})


class Supervisor(ABC):
    """Starts, stops and watches the processes of clients."""

    @abstractmethod
    def render(self, client: Client) -> Mapping[Path, str]:
        """Return the files that define `client` to the supervisor, path to text; writes nothing."""

    @abstractmethod
    def start(self, client: Client) -> Status:
        """Install what render() says and start `client`, also after a failure; do nothing if it runs.

        Answers when the process exists, not when it listens. Raises StartFailed with the supervisor's reason when it
        is known at once, and then leaves no definition behind that was not there before.
        """

    @abstractmethod
    def stop(self, client: Client) -> None:
        """Stop `client`, answer when its process is gone, and remove what render() says; it may be gone already."""

    @abstractmethod
    def purge(self, client: Client) -> bool:
        """Delete the session of `client`, which is stopped, and tell whether there was one; it may be gone already.

        Nothing else goes, wherever links in it lead to. Raises PurgeFailed when not all of it could be deleted.
        """

    @abstractmethod
    def status(self, *slugs: str) -> Mapping[str, Status]:
        """Return the Status of every client the supervisor knows, by slug, or only of `slugs`; asks once.

        One that it does not know is down. Raises SupervisorUnreachable.
        """

    def check(self) -> None:
        """Raise SupervisorUnreachable, with what to do about it, unless clients could be started and stopped."""
        self.status()

    def address(self, client: Client) -> tuple[str, int]:
        """Return where `client` listens."""
        return ("127.0.0.1", client.port)
