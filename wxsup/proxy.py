"""Forward one request to a client and stream the answer back (RFC 9110, RFC 9112).

A request that may have reached the client is never sent twice.
"""

from __future__ import annotations

import http.client
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from wxsup import names
from wxsup.connections import BIND_TIMEOUT, Address, Connections, mapped
from wxsup.errors import ClientUnreachable, PollEnded, RequestBroken

Headers = list[tuple[str, str]]

ANSWER_TIMEOUT = 150.0  # long polls hold up to 120 s; every time-out on the way is 130 s at least
CHUNK = 65536
HELD = ("/openwx/check_event", "/openwx/get_log")  # calls that a client may hold until there is something to say

_BODILESS = (204, 304)
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
# RFC 9110 7.6.1, and what an intermediary answers for itself or adds by itself.
_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade expect host".split()
    + [names.SECRET_HEADER.lower(), names.CHALLENGE_HEADER.lower()]
)


@dataclass(frozen=True)
class Answer:
    """What the client answered: `length` is None when only the end of `body` tells it."""

    status: str
    headers: Headers
    length: int | None
    body: Iterable[bytes]


class Proxy:
    """Forwards requests; one per worker."""

    def __init__(self, *, answer_timeout: float = ANSWER_TIMEOUT, bind_timeout: float = BIND_TIMEOUT) -> None:
        self._answer_timeout = answer_timeout
        self._connections = Connections(bind_timeout=bind_timeout)
        self._held: set[http.client.HTTPConnection] = set()
        self._released = False

    def forward(
        self, address: Address, environ: Mapping[str, Any], *, secret: str = "", alive: Callable[[], bool]
    ) -> Answer:
        """Send the WSGI request `environ`, with the client's `secret`, to `address`; return the answer.

        Its body must be read or closed.

        While the port is not open yet and `alive()` says that there is a process, wait for it. Raises
        ClientUnreachable, ClientNotListening or ClientTimeout.
        """
        held = environ["PATH_INFO"] in HELD
        if held and self._released:
            raise PollEnded
        connection = self._connections.take(address, secret, alive)
        connection.sock.settimeout(self._answer_timeout)
        try:
            _send_head(connection, environ, secret)
            refused = _send_body(connection, environ)
            response = self._response(connection, environ.get("gunicorn.socket"), held=held, refused=refused)
            with mapped():
                small = response.length is not None and response.length <= CHUNK
                content = response.read() if small else b""
        except BaseException:
            connection.close()
            raise
        headers = _end_to_end(response.getheaders())
        status = f"{response.status} {response.reason}"
        if small:
            self._connections.give(connection, response)
            length: int | None = len(content)
            if environ["REQUEST_METHOD"] == "HEAD" or response.status in _BODILESS:
                # Then a length is that of the body there would have been (RFC 9110, 8.6).
                declared = response.getheader("Content-Length", "")
                length = int(declared) if declared.isdecimal() else None
            return Answer(status, headers, length, [content] if content else [])
        return Answer(status, headers, response.length, self._stream(connection, response))

    def release(self) -> None:
        """End every held poll with PollEnded, now and from now on."""
        self._released = True
        for connection in tuple(self._held):
            # We are in a signal handler: an answer may be on its way, and the connection closed already.
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def _response(
        self,
        connection: http.client.HTTPConnection,
        caller: socket.socket | None,
        *,
        held: bool,
        refused: ClientUnreachable | None,
    ) -> http.client.HTTPResponse:
        """Wait for the head of the answer; a client that did not take the whole request may still have answered."""
        if held:
            self._held.add(connection)
        try:
            with mapped():
                if caller is not None:
                    _await(connection.sock, caller, self._answer_timeout)
                return connection.getresponse()
        except ClientUnreachable as ex:
            if held and self._released:
                raise PollEnded from ex
            raise refused or ex from ex
        finally:
            self._held.discard(connection)

    def _stream(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
        def more() -> bytes:
            with mapped():
                return response.read1(CHUNK)

        try:
            yield from iter(more, b"")
            if response.length:  # cut short: the caller must not take it for the whole
                raise ClientUnreachable("the client closed the connection in the middle of its answer")
        except BaseException:
            connection.close()
            raise
        finally:
            response.close()
        self._connections.give(connection, response)


def _await(client: socket.socket, caller: socket.socket, timeout: float) -> None:
    """Wait until the client answers; raise PollEnded when the caller hangs up meanwhile, TimeoutError at the end."""
    deadline = time.monotonic() + timeout
    look = select.poll()
    look.register(client, select.POLLIN)
    look.register(caller, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in look.poll(max(0.0, deadline - time.monotonic()) * 1000)]
        if client.fileno() in ready:
            return
        if not ready:
            raise TimeoutError
        if _hung_up(caller):
            raise PollEnded("the caller hung up")
        look.unregister(caller)  # it has sent its next request already; that has to wait


def _hung_up(caller: socket.socket) -> bool:
    try:
        return not caller.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _send_head(connection: http.client.HTTPConnection, environ: Mapping[str, Any], secret: str) -> None:
    """Write the request line and the headers, as they came, and the secret."""
    chunked, length = _framing(environ)
    with mapped():
        connection.putrequest(environ["REQUEST_METHOD"], _target(environ), skip_accept_encoding=True)
        for name, value in _request_headers(environ):
            connection.putheader(name, value)
        if secret:
            connection.putheader(names.SECRET_HEADER, secret)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif length != "0" or environ["REQUEST_METHOD"] in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", length)
        connection.endheaders()


def _send_body(connection: http.client.HTTPConnection, environ: Mapping[str, Any]) -> ClientUnreachable | None:
    """Write the body as it comes; return what happened when the client does not want all of it."""
    chunked, length = _framing(environ)
    if not chunked and length == "0":
        return None
    body = environ["wsgi.input"]
    sent = 0
    try:
        while chunk := read(body, CHUNK):
            sent += len(chunk)
            with mapped():
                connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        if chunked:
            with mapped():
                connection.send(b"0\r\n\r\n")
    except ClientUnreachable as ex:
        return ex
    if not chunked and sent < int(length):
        raise RequestBroken("the body is shorter than its Content-Length")
    return None


def read(body: Any, size: int) -> bytes:
    """Return at most `size` bytes of a request's body; raise RequestBroken when it is not framed as HTTP has it."""
    try:
        found: bytes = body.read(size)
    except Exception as ex:  # each WSGI server has errors of its own for bad chunks and callers that went away
        raise RequestBroken(f"the body cannot be read: {type(ex).__name__}") from ex
    return found


def _framing(environ: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the body is chunked, and its length in digits."""
    return "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower(), environ.get("CONTENT_LENGTH") or "0"


def _target(environ: Mapping[str, Any]) -> str:
    """Return the request target in origin form, encoded as the caller encoded it where the server tells."""
    raw: str = environ.get("RAW_URI", "")
    if raw.startswith("/"):
        # What came unencoded is Latin-1 here (PEP 3333), whatever it was before.
        return quote(raw, safe=_ASCII, encoding="latin-1")
    path, query = str(environ["PATH_INFO"]), environ.get("QUERY_STRING", "")
    return quote(path, encoding="latin-1") + (f"?{query}" if query else "")


def _request_headers(environ: Mapping[str, Any]) -> Headers:
    found = [(key[5:].replace("_", "-").title(), value) for key, value in environ.items() if key.startswith("HTTP_")]
    if environ.get("CONTENT_TYPE"):
        found.append(("Content-Type", environ["CONTENT_TYPE"]))
    return _end_to_end(found)


def _end_to_end(headers: Headers) -> Headers:
    """Leave out what concerns one connection only: the fixed list, and what Connection names."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == "connection" for token in value.split(",")
    }
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in _HOP_BY_HOP and name.lower() not in named and name.lower() != "content-length"
    ]
