"""A controller over the memory supervisor and real records, and reports of a client, for tests of what needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from tests.account import FragileStore, Receiver, options
from tests.ports import free_port
from wxsup import names, values
from wxsup.access import Gate, open_tokens
from wxsup.client.events import Events
from wxsup.controller import Controller
from wxsup.environment import path_of
from wxsup.model import Client
from wxsup.registry import Registry
from wxsup.settings import Settings
from wxsup.supervisors.memory import Memory

# A loaded machine is not a defect.
hypothesis.settings.register_profile("wxsup", deadline=None)
hypothesis.settings.load_profile("wxsup")

#: Names that break a section, a unit, a shell or a path wherever they are not escaped.
HOSTILE_NAMES = {
    "plain": "alice",
    "chinese": "微信一号",
    "spaces": " my  client ",
    "percent": "100%(here)s %n%i",
    "semicolon": "a;b ; c",
    "quotes": """it's "quoted" `now`""",
    "dots": "../../etc/passwd",
    "dash": "-rf",
    "template": "{{7*7}}{% raw %}",
    "variable": "${HOME}$(id)\\\\n",
    "long": "汉" * 21 + "x",
}


@dataclass(frozen=True)
class World:
    """A controller and what it stands on."""

    settings: Settings
    registry: Registry
    supervisor: Memory
    controller: Controller

    def gate(self, *, closed: bool = False, hosts: Collection[str] = ()) -> Gate:
        """Return a gate over the tokens that the settings name; there are none at first."""
        return Gate(open_tokens(self.settings, {}), closed=closed, hosts=hosts)

    def record(self, name: str) -> Client:
        """Return the record of the client `name`, which must exist."""
        client = self.registry.find(names.slug(name))
        assert client is not None
        return client

    def file(self, name: str, option: str) -> Path:
        """Return a path of the client `name`, such as state_path, in a folder that exists."""
        path = path_of(self.record(name), option)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def tell(self, name: str, **told: object) -> None:
        """Write the state file of the client `name` as its process would."""
        pid = self.supervisor.status()[names.slug(name)].pid
        text = json.dumps({"pid": pid, "account": name, **told}, ensure_ascii=False)
        self.file(name, "state_path").write_text(text, encoding="utf-8")


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> MakeWorld:
    """Make a world from settings given as text, over a supervisor of one's own if need be."""

    def make(supervisor: Memory | None = None, **given: str) -> World:
        given = {"state_dir": str(tmp_path / "var"), "backend_start_port": str(free_port()), **given}
        settings = values.read(Settings, given)
        registry = Registry(
            settings.backend_path, first_port=settings.backend_start_port, max_clients=settings.max_clients
        )
        supervisor = supervisor or Memory()
        world = World(settings, registry, supervisor, Controller(settings, registry, supervisor))
        world.controller.prepare()
        return world

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


MakeEvents = Callable[..., Events]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FragileStore]:
    store = FragileStore(tmp_path / "account.sqlite")
    yield store
    store.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def make_events(store: FragileStore, tmp_path: Path) -> Iterator[MakeEvents]:
    made: list[Events] = []

    def make(post_api: str = "", key: str = "", **given: object) -> Events:
        events = Events(store, options(tmp_path, **{"plugin_openwx_post_api": post_api, **given}), key=key)
        events.start()
        made.append(events)
        return events

    yield make
    store.broken = ""
    for events in made:
        events.stop(grace=5)
