"""One account from start to stop: lock, state, port, store, driver, in this order, and back."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wxsup import __version__, daemon, files, names, options, record
from wxsup.client.drivers import Driver
from wxsup.client.drivers.ilink import Ilink
from wxsup.client.events import Events
from wxsup.client.openwx import Openwx
from wxsup.client.server import Server
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.errors import RecordInvalid
from wxsup.model import Exit
from wxsup.options import Options

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 15.0  # the time that an old copy may need to end
LOCK_LOOK = 0.2
DRIVER_END = 1.5  # with FLUSH: a stop may take 3 s
FLUSH = 1.0

PLUGINS = [{"name": "Mojo::Weixin::Plugin::Openwx", "priority": 98, "auto_call": None, "call_on_load": 1}]


def run(slug: str, record_path: Path | None, secret_path: Path | None, stop: threading.Event) -> Exit:
    """Run the client `slug` until `stop`; its options come from its record, or from the environment without one."""
    daemon.set_up_logging("info")
    try:
        environment = record.variables(record_path.read_text(encoding="utf-8")) if record_path else os.environ
        chosen = options.from_environment(environment)
        if names.slug(chosen.account) != slug:
            raise RecordInvalid(f"the record is of {chosen.account!r}, not of {slug}")
        secret = _secret(secret_path)
    except (OSError, ValueError, RecordInvalid) as ex:
        logger.error("record not usable", extra={"action": "start", "client": slug, "reason": str(ex)})
        return Exit.USAGE
    daemon.set_up_logging(chosen.log_level)
    daemon.set_title(names.process_title(chosen.account))
    try:
        for folder in (chosen.tmpdir, chosen.cookie_path.parent):
            files.private_directory(folder)
        with _only_copy(chosen.cookie_path.parent / "lock", stop):
            return _Account(slug, chosen, environment, secret, stop).run()
    except BlockingIOError:
        if stop.is_set():
            return Exit.STOPPED
        logger.error("another process holds this account", extra={"action": "start", "client": chosen.account})
        return Exit.BUSY
    except OSError as ex:
        logger.error("client not started", extra={"action": "start", "client": chosen.account, "reason": str(ex)})
        return Exit.FAILED


@contextlib.contextmanager
def _only_copy(path: Path, stop: threading.Event) -> Iterator[None]:
    """Hold the account's lock; raise BlockingIOError when another copy does not end in time, or when we are to stop."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(files.locked(path, timeout=LOCK_LOOK))
                break
            except BlockingIOError:
                if stop.is_set() or time.monotonic() >= deadline:
                    raise
        yield


class _Account:
    def __init__(
        self, slug: str, chosen: Options, environment: Mapping[str, str], secret: str, stop: threading.Event
    ) -> None:
        self._slug = slug
        self._options = chosen
        self._environment = environment
        self._secret = secret
        self._stop = stop
        self._exit = Exit.STOPPED
        self._state = LoginState(chosen.state_path, _facts(chosen, environment))

    def run(self) -> Exit:
        chosen = self._options
        try:
            chosen.qrcode_path.unlink(missing_ok=True)  # of an earlier process; nobody must scan it
            files.replace(chosen.pid_path, str(os.getpid()), mode=0o640, durable=False)
            store = Store(chosen.cookie_path.with_name(f"wxclient_{self._slug}.sqlite"))
        except (sqlite3.Error, OSError) as ex:
            return self._refuse(f"the files of the account cannot be used: {ex}", Exit.FAILED)
        try:
            return self._run_with(store)
        finally:
            store.close()
            for path in (chosen.qrcode_path, chosen.pid_path):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _run_with(self, store: Store) -> Exit:
        chosen = self._options
        events = Events(store, chosen)
        self._state.changed = lambda old, new: self._tell(events, old, new)
        self._state.enter(Login.LOADING)
        driver = Ilink(chosen, self._state, store, events, started=self._environment.get("WXCLIENT_CREATED", ""))
        api = Openwx(chosen, self._state, driver, events, secret=self._secret, stop=self._stop.set)
        try:
            server = Server(("127.0.0.1", chosen.plugin_openwx_port), api.answer)
        except OSError as ex:
            return self._refuse(f"port {chosen.plugin_openwx_port} cannot be opened: {ex.strerror}", Exit.BUSY)
        threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
        daemon.notify("READY=1")
        events.start()
        worker = threading.Thread(target=self._drive, args=(driver,), name="drive", daemon=True)
        worker.start()
        logger.info("client listens", extra={"action": "listen", "client": chosen.account})
        daemon.wait(self._stop)
        self._end(driver, worker, events)
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

    def _end(self, driver: Driver, worker: threading.Thread, events: Events) -> None:
        daemon.notify("STOPPING=1")
        driver.stop()
        worker.join(DRIVER_END)
        self._state.enter(Login.STOP)
        events.event("stop")
        events.stop(grace=FLUSH)
        logger.info("client stopped", extra={"action": "stop", "client": self._options.account})

    def _tell(self, events: Events, old: Login, new: Login) -> None:
        daemon.notify(f"STATUS={new.value}")
        logger.info("state changed", extra={"action": "state", "client": self._options.account, "state": new.value})
        events.event("state_change", old.value, new.value)

    def _refuse(self, reason: str, code: Exit) -> Exit:
        logger.error("client not started", extra={"action": "start", "client": self._options.account, "reason": reason})
        self._state.enter(Login.STOP, error=reason)
        return code


def _secret(path: Path | None) -> str:
    """Return the secret that calls must carry, from `path` or from systemd (systemd.exec(5), LoadCredential=)."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if path is None and credentials:
        path = Path(credentials) / "secret"
    if path is None:
        logger.warning("no secret: whoever can reach the port can use the account", extra={"action": "start"})
        return ""
    secret = path.read_text(encoding="ascii").strip()
    if not secret:
        raise RecordInvalid(f"{path} is empty")
    return secret


def _facts(chosen: Options, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what the state file always says, in the types of the document's example."""
    return {
        "account": chosen.account,
        "driver": environment.get("WXCLIENT_DRIVER", ""),
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
