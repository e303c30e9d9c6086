"""How often each address has failed to show a good token, so that it can be told to slow down."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_network

from wxsup.addresses import IPAddress

BURST = 20
INTERVAL = 12.0  # seconds to earn one more
ADDRESSES = 4096  # remembered; the one that failed longest ago is forgotten first


class Failures:
    """The failures that one worker has seen: the generic cell rate algorithm (ITU-T I.371), one number per address.

    An IPv6 address counts with its /64: that is what one subscriber has (RFC 6177).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def count(self, address: IPAddress | None) -> float:
        """Count one more; return 0, or for how many seconds that address has no more of them."""
        key = str(ip_network((address, 64), strict=False) if isinstance(address, IPv6Address) else address)
        now = self._clock()
        until = max(now, self._until.get(key, now))
        excess = max(0.0, until - now - (BURST - 1) * INTERVAL)
        self._until[key] = until if excess else until + INTERVAL
        self._until.move_to_end(key)
        if len(self._until) > ADDRESSES:
            self._until.popitem(last=False)
        return excess
