from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

import pytest

from tests.unit.conftest import World
from tests.unit.upstream import Upstream, reply, replying
from wxsup import doctor, files, settings
from wxsup.doctor import Finding, examine
from wxsup.settings import Settings
from wxsup.tokens import Role, Tokens, create


@pytest.fixture
def chosen(short_path: Path) -> Settings:
    return settings.load({"state_dir": str(short_path)}, environment={})


@pytest.fixture(autouse=True)
def timedatectl(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A timedatectl(1) that says the clock is right, whatever keeps that of this machine."""
    program = short_path / "bin/timedatectl"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho yes\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def problems(chosen: Settings) -> list[str]:
    return [f"{finding.what}: {finding.problem}" for finding in found(chosen)]


def found(chosen: Settings) -> list[Finding]:
    return [finding for finding in examine(chosen) if finding.problem]


def one(chosen: Settings, what: str) -> Finding:
    """Return the only finding about something, which must be a problem with a remedy."""
    (finding,) = [finding for finding in found(chosen) if what in finding.what]
    assert finding.remedy
    return finding


def test_a_supervisor_that_is_not_there_is_found(chosen: Settings) -> None:
    (problem,) = problems(chosen)
    assert problem.startswith(f"supervisor: supervisord: supervisord at {chosen.supervisord_socket}: ")


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
    (problem,) = problems(chosen)
    assert problem.startswith("supervisor: systemd: D-Bus: ")
    assert "make install" in one(chosen, "supervisor").remedy


def test_each_problem_has_a_remedy(chosen: Settings) -> None:
    list(examine(chosen))
    (chosen.backend_path / "wxclient-a.env").write_text("nonsense")
    chosen.tokens_path.write_text("nonsense")
    chosen.session_dir.chmod(0o755)
    assert len(found(chosen)) >= 4
    assert all(finding.remedy for finding in found(chosen))


@pytest.mark.parametrize(
    "folder", ["state_dir", "backend_path", "session_dir", "tmpdir", "log_dir", "supervisord_include"]
)
def test_a_folder_that_everybody_can_enter_is_named(chosen: Settings, folder: str) -> None:
    list(examine(chosen))
    path: Path = getattr(chosen, folder)
    path.chmod(0o755)
    finding = one(chosen, f"folder {path}")
    assert (finding.level, finding.remedy) == ("FAIL", f"chmod o= '{path}'")
    path.chmod(0o750)
    assert not any(f"folder {path}" in problem for problem in problems(chosen)), "a group may"


def test_a_record_and_a_session_that_everybody_can_read_are_named(chosen: Settings) -> None:
    list(examine(chosen))
    record, secret, session = (
        chosen.backend_path / "wxclient-a.env",
        chosen.backend_path / "wxclient-a.secret",
        chosen.session_dir / "a",
    )
    session.mkdir(mode=0o755)
    session.chmod(0o755)
    for path in (record, secret):
        path.write_text("x")
        path.chmod(0o644)
    for path in (record, secret, session):
        assert any(finding.what == str(path) and finding.level == "FAIL" for finding in found(chosen))


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_an_address_that_another_program_holds_is_named(short_path: Path) -> None:
    with listening() as taken:
        port = taken.getsockname()[1]
        taken.close()
        chosen = settings.load({"state_dir": str(short_path), "listen": f"127.0.0.1:{port}"}, environment={})
        assert not any(f"port {port}" in problem for problem in problems(chosen))
    with Upstream(replying(reply(b"<html>"), reply(b"<html>"))) as server:
        port = server.address[1]
        chosen = settings.load({"state_dir": str(short_path), "listen": f"127.0.0.1:{port}"}, environment={})
        finding = one(chosen, f"port {port} on 127.0.0.1")
        assert (finding.level, f":{port}" in finding.remedy) == ("FAIL", True)
    with Upstream(replying(reply(b'{"code":-6,"status":"auth failure"}', status="401 Unauthorized"))) as server:
        port = server.address[1]
        chosen = settings.load({"state_dir": str(short_path), "listen": f"127.0.0.1:{port}"}, environment={})
        assert not any(f"port {port}" in problem for problem in problems(chosen)), "it is a controller"


def test_the_port_of_a_client_that_is_down_may_have_been_taken(
    chosen: Settings, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = world.controller.start("alice", {})["port"]
    monkeypatch.setattr(doctor, "open_controller", lambda settings: world.controller)
    with socket.create_server(("127.0.0.1", port)):
        assert not any(f"port {port}" in problem for problem in problems(chosen)), "it is the client's own"
        world.supervisor.end("alice")
        assert one(chosen, f"port {port} of the client alice").level == "FAIL"
    assert not any(f"port {port}" in problem for problem in problems(chosen))


def test_descriptors_must_do_for_the_most_clients(chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("file descriptors" in problem for problem in problems(chosen))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    finding = one(chosen, "file descriptors: 256")
    assert "needs 400" in finding.problem
    chosen.run_dir.joinpath("supervisord.pid").write_text(str(os.getpid()))
    assert not any("file descriptors" in problem for problem in problems(chosen)), "that of the one that runs counts"


def test_what_a_crash_has_left_is_named_and_keeps_nobody_from_working(chosen: Settings) -> None:
    list(examine(chosen))
    (chosen.backend_path / "locks").mkdir(exist_ok=True)
    left = [
        chosen.backend_path / ".wxclient-a.env.99999999.1",
        chosen.state_dir / ".tokens.json.99999999.12",
        chosen.backend_path / "wxclient-gone.secret",
        chosen.backend_path / "locks/wxclient-gone",
        chosen.supervisord_include / "wxclient-gone.conf",
        chosen.session_dir / "gone~",
    ]
    ours = chosen.backend_path / f".wxclient-b.env.{os.getpid()}.1"
    for path in (*left, ours):
        path.touch(mode=0o600)
    named = {finding.what: finding for finding in found(chosen) if finding.warning}
    assert named.keys() == {str(path) for path in left}, "what is being written is no leftover"
    assert all(finding.remedy == f"rm -r '{what}'" for what, finding in named.items())
    with files.locked(chosen.backend_path / "locks/wxclient-gone", timeout=0):
        assert not any("locks" in problem for problem in problems(chosen)), "a start is under way"


def test_tokens_that_are_over_are_named(chosen: Settings) -> None:
    kept = Tokens(chosen.tokens_path)
    for name, lasts in (("old", 0.0), ("good", 60.0)):
        token, _ = create(name, Role.ADMIN, lasts=lasts)
        kept.add(token)
    finding = one(chosen, "tokens")
    assert (finding.level, finding.problem) == ("warn", "expired: old")
    kept.revoke("good")
    assert "nobody may call" in one(chosen, "tokens").problem


def test_a_clock_that_was_set_back_or_that_nothing_keeps_right_is_named(chosen: Settings, timedatectl: Path) -> None:
    list(examine(chosen))
    assert not any("clock" in problem for problem in problems(chosen))
    record = chosen.backend_path / "wxclient-a.env"
    record.touch(mode=0o600)
    os.utime(record, (time.time() + 600, time.time() + 600))
    finding = one(chosen, "clock")
    assert (finding.level, "it was set back" in finding.problem) == ("warn", True)
    record.unlink()
    timedatectl.write_text("#!/bin/sh\necho no\n")
    assert one(chosen, "clock").level == "warn"
    timedatectl.write_text("#!/bin/sh\nexit 1\n")
    assert not any("clock" in problem for problem in problems(chosen)), "nobody knows"


def test_for_a_start_only_what_it_needs_is_looked_at(chosen: Settings) -> None:
    looked = [finding.what for finding in examine(chosen, for_start=True)]
    assert looked[-1] == "supervisor: supervisord"
    assert not any("port" in what or "clock" in what for what in looked)
