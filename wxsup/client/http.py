"""The client's one HTTP client: small, and a call in progress can be broken off from another thread."""

from __future__ import annotations

import errno
import functools
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

ANSWER_LIMIT = 16 * 1024 * 1024
CHUNK = 65536
CONNECT_TIMEOUT = 10.0

Origin = tuple[str, str]
#: A body as it is, or piece by piece; then its length stands in the headers.
Body = bytes | Iterable[bytes] | None
#: Opens a connection to host and port within so many seconds.
Dial = Callable[[tuple[str, int], float], socket.socket]


class TransportError(Exception):
    """No complete HTTP answer came."""


class TransportTimeout(TransportError):
    """No complete answer came in time."""


class NotConnected(TransportError):
    """No connection came about: the server knows nothing of the call."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer with its whole body."""

    status: int
    body: bytes
    headers: Message[str, str]


class Http:
    """A caller of one thing at a time.

    With `keep` it keeps its connection and repeats a call that finds the kept one closed: only for calls that may reach
    the server twice, whose bodies are bytes, and without a sink. Otherwise each call has a connection of its own. While
    `unwanted()` is true every call fails. `dial` may refuse an address.
    """

    def __init__(
        self,
        *,
        keep: bool = False,
        unwanted: Callable[[], bool] = lambda: False,
        dial: Dial = socket.create_connection,
    ) -> None:
        self._dial = dial
        self._keep = keep
        self._unwanted = unwanted
        self._guard = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None  # in use, or kept for the next call
        self._origin: Origin = ("", "")
        self._busy = False
        self._closed = False

    def request(
        self,
        method: str,
        url: str,
        *,
        body: Body = None,
        headers: Mapping[str, str],
        timeout: float,
        sink: Callable[[bytes], object] | None = None,
    ) -> Answer:
        """Make one call and return its answer, whatever its status; it must be whole `timeout` seconds after the call.

        The body of a good answer goes to `sink`, where there is one, piece by piece. Raises NotConnected,
        TransportTimeout or TransportError, none of which tells what was called, and what `sink` raises. Follows no
        redirect.
        """
        with _failures():
            parts = urlsplit(url)
            origin = (parts.scheme, parts.netloc)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            call = functools.partial(self._call, method, target, body, headers, timeout, sink)
            if self._connection and self._origin == origin:
                try:
                    return call()
                except ConnectionError:  # it was kept for too long; unless we were closed, try a new one
                    pass
            self._connect(origin, min(timeout, CONNECT_TIMEOUT))
            return call()

    def close(self) -> None:
        """End for good; a call in progress fails at once."""
        with self._guard:
            self._closed = True
            self._hang_up()

    def break_off(self) -> None:
        """Let a call in progress fail at once, when it has become unwanted."""
        with self._guard:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._connection and self._connection.sock and self._busy:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        elif self._connection:
            self._connection.close()
            self._connection = None

    def _connect(self, origin: Origin, timeout: float) -> None:
        self._drop()
        with self._guard:
            self._check_open()
        try:
            connection = self._open(origin, timeout)
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as ex:
            raise NotConnected(_reason(ex)) from ex
        with self._guard:
            self._connection, self._origin = connection, origin

    def _open(self, origin: Origin, timeout: float) -> http.client.HTTPConnection:
        if origin[0] != "https":
            connection = http.client.HTTPConnection(origin[1], timeout=timeout)
            connection.sock = self._dialled(connection, timeout)
            return connection
        connection = http.client.HTTPSConnection(origin[1], timeout=timeout, context=_trust())
        plain = self._dialled(connection, timeout)
        try:
            connection.sock = _trust().wrap_socket(plain, server_hostname=connection.host)
        except BaseException:
            plain.close()
            raise
        return connection

    def _dialled(self, connection: http.client.HTTPConnection, timeout: float) -> socket.socket:
        found = self._dial((connection.host, connection.port), timeout)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    def _call(
        self,
        method: str,
        target: str,
        body: Body,
        headers: Mapping[str, str],
        timeout: float,
        sink: Callable[[bytes], object] | None,
    ) -> Answer:
        deadline = time.monotonic() + timeout
        kept = False
        try:
            with self._guard:
                self._check_open()
                connection = self._connection
                if connection is None or connection.sock is None:
                    raise ConnectionResetError(errno.ECONNRESET, "broken off")
                self._busy = True
            connection.sock.settimeout(timeout)
            connection.response_class = functools.partial(_response, deadline)  # type: ignore[assignment]
            paced = body if body is None or isinstance(body, bytes) else _paced(body, connection.sock, deadline)
            connection.request(method, target, paced, dict(headers))
            response = connection.getresponse()
            if sink and 200 <= response.status < 300:
                content = b""
                while chunk := response.read(CHUNK):
                    sink(chunk)
            else:
                content = response.read(ANSWER_LIMIT + 1)
            if len(content) > ANSWER_LIMIT:
                raise TransportError(f"an answer of more than {ANSWER_LIMIT} bytes")
            if response.length:
                raise TransportError("the answer is cut off")
            kept = self._keep and not response.will_close
            return Answer(response.status, content, response.headers)
        finally:
            with self._guard:
                self._busy = False
                kept = kept and not self._closed
            if not kept:
                self._drop()

    def _drop(self) -> None:
        with self._guard:
            if self._connection:
                self._connection.close()
            self._connection = None

    def _check_open(self) -> None:
        if self._closed or self._unwanted():
            raise NotConnected("broken off")


class _Reading:
    """The reading side of a socket, as http.client wants it, until a deadline that no trickle of bytes puts off."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self._sock, self._deadline))


class _Raw(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _paced(body: Iterable[bytes], sock: socket.socket, deadline: float) -> Iterator[bytes]:
    """Yield the pieces of a body, giving all of them together until the deadline."""
    for piece in body:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        yield piece


@functools.cache
def _trust() -> ssl.SSLContext:
    """Return whom we trust, for all connections: to read it takes 0.7 MiB and 20 ms each time."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _response(deadline: float, sock: socket.socket, **more: Any) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(_Reading(sock, deadline), **more)  # type: ignore[arg-type]


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except TimeoutError as ex:
        raise TransportTimeout("no answer in time") from ex
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as ex:
        raise TransportError(_reason(ex)) from ex


def _reason(ex: Exception) -> str:
    """Say what went wrong; not in the library's own words where these repeat an address or a header."""
    if isinstance(ex, OSError):
        return ex.strerror or str(ex) or type(ex).__name__
    return type(ex).__name__
