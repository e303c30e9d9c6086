"""What the program has, the documentation has: each setting, parameter, call, command, code, and nothing invented."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

import wxsup
from wxsup import manual, options
from wxsup.cli import main
from wxsup.client.calls import ABILITIES, contacts, control, mail, reporting
from wxsup.commands import apply, clients, doctor, tokens
from wxsup.errors import CallFailed, WxsupError
from wxsup.sandbox import backstage
from wxsup.sandbox.backstage import Backstage
from wxsup.sandbox.blobs import Blobs
from wxsup.sandbox.cdn import CDN
from wxsup.sandbox.clock import Clock
from wxsup.sandbox.control import Control
from wxsup.sandbox.faults import Faults
from wxsup.sandbox.ilink import Hold
from wxsup.sandbox.journal import Journal
from wxsup.sandbox.world import World
from wxsup.settings import Settings
from wxsup.usage import EXITS, Command

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
    for call in ("start_client", "stop_client", "restart_client", "remove_client", "check_client", "get_qrcode"):
        assert f"`/openwx/{call}" in page
    for call in ABILITIES:
        assert f"`{call}`" in page
    for module in (contacts, control, mail, reporting):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        calls = re.findall(r'[ {]"([a-z_]+)": (?:self\._\w+|lambda call: \S+)[,}]', source)
        assert len(calls) >= 3, module
        for call in calls:
            assert f"`{call}`" in page or call == "stop_client"  # the controller answers that one itself


@pytest.mark.parametrize("error", [error for error in errors() if error.http_status != 500], ids=lambda e: e.__name__)
def test_every_error_is_documented_with_code_and_http_status(error: type[WxsupError]) -> None:
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    client = issubclass(error, CallFailed)
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
        and param.name
        not in {item.name for item in fields(Settings)} | {"config", "help", "as_json", "url", "token_file"}
    ]
    assert all(option in row for option in own)


def test_no_command_and_no_option_is_invented() -> None:
    page = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    described = dict(re.findall(r"^\| `wxsup ((?:token )?[a-z]+)([^`]*)` \|", page, re.MULTILINE))
    assert described.keys() == COMMANDS.keys()
    for command, usage in described.items():
        options = {option for param in COMMANDS[command].params for option in param.opts}
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", usage)) <= options


def test_what_commands_share_is_what_the_page_says() -> None:
    page = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    clients = re.findall(r"^\| `wxsup ([a-z]+)", page.partition("## For the server")[0], re.MULTILINE)
    without_json, without_settings = {"up", "serve", "sandbox", "completion"}, {"install", "uninstall", "completion"}
    for name, command in COMMANDS.items():
        params = {param.name for param in command.params}
        assert ({"url", "token_file"} <= params) is (name in clients), name
        assert ("as_json" in params) is (name not in without_json), name
        assert ({"config", "state_dir"} <= params) is (name not in without_settings), name


def test_every_exit_status_is_documented_as_the_help_says_it() -> None:
    page = (REFERENCE / "cli.md").read_text(encoding="utf-8").partition("## Exit statuses")[2].partition("\n## ")[0]
    found = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    assert found == {str(int(status)): meaning for status, meaning in EXITS.items()}


def test_every_column_is_documented() -> None:
    page = (
        (REFERENCE / "cli.md").read_text(encoding="utf-8").partition("| command | columns |")[2].partition("\n## ")[0]
    )
    told = {
        name: cells.split(", ")
        for names, cells in re.findall(r"^\| (.*) \| (.*) \|$", page, re.MULTILINE)
        for name in re.findall(r"`([a-z ]+)`", names)
    }
    for name, columns in {
        "start": clients.ANSWERS,
        "status": clients.STATES,
        "apply": apply.COLUMNS,
        "check": doctor.FINDINGS,
        "config": doctor.SETTINGS,
        "token list": tokens.COLUMNS,
    }.items():
        assert len(told[name]) == len(columns), name


@pytest.mark.parametrize("path", sorted(path for path, _ in manual.pages()))
def test_a_man_page_is_read_without_a_complaint(tmp_path: Path, path: str) -> None:
    if not shutil.which("man"):
        pytest.skip("there is no man(1) here")
    text = dict(manual.pages())[path]
    (tmp_path / path).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", tmp_path / path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MANROFFOPT": "", "MANWIDTH": "400"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    command: click.Command = main
    for word in path.removesuffix(".1").split("-")[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.opts[0] in done.stdout
    if isinstance(command, Command):
        assert all(line in done.stdout and meaning in done.stdout for line, meaning in command.examples)


def test_every_call_of_the_sandbox_is_documented_and_none_is_invented() -> None:
    page = (REFERENCE / "sandbox.md").read_text(encoding="utf-8")
    rows_of_calls = re.findall(r"^\| `(?:GET|POST) /sandbox/.*", page, re.MULTILINE)
    documented = {call for row in rows_of_calls for call in re.findall(r"`(GET|POST) (/sandbox/\w+)`", row)}
    clock = Clock()
    cdn = CDN(Blobs())
    behind = Backstage(clock, Hold(0.0), Faults(), Journal(clock), cdn)
    assert documented == {*Control(World(), cdn).routes(), *behind.routes()}


def test_every_way_to_misbehave_is_documented_and_none_is_invented() -> None:
    page = (REFERENCE / "sandbox.md").read_text(encoding="utf-8")
    table = page.partition("## Misbehaving")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(backstage.FIELDS)
    for call in backstage.CALLS:
        assert f"`{call}`" in table
    for example in re.findall(r"^    (\{.*)$", table, re.MULTILINE):
        assert set(json.loads(example)) <= {"call", *backstage.FIELDS}


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
