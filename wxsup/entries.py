"""What is told of one client: the entry of start_client, and the state that check_client shows."""

from __future__ import annotations

import json
from typing import Any

from wxsup import files, names
from wxsup.environment import path_of
from wxsup.errors import RecordInvalid
from wxsup.model import Client, State, Status
from wxsup.registry import Broken


def entry(client: Client, status: Status) -> dict[str, Any]:
    """Return what start_client and stop_client say of a client."""
    return {**client.params, "client": client.name, "account": client.name, "pid": status.pid, "port": client.port}


def state(known: Client | Broken, status: Status | None) -> dict[str, Any]:
    """Return all that its record, its supervisor and, of the process that there is, its state file say of a client."""
    status = status or Status(State.STOPPED)
    if isinstance(known, Broken):
        return {"account": names.name(known.slug), "state": "unknown", "error": known.reason, **_process(status)}
    shown = {
        "account": known.name,
        "driver": known.driver,
        "port": known.port,
        "pid": status.pid or None,
        "params": dict(known.params),
        **_process(status),
    }
    try:
        told = json.loads(files.read_plain(path_of(known, "state_path")))
        if not isinstance(told, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        return {**shown, "state": "init" if status.pid else "stop"}
    except (OSError, ValueError, RecursionError, RecordInvalid) as ex:
        return {**shown, "state": "unknown", "error": f"state file: {ex}"}
    if not status.pid:
        return {**told, **shown, "state": "stop"}
    return {**told, **shown} if told.get("pid") == status.pid else {**shown, "state": "init"}


def _process(status: Status) -> dict[str, Any]:
    """Return what the supervisor says, as far as it says anything."""
    told = {"reason": status.reason or None, "since": int(status.since) or None, "restarts": status.restarts}
    return {"process": status.state.value, **{name: value for name, value in told.items() if value is not None}}
