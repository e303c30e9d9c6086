"""gunicorn's gevent worker, made to end quickly: a restart of the controller must not keep callers waiting.

When told to stop it closes connections that only wait for a next request, and has held polls answered with 503; what is
being worked on has graceful_timeout. A connection that is new then still has its first request answered: nobody who
calls during a restart may find it closed.
"""

from __future__ import annotations

import re
import signal
from types import FrameType, TracebackType
from typing import Any
from weakref import WeakSet

import gevent
from gunicorn.http import message
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.workers.ggevent import GeventWorker

# gunicorn refuses a request target with bytes beyond ASCII (RFC 9112 3.2). But `curl '…&content=你好'` sends them as
# they are, the original took them, and what they mean is plain: UTF-8.
message.RFC9112_TARGET_INVALID = re.compile(r"[^\x21-\x7e\x80-\xff]")
# A message of 2000 Chinese characters in a GET is 18 kB; gunicorn stops at 8190 bytes, or, set to 0, never.
REQUEST_LINE_LIMIT = message.MAX_REQUEST_LINE = 65536

#: Held back by the master while it forks, until the worker has handlers for them: they would be lost, and the worker
#: killed in the end, with what it was answering.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

FIRST_REQUEST = 1.0  # how long a new connection may take for it once we are to stop


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves requests in greenlets, one for each connection; `app` is told of the stop by a call of its `stopping`."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.waiting: set[Any] = set()  # connections that wait for a request
        self.served: WeakSet[Any] = WeakSet()  # connections that have had one
        self._timers: list[Any] = []

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def timeout_ctx(self) -> _Wait:
        return _Wait(self, self.cfg.keepalive if self.alive else self._patience(gevent.getcurrent()))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.app.stopping()
        gevent.get_hub().loop.run_callback(self._let_go)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that cannot be read, without quoting it as gunicorn does: a token may stand in it."""
        if isinstance(exc, ParseException):
            kind = type(exc)
            exc.__class__ = type(kind.__name__, (kind,), {"__str__": lambda unquoted: kind.__name__})
        super().handle_error(None, client, addr, exc)

    def _patience(self, connection: Any) -> float:
        return 0.0 if connection in self.served else FIRST_REQUEST

    def _let_go(self) -> None:
        for connection in self.waiting:
            timer = gevent.get_hub().loop.timer(self._patience(connection))
            timer.start(self._end, connection)
            self._timers.append(timer)

    def _end(self, connection: Any) -> None:
        """End a wait, unless a request has come meanwhile, with what gunicorn takes for a caller gone."""
        if connection in self.waiting:
            connection.throw(NoMoreData())


class _Wait:
    """Waits for the next request of a connection, for so many seconds, known to the worker meanwhile."""

    def __init__(self, worker: Worker, seconds: float) -> None:
        self._worker = worker
        self._timeout = gevent.Timeout(seconds, False)

    def __enter__(self) -> None:
        self._worker.waiting.add(gevent.getcurrent())
        self._timeout.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timeout.close()
        self._worker.waiting.discard(gevent.getcurrent())
        self._worker.served.add(gevent.getcurrent())
        return error is self._timeout
