"""Look whether a controller could do its work with these settings; say what is in the way, and what to do about it."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shlex
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import requests

from wxsup import files, names, ports
from wxsup.access import open_tokens, refuse_exposure
from wxsup.addresses import Address
from wxsup.controller import Controller, open_controller
from wxsup.errors import TokensUnreadable, WxsupError
from wxsup.registry import post_key
from wxsup.settings import Settings
from wxsup.tokens import Tokens

DESCRIPTORS = 3  # that supervisord needs for each client
SPARE = 100  # descriptors for the rest of it
LEAP = 60.0  # seconds by which a file may be from the future
ANSWER_TIMEOUT = 5.0
OTHERS = stat.S_IRWXO
_TEMPORARY = re.compile(r"\..+\.(\d+)\.\d+")  # as files.replace() names them


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, what is wrong with it, "" if nothing is, and what to do about that.

    `vital` is what a controller cannot be started without; with the rest it answers, and says what is wrong. A
    `warning` keeps nobody from working.
    """

    what: str
    problem: str = ""
    remedy: str = ""
    vital: bool = False
    warning: bool = False

    @property
    def level(self) -> str:
        """How bad it is: "ok", "warn" or "FAIL"."""
        return "ok" if not self.problem else "warn" if self.warning else "FAIL"


def examine(settings: Settings, *, for_start: bool = False) -> Iterator[Finding]:
    """Yield a finding for everything that a controller and its clients stand on.

    `for_start` leaves out what is not needed for a start and may take its time, or ask whoever listens already.
    """
    controller = open_controller(settings)
    yield _tried(
        f"folders: {settings.state_dir}, {settings.run_dir}",
        controller.prepare,
        "run it as their owner, or choose others with state_dir and run_dir",
        vital=True,
    )
    yield from _rights(settings)
    for record in controller.broken():
        remedy = f"bring it back from a backup, or wxsup remove -- {shlex.quote(names.name(record.slug))}"
        yield Finding(f"record of {record.slug}", record.reason, remedy)
    yield Finding(f"records: {len(controller.clients())} in {settings.backend_path}")
    if path := settings.post_secret_path:
        yield _tried(f"secret of the posts: {path}", lambda: post_key(path), f"openssl rand -hex 32 > {path}")
    tokens = open_tokens(settings)
    yield _tokens(settings, tokens)
    yield _tried(
        f"addresses: {', '.join(map(str, settings.listen))}",
        lambda: _look_at_exposure(settings, tokens),
        "wxsup token add NAME --role admin, or listen on 127.0.0.1 alone",
        vital=True,
    )
    yield _tried(f"supervisor: {settings.supervisor}", controller.ask, _start_supervisor(settings))
    if for_start:
        return
    yield from (_listening(address) for address in settings.listen)
    yield from _client_ports(controller)
    yield _descriptors(settings)
    yield from _leftovers(settings, {client.slug for client in controller.clients()} | _slugs_of_broken(controller))
    yield from _clock(settings)


def _tried(what: str, look: Callable[[], object], remedy: str, *, vital: bool = False) -> Finding:
    try:
        look()
    except (WxsupError, OSError) as ex:
        return Finding(what, str(ex), remedy, vital)
    return Finding(what, vital=vital)


def _rights(settings: Settings) -> Iterator[Finding]:
    """Look at who may get at what: at folders of ours, records and sessions nobody else."""
    ours = [settings.state_dir, settings.backend_path, settings.run_dir]
    own = settings.supervisor == "supervisord" or settings.systemd_scope == "user"
    if settings.supervisor == "supervisord":
        ours += [settings.log_dir, settings.supervisord_include]
    if own:
        ours += [settings.session_dir, settings.tmpdir]
    for folder in dict.fromkeys(ours):
        if not folder.is_dir():
            continue  # said already, or made by whoever needs it
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            problem = "it cannot be read and written by the user that this runs as"
            yield Finding(f"folder {folder}", problem, f"run it as the owner: {_owner(folder)}", vital=True)
        elif folder.stat().st_mode & OTHERS:
            yield Finding(f"folder {folder}", "every user of this machine can enter it", f"chmod o= '{folder}'")
        else:
            yield Finding(f"folder {folder}")
    kept = [*settings.backend_path.glob("wxclient-*.env"), *settings.backend_path.glob("wxclient-*.secret")]
    with suppress(OSError):
        kept += settings.session_dir.iterdir()
    for path in kept:
        with suppress(OSError):
            if not path.is_symlink() and path.stat().st_mode & OTHERS:
                yield Finding(f"{path}", "every user of this machine can get at it", f"chmod o= '{path}'")


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return f"uid {path.stat().st_uid}"


def _tokens(settings: Settings, tokens: Tokens) -> Finding:
    what = f"tokens: {settings.tokens_path}"
    try:
        known = tokens.read()
    except TokensUnreadable as ex:
        return Finding(what, str(ex), f"chmod 600 '{settings.tokens_path}', or bring it back from a backup")
    expired = [token.name for token in known or () if token.expired]
    add = "wxsup token add NAME --role admin"
    if known is not None and len(expired) == len(known):
        return Finding(what, "there is none that is good, so nobody may call", add, warning=True)
    if expired:
        return Finding(what, f"expired: {', '.join(expired)}", "wxsup token revoke NAME", warning=True)
    return Finding(what)


def _look_at_exposure(settings: Settings, tokens: Tokens) -> None:
    with suppress(TokensUnreadable):  # which is a finding of its own, and lets nobody in
        refuse_exposure(settings.listen, tokens)


def _listening(address: Address) -> Finding:
    what = f"port {address.port} on {address.host}"
    if ports.free(address.port, address.host) or _is_controller(address.url):
        return Finding(what)
    return Finding(what, "another program holds it, or it is no address of this machine", _who_holds(address.port))


def _is_controller(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False
            told = session.get(f"{url}/openwx/check_client", timeout=ANSWER_TIMEOUT).json()
            return isinstance(told, dict) and "code" in told
    except (requests.RequestException, ValueError):
        return False


def _who_holds(port: int) -> str:
    return f"ss -ltnp 'sport = :{port}' tells which; stop it, or choose another port"


def _start_supervisor(settings: Settings) -> str:
    if settings.supervisor == "systemd":
        return "make install, and run it as the user of the controller (docs/howto/systemd.md)"
    return "wxsup up starts one; for another one set supervisord_socket"


def _client_ports(controller: Controller) -> Iterator[Finding]:
    """Look at the ports of clients that are down; nobody else may have taken them meanwhile."""
    try:
        states = controller.check()
    except WxsupError:
        return  # that the supervisor cannot be asked is a finding already
    for state in states:
        port = state.get("port")
        if port and not state.get("pid") and not ports.free(port):
            what = f"port {port} of the client {state['account']}"
            yield Finding(what, "another program holds it", _who_holds(port))


def _descriptors(settings: Settings) -> Finding:
    if settings.supervisor != "supervisord":
        return Finding("file descriptors")
    needed = DESCRIPTORS * settings.max_clients + SPARE
    limit = _limit(settings.run_dir / "supervisord.pid")
    what = f"file descriptors: {'unlimited' if limit == resource.RLIM_INFINITY else limit}"
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return Finding(what)
    problem = f"max_clients is {settings.max_clients}, for which supervisord needs {needed}"
    return Finding(what, problem, f"ulimit -n {needed} before its start, and minfds={needed} in its configuration")


def _limit(pid_file: Path) -> int:
    """Return how many descriptors the supervisord that runs may open, or else how many one of ours might."""
    try:
        limits = Path(f"/proc/{int(pid_file.read_text())}/limits").read_text()
        return int(limits.partition("Max open files")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _leftovers(settings: Settings, known: set[str]) -> Iterator[Finding]:
    """Find what a crash or a hand has left lying, and nobody will take away."""
    folders = {settings.state_dir, settings.backend_path, settings.run_dir, settings.supervisord_include}
    found = [(path, "a write that a crash cut short") for folder in folders for path in _temporaries(folder)]
    for folder, pattern, what in (
        (settings.backend_path, "wxclient-*.secret", "the secret of a client that there is not"),
        (settings.backend_path / "locks", "wxclient-*", "the lock of a client that there is not"),
        (settings.supervisord_include, "wxclient-*.conf", "supervisord would start a client that there is not"),
    ):
        stray = [path for path in folder.glob(pattern) if names.slug_of(_stem(path)) not in known]
        found += [(path, what) for path in stray if not _locked(path)]
    with suppress(OSError):
        doomed = [path for path in settings.session_dir.iterdir() if path.name.endswith(files.DOOMED)]
        found += [(path, "a session that was being deleted when a crash came") for path in doomed]
    for path, what in found:
        yield Finding(f"{path}", what, f"rm -r '{path}'", warning=True)
    if not found:
        yield Finding("leftovers: none")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".secret").removesuffix(".conf")


def _temporaries(folder: Path) -> list[Path]:
    with suppress(OSError):
        found = [(path, _TEMPORARY.fullmatch(path.name)) for path in folder.iterdir()]
        return [path for path, match in found if match and not Path(f"/proc/{match[1]}").exists()]
    return []


def _locked(path: Path) -> bool:
    """Tell whether somebody holds a lock: then a start is under way."""
    if path.parent.name != "locks":
        return False
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _slugs_of_broken(controller: Controller) -> set[str]:
    return {record.slug for record in controller.broken()}


def _clock(settings: Settings) -> Iterator[Finding]:
    """Look at the time, by which tokens end and reports are signed."""
    remedy = "timedatectl set-ntp true"
    made = [path.stat().st_mtime for path in settings.backend_path.glob("wxclient-*.env")]
    ahead = max(made, default=0.0) - time.time()
    if ahead > LEAP:
        yield Finding("clock", f"a record is {ahead:.0f} s from the future: it was set back", remedy, warning=True)
    elif _kept_right() is False:
        yield Finding("clock", "nothing keeps it right: tokens and signatures go by it", remedy, warning=True)
    else:
        yield Finding("clock")


def _kept_right() -> bool | None:
    """Tell whether the clock is synchronised, None where nobody knows: adjtimex(2) itself is not for everybody."""
    words = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_TIMEOUT, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(told.strip())
