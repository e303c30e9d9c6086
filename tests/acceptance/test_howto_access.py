"""docs/howto/access.md, line by line: beside a wxsup up, and under systemd as root."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.installation import SCRIPTS, Installation
from tests.installed import Installed, lines
from wxsup.sdk import Controller
from wxsup.tokens import Role

PAGE = Path(__file__).parent.parent.parent / "docs/howto/access.md"
SECTIONS = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
UNDER_SYSTEMD = SECTIONS[-1]


@pytest.fixture
def wx() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Installation(Path(folder)) as found:
        yield found


def shell(wx: Installation, commands: list[str]) -> str:
    """Type commands beside a wxsup up, in one shell; each must succeed."""
    script = "\n".join(["set -e", *commands]).replace("http://127.0.0.1:2000", wx.url)
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=wx.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_who_follows_the_page_has_the_tokens_that_it_speaks_of(wx: Installation) -> None:
    assert UNDER_SYSTEMD == "Under systemd"
    said = {section: shell(wx, lines(section, PAGE)) for section in SECTIONS[:-1]}
    assert said["Make a token"].startswith(2 * '{"client":[],"code":0}' + "office\tadmin\t*\t*\t")
    names = [line.split("\t")[0] for line in wx.wxsup("token", "list").splitlines()]
    assert names == ["office", "crm", "bot-december", "local-only"]
    bot, local = said["In place of the original's `auth`"].splitlines()
    assert all(token.startswith("wxsup_") for token in (bot, local))
    assert wx.call("check_client").status_code == 401
    with Controller(wx.url, local) as found, pytest.raises(Exception, match="this token is not for that call"):
        found.check()
    wx.down()
    wx.flags = [flag for flag in wx.flags if not flag.startswith("--listen=")]
    settings = wx.folder / "wxsup.toml"
    settings.write_text(settings.read_text().replace(":2000", f":{wx.port}"))
    wx.up()
    assert f"addresses=0.0.0.0:{wx.port}" in (wx.folder / "var/log/wxcontroller.log").read_text()


def test_the_roles_of_the_page_are_those_that_there_are() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == [
        role.value for role in Role
    ]


def test_under_systemd_the_controller_reads_both_files(installed: Installed) -> None:
    try:
        secrets = [said.strip() for line in lines(UNDER_SYSTEMD, PAGE) if (said := installed.type(line))]
        office, deploy = secrets
        eventually(lambda: installed.call("check_client").status_code == 401, what="the controller")
        for secret in (office, deploy):
            installed.token = secret
            assert installed.json("check_client")["code"] == 0
        installed.token = deploy
        assert installed.call("get_friend_info", {"client": "x"}).status_code == 403
        assert office not in installed.machine.run("journalctl", "-u", "wxcontroller").stdout
        by_root = installed.machine.run("wxsup", "token", "add", "oops", "--role", "admin", check=False)
        assert (by_root.returncode, "run as its owner" in by_root.stderr) == (1, True), "wxsup could not read its file"
        installed.type("runuser -u wxsup -- wxsup token revoke office")
        installed.token = office
        assert installed.call("check_client").status_code == 401
    finally:
        installed.token = ""
        installed.type(
            "rm -rf /etc/wxsup/tokens.json /var/lib/wxsup/tokens.json /etc/systemd/system/wxcontroller.service.d"
        )
        installed.type("systemctl daemon-reload && systemctl restart wxcontroller")
        eventually(lambda: installed.call("check_client").ok, what="the controller, open again")
