"""One connection to a D-Bus message bus on jeepney's protocol core; every wait has a limit.

https://dbus.freedesktop.org/doc/dbus-specification.html
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from jeepney import DBusAddress, HeaderFields, Message, MessageType, Parser, message_bus, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_bus

RECEIVE = 65536
WINDOW = 64  # dbus-daemon lets a connection wait for 128 replies


class CallRefused(Exception):
    """The other side answered with an error; `name` is the D-Bus name of it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


class Bus:
    """A connection to the bus at `address`, or to ``SYSTEM`` or ``SESSION``; replies have `timeout` seconds to come.

    Raises OSError when the bus cannot be reached, breaks off, or does not answer in time (TimeoutError).
    """

    def __init__(self, address: str, *, timeout: float) -> None:
        self._timeout = timeout
        self._parser = Parser()
        self._serial = 0
        self._replies: dict[int, Message] = {}
        self._signals: deque[Message] = deque()
        self._known: set[str] = set()  # who has answered us; a signal of somebody else is a lie
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            deadline = time.monotonic() + timeout
            self._within(deadline)
            self._socket.connect(_socket_path(address))
            self._log_in(deadline)
            self.ask(message_bus.Hello())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, address: DBusAddress, method: str, signature: str = "", *arguments: Any) -> Any:
        """Call a method and return what it returns, a tuple unless it is one value; raise CallRefused."""
        return self.ask(new_method_call(address, method, signature or None, arguments))

    def ask(self, message: Message) -> Any:
        """Send one call and return what it returns."""
        (reply,) = self.ask_all([message])
        return reply

    def ask_all(self, messages: Sequence[Message]) -> list[Any]:
        """Send calls, many at a time, and return what each returns; raise CallRefused for the first that fails."""
        return [reply for at in range(0, len(messages), WINDOW) for reply in self._batch(messages[at : at + WINDOW])]

    def signal(self, deadline: float) -> Message:
        """Return the next signal; raise TimeoutError when none comes before `deadline` (time.monotonic())."""
        while not self._signals:
            self._receive(deadline)
        return self._signals.popleft()

    def _batch(self, messages: Sequence[Message]) -> list[Any]:
        deadline = time.monotonic() + self._timeout
        first = self._serial + 1
        for message in messages:
            self._serial += 1
            self._send(message.serialise(self._serial), deadline)
        return [self._reply(serial, deadline) for serial in range(first, self._serial + 1)]

    def _log_in(self, deadline: float) -> None:
        """Authenticate as the user that we are (specification, "Authentication Protocol")."""
        dialogue = Authenticator()
        try:
            for words in dialogue:
                self._send(words, deadline)
                dialogue.feed(self._read(deadline))
        except AuthenticationError as ex:
            raise ConnectionError(f"the bus does not let us in: {ex}") from ex
        self._send(BEGIN, deadline)

    def _reply(self, serial: int, deadline: float) -> Any:
        while serial not in self._replies:
            self._receive(deadline)
        reply = self._replies.pop(serial)
        if reply.header.message_type is MessageType.error:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise CallRefused(reply.header.fields[HeaderFields.error_name], text)
        return reply.body[0] if len(reply.body) == 1 else reply.body

    def _receive(self, deadline: float) -> None:
        for message in self._parser.feed(self._read(deadline)):
            fields = message.header.fields
            sender = fields.get(HeaderFields.sender, "")
            if message.header.message_type is not MessageType.signal:
                self._known.add(sender)
                self._replies[fields.get(HeaderFields.reply_serial, 0)] = message
            elif sender in self._known:
                self._signals.append(message)

    def _read(self, deadline: float) -> bytes:
        self._within(deadline)
        data = self._socket.recv(RECEIVE)
        if not data:
            raise ConnectionError("the bus closed the connection")
        return data

    def _send(self, data: bytes, deadline: float) -> None:
        self._within(deadline)
        self._socket.sendall(data)

    def _within(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the bus does not answer")
        self._socket.settimeout(left)


def _socket_path(address: str) -> str:
    """Return the path of the bus; without the variables of a session it is where systemd puts it (pam_systemd(8))."""
    if address == "SESSION" and "DBUS_SESSION_BUS_ADDRESS" not in os.environ:
        address = f"unix:path=/run/user/{os.geteuid()}/bus"
    try:
        return str(get_bus(address))
    except (RuntimeError, ValueError) as ex:
        raise ConnectionError(f"{address} is no address of a bus: {ex}") from ex
