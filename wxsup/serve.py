"""gunicorn under our settings: gevent workers, our process title, our log lines, our pid file."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn import systemd
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from wxsup import access, daemon, files
from wxsup.addresses import Address
from wxsup.errors import SettingInvalid, TokensUnreadable
from wxsup.settings import Settings
from wxsup.worker import REQUEST_LINE_LIMIT, STOP_SIGNALS

if TYPE_CHECKING:
    from wxsup.proxy import Proxy

TITLE = "wxcontroller"
KEEPALIVE = 75
GRACE = 5  # for what is being answered; whoever only waits is let go at once (worker.py)

logger = logging.getLogger(__name__)


def serve(load: Callable[[], Settings]) -> None:
    """Run the controller in the foreground until SIGTERM, with the settings that `load` returns; again on SIGHUP.

    It listens on the sockets that systemd hands over, if it does (sd_listen_fds(3)). Raises SettingInvalid, also where
    others than this machine could call it without a token.
    """
    settings = load()
    first = systemd.SD_LISTEN_FDS_START
    inherited = [_address(descriptor) for descriptor in range(first, first + systemd.listen_fds(False))]
    with suppress(TokensUnreadable):  # then nobody is let in, and the log says why
        access.refuse_exposure(_networked(inherited or settings.listen), access.open_tokens(settings))
    daemon.set_up_logging(settings.log_level, settings.log_path)
    _Server(settings, load, inherited).run()


def _address(descriptor: int) -> Address | str:
    """Return the address of a socket of systemd's."""
    with socket.socket(fileno=os.dup(descriptor)) as inherited:
        name = inherited.getsockname()
        return f"unix:{name}" if inherited.family == socket.AF_UNIX else Address(*name[:2])


def _networked(addresses: Iterable[Address | str]) -> list[Address]:
    return [address for address in addresses if isinstance(address, Address)]


class _Logger(Logger):  # type: ignore[misc]
    """Leave gunicorn's lines to our own handlers."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True


class _Arbiter(Arbiter):  # type: ignore[misc]
    def spawn_worker(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings, load: Callable[[], Settings], inherited: list[Address | str]) -> None:
        self._settings = settings
        self._load = load
        self._inherited = inherited
        self._proxy: Proxy | None = None
        self._guarded = False  # whether there have been tokens; known here, since a worker may be a new one
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        for name, value in {
            "bind": [str(address) for address in self._addresses()],
            "workers": settings.workers,
            "worker_class": "wxsup.worker.Worker",
            "worker_connections": 10000,
            "keepalive": KEEPALIVE,
            "limit_request_line": REQUEST_LINE_LIMIT,
            "graceful_timeout": GRACE,
            "logger_class": _Logger,
            "control_socket_disable": True,
            # A worker's heartbeat file wants a file system in memory (docs.gunicorn.org, "blocked on fsync").
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,
            "pre_fork": self._pre_fork,
            "post_fork": _post_fork,
            "post_worker_init": self._post_worker_init,
            "when_ready": self._when_ready,
            "on_exit": self._on_exit,
        }.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Run until told to stop."""
        _Arbiter(self).run()

    def reload(self) -> None:
        """Take the settings as they are now; with bad ones go on as before."""
        from wxsup.controller import open_controller

        try:
            settings = self._load()
            open_controller(settings).prepare()
            access.refuse_exposure(_networked(self._inherited or settings.listen), access.open_tokens(settings))
            daemon.set_up_logging(settings.log_level, settings.log_path)
            self._settings = settings
        except (SettingInvalid, TokensUnreadable, OSError) as ex:
            logger.error("settings not reloaded", extra={"action": "reload", "reason": str(ex)})
        super().reload()

    def load(self) -> Any:
        # Imported here: gevent has patched the standard library by now, and must have before these modules load.
        from wxsup.api import create_app
        from wxsup.controller import open_controller
        from wxsup.proxy import Proxy

        self._controller = open_controller(self._settings)
        self._controller.prepare()
        self._proxy = Proxy()
        closed = self._guarded or not all(address.loopback for address in _networked(self._addresses()))
        gate = access.Gate(access.open_tokens(self._settings), closed=closed, hosts=self._settings.trusted_hosts)
        return create_app(self._controller, self._proxy, gate)

    def stopping(self) -> None:
        """Let those go who wait for something that may be long in coming; called by a worker that is to stop."""
        if self._proxy:  # else the worker is still booting
            self._proxy.release()

    def _post_worker_init(self, worker: Any) -> None:
        import gevent

        from wxsup.background import Background

        files.offload = lambda call, *arguments: gevent.get_hub().threadpool.apply(call, arguments)
        Background(self._controller, self._settings).start()

    def _when_ready(self, arbiter: Any) -> None:
        # gunicorn's own pid file would refuse a start after a kill -9 whose pid somebody else has by now.
        try:
            files.private_directory(self._settings.pid_path.parent)
            if self._listed() is None:
                files.replace(self._settings.pid_path, str(os.getpid()), durable=False)
        except OSError as ex:
            logger.error("pid file not written", extra={"action": "listen", "reason": str(ex)})
        addresses = ",".join(map(str, self._addresses()))
        logger.info("controller listens", extra={"action": "listen", "addresses": addresses})

    def _listed(self) -> int | None:
        """Return the process in the pid file, None unless it is a controller that runs."""
        try:
            pid = int(self._settings.pid_path.read_text(encoding="ascii"))
            return pid if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(TITLE.encode()) else None
        except (OSError, ValueError):
            return None

    def _addresses(self) -> Sequence[Address | str]:
        return self._inherited or self._settings.listen

    def _pre_fork(self, arbiter: Any, worker: Any) -> None:
        daemon.set_title(TITLE)
        self._guarded = self._guarded or access.open_tokens(self._settings).exist()

    def _on_exit(self, arbiter: Any) -> None:
        if self._listed() in (None, os.getpid()):  # else another one's, at another address
            with suppress(OSError):
                self._settings.pid_path.unlink(missing_ok=True)


def _post_fork(arbiter: Any, worker: Any) -> None:
    daemon.set_title(TITLE)
