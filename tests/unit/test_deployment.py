from __future__ import annotations

from pathlib import Path

import pytest

from wxsup.deployment import deployed

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


@pytest.mark.parametrize("name", sorted(deployed()))
def test_deploy_holds_what_the_templates_render_to(name: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        (DEPLOY / name).write_text(deployed()[name])
    assert (DEPLOY / name).read_text() == deployed()[name]


def test_deploy_holds_nothing_else() -> None:
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert files - {"README.md"} == set(deployed())


def test_another_prefix_shows_everywhere() -> None:
    files = deployed(prefix=Path("/opt/wx"), state_dir=Path("/srv/state"))
    assert "/opt/wx/bin/wxclient %i" in files["systemd/wxclient@.service"]
    assert not any("/usr/lib/wxsup" in text or "/var/lib/wxsup" in text for text in files.values())
