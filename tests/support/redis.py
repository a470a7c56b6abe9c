"""A Redis server of the tests' own, that can be killed, stopped and started again on its file."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """One server on a free port, with its append-only file in ``folder``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._choose()
        self._options = options
        self._output = folder / "redis.log"
        self._started = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it responds. A port that someone took in the meantime is changed the first time."""
        for _ in range(5):
            self._process = self._run()
            if self._responds():
                self._started = True
                return
            self._process.wait()
            if not self._started:
                self._choose()
        raise AssertionError(f"redis-server did not start: {self._output.read_text()}")

    def _choose(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def _run(self) -> subprocess.Popen[bytes]:
        assert PROGRAM is not None
        cluster = "--cluster-enabled" in self._options
        with self._output.open("wb") as output:
            return subprocess.Popen(
                [
                    *(PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                    *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning"),
                    # Left to itself, a node talks to its cluster on its port + 10,000, which need not exist.
                    *(("--cluster-port", str(free_port())) if cluster else ()),
                    *self._options,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _responds(self) -> bool:
        """Whether it responds; false where it has ended."""
        assert self._process is not None
        deadline = time.monotonic() + 60
        while self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(16).startswith(b"+PONG"):
                    return True
            assert time.monotonic() < deadline, "redis-server runs, and does not respond"
            time.sleep(0.01)
        return False

    def kill(self) -> None:
        """End it as a power cut would, except that the operating system keeps what was written."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def log(self) -> Path:
        """The append-only file that is written to now."""
        found = sorted((self.folder / "appendonlydir").glob("*.incr.aof"))
        return found[-1]

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self.kill()


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A running server; skips the test where there is none to run."""
    if PROGRAM is None:
        pytest.skip("no redis-server is installed here")
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.close()
