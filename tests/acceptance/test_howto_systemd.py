"""docs/howto/systemd.md, line by line, on a machine with nothing but Debian; and back again."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.installed import CHECKOUT, HOWTO, INSTALL_TIMEOUT, ROOT, Installed, lines
from tests.machine import Machine, require


@pytest.fixture
def demo(installed: Installed) -> Iterator[Installed]:
    """What the page has come to when it says "From day to day"."""
    for line in lines("Start a client"):
        installed.type(line)
    yield installed
    installed.stop_all()
    installed.machine.run("find", "/var/lib/wxclient", "-mindepth", "1", "-delete")


def daily() -> list[str]:
    """Return the commands of the table."""
    section = HOWTO.read_text(encoding="utf-8").partition("## From day to day")[2]
    rows = section.partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
    return [command for row in rows for command in re.findall("`([^`]+)`", row)]


# What systemctl edit calls: writes a setting as an operator would.
EDITOR = """#!/bin/sh
case "$1" in *slice*) section=Slice;; *) section=Service;; esac
printf "[$section]\\nMemoryMax=300M\\n" > "$1"
"""


def test_who_follows_the_page_ends_with_a_running_client(demo: Installed) -> None:
    picture = demo.machine.path(f"{CHECKOUT}/qrcode.png").read_bytes()
    key = demo.code_on(picture)
    demo.phone("scan", key=key, user="me")
    demo.until("demo", "confirming")
    demo.phone("confirm", key=key)
    demo.until("demo", "running")
    assert 'Status: "running since' in demo.type("systemctl status wxclient@demo")
    assert '"state":"running"' in demo.type(lines("Start a client")[-1])


def test_every_command_for_the_day_works(demo: Installed, tmp_path: Path) -> None:
    demo.until("demo", "scaning")
    editor = demo.machine.path("/root/editor")
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    commands = daily()
    assert len(commands) > 12
    try:
        for command in commands:
            if " edit " in command:  # an editor wants a terminal: script(1) makes one
                command = f"SYSTEMD_EDITOR=/root/editor script --quiet --return --command '{command}' /dev/null"
            demo.type(command)
        assert demo.show("demo", "MemoryMax") == str(300 << 20)
    finally:
        demo.type("rm -rf /etc/systemd/system/wxclient*.d && systemctl daemon-reload")
    assert demo.json("check_client", client="demo")["code"] == 1, "the table has removed it"
    eventually(lambda: demo.call("check_client").ok, what="the controller")


def test_uninstall_leaves_settings_and_sessions_and_a_new_install_goes_on_with_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    require()
    with Machine(tmp_path_factory.mktemp("machine")) as machine:
        wx = Installed(machine)
        wx.install()
        wx.json("start_client", client="demo")
        before = wx.log_in("demo", "me")
        wx.type("make uninstall")
        assert not machine.path(f"/proc/{before['pid']}").exists()
        assert machine.run("find", "/usr/local", "/etc", "-name", "*wxsup*", "-o", "-name", "wxc*").stdout.split() == [
            "/etc/wxsup",
            "/etc/wxsup/wxsup.toml",
        ]
        wx.type("make install")
        wx.type(lines("Install")[-1])
        wx.close()
        after = wx.until("demo", "running")
        assert after["port"] == before["port"]
        assert "qrcode_count" not in after, "it asked for no scan"
        wx.close()


def test_a_package_is_made_of_what_belongs_into_it(tmp_path: Path) -> None:
    def make(target: str) -> None:
        done = subprocess.run(
            ["make", target, f"DESTDIR={tmp_path}", "PREFIX=/usr"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    make("install")
    programs = tmp_path / "usr/lib/wxsup/bin"
    assert (programs / "wxclient").read_text().startswith("#!/usr/lib/wxsup/bin/python")
    assert (tmp_path / "usr/bin/wxsup").readlink() == Path("/usr/lib/wxsup/bin/wxsup")
    assert (
        "ExecStart=/usr/lib/wxsup/bin/wxclient" in (tmp_path / "usr/lib/systemd/system/wxclient@.service").read_text()
    )
    assert (tmp_path / "usr/share/polkit-1/rules.d/50-wxsup.rules").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "etc/wxsup/wxsup.toml").stat().st_mode & 0o777 == 0o640
    texts = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".so"]
    assert not [path for path in texts if bytes(tmp_path) in path.read_bytes()], "nothing knows where it was made"
    make("uninstall")
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["etc/wxsup/wxsup.toml"]
