"""The client's HTTP server: the standard library's, with keep-alive, limits, and answers sent in one piece."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import shutil
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wxsup import names

logger = logging.getLogger(__name__)

IDLE_TIMEOUT = 75.0  # more than a proxy in front keeps an idle connection
BODY_LIMIT = 8 * 1024 * 1024
LINE_LIMIT = 1024
TRAILERS = 16
CONNECTIONS = 512  # each has a thread, of which a unit allows 1024
_TOO_MANY = b'{"code":-26,"status":"rate limited","reason":"too many connections"}'
TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_TOO_MANY), _TOO_MANY)
)


@dataclass(frozen=True)
class Request:
    """One HTTP request; `query` and `form` are still encoded. `still_there` tells whether the caller is."""

    method: str
    path: str
    query: str = ""
    form: bytes = b""
    content_type: str = ""
    secret: str = ""
    challenge: str = ""
    still_there: Callable[[], bool] = field(default=lambda: True)


@dataclass(frozen=True)
class Reply:
    """What is answered: `body`, or what is in `file`; `written` is told whether it could be written."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    written: Callable[[bool], None] = field(default=lambda done: None)
    file: Path | None = None


def in_json(
    body: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    written: Callable[[bool], None] = lambda done: None,
) -> Reply:
    """Return a Reply of JSON."""
    content = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return Reply(status, content, headers=headers or {}, written=written)


class Server(ThreadingHTTPServer):
    """Answers each request with what `answer` returns; binds at once, serves with serve_forever()."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], answer: Callable[[Request], Reply]) -> None:
        self.answer = answer
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking the DNS for our own name, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def serve_forever(self, poll_interval: float | None = None) -> None:
        """Serve until close(), which wakes us; the standard library looks up twice a second instead."""
        super().serve_forever(poll_interval)  # type: ignore[arg-type]  # handed on to a selector, which takes None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, or tell it that there are too many."""
        if not self._places.acquire(blocking=False):
            with suppress(OSError):
                request.sendall(TOO_MANY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be made
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def close(self) -> None:
        """End serve_forever and stop listening; answers that are under way go on."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever
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
                self.headers.get("Content-Type", ""),
                self.headers.get(names.SECRET_HEADER, ""),
                self.headers.get(names.CHALLENGE_HEADER, ""),
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
        """Read the body; None, and the connection is of no further use, when it is refused or breaks off."""
        lengths, coding = self.headers.get_all("Content-Length", ["0"]), self.headers.get("Transfer-Encoding")
        try:
            if coding is None:
                (length,) = lengths
                return self._exactly(_number(length, 10))
            if coding.lower() != "chunked" or "Content-Length" in self.headers:
                raise ValueError
            return self._chunks()
        except OverflowError:
            self._refuse(413)
        except ValueError:
            self._refuse(400)
        except EOFError:
            self.close_connection = True
        return None

    def _chunks(self) -> bytes:
        """Read a chunked body and forget its trailers (RFC 9112 7.1)."""
        body = bytearray()
        while size := _number(self._line().partition(";")[0].strip(), 16):
            body += self._exactly(size, already=len(body))
            if self._line():
                raise ValueError
        for _ in range(TRAILERS):
            if not self._line():
                return bytes(body)
        raise ValueError

    def _exactly(self, size: int, *, already: int = 0) -> bytes:
        if already + size > BODY_LIMIT:
            raise OverflowError
        found = self.rfile.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def _line(self) -> str:
        line = self.rfile.readline(LINE_LIMIT)
        if not line.endswith(b"\r\n"):
            raise ValueError if len(line) == LINE_LIMIT or line.endswith(b"\n") else EOFError
        return line[:-2].decode("latin-1")

    def _still_there(self) -> bool:
        """Tell whether the caller has not hung up (poll(2))."""
        look = select.poll()
        look.register(self.connection, select.POLLRDHUP)
        return not look.poll(0)

    def _refuse(self, status: int) -> None:
        self.close_connection = True
        self._write(Reply(status, b'{"code":-1,"status":"bad request"}'))

    def _write(self, reply: Reply) -> None:
        with ExitStack() as opened:
            file = opened.enter_context(open(reply.file, "rb")) if reply.file else None
            self._write_head(reply, os.fstat(file.fileno()).st_size if file else len(reply.body))
            if self.command != "HEAD":
                if file:
                    shutil.copyfileobj(file, self.wfile)
                self.wfile.write(reply.body)
            self.wfile.flush()

    def _write_head(self, reply: Reply, length: int) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(length))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def version_string(self) -> str:
        return "wxclient"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing here: requests carry message texts."""


def _number(digits: str, base: int) -> int:
    """Return a length or a chunk size; raise ValueError for what int() takes and HTTP does not, a sign or a blank."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,12}", digits):
        raise ValueError
    return int(digits, base)
