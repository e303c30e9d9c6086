"""What the Makefile and .ci/run do about what is missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import machine

ROOT = Path(__file__).parent.parent.parent
NEEDED = ("bash", "sh", "make", "dirname")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the few programs that there are."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return folder


def run(bare: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=ROOT,
        env={"PATH": str(bare), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("environment", "passes"), [({}, True), ({"CI": ""}, True), ({"CI": "true"}, False)])
def test_units_that_cannot_be_checked_fail_in_ci_only(bare: Path, environment: dict[str, str], passes: bool) -> None:
    done = run(bare, "make", "check-units", "--old-file=.venv/.installed", **environment)
    assert "units not checked" in done.stdout
    assert (done.returncode == 0) is passes


def test_the_ci_says_that_it_is_one(bare: Path, tmp_path: Path) -> None:
    (bare / "make").unlink()
    for name in ("make", "apt-get", "python3"):  # it is told what is there by these
        (bare / name).write_text(f'#!/bin/sh\necho "{name} $1 CI=$CI"\n')
        (bare / name).chmod(0o755)
    done = run(bare, "bash", str(ROOT / ".ci/run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["make check CI=true", "make test CI=true"]


@pytest.mark.parametrize(
    ("environment", "told"), [({}, pytest.skip.Exception), ({"CI": "true"}, pytest.fail.Exception)]
)
def test_a_machine_that_cannot_be_made_fails_in_ci_and_is_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: type[BaseException]
) -> None:
    monkeypatch.setattr(machine, "missing", lambda: "it needs a moon")
    monkeypatch.delenv("CI", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(told, match="it needs a moon"):
        machine.require()
