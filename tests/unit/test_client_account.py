"""What feeds the watchdog of a client: a thread beside it that only says "I am well" would fail here."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import account
from tests.ports import free_port
from wxsup import daemon
from wxsup.client import account as module
from wxsup.client.keys import Keys
from wxsup.client.pulse import Pulse
from wxsup.model import Exit


class Manager:
    """Hears what a client tells systemd (sd_notify(3))."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def fed(self) -> bool:
        """Tell whether the watchdog was fed since the last time."""
        heard = []
        while True:
            try:
                heard.append(self._socket.recv(4096))
            except BlockingIOError:
                return b"WATCHDOG=1" in heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "3")
    found = Manager(short_path / "notify")
    yield found
    found.close()


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[Callable[[], None]], None]) -> None:
    """Run a client whose WeChat is away; `look` is what its main thread does in place of waiting, given its tick."""
    chosen = account.options(
        folder,
        account="alice",
        plugin_openwx_port=free_port(),
        ilink_base=f"http://127.0.0.1:{free_port()}",
        **{f"{name}_path": folder / name for name in ("state", "qrcode", "pid", "cookie")},
        media_dir=folder / "media",
    )
    monkeypatch.setattr(daemon.Watchdog, "watch", lambda dog, stop: look(dog.feed))
    monkeypatch.setattr(daemon, "set_title", lambda title: None)
    assert module.run("alice", chosen, {}, Keys(), daemon.Stop()) is Exit.STOPPED


def test_each_thread_that_hangs_has_the_watchdog_starve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: Manager
) -> None:
    made: list[Pulse] = []
    late: list[Pulse] = []
    remember = Pulse.__init__

    def init(pulse: Pulse) -> None:
        remember(pulse)
        made.append(pulse)

    monkeypatch.setattr(Pulse, "__init__", init)
    monkeypatch.setattr(Pulse, "late", property(lambda pulse: pulse in late))

    def look(tick: Callable[[], None]) -> None:
        tick()
        assert manager.fed(), "it is well"
        assert len(made) == 4, "of the account, of what it sends, of what it posts and of what it fetches"
        for pulse in made:
            late[:] = [pulse]
            tick()
            assert not manager.fed()
        late.clear()
        tick()
        assert manager.fed(), "it is well again"

    run(tmp_path, monkeypatch, look)


class Deaf:
    """In the place of the server: takes connections, and answers nobody or, with `hang_up`, ends them."""

    hang_up = False

    def __init__(self, address: tuple[str, int], answer: Any) -> None:
        self._socket = socket.create_server(address)

    def serve_forever(self) -> None:
        while self.hang_up:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.mark.parametrize("hang_up", [False, True])
def test_a_port_that_nobody_answers_at_has_the_watchdog_starve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: Manager, hang_up: bool
) -> None:
    monkeypatch.setattr(module, "Server", Deaf)
    monkeypatch.setattr(Deaf, "hang_up", hang_up)
    monkeypatch.setattr(module, "SELF_TIMEOUT", 0.2)

    def look(tick: Callable[[], None]) -> None:
        tick()
        assert not manager.fed()

    run(tmp_path, monkeypatch, look)
