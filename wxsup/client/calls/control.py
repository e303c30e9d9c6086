"""The client itself: what it is and does, its login, its end (openwx-api.md 3.8, ilink-protocol.md 13.5)."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from wxsup import __version__
from wxsup.client.calls import Call, Calls
from wxsup.client.drivers import Driver
from wxsup.client.journal import Journal
from wxsup.client.state import LoginState, memory
from wxsup.client.store import Store
from wxsup.errors import ContentRejected
from wxsup.options import Options

STOP_DELAY = 3.0
LINES, LINES_MOST, LOG_HOLD = 200, 1000, 30.0
#: What get_client_info says of the state file's details.
TOLD = ("last_poll_at", "last_inbound_at", "last_outbound_at", "last_error", "trouble", "parked", "login_reason")


class Control:
    """Answers for one client, in every state; `stop` ends the process."""

    def __init__(
        self,
        options: Options,
        state: LoginState,
        driver: Driver,
        store: Store,
        journal: Journal,
        *,
        stop: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._options = options
        self._state = state
        self._driver = driver
        self._store = store
        self._stop = stop
        self._started = time.time()

    def calls(self) -> Calls:
        """Return what is answered here."""
        return {
            "get_client_info": self._client_info,
            "submit_verify_code": self._submit_verify_code,
            "relogin": self._relogin,
            "get_log": self._get_log,
            "stop_client": self._stop_client,
        }

    def _client_info(self, call: Call) -> dict[str, Any]:
        return {
            "code": 0,
            "status": "success",
            **self._process(),
            "os": sys.platform,
            "version": __version__,
            "http_debug": 0,
            "log_encoding": None,
            "log_path": "",
            "log_level": self._options.log_level,
            "driver": self._driver.name,
            "state": self._state.current.value,
            "capabilities": list(self._driver.capabilities),
            **{name: self._state.detail(name) for name in TOLD},
            "memory": memory(),
            "inbox_pending": self._store.outbox.count("to_post") + self._store.held.count(),
            "dead_letters": self._store.outbox.count("dead"),
            "sends_pending": self._store.letterbox.count(),
        }

    def _submit_verify_code(self, call: Call) -> dict[str, Any]:
        code = call.get("code")
        if not (code.isascii() and code.isalnum() and len(code) <= 16):
            raise ContentRejected("code must be the digits that the phone shows")
        self._driver.submit_verify_code(code)
        return {"code": 0, "status": "success"}

    def _relogin(self, call: Call) -> dict[str, Any]:
        self._driver.relogin()
        return {"code": 0, "status": "success"}

    def _get_log(self, call: Call) -> dict[str, Any]:
        """Return the newest log lines, or those `after` what an answer called `next`, held while there are none."""
        count, after = _number(call, "lines", LINES, LINES_MOST), _number(call, "after", 0, 2**53)
        lines = (
            self._journal.after(after, count, LOG_HOLD) if "after" in call.parameters else self._journal.newest(count)
        )
        return {"code": 0, "status": "success", "lines": lines, "next": lines[-1]["n"] if lines else after}

    def _stop_client(self, call: Call) -> dict[str, Any]:
        timer = threading.Timer(STOP_DELAY, self._stop)
        timer.daemon = True
        timer.start()
        status = f"success, client({os.getpid()}) will stop in {STOP_DELAY:g} seconds"
        return {"code": 0, "status": status, **self._process()}

    def _process(self) -> dict[str, Any]:
        return {
            "account": self._options.account,
            "pid": os.getpid(),
            "starttime": int(self._started),
            "runtime": int(time.time() - self._started),
        }


def _number(call: Call, name: str, default: int, most: int) -> int:
    value = call.get(name)
    if not value:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 17):
        raise ContentRejected(f"{name} must be a number")
    return min(int(value), most)
