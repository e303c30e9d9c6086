"""One account from start to stop: lock, state, port, store, driver, in this order, and back."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from wxsup import __version__, daemon, files, names, record
from wxsup.client.drivers import Driver
from wxsup.client.journal import Journal
from wxsup.client.keys import Keys
from wxsup.client.lock import only_copy
from wxsup.client.parts import Parts
from wxsup.client.pulse import Pulse
from wxsup.client.server import Server
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.client.store.database import disk_full
from wxsup.model import Exit
from wxsup.options import Options

logger = logging.getLogger(__name__)

PARTS_END = 1.5  # with FLUSH: a stop may take 3 s
DISK_PAUSE = 5.0  # between two looks whether a full disk has room
FLUSH = 1.0

SELF_TIMEOUT = 10.0
WAITS = {
    Login.SCANING: "waits until its login code is scanned (get_qrcode)",
    Login.CONFIRMING: "waits until the login is confirmed on the phone",
}
WAITS_PARKED = "waits for relogin"

PLUGINS = [{"name": "Mojo::Weixin::Plugin::Openwx", "priority": 98, "auto_call": None, "call_on_load": 1}]


def run(slug: str, chosen: Options, environment: Mapping[str, str], keys: Keys, stop: daemon.Stop) -> Exit:
    """Run the client `slug`, with what its record says, until `stop`."""
    daemon.use_one_pool()
    daemon.set_title(names.process_title(chosen.account))
    try:
        for folder in (chosen.tmpdir, chosen.cookie_path.parent):
            files.private_directory(folder)
        with only_copy(chosen.cookie_path.parent / "lock", stop):
            return _Account(slug, chosen, environment, keys, stop).run()
    except BlockingIOError:
        if stop.is_set():
            return Exit.STOPPED
        logger.error("another process holds this account", extra={"action": "start", "client": chosen.account})
        return Exit.BUSY
    except OSError as ex:
        logger.error("client not started", extra={"action": "start", "client": chosen.account, "reason": str(ex)})
        return Exit.FAILED


class _Account:
    def __init__(
        self, slug: str, chosen: Options, environment: Mapping[str, str], keys: Keys, stop: daemon.Stop
    ) -> None:
        self._slug = slug
        self._options = chosen
        self._environment = environment
        self._keys = keys
        self._stop = stop
        self._exit = Exit.STOPPED
        self._journal = Journal()
        logging.getLogger("wxsup").addHandler(self._journal)
        self._state = LoginState(chosen.state_path, _facts(chosen, environment))

    def run(self) -> Exit:
        chosen = self._options
        try:
            chosen.qrcode_path.unlink(missing_ok=True)  # of an earlier process; nobody must scan it
            store = self._open()
        except (sqlite3.Error, OSError) as ex:
            return self._refuse(f"the files of the account cannot be used: {ex}", Exit.FAILED)
        if store is None:
            return Exit.STOPPED
        try:
            return self._run_with(store)
        finally:
            store.close()
            for path in (chosen.qrcode_path, chosen.pid_path):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _open(self) -> Store | None:
        """Open the store, waiting while the disk is full; return None when told to stop meanwhile."""
        while not self._stop.is_set():
            try:
                store = Store(self._options.cookie_path.with_name(f"wxclient_{self._slug}.sqlite"))
                self._write_pid()
                return store
            except (sqlite3.Error, OSError) as ex:
                if not disk_full(ex):
                    raise
                logger.error("store not opened", extra={"action": "start", "reason": str(ex), "retry_in": DISK_PAUSE})
                self._state.enter(Login.LOADING, trouble=f"the files of the account cannot be used: {ex}")
            daemon.notify(f"EXTEND_TIMEOUT_USEC={int(2e6 * DISK_PAUSE)}")  # sd_notify(3): we are still starting
            self._stop.wait(DISK_PAUSE)
        return None

    def _write_pid(self) -> None:
        try:
            files.replace(self._options.pid_path, str(os.getpid()), mode=0o640, durable=False)
        except OSError as ex:  # for people alone
            logger.error("pid file not written", extra={"action": "start", "reason": str(ex)})

    def _run_with(self, store: Store) -> Exit:
        chosen = self._options
        started = self._environment.get("WXCLIENT_CREATED", "")
        parts = Parts(chosen, self._state, store, self._journal, self._keys, started=started, stop=self._stop.set)
        self._state.changed = functools.partial(self._tell, parts)
        self._state.entered = self._show
        self._state.enter(Login.LOADING, trouble="")
        try:
            server = Server(("127.0.0.1", chosen.plugin_openwx_port), parts.api.answer)
        except OSError as ex:
            return self._refuse(f"port {chosen.plugin_openwx_port} cannot be opened: {ex.strerror}", Exit.BUSY)
        threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
        daemon.notify("READY=1")
        parts.start()
        worker = threading.Thread(target=self._drive, args=(parts.driver,), name="drive", daemon=True)
        worker.start()
        logger.info("client listens", extra={"action": "listen", "client": chosen.account})
        daemon.Watchdog(lambda: self._ailing(parts.pulses)).watch(self._stop)
        self._end(parts, worker)
        server.close()
        return self._exit

    def _drive(self, driver: Driver) -> None:
        try:
            self._exit = driver.run()
        except Exception:
            logger.exception("driver failed", extra={"action": "drive", "client": self._options.account})
            self._exit = Exit.FAILED
        finally:
            self._stop.set()

    def _end(self, parts: Parts, worker: threading.Thread) -> None:
        daemon.notify("STOPPING=1")
        deadline = time.monotonic() + PARTS_END
        parts.stop(grace=PARTS_END)
        worker.join(max(0.0, deadline - time.monotonic()))
        self._state.enter(Login.STOP)
        parts.events.event("stop")
        parts.events.stop(grace=FLUSH)
        logger.info("client stopped", extra={"action": "stop", "client": self._options.account})

    def _tell(self, parts: Parts, old: Login, new: Login) -> None:
        logger.info("state changed", extra={"action": "state", "client": self._options.account, "state": new.value})
        parts.moved(old, new)

    def _show(self) -> None:
        """Tell ``systemctl status`` where we stand, since when, and what we wait for."""
        current = self._state.current
        parked = current is Login.SCANING and self._state.detail("parked")
        text = f"parked: nobody scanned; {WAITS_PARKED}" if parked else WAITS.get(current, "")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._state.since))
        daemon.notify(f"STATUS={current.value} since {since}" + (f": {text}" if text else ""))

    def _ailing(self, pulses: Mapping[str, Pulse]) -> str:
        """Say which part of us hangs, "" when all goes on."""
        for sentence, pulse in pulses.items():
            if pulse.late:
                return sentence
        try:
            # All that a caller needs: the port, a thread, an answer.
            with socket.create_connection(
                ("127.0.0.1", self._options.plugin_openwx_port), timeout=SELF_TIMEOUT
            ) as call:
                call.sendall(b"OPTIONS * HTTP/1.1\r\nHost: client\r\nConnection: close\r\n\r\n")
                answered = call.recv(1)
        except OSError as ex:
            return f"our own port does not answer: {ex}"
        return "" if answered else "our own port hangs up"

    def _refuse(self, reason: str, code: Exit) -> Exit:
        logger.error("client not started", extra={"action": "start", "client": self._options.account, "reason": reason})
        self._state.enter(Login.STOP, error=reason)
        return code


def _facts(chosen: Options, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what the state file always says, in the types of the document's example."""
    return {
        "account": chosen.account,
        "driver": environment.get(record.DRIVER, ""),
        "pid": os.getpid(),
        "os": sys.platform,
        "version": __version__,
        "start_time": str(int(time.time())),
        **{
            name: str(getattr(chosen, name))
            for name in ("tmpdir", "media_dir", "cookie_path", "qrcode_path", "pid_path", "state_path", "log_level")
        },
        "log_path": None,
        "log_encoding": None,
        "http_debug": "0",
        **{name: str(int(getattr(chosen, name))) for name in ("download_media", "keep_cookie")},
        "qrcode_count_max": chosen.qrcode_count_max,
        "plugin": PLUGINS,
    }
