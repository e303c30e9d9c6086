from __future__ import annotations

import shlex
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions

from tests.unit.conftest import HOSTILE_NAMES
from wxsup import names, options, record, render, values
from wxsup.controller import open_controller
from wxsup.errors import StartFailed
from wxsup.model import Client
from wxsup.registry import Registry
from wxsup.settings import Settings

Golden = Callable[[str, str], None]

SCRIPTS = sysconfig.get_path("scripts")
FOLDER = "wx 100% (here)s"
SUPERVISORD: dict[str, Any] = {
    "socket": f"/srv/{FOLDER}/run/supervisor.sock",
    "run_dir": f"/srv/{FOLDER}/run",
    "log_dir": f"/srv/{FOLDER}/log",
    "include": f"/srv/{FOLDER}/conf.d",
    "directory": f"/srv/{FOLDER}",
    "minfds": 65536,
    "controller": ["/usr/bin/wxsup", "serve"],
}


def rendered(folder: Path, name: str) -> dict[str, str]:
    """Return what starting the client `name` writes, by the ending of the file, with everything under `folder`."""
    settings = values.read(Settings, {"state_dir": str(folder / FOLDER), "post_api": "https://report.example/in?k=1"})
    registry = Registry(settings.backend_path, first_port=3000, max_clients=100)
    registry.prepare()
    slug = names.slug(name)
    params = {"ilink_label": name, "log_level": "debug"}
    registry.save(Client(name=name, slug=slug, port=3000, driver="ilink", params=params))
    return {path.suffix: text for path, text in open_controller(settings).render(name).items()}


def parsed(config: Path) -> Any:
    """Return the configuration as supervisor itself reads it."""
    server = ServerOptions()
    server.realize(["-c", str(config)])
    assert server.parse_criticals == []
    return server.configroot.supervisord


def included(folder: Path, *sections: str) -> dict[str, Any]:
    """Return the programs that a supervisord finds in these files of its include folder, by name."""
    conf_d = folder / "conf.d"
    conf_d.mkdir()
    for number, section in enumerate(sections):
        (conf_d / f"{number}.conf").write_text(section, encoding="utf-8")
    config = folder / "supervisord.conf"
    config.write_text("[supervisord]\n[include]\nfiles=conf.d/*.conf\n")
    programs = [program for group in parsed(config).process_group_configs for program in group.process_configs]
    return {program.name: program for program in programs}


@pytest.mark.parametrize(("label", "name"), HOSTILE_NAMES.items(), ids=HOSTILE_NAMES)
def test_what_a_client_is_defined_by_is_what_it_was(tmp_path: Path, golden: Golden, label: str, name: str) -> None:
    files = rendered(tmp_path, name)
    golden(f"{label}.env", files[".env"].replace(str(tmp_path), "/srv"))
    golden(f"{label}.conf", files[".conf"].replace(str(tmp_path), "/srv").replace(SCRIPTS, "/usr/bin"))


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_nothing_of_a_client_but_its_slug_stands_in_its_section(tmp_path: Path, name: str) -> None:
    ordinary, hostile = rendered(tmp_path, "alice"), rendered(tmp_path, name)
    assert hostile[".conf"] == ordinary[".conf"].replace("alice", names.slug(name))


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_supervisor_reads_back_the_section_that_was_meant(tmp_path: Path, name: str) -> None:
    state, slug = tmp_path / FOLDER, names.slug(name)
    state.mkdir()
    (state / "log").mkdir()
    (found,) = included(tmp_path, rendered(tmp_path, name)[".conf"]).values()
    assert found.name == names.program(slug)
    path = state / "clients" / f"wxclient-{slug}.env"
    assert shlex.split(found.command) == [
        f"{SCRIPTS}/wxclient", slug, "--record", str(path), "--secret", str(path.with_suffix(".secret"))
    ]  # fmt: skip
    assert found.directory == str(state)
    assert found.stdout_logfile == str(state / "log" / f"wxclient-{slug}.log")
    assert path.is_file()
    assert (found.autostart, found.autorestart.__name__, found.exitcodes) == (
        True,
        "RestartWhenExitUnexpected",
        [0, 77],
    )
    assert (found.stopsignal, found.stopwaitsecs, found.stopasgroup, found.killasgroup) == (15, 10, True, True)
    assert (found.redirect_stderr, found.stdout_logfile_maxbytes, found.stdout_logfile_backups) == (True, 5 << 20, 2)


def test_supervisor_reads_all_sections_side_by_side(tmp_path: Path) -> None:
    (tmp_path / FOLDER / "log").mkdir(parents=True)
    sections = [rendered(tmp_path, name)[".conf"] for name in HOSTILE_NAMES.values()]
    found = included(tmp_path, *sections)
    assert set(found) == {names.program(names.slug(name)) for name in HOSTILE_NAMES.values()}


@pytest.mark.parametrize("sandbox", [[], ["/usr/bin/wxsup", "sandbox"]], ids=["alone", "sandbox"])
@pytest.mark.parametrize("user", ["", "root"], ids=["user", "root"])
def test_the_configuration_of_supervisord_is_what_it_was(golden: Golden, sandbox: list[str], user: str) -> None:
    text = render.text("supervisor/supervisord.conf.j2", **SUPERVISORD, sandbox=sandbox, user=user)
    if bool(sandbox) == (not user):
        golden("supervisord-sandbox.conf" if sandbox else "supervisord.conf", text)
    assert ("[program:wxsandbox]" in text) == bool(sandbox)
    assert (f"\nuser={user}\n" in text) == bool(user)


def test_the_section_of_the_controller_is_what_it_was(golden: Golden) -> None:
    golden("wxcontroller.conf", render.text("supervisor/wxcontroller.conf.j2", **SUPERVISORD))


def test_supervisor_reads_back_the_configuration_that_was_meant(tmp_path: Path) -> None:
    base, conf_d, near = tmp_path / FOLDER, tmp_path / "a b[c]*?", tmp_path / "a-bc12"
    for folder in (base / "run", base / "log", conf_d, near):
        folder.mkdir(parents=True)
        (folder / "x.conf").write_text(f"[program:in-{folder.name[:3].replace(' ', '_')}]\ncommand=/bin/cat\n")
    config = base / "supervisord.conf"
    config.write_text(
        render.text(
            "supervisor/supervisord.conf.j2",
            socket=base / "run" / "s.sock",
            run_dir=base / "run",
            log_dir=base / "log",
            include=conf_d,
            directory=base,
            minfds=1024,
            user="",
            controller=[str(base / "wxsup"), "serve"],
            sandbox=[str(base / "wxsup"), "sandbox"],
        )
    )
    found = parsed(config)
    assert (found.logfile, found.pidfile) == (str(base / "log/supervisord.log"), str(base / "run/supervisord.pid"))
    assert (found.childlogdir, found.minfds, found.umask, found.identifier) == (str(base / "log"), 1024, 0o77, "wxsup")
    (server,) = found.server_configs
    assert (server["file"], server["chmod"]) == (str(base / "run/s.sock"), 0o700)
    programs = {group.name: group.process_configs[0] for group in found.process_group_configs}
    assert set(programs) == {"wxcontroller", "wxsandbox", "in-a_b"}
    for name, verb in (("wxcontroller", "serve"), ("wxsandbox", "sandbox")):
        assert shlex.split(programs[name].command) == [str(base / "wxsup"), verb]
        assert programs[name].directory == str(base)
        assert programs[name].stdout_logfile == str(base / "log" / f"{name}.log")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["/bin/a", "b"], "/bin/a b"),
        (["/a b/c", "100%"], "'/a b/c' 100%%"),
        (["a", ""], "a ''"),
        (["it's"], """'it'"'"'s'"""),
    ],
)
def test_a_command_line_is_split_by_shlex_after_expansion(words: list[str], line: str) -> None:
    assert render.command_line(words) == line
    assert shlex.split(line % {}) == words


def override(folder: Path, text: str) -> Path:
    path = folder / "own.j2"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_template_of_the_operator_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = override(tmp_path, "# 微信\n[program:{{ program }}]\ncommand={{ command | command }}\n")
    text = render.text("supervisor/wxclient.conf.j2", override=own, program="p", command=["/a b"])
    assert text == "# 微信\n[program:p]\ncommand='/a b'\n"


@pytest.mark.parametrize(
    "text", ["{{ no_such_value }}", "{% if %}", "{{ program | no_such_filter }}", "{% include 'nowhere' %}", None]
)
def test_a_template_that_does_not_render_is_an_error_that_names_it(tmp_path: Path, text: str | None) -> None:
    own = override(tmp_path, text) if text else tmp_path / "own.j2"
    with pytest.raises(StartFailed, match="own.j2"):
        render.text("supervisor/wxclient.conf.j2", override=own, program="p")


def test_what_is_rendered_for_ours_needs_no_more_than_it_is_given() -> None:
    """An undefined value is an error, never an empty string."""
    with pytest.raises(StartFailed, match="'program' is undefined"):
        render.text("supervisor/wxclient.conf.j2")


def test_a_record_carries_every_option_a_client_needs(tmp_path: Path) -> None:
    found = options.from_environment(record.variables(rendered(tmp_path, "微信")[".env"]))
    assert (found.account, found.plugin_openwx_port, found.ilink_label) == ("微信", 3000, "微信")
    assert found.state_path.is_relative_to(tmp_path / FOLDER / "run")
