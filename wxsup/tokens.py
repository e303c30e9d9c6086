"""Tokens: who may call the API as what. One file holds their hashes; what it says is in force in every worker at once.

A token has 32 random bytes, which nobody can try out, so one round of SHA-256 hides it as well as many would.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from wxsup import addresses, files, names
from wxsup.addresses import IPAddress, Network
from wxsup.errors import Refusal, TokensUnreadable

SCHEMA = 1
FILE = "tokens.json"
PREFIX = "wxsup_"  # so that people, and scanners of repositories, know one when they see it
NAME_LIMIT = 64
SIZE_LIMIT = 1 << 20  # some 3,000 tokens
LOCK_TIMEOUT = 10.0


class Role(Enum):
    """What a token is for."""

    ADMIN = "admin"  # everything
    OPERATOR = "operator"  # start, stop, restart, check, qrcode
    APP = "app"  # the calls that are passed on to a client


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token without its secret; `clients` are patterns of client names, none of them for all clients."""

    name: str
    role: Role
    hash: str
    created: float
    expires: float | None = None
    clients: tuple[str, ...] = ()
    addresses: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        for text in (self.name, *self.clients):
            if not text or names.has_control(text):
                raise ValueError(f"{text!r} is empty or has control characters")
        if len(self.name) > NAME_LIMIT:
            raise ValueError(f"a name has at most {NAME_LIMIT} characters")

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and time.time() >= self.expires

    def covers(self, client: str) -> bool:
        """Tell whether it is for the client of that name."""
        return not self.clients or any(fnmatchcase(client, pattern) for pattern in self.clients)

    def usable_from(self, address: IPAddress | None) -> bool:
        """Tell whether it may be used from there; None is a unix socket."""
        return not self.addresses or (address is not None and any(address in network for network in self.addresses))


def create(
    name: str, role: Role, *, clients: Iterable[str] = (), lasts: float | None = None, addresses: Iterable[Network] = ()
) -> tuple[Token, str]:
    """Return a new token and its secret, which is nowhere but in the answer; raise ValueError for a bad name."""
    secret = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    token = Token(
        name=name,
        role=role,
        hash=digest(secret),
        created=now,
        expires=None if lasts is None else now + lasts,
        clients=tuple(clients),
        addresses=tuple(addresses),
    )
    return token, secret


def digest(secret: str) -> str:
    """Return the hash by which a token is kept."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def find(tokens: Iterable[Token], secret: str) -> Token | None:
    """Return the token with that secret; how long it takes tells nothing about how near a wrong one was."""
    wanted, found = digest(secret), None
    for token in tokens:
        if hmac.compare_digest(token.hash, wanted):
            found = token
    return found


class Tokens:
    """The tokens in the file `path`, and in `credential`, which is only read (systemd.exec(5), LoadCredential=)."""

    def __init__(self, path: Path, credential: Path | None = None) -> None:
        self.path = path
        self._places = (path, credential) if credential else (path,)
        self._known: dict[Path, tuple[tuple[int, ...], tuple[Token, ...]]] = {}

    def read(self) -> tuple[Token, ...] | None:
        """Return the tokens in force, None where there is no file; raise TokensUnreadable."""
        found = [tokens for place in self._places if (tokens := self._read(place)) is not None]
        return sum(found[1:], found[0]) if found else None

    def exist(self) -> bool:
        """Tell whether there is a file, readable or not."""
        return any(os.path.lexists(place) for place in self._places)

    def add(self, token: Token) -> None:
        """Add a token, in place of an expired one of its name; raise Refusal where that is taken."""
        files.private_directory(self.path.parent)
        with self._locked():
            kept = [known for known in self._read(self.path) or () if not (known.name == token.name and known.expired)]
            if any(known.name == token.name for known in kept):
                raise Refusal(f"there is a token {token.name!r} already; revoke it first, or take another name")
            self._write([*kept, token])

    def revoke(self, name: str) -> None:
        """Remove the token `name`; raise Refusal where there is none. The file stays, and so the API stays shut."""
        with self._locked():
            known = self._read(self.path) or ()
            kept = [token for token in known if token.name != name]
            if len(kept) == len(known):
                raise Refusal(f"there is no token {name!r} in {self.path}")
            self._write(kept)

    def _locked(self) -> AbstractContextManager[int]:
        return files.locked(self.path.with_name(f".{self.path.name}.lock"), timeout=LOCK_TIMEOUT)

    def _write(self, tokens: Iterable[Token]) -> None:
        text = dumps(tokens).encode()
        if len(text) > SIZE_LIMIT:  # a file that is not read any more would keep everybody out
            raise Refusal(f"{self.path} would be too large; revoke what is not needed any more")
        files.replace(self.path, text)

    def _read(self, path: Path) -> tuple[Token, ...] | None:
        try:
            mark = files.mark(path)
            known = self._known.get(path)
            if known is None or known[0] != mark:
                if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise ValueError("others may write it; chmod 600")
                known = self._known[path] = (mark, loads(files.read_plain(path, limit=SIZE_LIMIT).decode()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as ex:
            raise TokensUnreadable(f"{path}: {ex}") from ex
        return known[1]


def dumps(tokens: Iterable[Token]) -> str:
    """Return the text of the file."""
    table = [
        {**asdict(token), "role": token.role.value, "addresses": [str(network) for network in token.addresses]}
        for token in tokens
    ]
    return json.dumps({"schema": SCHEMA, "tokens": table}, ensure_ascii=False, indent=1) + "\n"


def loads(text: str) -> tuple[Token, ...]:
    """Return the tokens in the text of the file; raise ValueError for anything that we did not write.

    What is not understood may be a limit: then nobody is let in, rather than too many.
    """
    told = json.loads(text)
    if not isinstance(told, dict) or told.keys() != {"schema", "tokens"} or told["schema"] != SCHEMA:
        raise ValueError(f"it is no list of tokens in schema {SCHEMA}")
    if not isinstance(told["tokens"], list):
        raise ValueError("tokens is no list")
    return tuple(_token(entry) for entry in told["tokens"])


def _token(entry: Any) -> Token:
    if not isinstance(entry, Mapping) or entry.keys() != {field.name for field in fields(Token)}:
        raise ValueError("a token has other fields than it should")
    texts = [entry["name"], entry["role"], entry["hash"], *_list(entry["clients"]), *_list(entry["addresses"])]
    times = [entry["created"], *([] if entry["expires"] is None else [entry["expires"]])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a token has something else where a text should be")
    if not all(type(number) in (int, float) and 0 <= number < 1e11 for number in times):
        raise ValueError("a token has something else where a time should be")
    if len(entry["hash"]) != 64 or not entry["hash"].isascii():
        raise ValueError("a token has no hash")
    return Token(
        name=entry["name"],
        role=Role(entry["role"]),
        hash=entry["hash"],
        created=entry["created"],
        expires=entry["expires"],
        clients=tuple(entry["clients"]),
        addresses=tuple(map(addresses.network, entry["addresses"])),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a token has something else where a list should be")
    return value
