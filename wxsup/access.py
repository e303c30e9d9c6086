"""Who may call the API: who shows a token, and while there are no tokens any program on this machine.

Without tokens no foreign web page may. A page of another site can make a browser send requests to a loopback address
(CSRF), and with a name that it points at us it could even read the answers (DNS rebinding). What a browser says tells
such requests from a program's: Fetch Metadata (w3.org/TR/fetch-metadata), Origin (RFC 6454 7), Host (RFC 9110 7.2).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from wxsup import credentials, tokens
from wxsup.addresses import Address, IPAddress
from wxsup.credentials import Credentials
from wxsup.errors import (
    Forbidden,
    ParameterRefused,
    SettingInvalid,
    TokenRefused,
    TokensUnreadable,
    TooManyFailures,
    WxsupError,
)
from wxsup.failures import Failures
from wxsup.settings import Settings
from wxsup.tokens import Role, Token, Tokens

logger = logging.getLogger(__name__)

#: A page of our own, an address that somebody typed, or no browser at all.
OWN_SITES = ("same-origin", "none")
REMEDY = "make a token first: wxsup token add NAME --role admin"


@dataclass(frozen=True)
class Caller:
    """Who calls: the holder of `token`, or, where there are no tokens, any program on this machine."""

    token: Token | None = None

    def allow(self, role: Role, client: str = "") -> None:
        """Raise Forbidden unless it may make the calls of `role`, to `client` if one is named, existing or not."""
        if self.token and self.token.role not in (role, Role.ADMIN):
            raise Forbidden("this token is not for that call")
        if client and not self.sees(client):
            raise Forbidden("this token is not for that client")

    def sees(self, client: str) -> bool:
        """Tell whether lists show it the client of that name."""
        return self.token is None or self.token.covers(client)


class Gate:
    """Lets callers in; one per worker. A `closed` one wants a token also while there are none: others can reach us."""

    def __init__(self, known: Tokens, *, closed: bool = False, hosts: Collection[str] = ()) -> None:
        self._tokens = known
        self._closed = closed
        self._hosts = hosts
        self._failures = Failures()
        self._trouble = ""

    def admit(self, environ: dict[str, Any], shown: Credentials) -> Caller:
        """Return who makes the request `environ`, from which the credentials `shown` were taken.

        Raises TokenRefused, TooManyFailures, TokensUnreadable, Forbidden, or ParameterRefused for a doubtful request.
        """
        if len(shown.query) > 1:
            raise ParameterRefused(credentials.PARAMETER, "it is given more than once")
        known = self._known()
        if known is None:
            refuse_foreign_pages(environ, self._hosts)
            return Caller()
        address = _address(environ)
        secrets = {*shown.header, *shown.query}
        if len(secrets) != 1:
            raise self._refusal(address, "two different tokens" if secrets else "no token")
        (secret,) = secrets
        token = tokens.find(known, secret)
        if token is None:
            raise self._refusal(address, "there is no such token")
        if token.expired:
            raise self._refusal(address, "the token has expired", token)
        if not token.usable_from(address):
            raise self._refusal(address, "the token may not be used from this address", token)
        credentials.forget(environ, secret)
        return Caller(token)

    def _known(self) -> tuple[Token, ...] | None:
        """Return the tokens in force; None only where a caller without one may be let in."""
        try:
            known = self._tokens.read()
            if known is None and self._closed:
                raise TokensUnreadable(f"there is no {self._tokens.path}; {REMEDY}")
        except TokensUnreadable as ex:
            if str(ex) != self._trouble:
                self._trouble = str(ex)
                logger.error("nobody is let in", extra={"action": "access", "reason": self._trouble})
            raise TokensUnreadable("the log of the controller says why") from ex
        self._trouble = ""
        self._closed = self._closed or known is not None  # what has shut the API does not open it by going away
        return known

    def _refusal(self, address: IPAddress | None, reason: str, token: Token | None = None) -> WxsupError:
        if wait := self._failures.count(address):
            return TooManyFailures(retry_after=math.ceil(wait))
        holder = {"holder": token.name} if token else {}
        logger.warning("call refused", extra={"action": "access", "address": address, "reason": reason, **holder})
        return TokenRefused(reason)


def open_tokens(settings: Settings, environment: Mapping[str, str] = os.environ) -> Tokens:
    """Return the tokens that `settings` name, with those that systemd hands over."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    return Tokens(settings.tokens_path, Path(folder, tokens.FILE) if folder else None)


def refuse_exposure(addresses: Iterable[Address], known: Tokens) -> None:
    """Raise SettingInvalid where others than this machine could call an API that asks for no token.

    Raises TokensUnreadable where that cannot be known.
    """
    for address in addresses:
        if not address.loopback and known.read() is None:
            raise SettingInvalid(f"listen is {str(address)!r}, which others can reach, but there is no token; {REMEDY}")


def refuse_foreign_pages(environ: Mapping[str, Any], hosts: Collection[str] = ()) -> None:
    """Raise Forbidden for a request of a foreign page, or one under a name that is neither loopback nor in `hosts`."""
    authority = environ.get("HTTP_HOST", "")
    name = _name(authority)
    if not (name in map(str.lower, hosts) or Address(name, 0).loopback):
        raise Forbidden(f"the API is not known under the name {name[:64]!r}; see the setting trusted_hosts")
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    if site not in OWN_SITES:
        raise Forbidden("a page of another site may not use the API")
    origin = environ.get("HTTP_ORIGIN")
    referer = environ.get("HTTP_REFERER") or None  # some programs send an empty one
    pages = [page.partition("://")[2].partition("/")[0] for page in (origin, referer) if page is not None]
    if any(page != authority for page in pages):
        raise Forbidden("a page of another origin may not use the API")


def _name(authority: str) -> str:
    """Return the host in a Host header, without its port."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].lower()


def _address(environ: Mapping[str, Any]) -> IPAddress | None:
    """Return the address that a request came from, None for a unix socket."""
    try:
        found = ip_address(environ.get("REMOTE_ADDR", ""))
    except ValueError:
        return None
    # What an IPv6 socket says of an IPv4 caller.
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found
