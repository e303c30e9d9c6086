"""Events on demand, and those that post_api never took (openwx-api.md 5)."""

from __future__ import annotations

from typing import Any

from wxsup.client.calls import Call, Calls
from wxsup.client.events import Events
from wxsup.client.server import Reply, in_json
from wxsup.client.store import Store
from wxsup.errors import ObjectNotFound

DEAD_LETTERS = 100  # in one answer
MISSED_HEADER = "X-Events-Missed"


class Reporting:
    """Answers what is asked of the reports of one account, in every state."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events

    def calls(self) -> Calls:
        """Return what is answered here."""
        return {
            "check_event": self._check_event,
            "get_dead_letters": self._get_dead_letters,
            "replay_dead_letters": self._replay_dead_letters,
        }

    def _check_event(self, call: Call) -> Reply:
        if "after" in call.parameters:
            found, missed = self._events.after(call.get("after"))
            return in_json(self._events.bodies(found), headers={MISSED_HEADER: "1"} if missed else {})
        lent = self._events.lend(call.still_there)
        return in_json(self._events.bodies(lent), written=lambda done: self._events.settle(lent, delivered=done))

    def _get_dead_letters(self, call: Call) -> dict[str, Any]:
        after = call.get("after")
        number = self._store.outbox.number_of(after)
        if after and not number:
            raise ObjectNotFound(f"there is no event {after[:40]}")
        found = self._store.outbox.dead_letters(number, DEAD_LETTERS)
        letters = [{**report.body, "dead_reason": reason} for report, reason in found]
        return {"code": 0, "status": "success", "total": self._store.outbox.count("dead"), "dead_letters": letters}

    def _replay_dead_letters(self, call: Call) -> dict[str, Any]:
        id_ = call.parameters.get("event_id")
        replayed = self._events.replay(None if id_ is None else self._store.outbox.number_of(id_))
        if id_ is not None and not replayed:
            raise ObjectNotFound(f"there is no dead letter {id_[:40]}")
        return {"code": 0, "status": "success", "replayed": replayed}
