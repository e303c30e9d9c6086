"""The README's commands as a new user types them: a fresh copy, a fresh virtual environment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.deadline import eventually
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
INSTALL_TIMEOUT = 240.0


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    """A copy of what git would hand out, with nothing installed or built."""
    folder = Path(tempfile.mkdtemp(prefix="wx", dir="/tmp"))
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder)


def bare_environment() -> dict[str, str]:
    """Return our environment without the virtual environment that runs these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    own = str(Path(os.environ.get("VIRTUAL_ENV", "/nonexistent")) / "bin")
    environment["PATH"] = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own)
    return environment


def test_make_run_then_the_sixty_seconds_then_ctrl_c(checkout: Path) -> None:
    api, sandbox = (f"127.0.0.1:{free_port()}" for _ in range(2))
    environment = bare_environment() | {
        "WXSUP_LISTEN": api,
        "WXSUP_SANDBOX_LISTEN": sandbox,
        "WXSUP_BACKEND_START_PORT": str(free_port()),
    }
    said = checkout / "said.txt"
    with open(said, "wb") as output:
        process = subprocess.Popen(
            ["make", "run"], cwd=checkout, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        eventually(lambda: "Next:" in said.read_text() or process.poll(), timeout=INSTALL_TIMEOUT, what="make run")
        assert process.poll() is None, said.read_text()
        (start, _, events) = (line.strip() for line in said.read_text().partition("Next:")[2].strip().splitlines())
        for command in (start, events.replace("check_event", "get_client_info")):
            url = command.removeprefix("curl '").rstrip("'")
            eventually(lambda url=url: requests.get(url, timeout=30).json()["code"] == 0)  # type: ignore[misc]
        assert requests.get(f"http://{sandbox}/", timeout=30).headers["Content-Type"].startswith("text/html")
        assert (checkout / "var").is_dir()
    finally:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
        process.wait(60)
    assert "Traceback" not in said.read_text()


def test_make_demo_does_the_main_job(checkout: Path) -> None:
    done = subprocess.run(
        ["make", "demo"], cwd=checkout, env=bare_environment(), capture_output=True, text=True, check=False,
        timeout=INSTALL_TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it worked" in done.stdout


def test_make_help_lists_every_target(checkout: Path) -> None:
    listed = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    for target in ("help", "run", "demo", "test", "check", "clean"):
        assert f"make {target}" in listed


def test_an_old_python_is_refused_in_one_sentence(checkout: Path, tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    fresh = tmp_path / "fresh"
    shutil.copytree(checkout, fresh, ignore=shutil.ignore_patterns(".venv", "var"))
    done = subprocess.run(
        ["make", "run", f"PYTHON={old}"], cwd=fresh, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "wxsup needs Python 3.11 or newer" in done.stdout
