"""What every call of a bot passes: it is noted, and goes wrong where that was asked for (ilink-protocol.md 15)."""

from __future__ import annotations

from collections.abc import Callable

from wxsup.sandbox.faults import Faults
from wxsup.sandbox.journal import Journal
from wxsup.sandbox.server import Answer, Request


class Watch:
    """Stands between the server and a call."""

    def __init__(self, faults: Faults, journal: Journal) -> None:
        self._faults = faults
        self._journal = journal

    def over(
        self, name: str, user_of: Callable[[Request], str], call: Callable[[Request], Answer]
    ) -> Callable[[Request], Answer]:
        """Return `call`, watched under its name; `user_of` says whose it is, "" if that is not known."""

        def answer(request: Request) -> Answer:
            user = user_of(request)
            fault = self._faults.take(name, user)
            self._journal.note(name, user, request, fault=fault is not None)
            return fault.answer(lambda: call(request)) if fault else call(request)

        return answer
