"""What a running client costs, beside programs that do less, as JSON: python -m bench.client [CLIENTS [SECONDS]]."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench import processes, skeletons, tls
from bench.processes import Starter
from bench.skeletons import Skeleton
from tests.account import People
from tests.deadline import eventually
from tests.installation import SCRIPTS, wake_ups
from wxsup import environment, names, record, values
from wxsup.model import Client
from wxsup.sandbox.app import Sandbox
from wxsup.settings import Settings

HOLD = 25.0
#: Below those that the kernel gives to outgoing calls (ip(7), ip_local_port_range), of which there are many here.
FIRST_PORT = 20_000
SECRET = "a-secret-of-the-bench"
Figures = dict[str, float]


def _free_ports() -> Iterator[int]:
    for port in itertools.count(FIRST_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                yield port


_ports = _free_ports()


@dataclass
class Running:
    """A process, and the CPU seconds that it took to be ready."""

    process: subprocess.Popen[bytes]
    cpu: float


class Account:
    """A client with its record on disk."""

    def __init__(self, folder: Path, name: str, base: str) -> None:
        self.name, self.port = name, next(_ports)
        given = {"state_dir": str(folder), "ilink_base": base, "ilink_allow_hosts": "127.0.0.1"}
        settings = values.read(Settings, given)
        client = Client(name=name, slug=name, port=self.port, driver="ilink", params={"send_interval": "0"})
        client = Client(**{**vars(client), "environment": environment.environment(client, settings)})
        path = folder / f"{names.program(name)}.env"
        path.write_text(record.dumps(client), encoding="utf-8")
        (folder / "secret").write_text(SECRET)
        self._state = environment.path_of(client, "state_path")
        self.command = [str(SCRIPTS / "wxclient"), name, "--record", str(path), "--secret", str(folder / "secret")]

    def running(self) -> bool:
        """Tell whether it is logged in."""
        return json.loads(self._state.read_text(encoding="utf-8"))["state"] == "running"

    def use(self, people: People) -> None:
        """Do once what every client does in its life: take a message in, send one, prove who it is to a controller."""
        people.say(self.name, "hello")
        friend = people.id_of(self.name)
        eventually(lambda: self._ask("check_event") != b"[]", what="the message")
        self._ask("send_friend_message", id=friend, content="hello")
        self._ask("get_client_info")
        eventually(lambda: people.pollers(self.name)[0] == 1, what="a held poll")

    def _ask(self, call: str, **parameters: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        try:
            connection.request("OPTIONS", "*", headers={names.CHALLENGE_HEADER: "1"})
            connection.getresponse().read()
            headers = {names.SECRET_HEADER: SECRET}
            connection.request("GET", f"/openwx/{call}?{urlencode(parameters)}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            return body
        finally:
            connection.close()


class Fleet:
    """Clients of one sandbox that run at the same time."""

    def __init__(self, folder: Path, starter: Starter, count: int, base: str, trust: Mapping[str, str]) -> None:
        folder.mkdir()
        self._starter, self._trust = starter, trust
        self._accounts = [Account(folder, f"{folder.name}{number}", base) for number in range(count)]
        self._running: list[Running] = []

    def start(self, people: People, *, scanned: bool) -> None:
        """Start all, scan where they show a code, and use each of them once."""
        for account in self._accounts:
            before = len(people.codes())
            self._running.append(Running(*self._starter.start(account.command, self._trust)))
            if scanned:
                people.login(account.name, before)
            eventually(account.running, what=f"{account.name} is running")
        for account in self._accounts:
            account.use(people)

    def look(self, seconds: float) -> Figures:
        """Return what they cost, and what they go on to cost while nothing happens but that polls are renewed."""
        pids = [running.process.pid for running in self._running]
        mib = [processes.private_mib(pid) for pid in pids]
        cpu, woken = _sum(processes.cpu_seconds, pids), _sum(wake_ups, pids)
        time.sleep(seconds)
        cpu, woken = _sum(processes.cpu_seconds, pids) - cpu, _sum(wake_ups, pids) - woken
        return {
            "private_mib": statistics.median(mib),
            "cpu_seconds_to_port": statistics.median(running.cpu for running in self._running),
            "idle_cpu_percent_of_a_core_for_100": cpu / seconds / len(pids) * 100 * 100,
            "wake_ups_per_minute": woken / seconds / len(pids) * 60,
        }

    def stop(self) -> None:
        """End them."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.process.wait(20)
        self._running.clear()


def _sum(count: Any, pids: list[int]) -> Any:
    return sum(map(count, pids))


def skeleton(found: Skeleton, starter: Starter, count: int, python: str = sys.executable) -> Figures:
    """Return what so many processes of a skeleton cost, each."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ExitStack() as ends:
        running = []
        for _ in range(count):
            running.append(Running(*starter.start([python, "-c", found.text(silent.getsockname()[1])], {})))
            ends.callback(running[-1].process.wait)
            ends.callback(running[-1].process.kill)
        pids = [each.process.pid for each in running]
        eventually(lambda: _settled(pids), what="a rest")
        return {
            "private_mib": statistics.median(map(processes.private_mib, pids)),
            "cpu_seconds_to_port": statistics.median(each.cpu for each in running),
        }


def _settled(pids: list[int]) -> bool:
    before = _sum(processes.cpu_seconds, pids)
    time.sleep(0.3)
    return bool(_sum(processes.cpu_seconds, pids) - before < 0.003 * len(pids))


def ratios(figures: Mapping[str, Figures], reference: Figures) -> dict[str, Figures]:
    """Return the figures as multiples of the reference's."""
    return {
        kind: {name: round(value / reference[name], 2) for name, value in found.items() if name in reference}
        for kind, found in figures.items()
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2 * HOLD
    references = {
        "python": skeletons.BARE,
        "http.server, sqlite3": skeletons.REFERENCE,
        "http.server, sqlite3, requests": skeletons.WITH_REQUESTS,
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wx", dir="/tmp")))
        starter = stack.enter_context(Starter(folder))
        sandbox = stack.enter_context(Sandbox(hold=HOLD))
        people = People(sandbox)
        figures = {name: skeleton(found, starter, count) for name, found in references.items()}
        https, bundle = stack.enter_context(tls.front(sandbox.url, folder))
        for scheme, base in (("http", sandbox.url), ("https", https)):
            fleet = Fleet(folder / scheme, starter, count, base, {"SSL_CERT_FILE": str(bundle)})
            stack.callback(fleet.stop)
            for how, scanned in (("scanned", True), ("restarted", False)):
                fleet.start(people, scanned=scanned)
                figures[f"wxclient, {scheme}, {how}"] = fleet.look(seconds)
                fleet.stop()
        rounded = {kind: {name: round(value, 3) for name, value in found.items()} for kind, found in figures.items()}
        reference = figures["http.server, sqlite3"]
        print(json.dumps({"clients": count, "figures": rounded, "ratios": ratios(figures, reference)}, indent=2))


if __name__ == "__main__":
    main()
