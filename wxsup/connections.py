"""Connections to clients, pooled per worker, each to somebody who has proved to be the client."""

from __future__ import annotations

import hmac
import http.client
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wxsup import names
from wxsup.errors import ClientNotListening, ClientTimeout, ClientUnreachable, WrongClient

Address = tuple[str, int]

CONNECT_TIMEOUT = 5.0
BIND_TIMEOUT = 10.0  # a client that has just been started opens its port in this time
BIND_RETRY = 0.05
IDLE_LIMIT = 10.0  # well below the time after which a client closes an idle connection
POOL_SIZE = 32
PROOF_LENGTH, PROOF_LIMIT = 64, 1024
HEAD_END = b"\r\n\r\n"


class Connections:
    """The connections of one worker; the one that was used last is used first."""

    def __init__(self, *, bind_timeout: float = BIND_TIMEOUT) -> None:
        self._bind_timeout = bind_timeout
        self._idle: defaultdict[Address, list[tuple[float, http.client.HTTPConnection]]] = defaultdict(list)

    def take(self, address: Address, secret: str, alive: Callable[[], bool]) -> http.client.HTTPConnection:
        """Return a connection to the client at `address`, which has proved that it knows `secret` (if there is one).

        While the port is not open yet and `alive()` says that there is a process, wait for it. Raises
        ClientUnreachable, WrongClient, ClientNotListening or ClientTimeout.
        """
        while idle := self._idle[address]:
            since, connection = idle.pop()
            if time.monotonic() - since < IDLE_LIMIT and _open(connection):
                return connection
            connection.close()
        deadline = time.monotonic() + self._bind_timeout
        while True:
            connection = http.client.HTTPConnection(*address, timeout=CONNECT_TIMEOUT)
            try:
                with mapped():
                    connection.connect()
                    break
            except ClientUnreachable as ex:
                connection.close()
                if not isinstance(ex.__cause__, ConnectionRefusedError) or not alive():
                    raise
                if time.monotonic() > deadline:
                    raise ClientNotListening(f"no port after {self._bind_timeout:g} s") from ex
                time.sleep(BIND_RETRY)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secret:
            _check_peer(connection, secret)
        return connection

    def give(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        """Take a connection back after a whole `response`."""
        idle, now = self._idle[(connection.host, connection.port)], time.monotonic()
        while idle and now - idle[0][0] >= IDLE_LIMIT:  # the oldest are never asked for: the newest is taken first
            idle.pop(0)[1].close()
        if response.will_close or len(idle) >= POOL_SIZE:
            connection.close()
        else:
            idle.append((now, connection))

    def close(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            while idle:
                _, connection = idle.pop()
                connection.close()


def _check_peer(connection: http.client.HTTPConnection, secret: str) -> None:
    """Have whoever listens there prove that it knows the secret: while a client is down anybody may take its port.

    Not by http.client, which an impostor could keep reading for ever.
    """
    challenge = secrets.token_hex(16)
    request = f"OPTIONS * HTTP/1.1\r\nHost: client\r\n{names.CHALLENGE_HEADER}: {challenge}\r\n\r\n"
    deadline = time.monotonic() + CONNECT_TIMEOUT
    told = b""
    try:
        with mapped():
            connection.sock.sendall(request.encode())
            while not _complete(told):
                connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = connection.sock.recv(PROOF_LIMIT)
                if not chunk:
                    break
                told += chunk
        if not told:
            raise ClientUnreachable("the client closed the connection")
        if told.startswith(b"HTTP/1.1 503 "):
            raise ClientNotListening("the client has too many connections")
        if not hmac.compare_digest(told.partition(HEAD_END)[2], names.proof(secret, challenge).encode()):
            raise WrongClient("another program listens at the port of this client")
    except BaseException:
        connection.close()
        raise


def _complete(told: bytes) -> bool:
    """Tell whether that is a whole answer to a challenge, or one that will never be any."""
    head, end, body = told.partition(HEAD_END)
    proof = b"\r\ncontent-length: 64\r\n" in head.lower() + b"\r\n"
    return len(told) > PROOF_LIMIT or bool(end and (not proof or len(body) >= PROOF_LENGTH))


def _open(connection: http.client.HTTPConnection) -> bool:
    """Tell whether an idle connection is still usable: neither closed by the client nor with stray bytes on it."""
    timeout = connection.sock.gettimeout()
    connection.sock.settimeout(0)
    try:
        connection.sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, TimeoutError):
        return True
    except OSError:
        return False
    finally:
        connection.sock.settimeout(timeout)
    return False


@contextmanager
def mapped() -> Iterator[None]:
    """Turn what goes wrong on the way to the client into our errors, most specific first."""
    try:
        yield
    except TimeoutError as ex:
        raise ClientTimeout("the client did not answer in time") from ex
    except (OSError, http.client.HTTPException) as ex:
        raise ClientUnreachable(str(ex) or type(ex).__name__) from ex
