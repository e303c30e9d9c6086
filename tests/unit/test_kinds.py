from __future__ import annotations

import pytest

from wxsup import kinds

LIMIT = 256  # dbus-daemon(1), max_connections_per_user
COMMANDS = 32  # beside the controller


@pytest.mark.parametrize("workers", range(1, 65))
def test_the_connections_of_all_workers_are_fewer_than_the_bus_allows(workers: int) -> None:
    """Also while the controller is reloaded, when those of before have not ended yet."""
    assert 1 <= kinds.connections(workers)
    assert 2 * workers * kinds.connections(workers) <= LIMIT - COMMANDS
