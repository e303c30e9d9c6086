"""Hosts, ports and networks, for the side that listens."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from wxsup import values

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Address:
    """A host and a TCP port to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The http address under which a program on this machine reaches it."""
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{Address(reachable, self.port)}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def address(value: str) -> Address:
    """Take HOST:PORT, with brackets around an IPv6 host."""
    host, colon, port = values.text(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("it must be HOST:PORT")
    return Address(host, int(port))


def network(value: str) -> Network:
    """Take an IP address or a network such as 10.0.0.0/8."""
    return ipaddress.ip_network(value)  # its errors say which bit is wrong
