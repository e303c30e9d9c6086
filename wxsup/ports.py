"""TCP ports of this machine."""

from __future__ import annotations

import socket


def free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether nobody listens on `port`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
