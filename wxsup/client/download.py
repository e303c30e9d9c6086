"""Files from the web, for media_path: from public addresses alone, whatever names and redirects say.

A caller of the API, or a chat partner through a receiver, could else make us read what only this machine can reach
(server-side request forgery).
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Collection
from urllib.parse import unquote, urljoin, urlsplit

from wxsup import values
from wxsup.client.http import Http, NotConnected, TransportError
from wxsup.client.media import Sink
from wxsup.errors import ContentRejected

TIMEOUT = 60.0
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5

Resolve = Callable[[str, int], list[str]]


class Refused(ContentRejected):
    """Nothing is fetched from that address."""


def addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host (getaddrinfo(3))."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Download:
    """Fetches URLs that match the pattern `allowed`; of `private_hosts` also where their address is not public."""

    def __init__(self, allowed: str, private_hosts: Collection[str], *, resolve: Resolve = addresses) -> None:
        self._allowed = allowed
        self._private_hosts = private_hosts
        self._resolve = resolve

    def fetch(self, url: str, sink: Sink) -> str:
        """Put the file at `url` into `sink` and return its name.

        Raises ContentRejected when it is refused or not to be had, and what `sink` raises.
        """
        deadline = time.monotonic() + TIMEOUT
        http = Http(dial=self._dial)
        for _ in range(MOST_REDIRECTS + 1):
            self.check(url)
            timeout = deadline - time.monotonic()
            try:
                answer = http.request("GET", url, headers={"Accept": "*/*"}, timeout=timeout, sink=sink)
            except TransportError as ex:
                raise _reason(ex) from ex
            if answer.status not in REDIRECTS:
                break
            try:
                url = urljoin(url, answer.headers.get("Location", ""))
            except ValueError as ex:
                raise Refused("media_path cannot be fetched: it leads to what is no URL") from ex
        if not 200 <= answer.status < 300:
            raise ContentRejected(f"media_path cannot be fetched: HTTP {answer.status}")
        return unquote(urlsplit(url).path).rpartition("/")[2]

    def check(self, url: str) -> None:
        """Raise Refused for what is never fetched, as far as the URL alone tells."""
        try:
            values.url(url)
        except ValueError as ex:
            raise Refused(f"media_path cannot be fetched: {ex}") from ex
        if not values.matches(self._allowed, url):
            raise Refused("media_path cannot be fetched: the setting media_url_allow does not allow this URL")

    def _dial(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """Connect to the very address that was looked at: a name may mean another one the next time."""
        host, port = address
        found = self._resolve(host, port)
        if host.lower() not in self._private_hosts and not all(map(public, found)):
            raise Refused("media_path cannot be fetched: it is at no public address")
        failure: OSError = OSError("the name has no address")
        deadline = time.monotonic() + timeout
        for each in found:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            try:
                return socket.create_connection((each, port), left)
            except OSError as ex:
                failure = ex
        raise failure


def public(address: str) -> bool:
    """Tell whether an address, also one that wraps another, is of the public Internet (RFC 6890, 4291, 6052, 3056)."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        wrapped = found.ipv4_mapped or found.sixtofour
        if found in ipaddress.ip_network("64:ff9b::/96"):
            wrapped = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if wrapped is not None:
            return public(str(wrapped))
        if found not in ipaddress.ip_network("2000::/3"):  # all that is handed out so far (RFC 4291 2.4)
            return False
    relays = ipaddress.ip_network("192.88.99.0/24")  # of 6to4, which is no more (RFC 7526)
    return found.is_global and not found.is_multicast and found not in relays


def _reason(ex: TransportError) -> ContentRejected:
    kind = "no connection" if isinstance(ex, NotConnected) else "broken off"
    return ContentRejected(f"media_path cannot be fetched: {kind}: {ex}", retryable=True)
