"""The client's HTTP server: the standard library's, with keep-alive, limits, and answers sent in one piece."""

from __future__ import annotations

import logging
import re
import select
import socket
import socketserver
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from wxsup import names

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 75.0  # more than a proxy in front keeps an idle connection
BODY_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class Request:
    """One HTTP request; `query` and `form` are still encoded. `still_there` tells whether the caller is."""

    method: str
    path: str
    query: str = ""
    form: bytes = b""
    secret: str = ""
    still_there: Callable[[], bool] = field(default=lambda: True)


@dataclass(frozen=True)
class Reply:
    """What is answered; `written` is told whether the body could be written."""

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

    def server_bind(self) -> None:
        """Bind without asking the DNS for our own name, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def close(self) -> None:
        """End serve_forever and stop listening; answers that are under way go on."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever, which else looks up twice a second
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what ended a connection; mostly a caller that did not wait for the answer."""
        broken = isinstance(sys.exception(), OSError)
        logger.log(
            logging.DEBUG if broken else logging.ERROR,
            "connection broke",
            exc_info=not broken,
            extra={"action": "serve"},
        )


class _Handler(BaseHTTPRequestHandler):
    server: Server
    raw_requestline: bytes
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT
    wbufsize = -1  # head and body leave in one write; two would cost a delayed acknowledgement

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def parse_request(self) -> bool:
        """Take unencoded UTF-8 in the request line for what it is; http.server sees Latin-1 and cuts at its blanks."""
        self.raw_requestline = re.sub(rb"[\x80-\xff]", lambda byte: b"%%%02X" % ord(byte[0]), self.raw_requestline)
        return super().parse_request()

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            return
        try:
            parts = urlsplit(self.path)
        except ValueError:
            self._refuse(400)
            return
        reply = self.server.answer(
            Request(
                self.command,
                parts.path,
                parts.query,
                body,
                self.headers.get(names.SECRET_HEADER, ""),
                self._still_there,
            )
        )
        done = False
        try:
            self._write(reply)
            done = self.command != "HEAD"
        finally:
            reply.written(done)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _serve

    def _body(self) -> bytes | None:
        """Read the body; refuse one that is too long or does not say how long it is, drop one that breaks off."""
        length = self.headers.get("Content-Length", "0")
        problem = None
        if self.headers.get("Transfer-Encoding"):
            problem = 411
        elif not re.fullmatch(r"[0-9]{1,12}", length, re.ASCII):
            problem = 400
        elif int(length) > BODY_LIMIT:
            problem = 413
        if problem:
            self._refuse(problem)
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return None
        return body

    def _still_there(self) -> bool:
        """Tell whether the caller has not hung up (poll(2))."""
        look = select.poll()
        look.register(self.connection, select.POLLRDHUP)
        return not look.poll(0)

    def _refuse(self, status: int) -> None:
        self.close_connection = True
        self._write(Reply(status, b'{"code":-1,"status":"bad request"}'))

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
