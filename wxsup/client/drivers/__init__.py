"""The contract of a driver: one way to be a WeChat account.

A driver is run by one thread and called by others. It takes the account from login to receiving, tells the LoginState
where it stands, and puts what comes in into the store before it asks for more. Each kind passes
tests/contract/test_driver.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from wxsup.client.pulse import Pulse
from wxsup.model import Exit


class Driver(ABC):
    """One account; objects are those of openwx-api.md 2."""

    #: What run() tells how long each of its steps may take.
    pulse: Pulse

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
    def send_text(self, friend: dict[str, Any], content: str) -> dict[str, Any]:
        """Send text to a friend and return the fields of the reply; raise CallFailed unless it was sent."""

    @abstractmethod
    def submit_verify_code(self, code: str) -> None:
        """Hand over the digits that the phone shows; raise NotLoggedIn when none are wanted."""
