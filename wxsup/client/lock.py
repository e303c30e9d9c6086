"""One process per account: an old copy is waited for, within bounds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from wxsup import files
from wxsup.daemon import Stop

TIMEOUT = 15.0  # the time that an old copy may need to end
LOOK = 0.2


@contextlib.contextmanager
def only_copy(path: Path, stop: Stop) -> Iterator[int]:
    """Hold the account's lock and yield its descriptor.

    Raises BlockingIOError when another copy does not end in time, or when we are to stop.
    """
    deadline = time.monotonic() + TIMEOUT
    with contextlib.ExitStack() as held:
        while True:
            try:
                descriptor = held.enter_context(files.locked(path, timeout=LOOK))
                break
            except BlockingIOError:
                if stop.is_set() or time.monotonic() >= deadline:
                    raise
        yield descriptor
