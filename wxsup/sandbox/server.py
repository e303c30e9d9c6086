"""A small HTTP/1.1 server of the standard library: JSON in, JSON out. It knows nothing of WeChat."""

from __future__ import annotations

import json
import logging
import re
import select
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from wxsup import errors

logger = logging.getLogger(__name__)

MOST_BODY = 1024 * 1024  # where no other limit is set
MOST_LARGE = 4  # how many larger bodies are in memory at a time; the others wait for their turn
GLANCE = 0.5  # how often who waits looks whether the client is still there, in seconds
MOST_DEPTH = 100  # what is kept of a body must fit into other documents, which json can write only so deep
AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")  # RFC 9110 7.2, names and addresses


class BadRequest(Exception):
    """The request makes no sense; the text says why."""

    http_status = HTTPStatus.BAD_REQUEST


class Forbidden(BadRequest):
    """The request may not be made from there."""

    http_status = HTTPStatus.FORBIDDEN


class NotFound(BadRequest):
    """What the request names does not exist."""

    http_status = HTTPStatus.NOT_FOUND


class ClientGone(Exception):
    """The client has hung up, or is hung up on: there is nobody to answer."""


@dataclass(frozen=True)
class Request:
    """One request, read to its end; `authority` is the host and port that the client knows us by."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message[str, str]
    body: bytes
    authority: str
    glance: Callable[[], None]

    @property
    def url(self) -> str:
        """Return the address of this server as the client knows it."""
        return f"http://{self.authority}"

    def json(self) -> dict[str, Any]:
        """Return the object that the body is; none at all is an empty one."""
        try:
            value = json.loads(self.body or b"{}")
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair passes loads
        except (ValueError, RecursionError) as ex:
            raise BadRequest("the body is not JSON in UTF-8") from ex
        if not isinstance(value, dict):
            raise BadRequest("the body is not a JSON object")
        if _is_deeper(value, MOST_DEPTH):
            raise BadRequest("the body is nested too deeply")
        return value


def _is_deeper(value: object, than: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return than == 0 or any(_is_deeper(each, than - 1) for each in inner)


@dataclass(frozen=True)
class Page:
    """An answer byte for byte, and how it is given.

    After `delay` seconds, with `drip` seconds before each byte of the body; `close` is to hang up "before" it or in
    the "middle" of its body.
    """

    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = HTTPStatus.OK
    delay: float = 0.0
    drip: float = 0.0
    close: str = ""


Answer = Mapping[str, object] | Page
Routes = Mapping[tuple[str, str], Callable[[Request], Answer]]


def page_of(answer: Mapping[str, object], status: int = HTTPStatus.OK) -> Page:
    """Return the page that says `answer` in JSON."""
    body = json.dumps(answer, ensure_ascii=False).encode()
    return Page(body, "application/json; charset=utf-8", status=status)


class Server(ThreadingHTTPServer):
    """Listens at once, answers from `routes` once they are set and serve_forever runs; one thread per connection.

    `limits` are the paths whose bodies may be larger than MOST_BODY, and how large.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, host: str, port: int) -> None:
        self.routes: Routes = {}
        self.limits: Mapping[str, int] = {}
        self._large = threading.BoundedSemaphore(MOST_LARGE)
        self._connections: set[socket.socket] = set()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as ex:
            reason = getattr(ex, "strerror", None) or ex
            raise errors.Refusal(f"the sandbox cannot listen on {host} port {port}: {reason}") from ex

    def server_bind(self) -> None:
        """Bind without asking the DNS for our own name, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def authority(self) -> str:
        """Return a host and port that this machine reaches us by."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.server_name, self.server_name)
        return f"[{host}]:{self.server_port}" if ":" in host else f"{host}:{self.server_port}"

    @contextmanager
    def room(self, length: int, glance: Callable[[], None]) -> Iterator[None]:
        """Wait until a body of that length may be in memory."""
        if length <= MOST_BODY:
            yield
            return
        while not self._large.acquire(timeout=GLANCE):
            glance()
        try:
            yield
        finally:
            self._large.release()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a connection."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def close(self) -> None:
        """Stop listening and hang up on everybody; whoever holds a call sees it at the next glance."""
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever, which else looks up twice a second
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what ended a connection: mostly a client that did not wait for its answer."""
        expected = isinstance(sys.exception(), OSError)
        logger.log(
            logging.DEBUG if expected else logging.ERROR,
            "connection lost",
            exc_info=not expected,
            extra={"action": "connection"},
        )


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "wxsup-sandbox"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one segment

    def do_GET(self) -> None:
        """Answer from the routes."""
        try:
            self._reply(self._page())
        except (ClientGone, ConnectionError):
            self.close_connection = True

    do_POST = do_GET

    def _page(self) -> Page:
        try:
            answer = self._answer()
            return answer if isinstance(answer, Page) else page_of(answer)
        except BadRequest as ex:
            return page_of({"error": str(ex)}, ex.http_status)
        except (ClientGone, ConnectionError):
            raise
        except Exception:
            logger.exception("request failed", extra={"action": "request", "path": self._path()})
            return page_of({"error": "the sandbox failed; its log says why"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer(self) -> Answer:
        length = self._length()
        with self.server.room(length, self._glance):
            # Read whatever comes of it: an unread body would be taken for the next request.
            body = self.rfile.read(length)
            if len(body) < length:
                raise ClientGone
            return self._call(body)

    def _call(self, body: bytes) -> Answer:
        try:
            target = urlsplit(self.path)
            pairs = parse_qsl(target.query, keep_blank_values=True, max_num_fields=100)
        except ValueError as ex:
            raise BadRequest("the address cannot be read") from ex
        query = dict(pairs)
        if len(query) < len(pairs):
            raise BadRequest("a parameter is given twice")
        call = self.server.routes.get((self.command, target.path))
        if call is None:
            raise NotFound("the sandbox has no such call")
        host = self.headers.get("Host", "")
        authority = host if AUTHORITY.fullmatch(host) else self.server.authority
        return call(Request(self.command, target.path, query, self.headers, body, authority, self._glance))

    def _length(self) -> int:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]{1,18}", length):
            self.close_connection = True
            raise BadRequest("the body must come with a Content-Length")
        most = self.server.limits.get(self._path(), MOST_BODY)
        if int(length) > most:
            self.close_connection = True
            # Hanging up on unread data would reset the connection before the client has seen why.
            left = min(int(length), 4 * most)
            while left and (piece := self.rfile.read(min(left, MOST_BODY))):
                left -= len(piece)
            raise BadRequest(f"the body is larger than {most} bytes")
        return int(length)

    def _glance(self) -> None:
        """Raise ClientGone when the client has closed its side (recv(2): a peek of no bytes is the end)."""
        try:
            alive = self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as ex:
            raise ClientGone from ex
        if not alive:
            raise ClientGone

    def _reply(self, page: Page) -> None:
        self._wait(page.delay)
        if page.close == "before":
            raise ClientGone
        body = page.body[: len(page.body) // 2] if page.close == "middle" else page.body
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        # A body of nothing has no middle: then at least a byte is missing.
        self.send_header("Content-Length", str(max(len(page.body), 1 if page.close else 0)))
        self.send_header("Cache-Control", "no-store")
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.close:
            self.close_connection = True
        elif self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if page.drip:
            self._drip(body, page.drip)
        else:
            self.wfile.write(body)

    def _drip(self, body: bytes, seconds: float) -> None:
        for number in range(len(body)):
            self.wfile.flush()
            self._wait(seconds)
            self.wfile.write(body[number : number + 1])

    def _wait(self, seconds: float) -> None:
        """Wait, or raise ClientGone as soon as the client has (poll(2): a side that was closed can be read)."""
        if seconds:
            ready = select.poll()
            ready.register(self.connection, select.POLLIN)
            ready.poll(seconds * 1000)
            self._glance()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say in JSON that this is no HTTP we speak; the default text repeats the request line, query and all."""
        self.close_connection = True
        self._reply(page_of({"error": HTTPStatus(code).phrase}, code))

    def _path(self) -> str:
        """Return the path alone, for the log: the query may be a key."""
        return getattr(self, "path", "").partition("?")[0]

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log what was answered, without secrets."""
        fields = {"action": "request", "method": self.command, "path": self._path(), "status": int(code)}
        logger.debug("request answered", extra=fields)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing else: the default lines repeat the request."""
