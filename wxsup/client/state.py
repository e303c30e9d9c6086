"""The login state of one account, and the state file that the controller reads it from (openwx-api.md 11)."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from wxsup import files

logger = logging.getLogger(__name__)

COUNTERS_EVERY = 30.0


class Login(Enum):
    """Where the login stands; *scaning* is how the API spells it."""

    INIT = "init"
    LOADING = "loading"
    SCANING = "scaning"
    CONFIRMING = "confirming"
    UPDATING = "updating"
    RUNNING = "running"
    STOP = "stop"


class LoginState:
    """The state and what belongs to it; every change is in the file before anybody hears of it.

    `facts` are written as they are. `changed(old, new)` is called after each change of the state itself, in the order
    of the changes, `entered()` in every call of enter(): whoever holds a lock that they take must not call us. What the
    disk does not take is written with the next note.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._facts = dict(facts)
        self._details: dict[str, Any] = {}
        self._guard = threading.RLock()
        self._due = 0.0
        self.current = Login.INIT
        self._previous: Login | None = None
        self.changed: Callable[[Login, Login], None] = lambda old, new: None
        self.entered: Callable[[], None] = lambda: None
        self.since = time.time()
        self._write()

    def enter(self, new: Login, **details: Any) -> None:
        """Go over to state `new` and note `details`; the present state only notes them, STOP is never left."""
        with self._guard:
            self._details.update(details)
            old = self.current
            moved = new is not old and old is not Login.STOP
            if moved:
                self.current, self._previous, self.since = new, old, time.time()
            self._write()
            self.entered()
            if moved:
                self.changed(old, new)

    def note(self, **details: Any) -> None:
        """Note `details` for the next write; of the writes that notes alone cause there is one in half a minute."""
        with self._guard:
            self._details.update(details)
            if time.monotonic() >= self._due:
                self._write()

    def detail(self, name: str) -> Any:
        """Return what was last noted under `name`, None if nothing was."""
        return self._details.get(name)

    def _write(self) -> None:
        previous = self._previous.value if self._previous else None
        self._details["memory"] = memory()
        told = {**self._facts, **self._details, "state": self.current.value, "previous_state": previous}
        try:
            # Not synced: after a power cut there is no process, and so nobody believes the file.
            files.replace(self._path, json.dumps(told, ensure_ascii=False, sort_keys=True), mode=0o640, durable=False)
            self._due = time.monotonic() + COUNTERS_EVERY
        except OSError as ex:
            self._due = 0.0
            logger.error("state file not written", extra={"action": "state", "reason": ex.strerror})


def memory() -> int:
    """Return the bytes that this process has in memory (proc(5), statm); 0 where that is not told."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0
