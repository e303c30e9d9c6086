from __future__ import annotations

from pathlib import Path

import pytest

from wxsup import settings
from wxsup.doctor import examine
from wxsup.settings import Settings


@pytest.fixture
def chosen(short_path: Path) -> Settings:
    return settings.load({"state_dir": str(short_path)}, environment={})


def problems(chosen: Settings) -> list[str]:
    return [f"{finding.what}: {finding.problem}" for finding in examine(chosen) if finding.problem]


def test_a_supervisor_that_is_not_there_is_found(chosen: Settings) -> None:
    (found,) = problems(chosen)
    assert found.startswith(f"supervisor: supervisord: supervisord at {chosen.supervisord_socket}: ")


def vital(chosen: Settings) -> bool:
    """Tell whether something is wrong without which no controller can be started."""
    return any(finding.problem and finding.vital for finding in examine(chosen))


def test_a_record_that_cannot_be_read_is_named_and_keeps_no_controller_down(chosen: Settings) -> None:
    list(examine(chosen))
    (chosen.backend_path / "wxclient-broken.env").write_text("nonsense")
    assert any("record of broken" in problem for problem in problems(chosen))
    assert not vital(chosen)


def test_a_folder_that_cannot_be_made_is_named(chosen: Settings) -> None:
    list(examine(chosen))
    chosen.session_dir.rmdir()
    chosen.session_dir.write_text("a file")
    assert any(str(chosen.session_dir) in problem for problem in problems(chosen))
    assert vital(chosen)


@pytest.mark.parametrize("content", [None, "short", "two lines of it\nare not one secret", b"\xff" * 20])
def test_a_secret_that_is_none_is_named(chosen: Settings, short_path: Path, content: str | bytes | None) -> None:
    secret = short_path / "post.secret"
    if content is not None:
        secret.write_bytes(content if isinstance(content, bytes) else content.encode())
    chosen = settings.load({"state_dir": str(short_path), "post_secret_path": str(secret)}, environment={})
    assert any(problem.startswith(f"secret of the posts: {secret}: ") for problem in problems(chosen))
    assert not vital(chosen)
    secret.write_text("0123456789abcdef\n")
    assert not any("secret of the posts" in problem for problem in problems(chosen))


def test_systemd_without_its_bus_is_found(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={short_path}/nobody")
    chosen = settings.load({"state_dir": str(short_path), "supervisor": "systemd"}, environment={})
    (found,) = problems(chosen)
    assert found.startswith("supervisor: systemd: D-Bus: ")
