"""What clients sent: the last requests to the bot API, for tests to look at."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from wxsup.sandbox.server import BadRequest, Request

MOST_ENTRIES = 200
MOST_KEPT = 64 * 1024  # of a body


@dataclass(frozen=True)
class Entry:
    """One request; `number` counts from 1, and `fault` says that it met a scripted misbehaviour."""

    number: int
    call: str
    user: str
    time: float
    fault: bool
    method: str
    query: dict[str, str]
    headers: dict[str, str]
    body: object


class Journal:
    """Remembers requests from the moment they have come in, the oldest not for ever."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._number = 0

    def note(self, call: str, user: str, request: Request, *, fault: bool) -> None:
        """Remember a request; header names are in lower case, as nobody may rely on theirs."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        shown = (request.method, dict(request.query), headers, _shown(request))
        with self._lock:
            self._number += 1
            self._entries.append(Entry(self._number, call, user, self._clock(), fault, *shown))

    def entries(self, call: str = "", after: int = 0) -> list[Entry]:
        """Return what is remembered after entry number `after`, of one call or of all, newest last."""
        with self._lock:
            return [entry for entry in self._entries if entry.number > after and call in ("", entry.call)]


def _shown(request: Request) -> object:
    """Return the JSON that a body is, else its text, of which no more is kept than is needed to know it again.

    Of bytes it is only said how many they are.
    """
    if request.headers.get_content_type() == "application/octet-stream":
        return {"bytes": len(request.body)}
    if request.body and len(request.body) <= MOST_KEPT:
        with suppress(BadRequest):
            return request.json()
    return request.body[:MOST_KEPT].decode(errors="replace")
