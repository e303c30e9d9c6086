"""What the program has, the documentation has: each setting, parameter, call, command, code, and nothing invented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

import wxsup
from wxsup import options
from wxsup.cli import main
from wxsup.client.openwx import NOT_YET
from wxsup.errors import WxsupError
from wxsup.settings import Settings

ROOT = Path(__file__).parent.parent.parent
REFERENCE = ROOT / "docs" / "reference"


def rows(page: str) -> dict[str, list[str]]:
    """Return the table rows of a reference page by the first word in code of their first cell."""
    found = {}
    for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        match = re.match(r"`([^` ]+)", cells[0])
        if line.startswith("|") and match:
            found[match[1]] = cells
    return found


def errors(kind: type[WxsupError] = WxsupError) -> Iterator[type[WxsupError]]:
    for error in kind.__subclasses__():
        yield error
        yield from errors(error)


@pytest.mark.parametrize("setting", [item.name for item in fields(Settings)])
def test_every_setting_is_documented_with_its_default_and_its_help(setting: str) -> None:
    item = next(item for item in fields(Settings) if item.name == setting)
    _, default, meaning = rows("settings.md")[setting]
    assert (default.strip("`"), meaning) == (item.metadata["default"], item.metadata["help"])


def test_no_setting_is_invented() -> None:
    assert set(rows("settings.md")) == {item.name for item in fields(Settings)}


def test_every_start_parameter_is_documented_with_its_default() -> None:
    table = rows("api.md")
    for item in fields(options.Options):
        if item.metadata["http"]:
            assert table[item.name][1:] == [f"`{item.metadata['default']}`", item.metadata["help"]]
    page = (REFERENCE / "api.md").read_text(encoding="utf-8")
    for name in (*options.WITHOUT_EFFECT, *options.REPORTING, "driver"):
        assert f"`{name}`" in page


def test_every_call_is_documented() -> None:
    page = (REFERENCE / "api.md").read_text(encoding="utf-8")
    for call in ("start_client", "stop_client", "check_client", "get_qrcode"):
        assert f"`/openwx/{call}" in page
    for call in NOT_YET:
        assert f"`{call}`" in page
    source = (ROOT / "wxsup" / "client" / "openwx.py").read_text(encoding="utf-8")
    calls = re.findall(r'"([a-z_]+)":', source.partition("self._calls: ")[2].partition("}")[0])
    assert "send_friend_message" in calls
    for call in calls:
        assert f"`{call}`" in page or call == "stop_client"  # the controller answers that one itself


@pytest.mark.parametrize("error", [error for error in errors() if error.http_status != 500], ids=lambda e: e.__name__)
def test_every_error_is_documented_with_code_and_http_status(error: type[WxsupError]) -> None:
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    client = error.code in (100, -5, *range(-28, -19)) or error.__name__ in ("CallFailed", "RemoteRefusal")
    assert re.search(rf"^\| {error.code} \| " + ("" if client else rf"{error.http_status} \| "), page, re.MULTILINE)


def commands(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


COMMANDS = dict(commands())


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_documented_with_its_own_options(command: str) -> None:
    page = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `wxsup {command}[^|]*\|", page, re.MULTILINE)
    own = [
        param.opts[0]
        for param in COMMANDS[command].params
        if isinstance(param, click.Option)
        and param.name not in {item.name for item in fields(Settings)} | {"config", "help"}
    ]
    assert all(option in row for option in own)


def test_security_md_names_tests_that_there_are_for_every_hole() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
    holes = page.partition("## The holes of the original")[2]
    rows = re.findall(r"^\| (\d+) \|.*::", holes, re.MULTILINE)
    assert rows == [str(number) for number in range(1, 15)]


def test_links_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_two_readmes_tell_the_same_commands() -> None:
    english, chinese = (
        [
            line.partition("#")[0].strip()
            for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
            if line.startswith("    ") and "──" not in line and "──▲" not in line
        ]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese
    assert english[:2] == ["make run", "make test"]


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{wxsup.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_explained() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for requirement in (*project["project"]["dependencies"], *project["dependency-groups"]["dev"]):
        name = re.split(r"[\[>=<]", requirement)[0]
        assert name in page, name
