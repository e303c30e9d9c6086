"""docs/howto/systemd.md, line by line, on a machine with nothing but Debian; and back again."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.installed import CHECKOUT, HOWTO, INSTALL_TIMEOUT, ROOT, Installed, lines
from tests.machine import Machine, require
from wxsup.deployment import Place, units


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
        manager = "org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager".split()
        clean = ["CleanUnit", "sas", "wxclient@demo.service", "1", "runtime"]
        done = machine.run("busctl", "call", *manager, *clean, user="wxsup", check=False)
        assert "Access denied" in done.stderr, "the bus goes by its policy without ours"
        machine.run("getent", "passwd", "wxsup", "wxclient")
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


def essential(machine: Machine) -> set[str]:
    """Return the packages that are always there, and those that the page installs, with what they need."""
    told = machine.run("dpkg-query", "--show", "--showformat", "${Package}|${Essential}|${Pre-Depends}, ${Depends}\n")
    needs = {}
    found = {"systemd"} | {word for word in lines("Install")[0].split() if not word.startswith("-")}
    for line in told.stdout.splitlines():
        name, flag, depends = line.split("|", 2)
        needs[name] = set(re.findall(r"(?:^|[,|])\s*([a-z0-9.+-]+)", depends))
        found |= {name} if flag == "yes" else set()
    while more := {need for name in found for need in needs.get(name, ())} & needs.keys() - found:
        found |= more
    return found


def test_every_program_that_units_and_makefile_call_is_in_a_package_that_the_page_names(installed: Installed) -> None:
    machine = installed.machine
    recipes = (ROOT / "Makefile").read_text().partition("\ninstall:")[2].partition("\nclean:")[0]
    called = set(re.findall(r"(?:^\t@?|[;|&{!(]\s*|-exec )([a-z][a-z0-9.-]+)", recipes, re.MULTILINE))
    programs = {path for word in called - {"true", "do", "set"} if (path := shutil.which(word))}
    for path, text in units(Place()).items():
        if path.suffix in (".service", ".socket"):
            commands = re.findall(r"^Exec\w+=[-+!@:]*(\S+)(?: -c \"(\w+))?", text, re.MULTILINE)
            programs |= {program for program, _ in commands if not program.startswith("/usr/local")}
            assert {inner for _, inner in commands} <= {"", "kill"}, "these are the shell's own"
    assert len(programs) > 8, programs
    known = essential(machine)
    for program in programs | {"/usr/bin/python3", "/usr/bin/curl", "/usr/sbin/runuser", "/usr/bin/make"}:
        plain = program.removeprefix("/usr")
        owners = machine.run("dpkg-query", "--search", plain, f"/usr{plain}", check=False).stdout
        packages = set(re.findall(r"^([a-z0-9.+-]+)(?::\w+)?: ", owners, re.MULTILINE))
        assert packages & known, f"{program} is in {packages or 'no package'}, which the page does not name"


@pytest.mark.parametrize(
    ("prefix", "lib", "rights"), [("/usr", "usr/lib", "usr/share"), ("/opt/x", "etc", "etc")], ids=["usr", "opt"]
)
def test_a_package_is_made_of_what_belongs_into_it(tmp_path: Path, prefix: str, lib: str, rights: str) -> None:
    def make(target: str) -> None:
        done = subprocess.run(
            ["make", target, f"DESTDIR={tmp_path}", f"PREFIX={prefix}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    make("install")
    programs = tmp_path / prefix[1:] / "lib/wxsup/bin"
    assert (programs / "wxclient").read_text().startswith(f"#!{prefix}/lib/wxsup/bin/python")
    assert (tmp_path / prefix[1:] / "bin/wxsup").readlink() == Path(f"{prefix}/lib/wxsup/bin/wxsup")
    unit = tmp_path / lib / "systemd/system/wxclient@.service"
    assert f"ExecStart={prefix}/lib/wxsup/bin/wxclient" in unit.read_text()
    for path in (
        f"{lib}/sysusers.d/wxsup.conf",
        f"{lib}/tmpfiles.d/wxsup.conf",
        f"{rights}/dbus-1/system.d/wxsup.conf",
    ):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / rights / "polkit-1/rules.d/50-wxsup.rules").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "etc/wxsup/wxsup.toml").stat().st_mode & 0o777 == 0o640
    texts = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".so"]
    assert not [path for path in texts if bytes(tmp_path) in path.read_bytes()], "nothing knows where it was made"
    make("uninstall")
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["etc/wxsup/wxsup.toml"]
