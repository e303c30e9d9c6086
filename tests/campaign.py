"""A campaign: messages in both directions while client, receiver, controller and sandbox are killed or misbehave.

What happens is drawn from a seed, what comes of it is checked against what people and callers were told: nothing
missing, nothing twice but with the same id, the order of each conversation kept, one poller per account.

    python -m tests.campaign --seconds 600 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import json
import operator
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from tests.deadline import eventually
from tests.installation import Installation
from tests.ports import free_port
from wxsup import names
from wxsup.errors import NotSent

ACCOUNTS = ("alice", "bob", "客服 一号")
DRAIN = 150.0  # pauses between tries grow up to a minute
NOT_TOLD = "the answer never came"
REVIVAL = 660.0  # a client that finds its token dead again within ten minutes takes the login for lost

HTML = "<html>A timeout occurred</html>"
Misbehaviours = dict[str, dict[str, object]]

DEAD: Misbehaviours = {"dead": {"answer": {"errcode": -14, "errmsg": "session timeout"}}}

#: How the sandbox misbehaves, as /sandbox/misbehave has it.
ANY_CALL: Misbehaviours = {
    "gateway": {"status": 524, "body": HTML},
    "gateway after its effect": {"status": 524, "body": HTML, "effect": True},
    "hang up": {"close": "before"},
    "hang up after its effect": {"close": "before", "effect": True},
    "cut off": {"close": "middle"},
    "cut off after its effect": {"close": "middle", "effect": True},
    "late": {"hold": 1.5},
    "in drips": {"drip": 0.001},
}
POLLS: Misbehaviours = {**ANY_CALL, "nothing new": {"answer": {}}, "busy": {"answer": {"ret": -1, "errmsg": "busy"}}}
SENDS: Misbehaviours = {
    **ANY_CALL,
    **DEAD,
    "limited": {"answer": {"ret": -2, "errmsg": "rate limited"}},
    "without an id": {"change": {"message_id": None}},
}


class Receiver:
    """A receiver of reports that takes, refuses, forgets, redirects or hangs, as `mode` says, or is not there."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mode = "take"
        self.got: list[tuple[str, str, dict[str, Any]]] = []  # client, X-Event-Id, report
        self._server: _Server | None = None
        self._woken = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/reports"

    def up(self) -> None:
        self._woken.clear()
        self._server = _Server(("127.0.0.1", self.port), self._handler())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self) -> None:
        """Be gone at once, with every connection broken in the middle of whatever it was."""
        if self._server:
            self._woken.set()
            self._server.shutdown()
            self._server.server_close()
            self._server.break_connections()
            self._server = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one piece; two would cost a delayed acknowledgement

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                mode = receiver.mode
                if mode in ("take", "forget"):
                    (client,) = parse_qs(urlsplit(self.path).query)["client"]
                    receiver.got.append((client, self.headers["X-Event-Id"], json.loads(body)))
                if mode == "hang":
                    receiver._woken.wait(3)
                if mode in ("forget", "hang"):
                    self.close_connection = True
                    return
                self._answer(mode, json.loads(body))

            def _answer(self, mode: str, report: dict[str, Any]) -> None:
                content = str(report.get("content", ""))
                wants = mode == "take" and report["post_type"] == "receive_message" and "echo" in content
                answer = json.dumps({"reply": f"{content} back"} if wants else {}).encode()
                self.send_response({"take": 200, "refuse": 500, "redirect": 302}[mode])
                self.send_header("Location", f"{receiver.url}/elsewhere")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep quiet."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""


@dataclass
class Told:
    """What the caller of a send was told: `sent`, `not sent`, `unknown`, or `promised` with a client_id."""

    outcome: str
    client_id: str = ""


@dataclass
class Campaign:
    """One campaign on a running installation."""

    wx: Installation
    receiver: Receiver
    seconds: float
    seed: int
    told: dict[str, dict[str, Told]] = field(default_factory=lambda: {name: {} for name in ACCOUNTS})
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    most_pollers: int = 0
    misbehaved: collections.Counter[str] = field(default_factory=collections.Counter)
    died: dict[str, float] = field(default_factory=dict)  # when each account's token was said to be dead
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Log everybody in, let them talk while things break, mend everything, wait, and check."""
        self._log_in()
        stop = threading.Event()
        talkers = [
            threading.Thread(target=self._guarded, args=(act, name, random.Random(f"{self.seed} {name}"), stop))
            for name in ACCOUNTS
            for act in (self._be_the_user, self._be_the_program)
        ]
        breakers = [
            threading.Thread(target=self._guarded, args=(self._break, random.Random(f"{self.seed} {ways}"), ways, stop))
            for ways in ("_fault_", "_lapse_")
        ]
        for thread in (*talkers, *breakers):
            thread.start()
        stop.wait(self.seconds)
        stop.set()
        for thread in (*talkers, *breakers):
            thread.join()
        self._mend()
        self._check()

    def _guarded(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as ex:
            self.problems.append(f"{act.__name__} {arguments[0]!r}: {ex!r}")
            raise

    def _log_in(self) -> None:
        for name in ACCOUNTS:
            self.wx.json("start_client", client=name, send_interval="0", log_level="debug")
            self.wx.log_in(name, name)
            self.wx.phone("say", user=name, text="the first")
        eventually(lambda: len(self._received(ACCOUNTS[-1])) == 1, what="the first messages")

    # People and callers

    def _be_the_user(self, name: str, dice: random.Random, stop: threading.Event) -> None:
        with requests.Session() as session:
            for number in itertools.count(1):
                self._say(session, name, f"{dice.choice(('say', 'say', 'say', 'echo'))} {_text(number, dice)}")
                if stop.wait(dice.random() * 0.05):
                    return

    def _be_the_program(self, name: str, dice: random.Random, stop: threading.Event) -> None:
        with requests.Session() as session:
            for number in itertools.count(1):
                text, kind = _text(number, dice), dice.choice(("async", "async", "send"))
                self.told[name][text] = self._send(session, name, text, kind)
                if stop.wait(dice.random() * 0.05):
                    return

    def _say(self, session: requests.Session, name: str, text: str) -> None:
        # What the phone shows in the end is what was said; an answer that gets lost says nothing.
        with suppress(requests.RequestException):
            session.post(f"{self.wx.sandbox_url}/sandbox/say", json={"user": name, "text": text}, timeout=20)

    def _send(self, session: requests.Session, name: str, text: str, kind: str) -> Told:
        parameters = {
            "client": name,
            "displayname": "owner",
            "content": text,
            **({"async": "1"} if kind == "async" else {}),
        }
        try:
            answer = session.get(f"{self.wx.url}/openwx/send_friend_message", params=parameters, timeout=150)
            said = answer.json()
        except (requests.RequestException, ValueError):
            return Told("unknown")
        if said["code"] == 0:
            return Told("promised" if kind == "async" else "sent", said["client_id"])
        if said["code"] == -28:
            return Told("unknown")
        if said["status"] == NotSent.status or said["code"] in (-21, -22, -23, -25, -26):
            return Told("not sent")
        if said["code"] == 9:  # the client died over it, or had died before
            return Told("unknown")
        raise AssertionError(f"a send was answered with {said}")

    # What goes wrong: faults of processes, and at the same time lapses of the server

    def _break(self, dice: random.Random, prefix: str, stop: threading.Event) -> None:
        ways = [getattr(self, name) for name in sorted(dir(self)) if name.startswith(prefix)]
        while not stop.is_set():
            way = dice.choice(ways)
            way(dice, stop)
            self.faults[way.__name__.removeprefix(prefix)] += 1
            self._count_pollers()
            stop.wait(dice.uniform(0.1, 1.0))

    def _fault_client_killed(self, dice: random.Random, stop: threading.Event) -> None:
        with suppress(requests.RequestException):  # a worker may outlive the controller that was killed for a moment
            _kill(self.wx.state(dice.choice(ACCOUNTS)).get("pid"))

    def _fault_client_restarted(self, dice: random.Random, stop: threading.Event) -> None:
        self.wx.supervisorctl("restart", names.program(names.slug(dice.choice(ACCOUNTS))))

    def _fault_sandbox_killed(self, dice: random.Random, stop: threading.Event) -> None:
        self._count_pollers()
        _kill(int(self.wx.supervisorctl("pid", "wxsandbox")))

    def _fault_controller_killed(self, dice: random.Random, stop: threading.Event) -> None:
        if dice.random() < 0.3:
            _kill(int(self.wx.supervisorctl("pid", "wxcontroller")))
            eventually(self._controller_answers, what="the controller")

    def _fault_receiver_killed(self, dice: random.Random, stop: threading.Event) -> None:
        self.receiver.kill()
        stop.wait(dice.uniform(0.0, 2.0))
        self.receiver.up()

    def _fault_receiver_misbehaves(self, dice: random.Random, stop: threading.Event) -> None:
        self.receiver.mode = dice.choice(("refuse", "forget", "redirect", "hang"))
        stop.wait(dice.uniform(0.0, 2.0))
        self.receiver.mode = "take"

    def _lapse_in_polls(self, dice: random.Random, stop: threading.Event) -> None:
        self._misbehave("getupdates", dice.choice(ACCOUNTS), dice.choice(sorted(POLLS)), POLLS, dice.choice((1, 1, 2)))

    def _lapse_in_sends(self, dice: random.Random, stop: threading.Event) -> None:
        self._misbehave("sendmessage", dice.choice(ACCOUNTS), dice.choice(sorted(SENDS)), SENDS, dice.choice((1, 1, 2)))

    def _lapse_dead_token(self, dice: random.Random, stop: threading.Event) -> None:
        name, now = dice.choice(ACCOUNTS), time.monotonic()
        if now - self.died.get(name, -REVIVAL) >= REVIVAL:
            self.died[name] = now
            self._misbehave("getupdates", name, "dead", DEAD, 1)

    def _lapse_repetition(self, dice: random.Random, stop: threading.Event) -> None:
        name = dice.choice(ACCOUNTS)
        with suppress(requests.RequestException):  # the sandbox may be dead just now
            for message in dice.choices(self._said(name), k=5):
                self.wx.phone("say_again", user=name, n=message["n"])

    def _misbehave(self, call: str, name: str, kind: str, kinds: Misbehaviours, times: int) -> None:
        with suppress(requests.RequestException):  # the sandbox may be dead just now
            self.wx.phone("misbehave", call=call, user=name, times=times, **kinds[kind])
            self.misbehaved[f"{call} {kind}"] += 1

    # The end

    def _mend(self) -> None:
        self.receiver.mode = "take"
        eventually(self._controller_answers, what="the controller")
        eventually(self._sandbox_answers, what="the sandbox")
        self.wx.phone("behave")
        for name in ACCOUNTS:
            self.wx.until(name, "running", timeout=DRAIN)
            try:
                eventually(functools.partial(self._waiting, name), holds=operator.not_, timeout=DRAIN)
            except AssertionError as ex:
                self.problems.append(f"{name}: {ex}")

    def _waiting(self, name: str) -> dict[str, Any]:
        """Return what is still on its way."""
        info: dict[str, Any] = self.wx.json("get_client_info", client=name)
        if info["code"] != 0:
            return info
        missing = {str(message["message_id"]) for message in self._said(name)} - set(self._received(name))
        counts = {"inbox": info["inbox_pending"], "sends": info["sends_pending"], "said": len(missing)}
        return {kind: count for kind, count in counts.items() if count}

    def _check(self) -> None:
        for name in ACCOUNTS:
            self._check_inbound(name)
            self._check_outbound(name)
        if self.most_pollers > 1:
            self.problems.append(f"{self.most_pollers} polled for one account at the same time")

    def _check_inbound(self, name: str) -> None:
        said, received = [str(message["message_id"]) for message in self._said(name)], self._received(name)
        if list(dict.fromkeys(received)) != said:
            self.problems.append(f"{name}: received is not what was said: {_difference(said, received)}")
        ids = collections.defaultdict(set)
        for client, event_id, report in self.receiver.got:
            if client == name:
                ids[report["post_type"], report.get("id", event_id)].add(event_id)
                if report["event_id"] != event_id:
                    self.problems.append(f"{name}: {event_id} says that it is {report['event_id']}")
        if any(len(found) > 1 for found in ids.values()):
            self.problems.append(f"{name}: one message was reported under two ids")

    def _check_outbound(self, name: str) -> None:
        shown = [m["text"] for m in self.wx.look("chat", user=name)["messages"] if m["direction"] == "to_user"]
        count = collections.Counter(shown)
        reports = {
            report["uid"]: report
            for client, _, report in self.receiver.got
            if client == name and report["post_type"] == "send_message"
        }
        for text, told in self.told[name].items():
            outcome = told.outcome
            if outcome == "promised":
                outcome = _of_report(reports.get(told.client_id))
            least, most = {"sent": (1, 1), "not sent": (0, 0), "unknown": (0, 1)}.get(outcome, (1, 0))
            if not least <= count[text] <= most:
                self.problems.append(f"{name}: {text[:12]!r} {told.outcome}, {outcome}, came {count[text]} times")
        own = [text for text in shown if text in self.told[name]]
        if own != sorted(own):
            self.problems.append(f"{name}: what was sent came in another order")
        self._check_echoes(name, shown, reports)

    def _check_echoes(self, name: str, shown: list[str], reports: dict[str, dict[str, Any]]) -> None:
        """Each echo was answered once, or a report says why not."""
        excused = collections.Counter(report["content"] for report in reports.values() if report["code"] != "")
        for message in self._said(name):
            if message["text"].startswith("echo"):
                answer = f"{message['text']} back"
                if shown.count(answer) > 1 or shown.count(answer) + excused[answer] == 0:
                    self.problems.append(f"{name}: {message['text'][:12]!r} was answered {shown.count(answer)} times")

    # What there is to see

    def _received(self, name: str) -> list[str]:
        return [
            report["id"]
            for client, _, report in list(self.receiver.got)
            if client == name and report["post_type"] == "receive_message"
        ]

    def _said(self, name: str) -> list[dict[str, Any]]:
        return [message for message in self.wx.look("chat", user=name)["messages"] if message["direction"] == "to_bot"]

    def _count_pollers(self) -> None:
        with suppress(requests.RequestException, AssertionError):
            self.most_pollers = max(
                [self.most_pollers, *(account["most_pollers"] for account in self.wx.look("accounts")["accounts"])]
            )

    def _controller_answers(self) -> bool:
        try:
            return self.wx.call("check_client").ok
        except requests.RequestException:
            return False

    def _sandbox_answers(self) -> bool:
        try:
            return "accounts" in self.wx.look("accounts")
        except requests.RequestException:
            return False

    def figures(self) -> dict[str, Any]:
        """Return what happened, in numbers."""
        outcomes = collections.Counter(told.outcome for each in self.told.values() for told in each.values())
        distinct = {(client, event_id) for client, event_id, _ in self.receiver.got}
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "received": sum(len(set(self._received(name))) for name in ACCOUNTS),
            "reports": len(distinct),
            "reports that came again": len(self.receiver.got) - len(distinct),
            "sends": dict(outcomes),
            "faults": dict(self.faults),
            "misbehaviours": dict(self.misbehaved),
            "most pollers of one account": self.most_pollers,
            "problems": self.problems,
        }


def _text(number: int, dice: random.Random) -> str:
    return f"{number:06} {dice.choice(('plain', '你好 😀', 'x' * 300))}"


def _of_report(report: dict[str, Any] | None) -> str:
    if report is None:
        return "promised, and no report says what became of it"
    if report["code"] == "":
        return "sent"
    return "unknown" if report["code"] == -28 else "not sent"


def _difference(said: list[str], received: list[str]) -> str:
    missing, invented = set(said) - set(received), set(received) - set(said)
    if missing or invented:
        return f"{len(missing)} missing, {len(invented)} invented"
    return "another order"


def _kill(pid: int | None) -> None:
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def campaign(seconds: float, seed: int, keep: Path | None = None) -> Iterator[Campaign]:
    """Yield a campaign on an installation of its own; its logs and stores are left in the folder `keep`."""
    receiver = Receiver()
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder:
        with Installation(Path(folder), post_api=receiver.url) as wx:
            receiver.up()
            try:
                yield Campaign(wx, receiver, seconds, seed)
            finally:
                receiver.kill()
                if keep:
                    shutil.copytree(folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock*"))


def main() -> None:
    """Run a campaign and print its figures; the exit status is 1 when something was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="folder for logs and stores, to look into afterwards")
    chosen = parser.parse_args()
    with campaign(chosen.seconds, chosen.seed, chosen.keep) as found:
        print(f"seed {chosen.seed}, {chosen.seconds:g} s", flush=True)
        found.run()
        print(json.dumps(found.figures(), ensure_ascii=False, indent=2))
        sys.exit(bool(found.problems))


if __name__ == "__main__":
    main()
