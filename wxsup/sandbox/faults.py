"""Misbehaviour by script: which calls of the server go wrong, how, and how often. It knows nothing of WeChat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from wxsup.sandbox.server import Answer, Page, page_of

MOST_FAULTS = 1000


class TooMany(Exception):
    """More faults wait than anybody can have meant."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call: whether it is carried out all the same, what is answered, and in which manner.

    `change` is laid over the true answer, `instead` takes its place; `close`, `delay` and `drip` are those of a Page.
    """

    effect: bool
    change: Mapping[str, object] | None = None
    instead: Page | None = None
    close: str = ""
    delay: float = 0.0
    drip: float = 0.0

    def answer(self, call: Callable[[], Answer]) -> Answer:
        """Make the call, if it is to take effect, and return what is answered in the end."""
        true = call() if self.effect else {"ret": 0}
        page = self.instead or (true if isinstance(true, Page) else page_of(overlaid(true, self.change or {})))
        return replace(page, close=self.close, delay=self.delay, drip=self.drip)


@dataclass
class _Rule:
    call: str
    user: str
    left: int  # 0 is for ever
    fault: Fault

    def fits(self, call: str, user: str) -> bool:
        return call == self.call and self.user in ("", user)


class Faults:
    """The faults that wait for their call: those that are counted in the order of their coming, then the lasting ones.

    Of the lasting ones the newest counts, so that each can be put aside by another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []

    def add(self, call: str, user: str, times: int, fault: Fault) -> None:
        """Let the next `times` calls go wrong, of `user` or with "" of anybody; with 0 all until clear()."""
        with self._lock:
            if len(self._rules) >= MOST_FAULTS:
                raise TooMany(f"{MOST_FAULTS} misbehaviours wait already")
            counted = sum(1 for rule in self._rules if rule.left)
            self._rules.insert(counted, _Rule(call, user, times, fault))

    def take(self, call: str, user: str) -> Fault | None:
        """Return what goes wrong with this call of `user`, which counts as once."""
        with self._lock:
            rule = next((rule for rule in self._rules if rule.fits(call, user)), None)
            if rule is None:
                return None
            if rule.left == 1:
                self._rules.remove(rule)
            rule.left = max(0, rule.left - 1)
            return rule.fault

    def clear(self) -> None:
        """Let every call go right again."""
        with self._lock:
            self._rules.clear()


def overlaid(fields: Mapping[str, object], change: Mapping[str, object]) -> dict[str, object]:
    """Return `fields` with those of `change` in their place; null leaves one out."""
    return {name: value for name, value in {**fields, **change}.items() if name not in change or value is not None}
