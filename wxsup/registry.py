"""The client records on disk: one env file each, written whole, found again after any crash.

The folder's lock covers what several records decide together: names, ports and their number. A lock per client covers
the whole of a start, stop or sync of that client; the controller takes it. Locks lie in a folder of their own.
"""

from __future__ import annotations

import errno
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from wxsup import files, names, ports, record
from wxsup.errors import ClientBusy, NoFreePort, RecordInvalid, TooManyClients
from wxsup.model import Client
from wxsup.options import FOREIGN

Kept = TypeVar("Kept", Client, tuple[str, str])

LAST_PORT = 65000
LEAST_KEY = 16  # characters
NO_SECRETS = ("", "")
FOLDER_TIMEOUT = 10.0
CLAIM_TIMEOUT = 40.0  # longer than a stop takes at worst


@dataclass(frozen=True)
class Broken:
    """A record that cannot be read, and why."""

    slug: str
    reason: str


class Registry:
    """The records in `folder`; ports from `first_port` upwards, at most `max_clients` records.

    They are readable by us alone, and by the group `readers` if there is one. What clients post is signed with the
    secret in the file `post_secret` if there is one.
    """

    def __init__(
        self, folder: Path, *, first_port: int, max_clients: int, readers: str = "", post_secret: Path | None = None
    ) -> None:
        self.folder = folder
        self._readers = readers
        self._post_secret = post_secret
        self._first_port = first_port
        self._max_clients = max_clients
        self._locks = folder / "locks"
        self._known: dict[Path, tuple[tuple[int, ...], Client | tuple[str, str]]] = {}

    def prepare(self) -> None:
        """Make the folders."""
        files.private_directory(self._locks)

    def path(self, slug: str) -> Path:
        """Return where the record of this slug lies."""
        return self.folder / f"{names.program(slug)}.env"

    def find(self, slug: str) -> Client | None:
        """Return the record of this slug, None if there is none; raise RecordInvalid if it cannot be read."""
        path = self.path(slug)
        client = self._read(path, record.loads)
        if client is None:
            return None
        if client.slug != slug:
            raise RecordInvalid(f"{path}: it is the record of another client")
        return client

    def secret_path(self, slug: str) -> Path:
        """Return where the secrets of this client lie, that of the hop and that of its posts: never in its record."""
        return self.folder / f"{names.program(slug)}.secret"

    def secret(self, slug: str) -> str:
        """Return the secret of the hop to this client; raise RecordInvalid if there is none that could be one."""
        found = self._read(self.secret_path(slug), _secrets)
        if found is None or found == NO_SECRETS:
            raise RecordInvalid(f"{self.secret_path(slug)} is missing or empty; stop and start the client")
        return found[0]

    def secrets_stand(self, client: Client) -> bool:
        """Tell whether this client has the secrets that it is to have; raise OSError when that cannot be known.

        A foreign program is to have none: its file is empty.
        """
        try:
            found = self._read(self.secret_path(client.slug), _secrets)
        except RecordInvalid:
            return False
        if found is None or client.driver == FOREIGN:
            return found == NO_SECRETS
        return found != NO_SECRETS and found[1] == post_key(self._post_secret)

    def slugs(self) -> list[str]:
        """Return the slugs of all records, in order."""
        found = (names.slug_of(path.stem) for path in self.folder.glob("wxclient-*.env"))
        return sorted(slug for slug in found if slug is not None)

    def list(self) -> Iterator[Client | Broken]:
        """Yield every record; one that cannot be read spoils nothing but its own entry."""
        for slug in self.slugs():
            try:
                client = self.find(slug)
            except RecordInvalid as ex:
                yield Broken(slug, str(ex))
            else:
                if client is not None:
                    yield client

    def allocate(self) -> int:
        """Return a port that no record has and nobody listens on; call it, and save what it led to, under `locked`.

        Raises TooManyClients and NoFreePort.
        """
        entries = list(self.list())
        if len(entries) >= self._max_clients:
            raise TooManyClients
        taken = {entry.port for entry in entries if isinstance(entry, Client)}
        for port in range(self._first_port, LAST_PORT + 1):
            if port not in taken and ports.free(port):
                return port
        raise NoFreePort

    def save(self, client: Client) -> None:
        """Write the record of `client`, in place of an older one, after its secrets if they are not there yet."""
        if not self.secrets_stand(client):
            files.replace(self.secret_path(client.slug), self._secrets(client), group=self._readers)
        files.replace(self.path(client.slug), record.dumps(client), group=self._readers)

    def remove(self, client: Client) -> None:
        """Delete the record of `client`, and with it its claim to its port; its secret goes last."""
        for path in (self.path(client.slug), self.secret_path(client.slug)):
            files.remove(path)
            self._known.pop(path, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from allocating; held for as long as one record takes to write."""
        try:
            with files.locked(self._locks / "folder", timeout=FOLDER_TIMEOUT):
                yield
        except BlockingIOError as ex:
            raise ClientBusy("the folder of records stayed locked") from ex

    @contextmanager
    def claimed(self, slug: str, *, timeout: float | None = None) -> Iterator[None]:
        """Keep every other process from working on this client; raise ClientBusy after `timeout` seconds."""
        lock = self._locks / names.program(slug)
        try:
            with files.locked(lock, timeout=CLAIM_TIMEOUT if timeout is None else timeout):
                try:
                    yield
                finally:
                    if not self.path(slug).exists():
                        lock.unlink(missing_ok=True)  # whoever waits for it sees that it is gone (files.locked)
        except BlockingIOError as ex:
            raise ClientBusy("another start or stop of this client is under way") from ex

    def _secrets(self, client: Client) -> str:
        """Return what the secret file of `client` is to hold; the secret of the hop stays if there is one."""
        if client.driver == FOREIGN:
            return ""
        try:
            hop = self.secret(client.slug)
        except RecordInvalid:
            hop = secrets.token_hex(32)
        return "\n".join([hop, key] if (key := post_key(self._post_secret)) else [hop])

    def _read(self, path: Path, load: Callable[[str], Kept]) -> Kept | None:
        """Return what `load` makes of a file, None if there is none; the same file is not read twice."""
        try:
            mark = files.mark(path)
            known = self._known.get(path)
            if known is None or known[0] != mark:
                known = self._known[path] = (mark, load(files.read_plain(path).decode()))
        except FileNotFoundError:
            self._known.pop(path, None)
            return None
        except (OSError, UnicodeDecodeError, RecordInvalid) as ex:
            raise RecordInvalid(f"{path}: {ex}") from ex
        return cast(Kept, known[1])


def post_key(path: Path | None) -> str:
    """Return the secret in the file `path`, "" without one; raise OSError when that is no file with a good secret."""
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        key = ""
    if not key.isprintable() or len(key) < LEAST_KEY:
        raise OSError(errno.EINVAL, f"it is not one line of {LEAST_KEY} characters or more", str(path))
    return key


def _secrets(text: str) -> tuple[str, str]:
    """Return the secret of the hop and that of the posts, "" for none."""
    if not text:
        return NO_SECRETS
    hop, _, post = text.partition("\n")
    if not re.fullmatch("[0-9a-f]{64}", hop):
        raise RecordInvalid("it is no secret of ours")
    return hop, post
