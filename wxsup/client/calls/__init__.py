"""The calls of the single-account API, by what they are about; openwx.py knows who may make them and how.

Each class has a method calls() that names what it answers; an answer is JSON, or a Reply as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wxsup.client.state import Login, LoginState
from wxsup.errors import NotLoggedIn, Unsupported


@dataclass(frozen=True)
class Upload:
    """A file that came with a call."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Call:
    """One call with its parameters; `still_there` tells whether its caller is."""

    parameters: Mapping[str, str]
    uploads: Mapping[str, Upload] = field(default_factory=dict)
    still_there: Callable[[], bool] = field(default=lambda: True)

    def get(self, name: str) -> str:
        """Return a parameter, "" if it was not given."""
        return self.parameters.get(name, "")

    def truthy(self, name: str) -> bool:
        """Tell whether a parameter is set to anything but 0 (openwx-api.md 1.3)."""
        return self.get(name) not in ("", "0")


Calls = Mapping[str, Callable[[Call], Any]]

#: Documented calls that take an ability which not every driver has.
ABILITIES = (
    "create_group",
    "invite_friend",
    "kick_group_member",
    "set_group_displayname",
    "stick",
    "make_friend",
    "accept_friend_request",
    "revoke_message",
)


def unsupported(driver: str) -> Calls:
    """Return the calls of ABILITIES, each of which says that this driver cannot do it."""

    def refuse(name: str) -> Callable[[Call], Any]:
        def answer(call: Call) -> Any:
            raise Unsupported(f"unsupported by driver {driver}: {name}")

        return answer

    return {name: refuse(name) for name in ABILITIES}


def when_running(state: LoginState, calls: Calls) -> Calls:
    """Return `calls` for a logged in account only; else they raise NotLoggedIn."""

    def only(act: Callable[[Call], Any]) -> Callable[[Call], Any]:
        def answer(call: Call) -> Any:
            if state.current is not Login.RUNNING:
                raise NotLoggedIn(state=state.current.value)
            return act(call)

        return answer

    return {name: only(act) for name, act in calls.items()}
