"""A message on its way out: letters, and the parts that go out one by one."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from wxsup.client.media import Media


@dataclass(frozen=True)
class Part:
    """What goes out at once: a text, a file, or one still to be fetched from `url`, to be called `name` (`code`)."""

    text: str = ""
    media: Media | None = None
    url: str = ""
    name: str = ""
    code: int = 0  # media_code, 0 for what its content says

    @property
    def content(self) -> str:
        """What people are told of it."""
        return f"{self.media.kind.label}({self.media.path})" if self.media else self.url or self.text


@dataclass(eq=False)
class Letter:
    """A message to one friend, in `parts`; `number` is its place in the store, 0 when it is not kept there.

    Who is `waited` for has a caller who wants the `answer` by the `deadline` (time.monotonic).
    """

    id: str
    sender: dict[str, Any]
    receiver: dict[str, Any]
    parts: list[Part]
    waited: bool = False
    number: int = 0
    sent: int = 0
    under_way: bool = False
    refused: int = 0
    deadline: float = 0.0
    due: float = 0.0
    pause: float = 0.0
    answer: Future[dict[str, Any]] = field(default_factory=Future)

    @property
    def to(self) -> str:
        """The id of the receiver."""
        return str(self.receiver["id"])

    @property
    def client_id(self) -> str:
        """What tells the next part from all others; the same at every attempt (ilink-protocol.md 8.1)."""
        return self.id if len(self.parts) == 1 else f"{self.id}-{self.sent + 1}"

    @property
    def next(self) -> Part:
        """The part whose turn it is."""
        return self.parts[self.sent]

    @property
    def unsent(self) -> list[Part]:
        """The parts that are left."""
        return self.parts[self.sent :]

    def body(self) -> dict[str, Any]:
        """Return what is kept of it in the store."""
        return {
            "id": self.id,
            "sender": self.sender,
            "receiver": self.receiver,
            "parts": [_kept(part) for part in self.parts],
            "waited": self.waited,
        }

    @classmethod
    def restored(cls, body: dict[str, Any], **progress: Any) -> Letter:
        """Return the letter that body() was made of."""
        parts = [_restored(part) for part in body["parts"]]
        return cls(**{**body, "parts": parts}, **progress)


def new_id() -> str:
    """Return an id that no other message has (ilink-protocol.md 8.1)."""
    return f"wx-{int(time.time() * 1000)}-{os.urandom(4).hex()}"


def _kept(part: Part) -> dict[str, Any]:
    return (
        part.media.kept() if part.media else {"text": part.text, "url": part.url, "name": part.name, "code": part.code}
    )


def _restored(kept: dict[str, Any]) -> Part:
    return Part(**kept) if "text" in kept else Part(media=Media.restored(kept))
