"""The client's HTTP server: the standard library's, with keep-alive, limits, and answers sent in one piece."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 75.0  # more than a proxy in front keeps an idle connection
BODY_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Request:
    """One HTTP request; `query` and `form` are still encoded."""

    method: str
    path: str
    query: str
    form: bytes


@dataclass(frozen=True)
class Reply:
    """What is answered; `written` is told whether the answer could be written."""

    status: int
    body: bytes
    content_type: str = "application/json"
    written: Callable[[bool], None] = field(default=lambda done: None)


class Server(ThreadingHTTPServer):
    """Answers each request with what `answer` returns; binds at once, serves with serve_forever()."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], answer: Callable[[Request], Reply]) -> None:
        self.answer = answer
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("connection broke", exc_info=True, extra={"action": "serve"})


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT
    wbufsize = -1  # head and body leave in one write; two would cost a delayed acknowledgement

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            return
        parts = urlsplit(self.path)
        reply = self.server.answer(Request(self.command, parts.path, parts.query, body))
        done = False
        try:
            self._write(reply)
            done = True
        finally:
            reply.written(done)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _serve

    def _body(self) -> bytes | None:
        """Read the body; refuse one that is too long or does not say how long it is."""
        length = self.headers.get("Content-Length", "0")
        problem = None
        if self.headers.get("Transfer-Encoding"):
            problem = 411
        elif not length.isascii() or not length.isdigit():
            problem = 400
        elif int(length) > BODY_LIMIT:
            problem = 413
        if problem:
            self.close_connection = True
            self._write(Reply(problem, b'{"code":-1,"status":"bad request body"}'))
            return None
        return self.rfile.read(int(length))

    def _write(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
        self.wfile.flush()

    def version_string(self) -> str:
        return "wxclient"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing here: requests carry message texts."""
