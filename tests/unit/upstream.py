"""A small real HTTP server on a loopback port that answers byte for byte what a test says."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from wxsup import names

TIMEOUT = 20.0


@dataclass(frozen=True)
class Request:
    """One request as it arrived; `chunks` is what a chunked body was cut into."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Return every value of the header `name`."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Connection:
    """One accepted connection; `number` counts from 1."""

    def __init__(self, server: Upstream, channel: socket.socket, number: int) -> None:
        self.number = number
        self.channel = channel
        self._server = server
        self._file = channel.makefile("rb")

    def head(self) -> Request | None:
        """Read a request up to its body; None when the other side closed instead. Proves who we are when asked to."""
        found = self._head()
        while found and self._server.secret and (challenge := found.all(names.CHALLENGE_HEADER)):
            told = names.proof(self._server.secret, challenge[0])
            self.send(reply(told.encode()))
            found = self._head()
        return found

    def _head(self) -> Request | None:
        line = self._line()
        if not line:
            return None
        headers = []
        while header := self._line():
            name, _, value = header.partition(":")
            headers.append((name, value.strip()))
        return Request(line, headers)

    def request(self) -> Request | None:
        """Read a whole request, and remember it."""
        found = self.head()
        if found is None:
            return None
        if found.all("Transfer-Encoding") == ["chunked"]:
            chunks = list(iter(self.chunk, b""))
            found = Request(found.line, found.headers, b"".join(chunks), chunks)
        elif length := found.all("Content-Length"):
            found = Request(found.line, found.headers, self._file.read(int(length[0])))
        self._server.requests.append(found)
        return found

    def chunk(self) -> bytes:
        """Read one chunk; nothing at the end of the body."""
        content = self._file.read(int(self._line(), 16))
        assert self._line() == ""
        return content

    def send(self, data: bytes) -> None:
        self.channel.sendall(data)

    def close(self) -> None:
        self._file.close()
        self.channel.close()

    def _line(self) -> str:
        return self._file.readline().decode("latin-1").rstrip("\r\n")


Handler = Callable[[Connection], None]


def replying(*answers: bytes) -> Handler:
    """Answer the requests of a connection one by one, the last answer again and again."""

    def handle(connection: Connection) -> None:
        count = 0
        while connection.request() is not None:
            connection.send(answers[min(count, len(answers) - 1)])
            count += 1

    return handle


def reply(body: bytes = b"ok", *, status: str = "200 OK", headers: tuple[str, ...] = ()) -> bytes:
    """Return a whole answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Upstream:
    """Serves each connection with `handler` in a thread; closes it when the handler returns."""

    def __init__(self, handler: Handler, *, port: int = 0, secret: str = "") -> None:
        self.secret = secret
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self.defects: list[BaseException] = []
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, ex: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(TIMEOUT)
        self._listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.channel.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(TIMEOUT)
        if ex is None:
            assert not self.defects

    def _accept(self) -> None:
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError:
                return
            channel.settimeout(TIMEOUT)
            connection = Connection(self, channel, len(self.connections) + 1)
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            self._handler(connection)
        except (OSError, io.UnsupportedOperation):
            pass  # the other side went away: what the test is about, or its end
        except BaseException as ex:
            self.defects.append(ex)
        finally:
            connection.close()
