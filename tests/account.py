"""What tests of a client have around it: its options, the people of the sandbox, a receiver of reports, a bad line.

Also its parts that can fail on demand: a store, and a driver that only remembers.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import zxingcpp
from PIL import Image

from tests.deadline import eventually
from tests.unit.upstream import Connection, Request, Upstream, reply
from wxsup import values
from wxsup.client.drivers import Driver
from wxsup.client.letters import Part
from wxsup.client.media import Sink
from wxsup.client.store import Store
from wxsup.client.store.outbox import Report
from wxsup.errors import ContentRejected, NotLoggedIn, ObjectNotFound, QuotaUsed
from wxsup.model import Exit
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

    def do(self, action: str, **fields: object) -> dict[str, Any]:
        """Make a call of the sandbox, as docs/reference/sandbox.md has them."""
        answer = requests.post(f"{self.sandbox.url}/sandbox/{action}", json=fields, timeout=20)
        assert answer.ok, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def look(self, what: str, **parameters: str) -> dict[str, Any]:
        """Look at the sandbox, as docs/reference/sandbox.md has it."""
        answer = requests.get(f"{self.sandbox.url}/sandbox/{what}", parameters, timeout=20)
        assert answer.ok, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def sent_by_clients(self, call: str) -> list[dict[str, Any]]:
        """Return the requests of a call that have come in."""
        found: list[dict[str, Any]] = self.look("requests", call=call)["requests"]
        return found

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


@dataclass(frozen=True)
class Post:
    """A POST as a receiver got it, whatever it answered."""

    headers: Message
    content: bytes
    report: dict[str, Any]
    at: float  # time.monotonic


class Receiver:
    """A receiver of reports; it answers `status`, or what `answer` says: another status, or a JSON text."""

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.answer: Callable[[dict[str, Any]], int | str] = lambda report: self.status
        self.content_type = "application/json"
        self.got: list[dict[str, Any]] = []
        self.queries: list[str] = []
        self.posts: list[Post] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                report = json.loads(content)
                receiver.posts.append(Post(self.headers, content, report, time.monotonic()))
                said = receiver.answer(report)
                status, body = (said, "") if isinstance(said, int) else (200, said)
                if status == 200:
                    receiver.queries.append(urlsplit(self.path).query)
                    receiver.got.append(report)
                self.send_response(status)
                self.send_header("Content-Type", receiver.content_type)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # a client that was killed
                    super().handle()

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

    def contents(self, kind: str = "receive_message") -> list[str]:
        """Return what the messages of that post_type said."""
        return [report["content"] for report in list(self.got) if report["post_type"] == kind]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, ex: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class FragileStore(Store):
    """A store that cannot be read or written while `broken` says "read" or "write"."""

    broken = ""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        inner, read = self.database.transaction, self.outbox.next_to_post

        @contextlib.contextmanager
        def transaction() -> Iterator[None]:
            if self.broken == "write" and not self.in_transaction:
                raise sqlite3.OperationalError("database or disk is full")
            with inner():
                yield

        def next_to_post(blocked: Container[str] = ()) -> Report | None:
            if self.broken == "read":
                raise sqlite3.OperationalError("disk I/O error")
            return read(blocked)

        self.database.transaction = transaction  # type: ignore[method-assign]
        self.outbox.next_to_post = next_to_post  # type: ignore[method-assign]


def _friend(id_: str, uid: int, name: str, displayname: str, markname: str) -> dict[str, Any]:
    known = {"name": name, "displayname": displayname, "markname": markname, "category": "好友"}
    return {"id": id_, "uid": uid, "account": id_, **known}


OWNER = _friend("o1@im.wechat", 1, "owner", "owner", "")
ANNE = _friend("a1@im.wechat", 2, "Anne", "Änne 安妮", "安妮")


class Remembering(Driver):
    """A driver of an account with two friends, that remembers what it was told to do; a part has 20 characters.

    `sending(friend_id, text)` is called in the middle of a send, and raises what goes wrong.
    """

    name = "remembering"
    capabilities = ("text",)

    def __init__(self) -> None:
        self.logged_in = True
        self.tried: list[tuple[str, str, str]] = []  # friend, text, client_id
        self.sent: list[tuple[str, str]] = []
        self.claims = {OWNER["id"]: 0, ANNE["id"]: 0}
        self.quota = 100
        self.digits: list[str] = []
        self.marknames: list[tuple[str, str]] = []
        self.typing: list[tuple[str, bool]] = []
        self.relogins = 0
        self.sending: Callable[[str, str], object] = lambda friend_id, text: None
        self.preparing: Callable[[Part, float], object] = lambda part, deadline: None
        self.most_at_once = 0
        self._at_once = 0

    def run(self) -> Exit:
        return Exit.STOPPED

    def stop(self) -> None: ...

    def hang_up(self) -> None: ...

    def user(self) -> dict[str, Any]:
        if not self.logged_in:
            raise NotLoggedIn(state="scaning")
        names = {name: "bot" for name in ("account", "name", "displayname", "markname")}
        return {"id": "b1@im.bot", "uid": 3, "category": "", **names}

    def friends(self) -> list[dict[str, Any]]:
        return [OWNER, ANNE]

    def parts(self, content: str) -> list[str]:
        if not content:
            raise ContentRejected("the content is empty")
        return [content[begin : begin + 20] for begin in range(0, len(content), 20)]

    def admit(self, friend_id: str, count: int) -> None:
        self.user()
        if friend_id not in self.claims:
            raise ObjectNotFound(id=None)
        if self.claims[friend_id] + count > self.quota:
            raise QuotaUsed(sends_left=self.quota - self.claims[friend_id], parts=count, retryable=False)

    def claim(self, friend_id: str, count: int) -> None:
        self.admit(friend_id, count)
        self.claims[friend_id] += 1

    def give_back(self, friend_id: str) -> None:
        self.claims[friend_id] -= 1

    def fetch(self, source: Mapping[str, Any], sink: Sink) -> None:
        sink(str(source["content"]).encode())

    def set_markname(self, friend_id: str, name: str) -> None:
        self.marknames.append((friend_id, name))

    def send_typing(self, friend_id: str, typing: bool) -> None:
        self.typing.append((friend_id, typing))

    def prepare(self, friend_id: str, part: Part, deadline: float) -> None:
        self.preparing(part, deadline)

    def send_part(self, friend_id: str, part: Part, client_id: str) -> dict[str, Any]:
        text = part.media.name if part.media else part.text
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self.tried.append((friend_id, text, client_id))
            self.sending(friend_id, text)
            self.sent.append((friend_id, text))
            id_ = f"m{len(self.sent)}"
            return {"id": id_, "msg_id": id_, "client_id": client_id}
        finally:
            self._at_once -= 1

    def submit_verify_code(self, code: str) -> None:
        if code == "unwanted":
            raise NotLoggedIn("no digits are wanted")
        self.digits.append(code)

    def relogin(self) -> None:
        self.relogins += 1

    def sent_to(self, friend: dict[str, Any]) -> list[str]:
        """Return what went out to a friend, in its order."""
        return [text for friend_id, text in list(self.sent) if friend_id == friend["id"]]


def texts(driver: Driver, content: str) -> list[Part]:
    """Return a text as it is sent."""
    return [Part(text) for text in driver.parts(content)]


def named(report: dict[str, Any]) -> tuple[Any, ...]:
    """Shorten a report to what tells it from others."""
    if report["post_type"] != "event":
        return (report["post_type"], report["content"])
    if report["event"] == "input_qrcode":
        return ("input_qrcode",)
    if report["event"] == "new_friend":
        return ("new_friend", report["params"][0]["name"])
    return (report["event"], *report["params"])
