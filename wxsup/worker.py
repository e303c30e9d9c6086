"""gunicorn's gevent worker, made to end quickly: a restart of the controller must not keep callers waiting.

When told to stop it closes connections that only wait for a next request, and has held polls answered with 503; what is
being worked on has graceful_timeout.
"""

from __future__ import annotations

import re
from types import FrameType, TracebackType
from typing import Any

import gevent
from gunicorn.http import message
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.ggevent import GeventWorker

# gunicorn refuses a request target with bytes beyond ASCII (RFC 9112 3.2). But `curl '…&content=你好'` sends them as
# they are, the original took them, and what they mean is plain: UTF-8.
message.RFC9112_TARGET_INVALID = re.compile(r"[^\x21-\x7e\x80-\xff]")
# A message of 2000 Chinese characters in a GET is 18 kB; gunicorn stops at 8190 bytes, or, set to 0, never.
REQUEST_LINE_LIMIT = message.MAX_REQUEST_LINE = 65536


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves requests in greenlets; `app` is told of the stop by a call of its `stopping`."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._idle: set[Any] = set()

    def timeout_ctx(self) -> _Idle:
        return _Idle(self._idle, self.cfg.keepalive if self.alive else 0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.app.stopping()
        for waiting in list(self._idle):
            gevent.get_hub().loop.run_callback(self._end, waiting)

    def _end(self, waiting: Any) -> None:
        """End a greenlet's wait, unless a request has come meanwhile, with what gunicorn takes for a caller gone."""
        if waiting in self._idle:
            waiting.throw(NoMoreData())


class _Idle:
    """Waits for the next request of a connection, for so many seconds, known to the worker meanwhile."""

    def __init__(self, idle: set[Any], seconds: float) -> None:
        self._idle = idle
        self._timeout = gevent.Timeout(seconds, False)

    def __enter__(self) -> None:
        self._idle.add(gevent.getcurrent())
        self._timeout.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timeout.close()
        self._idle.discard(gevent.getcurrent())
        return error is self._timeout
