"""Files of received messages: fetched in the order of each conversation, given up in time, whatever fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.account import FragileStore, options
from tests.deadline import eventually
from wxsup.client import fetching as module
from wxsup.client.drivers import FileLost
from wxsup.client.events import Events
from wxsup.client.fetching import Fetcher
from wxsup.client.http import TransportError
from wxsup.client.media import Sink, media_folder


class World:
    """A fetcher whose files come as `fetch` says."""

    def __init__(self, folder: Path) -> None:
        chosen = options(folder, check_event_log_max_size="10000")
        self.store = FragileStore(folder / "account.sqlite")
        self.events = Events(self.store, chosen)
        self.fetch: Callable[[str, Sink], object] = lambda name, sink: sink(name.encode())
        self.tried: list[str] = []
        self.fetcher = Fetcher(self.store, self.events, media_folder(chosen, "x"), self._fetch)
        self.events.held_back = self.fetcher.wake

    def _fetch(self, source: Mapping[str, Any], sink: Sink) -> None:
        self.tried.append(source["name"])
        self.fetch(source["name"], sink)

    def file(self, name: str, conversation: str = "anne") -> None:
        body = {"post_type": "receive_message", "content": "[文件]", "media_code": 6, "media_name": name}
        self.events.message(body, conversation, source={"name": name})

    def text(self, content: str, conversation: str = "anne") -> None:
        self.events.message({"post_type": "receive_message", "content": content}, conversation)

    def told(self) -> list[str]:
        """Return what was reported: texts, names of files, and names in brackets of files that were given up."""
        return [
            f"({body['media_name']})" if "media_error" in body else body.get("media_name", body["content"])
            for body in (report.body for report in self.store.outbox.after("")[0])
        ]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(module, "RETRY_FIRST", 0.02)
    monkeypatch.setattr(module, "RETRY_MOST", 0.05)
    world = World(tmp_path)
    yield world
    world.store.broken = ""
    world.fetcher.stop(grace=20)
    world.store.close()


def unreachable(name: str, sink: Sink) -> None:
    raise TransportError("no connection")


def test_files_and_texts_of_a_conversation_keep_their_order(world: World) -> None:
    for number in range(3):
        world.file(f"file {number}")
        world.text(f"text {number}")
    eventually(lambda: len(world.told()) == 6)
    assert world.told() == ["file 0", "text 0", "file 1", "text 1", "file 2", "text 2"]
    eventually(lambda: world.fetcher._thread is None, what="the end of a thread with nothing to do")


def test_another_friends_file_does_not_wait_for_one_that_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST", 60.0)
    monkeypatch.setattr(module, "RETRY_MOST", 60.0)
    world.fetch = lambda name, sink: unreachable(name, sink) if name == "bad" else sink(b"x")
    world.file("bad")
    eventually(lambda: world.tried)
    world.file("good", "mia")
    eventually(lambda: world.told() == ["good"])


def test_all_that_is_overdue_is_given_up_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    world.fetch = unreachable
    began = time.monotonic()
    for number in range(20):
        world.file(f"file {number}")
    world.text("after all of them")
    eventually(lambda: world.told()[-1:] == ["after all of them"])
    assert world.told() == [*(f"(file {number})" for number in range(20)), "after all of them"]
    assert len(set(world.tried)) == 1, "one was tried for in vain, and that was enough"
    assert time.monotonic() - began < 20 * 0.3


def test_a_file_that_is_lost_is_not_tried_again(world: World) -> None:
    def lost(name: str, sink: Sink) -> None:
        raise FileLost("gone")

    world.fetch = lost
    world.file("a")
    eventually(lambda: world.told() == ["(a)"])
    assert world.tried == ["a"]


def test_neither_a_defect_nor_a_store_that_fails_ends_the_fetching(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(name: str, sink: Sink) -> None:
        if name == "bad":
            world.store.broken = "write"
            raise ZeroDivisionError
        sink(b"x")

    monkeypatch.setattr(module, "PATIENCE", 0.2)
    world.fetch = defect
    world.file("bad")
    eventually(lambda: caplog.messages.count("file not fetched yet") >= 3)
    world.store.broken = ""
    world.fetch = lambda name, sink: (_ for _ in ()).throw(ZeroDivisionError()) if name == "bad" else sink(b"x")
    world.file("good", "mia")
    eventually(lambda: sorted(world.told()) == ["(bad)", "good"])
    assert world.store.held.count() == 0


def test_a_stop_gives_up_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    inside, broken_off = threading.Event(), threading.Event()

    def fetch(name: str, sink: Sink) -> None:
        inside.set()
        broken_off.wait(20)
        raise TransportError("broken off")

    world.fetch = fetch
    world.file("a")
    assert inside.wait(20)
    world.fetcher.stop()
    broken_off.set()
    world.fetcher.stop(grace=20)
    assert (world.told(), world.store.held.count()) == ([], 1)
