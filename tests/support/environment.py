"""The surroundings of a test: folders, free ports, and the environment of a child process."""

from __future__ import annotations

import atexit
import os
import random
import socket
from contextlib import ExitStack
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
_RESERVED = ExitStack()
atexit.register(_RESERVED.close)


def free_port() -> int:
    """Return a port of the loopback address that has no listener, and that no other test gets.

    It stays bound until this process ends, so no other test chooses it before its server starts. A server that allows
    addresses to be used again, as all here do, can listen at it meanwhile.
    """
    for _ in range(100):
        reserved = socket.socket()
        try:
            reserved.bind(("127.0.0.1", _choose(PORTS)))  # fails if it is another's, also if it is only bound
        except OSError:
            reserved.close()
            continue
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _RESERVED.enter_context(reserved)
        return int(reserved.getsockname()[1])
    raise AssertionError("no port is free")


def unmeasured() -> dict[str, str]:
    """Return the environment for a child without coverage: its code is measured elsewhere, or it is killed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
