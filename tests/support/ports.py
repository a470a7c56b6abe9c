"""Free ports for servers that a test starts, stops and starts again."""

from __future__ import annotations

import random
import socket

# Ports below those that the system deals out to connections (32768 on Linux, 49152 elsewhere): a server that is down
# for a moment finds its port again.
PORTS = range(15_000, 32_000)
_choose = random.SystemRandom().choice  # the tests seed `random` alike in each of their processes


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    for _ in range(100):
        port = _choose(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")
