"""What every test gets: an environment that no developer's setting leaks into, and folders with short paths."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.installed import Installed
from tests.machine import Machine, require
from tests.ports import free_port as free_port

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew from what is rendered now")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep in one process what shares fixtures: each file, and all that runs on the installed machine (xdist)."""
    for item in items:
        on_machine = "installed" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("installed" if on_machine else item.nodeid.partition("::")[0]))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take our variables, proxies and a wxsup.toml in the working directory out of play."""
    for name in list(os.environ):
        if name.startswith(("WXSUP_", "MOJO_WEIXIN_", "WXCLIENT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a unix socket (unix(7): 107 bytes)."""
    path = Path(tempfile.mkdtemp(prefix="wx", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """A machine on which wxsup runs under systemd; who starts clients stops them."""
    require()
    with Machine(tmp_path_factory.mktemp("machine")) as machine:
        found = Installed(machine)
        found.install()
        yield found
        found.close()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file of that name in tests/golden."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare
