"""Servers for tests, on free ports: PostgreSQL, and a Redis that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import free_port
from tests.support.real_time import PATIENCE


def _programs() -> Path | None:
    """Return the folder with ``initdb`` and ``postgres``, which may not be in the path."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), Path(shutil.which("postgres") or "/nowhere")]
    return next((each.parent for each in sorted(found, reverse=True) if each.exists()), None)


POSTGRES_PROGRAMS = _programs()
REDIS_PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
_NOT_AS_ROOT = (
    {"user": "postgres", "group": "postgres", "extra_groups": []}
    if hasattr(os, "geteuid") and os.geteuid() == 0
    else {}
)


class _Server:
    """A server on a free port, with its data and its log in ``folder``. It can be killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.port = folder, free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str | Path]:
        raise NotImplementedError

    def _responds(self) -> bool:
        raise NotImplementedError

    def start(self, **more: Any) -> None:
        """Start the server, and wait until it responds."""
        log = self.folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(), stdout=output, stderr=output, cwd=self.folder, start_new_session=True, **more
            )
        deadline = time.monotonic() + PATIENCE
        while not self._responds():
            assert self._process.poll() is None, f"it did not start: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"it runs, and does not respond: {log.read_text()[-2000:]}"
            time.sleep(0.01)


class PostgresServer(_Server):
    """A PostgreSQL server that every user may connect to. It does not sync to the disk, because no test stops the
    machine.
    """

    database = "postgres"

    def url(self, driver: str = "asyncpg") -> str:
        return f"postgresql+{driver}://basiq@127.0.0.1:{self.port}/{self.database}"

    @property
    def plain_url(self) -> str:
        """The URL for psycopg without SQLAlchemy."""
        return f"postgresql://basiq@127.0.0.1:{self.port}/{self.database}"

    def make(self) -> None:
        assert POSTGRES_PROGRAMS is not None
        if _NOT_AS_ROOT:
            shutil.chown(self.folder, "postgres", "postgres")
        command = [POSTGRES_PROGRAMS / "initdb", "-D", self.folder / "data", "-A", "trust", "-U", "basiq", "--no-sync"]
        subprocess.run(
            [*command, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, cwd=self.folder, **_NOT_AS_ROOT
        )

    def _command(self) -> list[str | Path]:
        assert POSTGRES_PROGRAMS is not None
        settings = (
            f"listen_addresses=127.0.0.1 port={self.port} unix_socket_directories= fsync=off full_page_writes=off"
        )
        words = [
            word for each in f"{settings} max_connections=300 shared_buffers=32MB".split() for word in ("-c", each)
        ]
        return [POSTGRES_PROGRAMS / "postgres", "-D", self.folder / "data", *words, *self._options]

    def start(self, **more: Any) -> None:
        super().start(**more, **_NOT_AS_ROOT)

    def _responds(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f"postgresql://basiq@127.0.0.1:{self.port}/postgres", connect_timeout=5).close()
            return True
        return False

    def make_database(self, name: str, *, copy_of: str = "template1") -> None:
        """Create a database, which ``url`` names from now on. Nothing may be connected to the one that is copied."""
        import psycopg

        with psycopg.connect(f"postgresql://basiq@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{copy_of}"')
        self.database = name

    def kill(self) -> None:
        """Stop it at once: the next start recovers."""
        self.stop(signal.SIGQUIT)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server. SIGINT disconnects all clients."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None


@contextlib.contextmanager
def postgres_server(*options: str) -> Iterator[PostgresServer]:
    """Yield a running server for one test. Skips the test if PostgreSQL is not installed."""
    if POSTGRES_PROGRAMS is None:
        pytest.skip("no PostgreSQL is installed here")
    with tempfile.TemporaryDirectory(prefix="basiq-postgres-") as name:
        server = PostgresServer(Path(name), *options)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


class RedisServer(_Server):
    """A Redis server with its append-only file in ``folder``."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str | Path]:
        assert REDIS_PROGRAM is not None
        cluster = "--cluster-enabled" in self._options
        return [
            *(REDIS_PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning"),
            # Left to itself, a node talks to its cluster on its port + 10,000, which need not exist.
            *(("--cluster-port", str(free_port())) if cluster else ()),
            *self._options,
        ]

    def _responds(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the server, as a power cut would, except that the operating system keeps its writes."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def log(self) -> Path:
        """The present append-only file."""
        return max((self.folder / "appendonlydir").glob("*.incr.aof"))


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Yield a running server. Skips the test if Redis is not installed."""
    if REDIS_PROGRAM is None:
        pytest.skip("no redis-server is installed here")
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        if server._process is not None:
            server.kill()
