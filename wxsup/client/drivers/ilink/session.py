"""What a login yields, and the file that keeps it (ilink-protocol.md 3.3, 13.2)."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wxsup import files

logger = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True)
class Session:
    """A binding of a WeChat user, the owner, to a bot. `token` is the secret."""

    token: str = field(repr=False)
    base_url: str
    bot_id: str
    user_id: str

    @property
    def owner_hash(self) -> str:
        """Tells two clients of one WeChat user without telling who that is."""
        return hashlib.sha256(self.user_id.encode()).hexdigest()[:16]


def load(path: Path) -> Session | None:
    """Return the session that was kept, None if there is none or it cannot be read, which is logged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        names = Session.__dataclass_fields__
        values = {name: kept[name] for name in names}
        if not all(isinstance(value, str) and value for value in values.values()):
            raise ValueError("a field is empty")
        return Session(**values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as ex:
        # Never deleted: it may be all that is left of a login (3.3).
        logger.error("session not readable", extra={"action": "login", "path": str(path), "reason": type(ex).__name__})
        return None


def save(path: Path, session: Session) -> None:
    """Keep `session`, and the one before it as ``.bak``."""
    if path.exists():
        files.replace(path.with_suffix(path.suffix + ".bak"), path.read_bytes())
    files.replace(path, json.dumps({"v": VERSION, **asdict(session), "saved_at": int(time.time())}))


def set_aside(path: Path) -> None:
    """Put the session out of use without destroying it."""
    if path.exists():
        path.replace(path.with_suffix(path.suffix + ".aside"))
