"""What tests of a client have around it: its options, the people of the sandbox, a receiver of reports, a bad line."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import zxingcpp
from PIL import Image

from tests.deadline import eventually
from tests.unit.upstream import Connection, Request, Upstream, reply
from wxsup import values
from wxsup.options import Options
from wxsup.sandbox.app import Sandbox

#: Lets the client at a sandbox on this machine, without the pauses that people and WeChat need.
HERE = {"ilink_allow_hosts": "127.0.0.1", "send_interval": "0"}


def options(folder: Path, **given: object) -> Options:
    """Return options whose files all lie in `folder`."""
    return values.read(Options, {**HERE, "tmpdir": str(folder), **{name: str(value) for name, value in given.items()}})


def qr_text(picture: bytes) -> str:
    """Return what a QR picture says to a phone."""
    (code,) = zxingcpp.read_barcodes(Image.open(io.BytesIO(picture)))
    return str(code.text)


class People:
    """What people do with their phones, and what they see on them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._world = sandbox.world

    def codes(self) -> list[str]:
        """Return the keys of all login codes, newest last."""
        return [code.key for code in self._world.codes.all()]

    def next_code(self, before: int = 0) -> str:
        """Return the newest login code once there are more than `before`."""
        return eventually(lambda: self.codes()[before:], what="a login code")[-1]

    def scan(self, key: str, user: str, *, digits: bool = False) -> str:
        """Point a phone at a code; return the digits that it shows."""
        return self._world.codes.scan(key, user, digits=digits).digits

    def agree(self, key: str) -> None:
        """Confirm a login, once the phone offers that."""
        eventually(lambda: self._world.codes.get(key).status == "scaned", what="the scan")
        self._world.confirm(key)

    def login(self, user: str, before: int = 0) -> None:
        """Scan and confirm the newest code, waiting for one after the first `before`."""
        key = self.next_code(before)
        self.scan(key, user)
        self.agree(key)

    def say(self, user: str, text: str) -> str:
        """Write to one's bot; return the id of the message."""
        return str(self._world.say(user, text).message_id)

    def read(self, user: str) -> list[str]:
        """Return what the bot wrote to a user."""
        return [message.text for message in self._world.chat(user) if message.direction == "to_user"]

    def id_of(self, user: str) -> str:
        """Return the id of a user in WeChat."""
        return next(account.user_id for account in self._world.accounts() if account.user == user)

    def pollers(self, user: str) -> tuple[int, int]:
        """Return how many poll for a user's bot now, and at most did at the same time."""
        account = next(account for account in self._world.accounts() if account.user == user)
        return account.pollers, account.most_pollers


class Line:
    """A line between a client and the sandbox on which a call can be answered by a test: `instead[path]`.

    What is returned there is sent in place of the sandbox's answer, None lets the call pass; to return b"" is to hang
    up. The sandbox takes the line's address for its own.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._upstream = Upstream(self._handle)
        self._passing: set[http.client.HTTPConnection] = set()
        self.instead: dict[str, Callable[[Request], bytes | None]] = {}

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self._upstream.address)

    def calls(self, name: str) -> list[Request]:
        """Return the requests of the call `name`, such as getupdates."""
        return [request for request in list(self._upstream.requests) if _call_of(request) == name]

    def bodies(self, name: str) -> list[dict[str, Any]]:
        """Return what the requests of the call `name` said."""
        return [json.loads(request.body) for request in self.calls(name)]

    def __enter__(self) -> Self:
        self._upstream.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, ex: BaseException | None, trace: TracebackType | None) -> None:
        for upstream in list(self._passing):  # held calls too
            if upstream.sock:
                upstream.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):  # hung up already
            self._upstream.__exit__(kind, ex, trace)

    def _handle(self, connection: Connection) -> None:
        while (request := connection.request()) is not None:
            instead = self.instead.get(_call_of(request))
            answer = instead(request) if instead else None
            if answer is None:
                answer = self.pass_on(request)
            if not answer:
                return
            connection.send(answer)

    def pass_on(self, request: Request) -> bytes:
        """Return the sandbox's answer."""
        method, target, _ = request.line.split(" ")
        upstream = http.client.HTTPConnection(self._target.netloc, timeout=20)
        self._passing.add(upstream)
        try:
            upstream.request(method, target, request.body, dict(request.headers))
            answer = upstream.getresponse()
            return reply(answer.read(), status=f"{answer.status} {answer.reason}")
        finally:
            self._passing.discard(upstream)
            upstream.close()

    def hang_up(self) -> None:
        """Be out of order from now on: nobody can connect."""
        self.__exit__(None, None, None)


def _call_of(request: Request) -> str:
    return urlsplit(request.line.split(" ")[1]).path.rpartition("/")[2]


class Receiver:
    """A receiver of reports; it answers `status`."""

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.got: list[dict[str, Any]] = []
        self.queries: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.queries.append(urlsplit(self.path).query)
                    receiver.got.append(json.loads(body))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/reports"

    @property
    def port(self) -> int:
        return self._server.server_port

    def events(self) -> list[tuple[Any, ...]]:
        """Return name and parameters of each event, of messages their post_type and content."""
        return [named(report) for report in list(self.got)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, ex: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def named(report: dict[str, Any]) -> tuple[Any, ...]:
    """Shorten a report to what tells it from others."""
    if report["post_type"] != "event":
        return (report["post_type"], report["content"])
    if report["event"] == "input_qrcode":
        return ("input_qrcode",)
    if report["event"] == "new_friend":
        return ("new_friend", report["params"][0]["name"])
    return (report["event"], *report["params"])
