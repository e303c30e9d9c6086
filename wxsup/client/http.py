"""The client's one HTTP client: small, and a call in progress can be broken off from another thread."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

ANSWER_LIMIT = 16 * 1024 * 1024
CONNECT_TIMEOUT = 10.0


class TransportError(Exception):
    """No complete HTTP answer came."""


class TransportTimeout(TransportError):
    """No answer came in time."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer with its whole body."""

    status: int
    body: bytes


class Http:
    """A caller of one thing at a time.

    With `keep` it keeps its connection and repeats a call that finds the kept one closed: only for calls that may reach
    the server twice. Otherwise each call has a connection of its own.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._kept: tuple[tuple[str, str], http.client.HTTPConnection] | None = None
        self._guard = threading.Lock()
        self._current: http.client.HTTPConnection | None = None
        self._closed = False

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Make one call and return its answer, whatever its status; `timeout` is for each read, in seconds.

        Raises TransportTimeout or TransportError. Follows no redirect.
        """
        parts = urlsplit(url)
        origin = (parts.scheme, parts.netloc)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if self._kept and self._kept[0] == origin:
            with suppress(http.client.RemoteDisconnected, ConnectionError):
                return self._call(self._kept[1], origin, (method, target, body, headers), timeout)
        return self._call(_connection(*origin), origin, (method, target, body, headers), timeout)

    def close(self) -> None:
        """End for good; a call in progress fails at once."""
        with self._guard:
            self._closed = True
            if self._current and self._current.sock:
                with suppress(OSError):
                    self._current.sock.shutdown(socket.SHUT_RDWR)

    def _call(
        self,
        connection: http.client.HTTPConnection,
        origin: tuple[str, str],
        request: tuple[str, str, bytes | None, Mapping[str, str]],
        timeout: float,
    ) -> Answer:
        kept = False
        reused = self._kept is not None and self._kept[1] is connection
        self._kept = None
        method, target, body, headers = request
        try:
            self._claim(connection)
            if connection.sock is None:
                connection.connect()
            self._claim(connection)  # again: close() may have come while there was no socket to shut down
            connection.sock.settimeout(timeout)
            connection.request(method, target, body, dict(headers))
            response = connection.getresponse()
            content = response.read(ANSWER_LIMIT + 1)
            if len(content) > ANSWER_LIMIT:
                raise TransportError(f"an answer of more than {ANSWER_LIMIT} bytes")
            kept = self._keep and not response.will_close
            return Answer(response.status, content)
        except TimeoutError as ex:
            raise TransportTimeout("no answer in time") from ex
        except (http.client.RemoteDisconnected, ConnectionError) as ex:
            if reused and not self._closed:
                raise
            raise TransportError(str(ex) or type(ex).__name__) from ex
        except (OSError, http.client.HTTPException, ValueError) as ex:
            raise TransportError(str(ex) or type(ex).__name__) from ex
        finally:
            with self._guard:
                self._current = None
            if kept:
                self._kept = (origin, connection)
            else:
                connection.close()

    def _claim(self, connection: http.client.HTTPConnection) -> None:
        with self._guard:
            if self._closed:
                raise TransportError("closed")
            self._current = connection


def _connection(scheme: str, netloc: str) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    return kind(netloc, timeout=CONNECT_TIMEOUT)
