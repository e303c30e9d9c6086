"""What a bus can do wrong; what it does right is the contract suite's business, on a real one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wxsup.dbus import Bus

Talk = Callable[[socket.socket], object]


@pytest.fixture
def bus(short_path: Path) -> Iterator[Callable[[Talk], str]]:
    """Return the address of a bus that talks as it is told to."""
    threads: list[threading.Thread] = []
    servers: list[socket.socket] = []

    def serve(talk: Talk) -> str:
        path = short_path / f"bus{len(servers)}"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()
        servers.append(server)

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                talk(connection)

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return f"unix:path={path}"

    yield serve
    for server in servers:
        server.close()
    for thread in threads:
        thread.join(10)


def test_a_bus_that_never_answers_is_given_up_in_time(bus: Callable[[Talk], str]) -> None:
    done = threading.Event()
    with pytest.raises(TimeoutError):
        Bus(bus(lambda connection: done.wait(10)), timeout=0.2)
    done.set()


def test_a_bus_that_lets_us_in_and_then_hangs_is_given_up_in_time(bus: Callable[[Talk], str]) -> None:
    done = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"OK 1234deadbeef\r\n")
        done.wait(10)

    with pytest.raises(TimeoutError):
        Bus(bus(talk), timeout=0.2)
    done.set()


def test_a_bus_that_refuses_us_is_an_error(bus: Callable[[Talk], str]) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(1024)
        connection.sendall(b"REJECTED EXTERNAL\r\n")

    with pytest.raises(ConnectionError, match="does not let us in"):
        Bus(bus(talk), timeout=5)


def test_a_bus_that_hangs_up_is_an_error(bus: Callable[[Talk], str]) -> None:
    with pytest.raises(ConnectionError, match="closed the connection"):
        Bus(bus(lambda connection: connection.recv(1024)), timeout=5)


@pytest.mark.parametrize("address", ["unix:path=/nowhere/bus", "tcp:host=localhost", "nonsense"])
def test_an_address_without_a_bus_is_an_error(address: str) -> None:
    with pytest.raises(OSError):
        Bus(address, timeout=1)


def test_the_bus_of_a_user_is_found_without_the_variables_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(FileNotFoundError):
        Bus("SESSION", timeout=1)
