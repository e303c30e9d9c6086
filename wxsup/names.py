"""Client names, and the one reversible form they take everywhere below HTTP: the slug.

A name is free text. Its slug keeps ``[A-Za-z0-9_-]`` and writes every other byte, and a leading ``-``, as ``.hh``:
valid as a file name, a supervisor program, a systemd instance (``%i``) and an XML id without any escaping.
"""

from __future__ import annotations

import hmac
import re
import unicodedata

from wxsup.errors import NameInvalid

MAX_BYTES = 64

#: The request header that carries the secret of the hop from the controller to a client.
SECRET_HEADER = "X-Wxsup-Secret"
#: The request header to which a client proves that it knows the secret, before it is told anything.
CHALLENGE_HEADER = "X-Wxsup-Challenge"

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_SLUG = re.compile(r"(?:[A-Za-z0-9_]|\.[0-9a-f]{2})(?:[A-Za-z0-9_-]|\.[0-9a-f]{2})*")
_ESCAPE = re.compile(rb"\.([0-9a-f]{2})")
# Controls, line and paragraph separators, lone surrogates: what breaks a line, a log or an encoding.
_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})


def has_control(text: str) -> bool:
    """Tell whether `text` holds a character that could break a line, a log or an encoding."""
    return any(unicodedata.category(character) in _REFUSED for character in text)


def slug(name: str) -> str:
    """Return the slug of a client `name`; raise NameInvalid unless it is 1..64 bytes without control characters."""
    if has_control(name):
        raise NameInvalid("a client name may not hold control characters")
    encoded = name.encode()
    if not 1 <= len(encoded) <= MAX_BYTES:
        raise NameInvalid(f"a client name is 1 to {MAX_BYTES} bytes of UTF-8, not {len(encoded)}")
    return "".join(
        chr(byte) if byte in _PLAIN and not (byte == ord("-") and index == 0) else f".{byte:02x}"
        for index, byte in enumerate(encoded)
    )


def name(slug_: str) -> str:
    """Return the client name behind `slug_`; raise NameInvalid for text that slug() never returns."""
    if _SLUG.fullmatch(slug_):
        encoded = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), slug_.encode())
        try:
            found = encoded.decode()
            if slug(found) == slug_:
                return found
        except (UnicodeDecodeError, NameInvalid):
            pass
    raise NameInvalid(f"{slug_!r} is not the slug of a client name")


def program(slug_: str) -> str:
    """Return the supervisor program, and the stem of every file, of the client with this slug."""
    return f"wxclient-{slug_}"


def slug_of(program_: str) -> str | None:
    """Return the slug in a program name or file stem, None when it is not one of ours."""
    slug_ = program_.removeprefix("wxclient-")
    if slug_ == program_:
        return None
    try:
        name(slug_)
    except NameInvalid:
        return None
    return slug_


def document_file(kind: str, slug_: str, suffix: str) -> str:
    """Return the document's file name, such as ``mojo_weixin_state_SLUG.json``."""
    return f"mojo_weixin_{kind}_{slug_}.{suffix}"


def proof(secret: str, challenge: str) -> str:
    """Return what only those who know `secret` can answer to `challenge` (RFC 2104)."""
    return hmac.new(secret.encode(), f"wxclient {challenge}".encode(), "sha256").hexdigest()


def process_title(name_: str) -> str:
    """Return what ps(1) shows for the client called `name_`, as the document has it."""
    return f"wxclient({name_})"
