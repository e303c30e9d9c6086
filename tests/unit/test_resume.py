"""Starting all after a boot; what it starts at all is in test_controller.py."""

from __future__ import annotations

import os
import time

from tests.deadline import TIMEOUT
from tests.unit.conftest import MakeWorld, World
from wxsup.errors import SupervisorUnreachable
from wxsup.model import Client, State, Status, Want
from wxsup.supervisors.memory import Memory


def test_resume_asks_again_only_for_whom_it_could_not_ask(world: World) -> None:
    """Neither a broken record nor a refusal passes by itself, and an operator's stop stands."""
    for name in ("up", "down", "refused", "stopping"):
        world.controller.start(name, {})
        world.tell(name, state="running")
        os.utime(world.file(name, "state_path"), (1, 1))
    for name in ("down", "refused"):
        world.supervisor.end(name)
    world.registry.path("broken").write_text("nonsense")
    world.supervisor.refuse["refused"] = "no such program"
    world.supervisor.reachable = False
    waits: list[float] = []
    later = time.time() + 60

    def operator(seconds: float) -> bool:
        if not seconds:
            return False
        waits.append(seconds)
        if len(waits) == 3:
            world.supervisor.reachable = True
            world.supervisor.end("stopping", State.STOPPING)
            world.supervisor.end("up")
            os.utime(world.file("up", "state_path"), (later, later))  # it has written its end
        return False

    assert world.controller.resume(patience=TIMEOUT, stop=operator) == ["broken", "refused"]
    assert len(waits) == 3
    statuses = world.supervisor.status()
    assert {slug: status.state for slug, status in statuses.items()} == {
        "up": State.STOPPED,
        "down": State.RUNNING,
        "refused": State.STOPPED,
        "stopping": State.STOPPING,
    }


def test_resume_leaves_alone_who_is_stopped_after_it_was_found_up(make_world: MakeWorld) -> None:
    class Away(Memory):
        """Cannot be reached for the first start of "late"."""

        late = 0

        def start(self, client: Client) -> Status:
            if client.slug == "late" and not self.late:
                self.late += 1
                raise SupervisorUnreachable
            return super().start(client)

    world = make_world(Away())
    world.supervisor.late = 1  # type: ignore[attr-defined]
    for name in ("found", "started", "late"):
        world.controller.start(name, {})
    for name in ("started", "late"):
        world.supervisor.end(name)
    world.supervisor.late = 0  # type: ignore[attr-defined]

    def operator(seconds: float) -> bool:
        if seconds:
            assert world.supervisor.status()["started"].state is State.RUNNING
            for name in ("found", "started"):
                world.supervisor.end(name)
        return False

    assert world.controller.resume(patience=TIMEOUT, stop=operator) == []
    assert {slug: status.state for slug, status in world.supervisor.status().items()} == {
        "found": State.STOPPED,
        "started": State.STOPPED,
        "late": State.RUNNING,
    }


def test_resume_gives_up_in_time_and_names_who_is_left(world: World) -> None:
    world.controller.start("a", {})
    world.supervisor.reachable = False
    assert world.controller.resume() == ["a"]


def test_resume_that_is_told_to_stop_takes_the_start_under_way_back(world: World) -> None:
    for name in "abc":
        world.controller.start(name, {})
        world.supervisor.end(name)
    asked: list[float] = []

    def stop(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) == 2

    assert world.controller.resume(patience=TIMEOUT, stop=stop) == []
    assert {slug for slug, status in world.supervisor.status().items() if status.pid} == {"a"}
    assert [client.want for client in world.controller.clients()] == [Want.UP] * 3
    world.supervisor.reachable = False
    assert world.controller.resume(patience=TIMEOUT, stop=lambda seconds: True) == [], "nor does it wait any longer"
