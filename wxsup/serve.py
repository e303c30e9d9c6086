"""gunicorn under our settings: gevent workers, our process title, our log lines, our pid file."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from wxsup import daemon, files
from wxsup.settings import Settings
from wxsup.worker import REQUEST_LINE_LIMIT

if TYPE_CHECKING:
    from wxsup.proxy import Proxy

TITLE = "wxcontroller"
KEEPALIVE = 75
GRACE = 5  # for what is being answered; whoever only waits is let go at once (worker.py)

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Run the controller in the foreground until SIGTERM; reload it on SIGHUP."""
    daemon.set_up_logging(settings.log_level, settings.log_path)
    _Server(settings).run()


class _Logger(Logger):  # type: ignore[misc]
    """Leave gunicorn's lines to our own handlers."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._proxy: Proxy | None = None
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        for name, value in {
            "bind": [str(address) for address in settings.listen],
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
            "pre_fork": _pre_fork,
            "post_fork": _post_fork,
            "post_worker_init": self._post_worker_init,
            "when_ready": self._when_ready,
            "on_exit": self._on_exit,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        # Imported here: gevent has patched the standard library by now, and must have before these modules load.
        from wxsup.api import create_app
        from wxsup.controller import open_controller
        from wxsup.proxy import Proxy

        self._controller = open_controller(self._settings)
        self._controller.prepare()
        self._proxy = Proxy()
        return create_app(self._controller, self._proxy, trusted_hosts=self._settings.trusted_hosts)

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
            files.replace(self._settings.pid_path, str(os.getpid()), durable=False)
        except OSError as ex:
            logger.error("pid file not written", extra={"action": "listen", "reason": str(ex)})
        addresses = ",".join(map(str, self._settings.listen))
        logger.info("controller listens", extra={"action": "listen", "addresses": addresses})

    def _on_exit(self, arbiter: Any) -> None:
        with suppress(OSError):
            self._settings.pid_path.unlink(missing_ok=True)


def _pre_fork(arbiter: Any, worker: Any) -> None:
    daemon.set_title(TITLE)


def _post_fork(arbiter: Any, worker: Any) -> None:
    daemon.set_title(TITLE)
