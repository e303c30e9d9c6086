"""The nouns that every part shares; they hold values and do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum


class State(Enum):
    """What the supervisor says of a client's process; the login state is another matter (client/state.py)."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class Want(Enum):
    """What is to become of a client."""

    UP = "up"
    GONE = "gone"


class Exit(IntEnum):
    """How a client's process ends; the one table that section files and units are rendered from (sysexits.h)."""

    STOPPED = 0
    FAILED = 1
    USAGE = 64
    BUSY = 75  # another process holds the account, or its port: try again
    LOST = 77  # the login is lost and ilink_on_lost is exit: do not try again


@dataclass(frozen=True)
class Status:
    """One process as its supervisor sees it; `pid` is 0 when there is none, `since` is seconds of the epoch."""

    state: State
    pid: int = 0
    since: float = 0.0
    host: str = "127.0.0.1"
    reason: str = ""
    restarts: int | None = None


@dataclass(frozen=True, kw_only=True)
class Client:
    """One record: what should be.

    `params` are the start parameters as the caller gave them, `environment` the variables that follow from them
    and from the settings. `pending` marks a start whose end nobody has seen yet, `created` the start_client call
    (seconds of the epoch).
    """

    name: str
    slug: str
    port: int
    driver: str
    params: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    want: Want = Want.UP
    pending: bool = False
    created: float = 0.0
