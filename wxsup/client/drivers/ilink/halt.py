"""What ends the steps of a login or of receiving early: a stop, which is for good, or the wish for a new login."""

from __future__ import annotations

import threading


class Halt:
    """True while whatever is going on shall end; any thread may ask for that."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.stopped = False
        self.again = False

    def __bool__(self) -> bool:
        return self.stopped or self.again

    def stop(self) -> None:
        """End everything for good."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def begin_again(self) -> None:
        """End what is going on in favour of a new login."""
        with self._changed:
            self.again = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until it is true."""
        with self._changed:
            self._changed.wait_for(self.__bool__, seconds)

    def pause(self, seconds: float) -> None:
        """Wait for so long, or until it is true for good."""
        with self._changed:
            self._changed.wait_for(lambda: self.stopped, seconds)
