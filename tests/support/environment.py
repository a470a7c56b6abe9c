"""The surroundings of a test: folders, free ports, and the environment of a child process."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import basiq_async

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PACKAGE = f"{Path(basiq_async.__file__).parent}/"
"""What the file names of the package's own frames begin with. A clone may be in a folder of the same name."""


# Ports below those that the system deals out to connections (32768 on Linux, 49152 elsewhere): a server that is down
# for a moment finds its port again.
PORTS = range(15_000, 32_000)
_choose = random.SystemRandom().choice  # the tests seed `random` alike in each of their processes


def free_port() -> int:
    """Return a free port of the loopback address."""
    for _ in range(100):
        port = _choose(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is free")


def unmeasured() -> dict[str, str]:
    """Return the environment for a child without coverage: its code is measured elsewhere, or it is killed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
