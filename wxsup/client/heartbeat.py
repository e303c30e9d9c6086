"""The heartbeat: asks poll_api again and again, which may so call our own API from afar (openwx-api.md 7)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from wxsup.client.http import Http, TransportError
from wxsup.options import Options

logger = logging.getLogger(__name__)

TIMEOUT = 35.0
REDIRECTS = (301, 302, 303, 307, 308)
OWN_HOSTS = ("127.0.0.1", "localhost")


class Heartbeat:
    """The heartbeat of one client; `called(path, query)` is a call that poll_api redirects us to."""

    def __init__(self, options: Options, called: Callable[[str, str], None]) -> None:
        self._options = options
        self._called = called
        self._http = Http()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin, if there is a poll_api."""
        if self._options.plugin_openwx_poll_api:
            self._thread.start()

    def stop(self) -> None:
        """End, also in the middle of a held call."""
        self._stopped.set()
        self._http.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._beat()
            except TransportError as ex:
                logger.debug("heartbeat failed", extra={"action": "poll", "reason": str(ex)})
            except Exception:
                logger.exception("heartbeat failed", extra={"action": "poll"})
            self._stopped.wait(self._options.plugin_openwx_poll_interval)

    def _beat(self) -> None:
        answer = self._http.request("GET", self._options.plugin_openwx_poll_api, headers={}, timeout=TIMEOUT)
        if answer.status not in REDIRECTS:
            return
        call = own_call(answer.headers.get("Location", ""), self._options.plugin_openwx_port)
        if call:
            self._called(*call)
        else:
            logger.warning("redirect not followed", extra={"action": "poll", "reason": "it leads elsewhere"})


def own_call(location: str, port: int) -> tuple[str, str] | None:
    """Return path and query when `location` is a call of the API on our own `port`, None for everything else."""
    try:
        parts = urlsplit(location)
        ours = parts.scheme == "http" and parts.hostname in OWN_HOSTS and parts.port == port and "@" not in parts.netloc
    except ValueError:
        return None
    return (parts.path, parts.query) if ours and parts.path.startswith("/openwx/") else None
