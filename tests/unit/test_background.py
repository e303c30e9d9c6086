from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deadline import TIMEOUT, eventually
from tests.ports import free_port
from tests.unit.conftest import MakeWorld, World
from tests.unit.upstream import Connection, Upstream, reply, replying
from wxsup.background import Background
from wxsup.model import Client, State, Want

Start = Callable[[World], Background]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start background work, and see it end with the test."""
    before = set(threading.enumerate())
    started: list[Background] = []

    def make(world: World) -> Background:
        started.append(Background(world.controller, world.settings))
        started[-1].start()
        return started[-1]

    yield make
    for background in started:
        background.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def leave_pending(world: World, name: str) -> None:
    """Leave a start behind that was cut short."""
    world.controller.start(name, {})
    world.supervisor.stop(world.record(name))
    world.registry.save(Client(**{**vars(world.record(name)), "pending": True}))


def running(world: World, name: str) -> bool:
    status = world.supervisor.status(name).get(name)
    return status is not None and status.state is State.RUNNING and not world.record(name).pending


def locked(world: World) -> bool:
    """Tell whether the lock is held, without asking for it: who asks in that moment would be turned away (proc(5))."""
    path = world.settings.tmpdir / "background.lock"
    return path.exists() and f":{path.stat().st_ino} " in Path("/proc/locks").read_text()


def test_unfinished_work_is_finished_at_once_and_again_and_again(make_world: MakeWorld, start: Start) -> None:
    world = make_world(check_interval="1")
    leave_pending(world, "a")
    start(world)
    eventually(lambda: running(world, "a"))
    world.registry.save(Client(**{**vars(world.record("a")), "want": Want.GONE}))
    eventually(lambda: world.registry.slugs() == [])


def test_only_one_of_two_works_and_the_other_takes_over(make_world: MakeWorld, start: Start) -> None:
    beats = replying(reply())
    with Upstream(beats) as one, Upstream(beats) as other:
        worlds = [
            make_world(check_interval="1", poll_interval="1", poll_api="http://{}:{}/".format(*server.address))
            for server in (one, other)
        ]
        first = start(worlds[0])
        eventually(lambda: one.requests)
        start(worlds[1])
        eventually(lambda: len(one.requests) >= 3, what="two more beats of the first")
        assert other.requests == []
        first.stop()
        eventually(lambda: other.requests, what="a beat of the second")
        count = len(one.requests)
        eventually(lambda: len(other.requests) >= 2)
        assert len(one.requests) == count


def test_a_step_that_fails_is_not_the_last_one(
    make_world: MakeWorld, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(check_interval="1")
    folder = world.registry.folder
    away = folder.with_name("away")
    leave_pending(world, "a")
    locks = world.registry._locks
    locks.rename(away)
    with caplog.at_level(logging.WARNING):
        start(world)
        eventually(lambda: caplog.records, what="a failed step in the log")
    away.rename(locks)
    eventually(lambda: running(world, "a"))


def test_a_folder_that_is_missing_for_a_while_does_not_end_it(
    make_world: MakeWorld, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(check_interval="1")
    leave_pending(world, "a")
    away = world.settings.tmpdir.with_name("away")
    world.settings.tmpdir.rename(away)
    start(world)
    eventually(lambda: caplog.records, what="the trouble in the log")
    away.rename(world.settings.tmpdir)
    eventually(lambda: running(world, "a"))


def test_the_heartbeat_asks_the_poll_api_again_and_again(make_world: MakeWorld, start: Start) -> None:
    with Upstream(replying(reply())) as server:
        start(make_world(poll_interval="1", poll_api="http://{}:{}/poll?key=1".format(*server.address)))
        eventually(lambda: len(server.requests) >= 2)
        assert {request.line for request in server.requests} == {"GET /poll?key=1 HTTP/1.1"}


def test_without_a_poll_api_there_is_no_heartbeat(make_world: MakeWorld, start: Start) -> None:
    world = make_world()
    start(world)
    eventually(lambda: locked(world))
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_a_redirect_is_not_followed(make_world: MakeWorld, start: Start) -> None:
    """A poll server must not be able to drive addresses of ours."""
    with Upstream(replying(reply())) as inside:
        location = "Location: http://{}:{}/openwx/stop_client?client=a".format(*inside.address)
        with Upstream(replying(reply(status="302 Found", headers=(location,)))) as server:
            start(make_world(poll_interval="1", poll_api="http://{}:{}/".format(*server.address)))
            eventually(lambda: len(server.requests) >= 2)
        assert inside.requests == []


def test_a_poll_server_that_fails_is_asked_again(make_world: MakeWorld, start: Start) -> None:
    def handle(connection: Connection) -> None:
        if connection.number > 1:
            replying(reply(status="500 Oops"))(connection)

    with Upstream(handle) as server:
        start(make_world(poll_interval="1", poll_api="http://{}:{}/".format(*server.address)))
        eventually(lambda: len(server.requests) >= 2)


def test_no_proxy_of_the_environment_comes_in_between(
    make_world: MakeWorld, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with Upstream(replying(reply())) as server:
        start(make_world(poll_api="http://{}:{}/".format(*server.address)))
        eventually(lambda: server.requests)


def test_a_stop_does_not_wait_for_the_interval(make_world: MakeWorld, start: Start) -> None:
    world = make_world(check_interval="3600")
    background = start(world)
    eventually(lambda: locked(world))
    background.stop()
    eventually(lambda: not locked(world))
