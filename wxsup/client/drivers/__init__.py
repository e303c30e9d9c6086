"""The contract of a driver: one way to be a WeChat account.

A driver is run by one thread and called by others. It takes the account from login to receiving, tells the LoginState
where it stands, and puts what comes in into the store before it asks for more. Each kind passes
tests/contract/test_driver.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from wxsup.client.letters import Part
from wxsup.client.media import Sink
from wxsup.client.pulse import Pulse
from wxsup.model import Exit


class FileLost(Exception):
    """A received file is not to be had, today or later."""


class Driver(ABC):
    """One account; objects are those of openwx-api.md 2."""

    #: What run() tells how long each of its steps may take.
    pulse: Pulse

    #: Called with the id of a friend who wrote to us, and so may be written to again.
    heard: Callable[[str], None] = staticmethod(lambda friend_id: None)

    #: What it is called in start_client, and what it can do, for get_client_info.
    name: str
    capabilities: tuple[str, ...] = ()

    @abstractmethod
    def run(self) -> Exit:
        """Log in and receive until stop() is called or the login is given up; return how the process is to end."""

    @abstractmethod
    def stop(self) -> None:
        """End run() soon, also in the middle of a held call."""

    @abstractmethod
    def user(self) -> dict[str, Any]:
        """Return the account itself."""

    @abstractmethod
    def friends(self) -> list[dict[str, Any]]:
        """Return all friends."""

    @abstractmethod
    def parts(self, content: str) -> list[str]:
        """Cut a text into what is sent at once; raise ContentRejected for one that cannot be sent."""

    @abstractmethod
    def admit(self, friend_id: str, count: int) -> None:
        """Raise CallFailed when a friend may not be sent so many parts now."""

    @abstractmethod
    def claim(self, friend_id: str, count: int) -> None:
        """Count one send that is about to be made, unless so many would not be admitted; in a transaction."""

    @abstractmethod
    def give_back(self, friend_id: str) -> None:
        """Take back a claim of which nothing came."""

    @abstractmethod
    def prepare(self, friend_id: str, part: Part, deadline: float) -> None:
        """Do what takes long before a part can be sent, until the `deadline` (time.monotonic); nothing is sent by it.

        Raises CallFailed.
        """

    @abstractmethod
    def send_part(self, friend_id: str, part: Part, client_id: str) -> dict[str, Any]:
        """Send a part and return the fields of the reply; raise CallFailed unless it was sent.

        Only DeliveryUnknown means that it may have been.
        """

    @abstractmethod
    def fetch(self, source: Mapping[str, Any], sink: Sink) -> None:
        """Put a received file into `sink`, from where the driver itself noted in `source`.

        Raises FileLost when it is not to be had any more, TransportError when it is not now, and what `sink` raises.
        """

    @abstractmethod
    def set_markname(self, friend_id: str, name: str) -> None:
        """Call a friend `name` among ourselves, "" for no such name."""

    @abstractmethod
    def send_typing(self, friend_id: str, typing: bool) -> None:
        """Show a friend that an answer is being written, or no longer; raise CallFailed when that is not possible."""

    @abstractmethod
    def hang_up(self) -> None:
        """Break off a send under way; there will be no other."""

    @abstractmethod
    def relogin(self) -> None:
        """Ask for a new login, in every state; the old one is used again when nobody scans."""

    @abstractmethod
    def submit_verify_code(self, code: str) -> None:
        """Hand over the digits that the phone shows; raise NotLoggedIn when none are wanted."""
