"""Who may call the API. For now: programs on this machine, and no web page that a browser on it happens to show.

A page of another site can make a browser send requests to a loopback address (CSRF), and with a name that it points
at us it could even read the answers (DNS rebinding). What a browser says tells such requests from a program's:
Fetch Metadata (w3.org/TR/fetch-metadata), Origin (RFC 6454 7), Host (RFC 9110 7.2).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from wxsup.errors import Forbidden
from wxsup.values import Address

#: A page of our own, an address that somebody typed, or no browser at all.
OWN_SITES = ("same-origin", "none")


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
