"""A supervisord of our own in the foreground, with the controller, and the sandbox if wanted, as its programs."""

from __future__ import annotations

import json
import os
import pwd
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from wxsup import access, daemon, files, ports, render
from wxsup.addresses import Address
from wxsup.controller import open_controller
from wxsup.deployment import MINFDS
from wxsup.errors import Refusal, SupervisorUnreachable
from wxsup.settings import ENVIRONMENT, REMOTE, Settings
from wxsup.supervisors import supervisord

READY_TIMEOUT = 30.0
READY_POLL = 0.05
GUARDED = (401, 429)  # answers of a controller that wants a token, which we have none of
LEFTOVER_TIMEOUT = 10.0
RUNNING = "up.json"  # the settings that the running instance was given, for commands beside it
LOCK, LOCK_TIMEOUT = "up.lock", 0.5  # a command that looks whether it is held must not keep an instance from starting
SOCKET_PATH_LIMIT = 107  # unix(7), less what supervisord appends while it binds
SOCKET_PATH_SUFFIX = len(".4194304")


class Instance:
    """Everything that `wxsup up` runs on one state folder."""

    def __init__(self, settings: Settings, *, sandbox: bool) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self.config = settings.state_dir / "supervisord.conf"

    def run(self, environment: Mapping[str, str], *, ready: Callable[[Instance], None]) -> None:
        """Run until SIGINT or SIGTERM; call `ready` once everything answers. Raises a WxsupError when it cannot."""
        controller = open_controller(self._settings)
        controller.prepare()
        tokens = access.open_tokens(self._settings)
        tokens.read()  # raises what would else keep everybody out
        access.refuse_exposure(self._settings.listen, tokens)
        with self._alone():
            # Where an earlier supervisord was killed, its programs are just ending.
            patience = LEFTOVER_TIMEOUT if self._check_socket() else 0.0
            for address in (*self._settings.listen, *((self._settings.sandbox_listen,) if self._sandbox else ())):
                _check_free(address, patience)
            controller.refresh(definitions=True)
            files.replace(self.config, self.render())
            inherited = {name: value for name, value in os.environ.items() if name not in REMOTE}
            told = {name: value for name, value in inherited.items() if name.startswith(ENVIRONMENT)}
            files.replace(self._settings.state_dir / RUNNING, json.dumps({**told, **environment}))
            child = subprocess.Popen(
                [daemon.script("supervisord"), "-n", "-c", str(self.config)],
                env={**inherited, **environment},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is ours to pass on, once
                preexec_fn=daemon.set_parent_death_signal,
            )
            stop = daemon.Stop()
            stop.heed_signals()
            if self._wait_ready(child, stop):
                ready(self)
            status = self._watch(child, stop)
            files.remove(self._settings.state_dir / RUNNING)
        if status not in (0, -15):
            raise Refusal(f"supervisord ended with status {status}; see {self._settings.log_dir}/supervisord.log")

    def render(self) -> str:
        """Return the configuration of supervisord."""
        settings = self._settings
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return render.text(
            "supervisor/supervisord.conf.j2",
            socket=settings.supervisord_socket,
            run_dir=settings.run_dir,
            log_dir=settings.log_dir,
            include=settings.supervisord_include,
            directory=Path.cwd(),  # so that relative paths and ./wxsup.toml mean the same to the programs below
            minfds=MINFDS if hard == resource.RLIM_INFINITY else min(MINFDS, hard),
            # Without it a supervisord that runs as root complains at every start.
            user=pwd.getpwuid(0).pw_name if os.geteuid() == 0 else "",
            controller=[daemon.script("wxsup"), "serve"],
            sandbox=[daemon.script("wxsup"), "sandbox"] if self._sandbox else [],
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with files.locked(self._settings.state_dir / LOCK, timeout=LOCK_TIMEOUT):
                yield
        except BlockingIOError as ex:
            raise Refusal(f"another wxsup up runs on {self._settings.state_dir} already") from ex

    def _check_socket(self) -> bool:
        """Refuse a path that is too long or answers; remove a socket that a dead supervisord left, and tell so."""
        path = self._settings.supervisord_socket
        if len(os.fsencode(path)) + SOCKET_PATH_SUFFIX > SOCKET_PATH_LIMIT:
            raise Refusal(f"{path} is too long for a unix socket; choose a shorter state_dir or supervisord_socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except FileNotFoundError:
                return False
            except ConnectionRefusedError:
                if not path.is_socket():
                    raise Refusal(f"{path} is there already and is no socket") from None
                path.unlink()
                return True
        raise Refusal(
            f"a supervisord answers on {path} already; stop it first: kill $(cat {path.parent}/supervisord.pid)"
        )

    def _watch(self, child: subprocess.Popen[bytes], stop: daemon.Stop) -> int:
        """Wait until supervisord has ended, by itself or because of `stop`; return its exit status."""

        def end_with_child() -> None:
            child.wait()
            stop.set()

        threading.Thread(target=end_with_child, daemon=True).start()
        stop.wait()
        if child.poll() is None:
            with suppress(SupervisorUnreachable):
                supervisord.halt(self._settings.supervisord_socket)
            child.terminate()
        return child.wait()

    def _wait_ready(self, child: subprocess.Popen[bytes], stop: daemon.Stop) -> bool:
        """Wait until the controller and the sandbox answer; False when it was told to stop, or ended, meanwhile."""
        urls = [f"{self._settings.listen[0].url}/openwx/check_client"]
        if self._sandbox:
            urls.append(f"{self._settings.sandbox_listen.url}/sandbox/accounts")
        deadline = time.monotonic() + READY_TIMEOUT
        while urls:
            if stop.is_set() or child.poll() is not None:
                return False
            if _answers(urls[0]):
                urls.pop(0)
            elif time.monotonic() > deadline:
                child.terminate()
                child.wait()
                raise Refusal(f"{urls[0]} does not answer; see the logs in {self._settings.log_dir}")
            else:
                stop.wait(READY_POLL)
        return True


def told_to(state_dir: Path) -> dict[str, str]:
    """Return the variables that the instance which runs on `state_dir` was given, none if none runs."""
    path = state_dir / RUNNING
    if not path.exists():
        return {}
    with suppress(BlockingIOError), files.locked(state_dir / LOCK, timeout=0):
        return {}  # left by one that was killed
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
            raise ValueError("it is not an object of strings")
    except (OSError, ValueError) as ex:
        raise Refusal(f"{path}: {ex}") from ex
    return told


def sandbox_settings(settings: Settings) -> dict[str, str]:
    """Return the settings that turn clients towards the sandbox."""
    return {
        "ilink_base": settings.sandbox_listen.url,
        "ilink_cdn": f"{settings.sandbox_listen.url}/c2c",
        "ilink_allow_hosts": settings.sandbox_listen.host,
        "ilink_filehelper": "owner",
    }


def _check_free(address: Address, patience: float) -> None:
    """Refuse an address that somebody listens on, and still does after so many seconds."""
    deadline = time.monotonic() + patience
    while not ports.free(address.port, address.host):
        if time.monotonic() >= deadline:
            raise Refusal(
                f"port {address.port} on {address.host} is taken by another program; "
                "stop that one, or choose another port with --listen or --sandbox-listen"
            )
        time.sleep(READY_POLL)


def _answers(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False
            found = session.get(url, timeout=5)
            return found.ok or found.status_code in GUARDED
    except requests.RequestException:
        return False
