"""The sandbox put together: one World behind two ports, and the phone page."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from wxsup.sandbox.album import MOST_JSON
from wxsup.sandbox.backstage import Backstage
from wxsup.sandbox.blobs import Blobs
from wxsup.sandbox.cdn import CDN, MOST_BODY, UPLOAD
from wxsup.sandbox.clock import Clock
from wxsup.sandbox.control import Control
from wxsup.sandbox.faults import Faults
from wxsup.sandbox.ilink import Hold, ILink
from wxsup.sandbox.journal import Journal
from wxsup.sandbox.server import Page, Request, Routes, Server
from wxsup.sandbox.watch import Watch
from wxsup.sandbox.world import World

logger = logging.getLogger(__name__)

HOLD = 25.0  # below the 35 s that clients wait at most (ilink-protocol.md 3.2, 5.2)

#: Where media come in.
LIMITS = {UPLOAD: MOST_BODY, "/sandbox/say": MOST_JSON}

PHONE = Path(__file__).with_name("phone.html")
PHONE_HEADERS = {
    # The page needs nothing from anywhere, and nobody may frame it: a click in it confirms a login.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Sandbox:
    """A pretend Tencent that runs from `with` to the end of its block.

    The second port is the other data centre, to which redirected logins are sent (3.2).
    Raises Refusal when a port is taken or the state file is of no use.
    """

    def __init__(
        self,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        *,
        hold: float = HOLD,
        state: Path | None = None,
        redirect_port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        host, port = listen
        moved, holding, faults = Clock(clock), Hold(hold), Faults()
        journal = Journal(moved)
        self.world = World(state=state, clock=moved)
        self._blobs = Blobs(state.with_name(f"{state.stem}-media") if state else None)
        cdn, watch = CDN(self._blobs), Watch(faults, journal)
        self._first = Server(host, port)
        try:
            self._second = Server(host, redirect_port)
        except BaseException:
            self._first.server_close()
            raise
        control, backstage = Control(self.world, cdn), Backstage(moved, holding, faults, journal, cdn)
        shared = {**cdn.routes(watch), **control.routes(), **backstage.routes(), **_phone_routes()}
        first = ILink(self.world, cdn, watch, holding, redirect_port=self._second.server_port)
        second = ILink(self.world, cdn, watch, holding)
        self._first.routes = {**first.routes(), **shared}
        self._second.routes = {**second.routes(), **shared}
        self._first.limits = self._second.limits = LIMITS
        self._threads = [
            threading.Thread(target=server.serve_forever, name="sandbox", daemon=True)
            for server in (self._first, self._second)
        ]

    @property
    def url(self) -> str:
        """Return the address of the sandbox."""
        return f"http://{self._first.authority}"

    @property
    def redirect_url(self) -> str:
        """Return the address of the other data centre."""
        return f"http://{self._second.authority}"

    def __enter__(self) -> Sandbox:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._first.close()
        self._second.close()
        self.world.close()
        self._blobs.close()
        for thread in self._threads:
            thread.join()


def serve(listen: tuple[str, int], *, state: Path | None, hold: float = HOLD) -> None:
    """Run a sandbox in the foreground until SIGTERM or SIGINT; held calls are hung up on."""
    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked before there are threads, so that all of them inherit it and only sigwait(3) gets the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with Sandbox(listen, hold=hold, state=state) as sandbox:
            fields = {"action": "listen", "url": sandbox.url, "redirect_url": sandbox.redirect_url}
            logger.info("sandbox ready", extra=fields)
            signal.sigwait(ends)
            logger.info("sandbox stops", extra={"action": "stop"})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _phone_routes() -> Routes:
    page = Page(PHONE.read_bytes(), "text/html; charset=utf-8", PHONE_HEADERS)

    def phone(request: Request) -> Page:
        return page

    return {("GET", "/"): phone, ("GET", "/phone"): phone}
