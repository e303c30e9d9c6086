"""A running wxsup in a folder of its own, as an operator would start it, with handles for what people do to it."""

from __future__ import annotations

import re
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from tests.deadline import eventually
from tests.ports import free_port
from wxsup.client.drivers.ilink.login import draw

SCRIPTS = Path(sysconfig.get_path("scripts"))
UP_TIMEOUT = 40.0


class Calls:
    """A running controller and its sandbox, called as applications and people with a phone do."""

    def __init__(self, port: int, sandbox_port: int, network: Callable[[], AbstractContextManager[None]]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.sandbox_url = f"http://127.0.0.1:{sandbox_port}"
        self._network = network  # where these addresses are
        self._session = requests.Session()
        self._session.trust_env = False
        self.token = ""  # shown to the controller with every call

    def close(self) -> None:
        """Close the kept connections: after a restart they are those of an earlier controller."""
        self._session.close()

    def call(self, api: str, params: Mapping[str, str] | None = None, *, method: str = "GET") -> requests.Response:
        """Call an API of the controller."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with self._network():
            return self._session.request(method, f"{self.url}/openwx/{api}", params=params, headers=headers, timeout=60)

    def json(self, api: str, **params: str) -> Any:
        """Call an API of the controller and return the JSON that it answers."""
        return self.call(api, params).json()

    def state(self, client: str) -> dict[str, Any]:
        """Return what check_client says of one client."""
        (entry,) = self.json("check_client", client=client)["client"]
        assert isinstance(entry, dict)
        return entry

    def until(self, client: str, state: str, *, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until the client is in `state`."""
        eventually(lambda: self.state(client)["state"] == state, timeout=timeout, what=f"{client} is {state}")
        return self.state(client)

    def phone(self, action: str, **fields: object) -> dict[str, Any]:
        """Do something in the sandbox, as the person with the phone."""
        with self._network():
            answer = self._session.post(f"{self.sandbox_url}/sandbox/{action}", json=fields, timeout=30)
        assert answer.ok, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def look(self, what: str, **params: str) -> dict[str, Any]:
        """Look at the sandbox."""
        with self._network():
            answer = self._session.get(f"{self.sandbox_url}/sandbox/{what}", params=params, timeout=60)
        assert answer.ok, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def code_on(self, picture: bytes) -> str:
        """Return the key of the waiting code that `picture` shows, as a phone that scans it would find it."""
        codes = self.look("codes")["codes"]
        return next(str(code["key"]) for code in codes if draw(code["url"]) == picture)

    def log_in(self, client: str, user: str) -> dict[str, Any]:
        """Scan and confirm the code of a client as `user`, and wait until it is running."""
        self.until(client, "scaning")
        key = self.code_on(self.call("get_qrcode", {"client": client}).content)
        self.phone("scan", key=key, user=user)
        self.until(client, "confirming")
        self.phone("confirm", key=key)
        return self.until(client, "running")


class Installation(Calls):
    """`wxsup up --sandbox` on `folder` with free ports; `settings` are given as flags."""

    def __init__(self, folder: Path, *, sandbox: bool = True, **settings: object) -> None:
        self.folder = folder
        self.port, self.sandbox_port = free_port(), free_port()
        super().__init__(self.port, self.sandbox_port, nullcontext)
        flags = {
            "listen": f"127.0.0.1:{self.port}",
            "sandbox_listen": f"127.0.0.1:{self.sandbox_port}",
            "backend_start_port": free_port(),
            "check_interval": 1,
            **settings,
        }
        self.command = [str(SCRIPTS / "wxsup"), "up", *(["--sandbox"] if sandbox else [])]
        self.flags = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        self.output = folder / "up.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self.close()

    @property
    def pid(self) -> int:
        """The process number of `wxsup up`."""
        assert self._process is not None
        return self._process.pid

    def up(self) -> None:
        """Start it and wait until it says what to do next."""
        self.close()
        with open(self.output, "wb") as output:
            self._process = subprocess.Popen(
                [*self.command, *self.flags], cwd=self.folder, stdout=output, stderr=subprocess.STDOUT
            )
        eventually(self._is_up, timeout=UP_TIMEOUT, what="wxsup up")

    def down(self, number: int = signal.SIGINT) -> int:
        """End it as Ctrl-C does and return its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        status = self._process.wait(60)
        self._process = None
        return status

    def wxsup(self, *words: str) -> str:
        """Run wxsup beside it, as an operator would, and return what it prints; it must succeed."""
        done = subprocess.run(
            [SCRIPTS / "wxsup", *words], cwd=self.folder, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done
        return done.stdout

    def supervisorctl(self, *words: str) -> str:
        """Run supervisorctl as an operator would and return what it prints."""
        config = self.folder / "var" / "supervisord.conf"
        done = subprocess.run(
            [SCRIPTS / "supervisorctl", "-c", config, *words], capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout + done.stderr

    def _is_up(self) -> bool:
        assert self._process is not None
        said = self.output.read_text()
        assert self._process.poll() is None, f"wxsup up ended:\n{said}"
        return "Next:" in said


class Receiver:
    """A post_api receiver that keeps what it is sent."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any]]] = []
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                import json

                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.append((self.path, json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the terminal quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/post_message"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def messages(self, path: str) -> list[dict[str, Any]]:
        """Return the received messages that were posted to `path`."""
        return [body for where, body in list(self.posts) if where == path and body["post_type"] == "receive_message"]


def alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wake_ups(pid: int) -> int:
    """Return how often a thread of a process has gone to sleep by itself, and so was woken before (proc(5), status)."""
    found = re.findall(r"\nvoluntary_ctxt_switches:\s+(\d+)", "".join(_of_threads(pid, "status")))
    return sum(map(int, found))


def asleep(pid: int) -> bool:
    """Tell whether all threads of a process sleep."""
    return all(text.rpartition(")")[2].split()[0] == "S" for text in _of_threads(pid, "stat"))


def _of_threads(pid: int, file: str) -> list[str]:
    return [(thread / file).read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]


def title(pid: int) -> str:
    """Return the title of a process as ps(1) shows it."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def connected(port: int) -> int:
    """Count the connections that are open to `port` (proc(5), /proc/net/tcp: 01 is ESTABLISHED)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines)
