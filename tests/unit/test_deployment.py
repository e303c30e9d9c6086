from __future__ import annotations

from pathlib import Path

import pytest

from wxsup import settings
from wxsup.deployment import Place, as_set, deployed, of_user, settings_file, units
from wxsup.errors import Refusal

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


@pytest.mark.parametrize("name", sorted(deployed()))
def test_deploy_holds_what_the_templates_render_to(name: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        (DEPLOY / name).write_text(deployed()[name])
    assert (DEPLOY / name).read_text() == deployed()[name]


def test_deploy_holds_nothing_else() -> None:
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert files - {"README.md"} == set(deployed())


def test_another_place_shows_everywhere() -> None:
    place = Place(
        prefix=Path("/opt/wx"),
        programs=Path("/opt/wx/bin"),
        config=Path("/opt/etc/wx.toml"),
        state_dir=Path("/srv/state"),
        session_dir=Path("/srv/session"),
        run_dir=Path("/opt/run"),
        client_run_dir=Path("/opt/clients"),
        log_dir=Path("/srv/log"),
        listen=("127.0.0.1:1", "[::1]:2"),
    )
    files = deployed(place)
    assert "/opt/wx/bin/wxclient %i" in files["systemd/wxclient@.service"]
    assert "ListenStream=127.0.0.1:1\nListenStream=[::1]:2\n" in files["systemd/wxcontroller.socket"]
    for default in ("/usr/local", "/var/lib/wx", "/run/wx", "/etc/wxsup", "/var/log/wxsup"):
        assert not [name for name, text in files.items() if default in text]


def test_an_installation_is_everything_that_deploy_has_for_systemd() -> None:
    texts = [*units(Place()).values(), settings_file(Place())]
    assert sorted(texts) == sorted(text for name, text in deployed().items() if name.startswith("systemd/"))


@pytest.mark.parametrize(
    ("prefix", "lib", "rights"),
    [
        ("/usr", "/usr/lib", "/usr/share"),
        ("/usr/local", "/usr/local/lib", "/etc"),
        ("/opt/x", "/etc", "/etc"),
        ("/usr/local/wx", "/etc", "/etc"),
    ],
)
def test_everything_lies_where_it_is_looked_for(prefix: str, lib: str, rights: str) -> None:
    paths = units(Place(prefix=Path(prefix)))
    assert {path for path in paths if path.suffix not in (".service", ".socket", ".slice", ".target")} == {
        Path(lib) / "sysusers.d/wxsup.conf",
        Path(lib) / "tmpfiles.d/wxsup.conf",
        Path(rights) / "polkit-1/rules.d/50-wxsup.rules",
        Path(rights) / "dbus-1/system.d/wxsup.conf",
    }
    assert Path(lib) / "systemd/system/wxclient@.service" in paths


@pytest.mark.parametrize("path", ["/srv/my wx/bin", "/srv/100%/bin"])
def test_a_path_that_units_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(Refusal, match="blanks or %"):
        units(Place(programs=Path(path)))


INSTALLED = {
    "supervisor": "systemd",
    "state_dir": "/var/lib/wxsup",
    "session_dir": "/var/lib/wxclient",
    "run_dir": "/run/wxsup",
    "tmpdir": "/run/wxclient",
}


def test_an_installation_listens_where_its_settings_say() -> None:
    chosen = settings.load({**INSTALLED, "listen": "127.0.0.1:2100"}, environment={})
    files = {path.name: text for path, text in units(as_set(Place(), chosen)).items()}
    assert "ListenStream=127.0.0.1:2100\n" in files["wxcontroller.socket"]


@pytest.mark.parametrize("name", [*INSTALLED, "backend_path"])
def test_settings_that_the_units_do_not_go_with_are_refused(name: str) -> None:
    other = "supervisord" if name == "supervisor" else "/srv/other"
    with pytest.raises(Refusal, match=f"{name} is '{other}', but the units want"):
        as_set(Place(), settings.load({**INSTALLED, name: other}, environment={}))


def test_a_first_settings_file_goes_with_the_units(tmp_path: Path) -> None:
    path = tmp_path / "first.toml"
    path.write_text(settings_file(Place()))
    assert as_set(Place(), settings.load(config=path, environment={})) == Place()


def test_for_the_systemd_of_a_user_nothing_asks_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "RUNTIME"):
        monkeypatch.delenv(f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    place = of_user(Path("/home/me/venv/bin"))
    found = units(place)
    assert {path.parent for path in found} == {Path("/home/me/.config/systemd/user")}
    assert not [path for path, text in found.items() if "User=" in text or "PrivateUsers" in text or "/var/" in text]
    assert 'systemd_scope = "user"' in settings_file(place)
