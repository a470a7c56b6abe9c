"""A PostgreSQL server of the tests' own, on a free port and in a temporary folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port


def _programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``, which a distribution may keep out of the path."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), Path(shutil.which("postgres") or "/nowhere")]
    return next((each.parent for each in sorted(found, reverse=True) if each.exists()), None)


PROGRAMS = _programs()
_NOT_AS_ROOT = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


class PostgresServer:
    """One server; every user may connect. Not synced to the disk: it is killed, but the machine stays up."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.database = "postgres"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, driver: str = "asyncpg") -> str:
        return f"postgresql+{driver}://basiq@127.0.0.1:{self.port}/{self.database}"

    @property
    def plain_url(self) -> str:
        """For psycopg itself."""
        return f"postgresql://basiq@127.0.0.1:{self.port}/{self.database}"

    def make(self) -> None:
        assert PROGRAMS is not None
        if _NOT_AS_ROOT:
            shutil.chown(self.folder, "postgres", "postgres")
        command = [PROGRAMS / "initdb", "-D", self.folder / "data", "-A", "trust", "-U", "basiq", "--no-sync"]
        subprocess.run(
            [*command, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, cwd=self.folder, **_NOT_AS_ROOT
        )

    def start(self) -> None:
        assert PROGRAMS is not None
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 300,
            "shared_buffers": "32MB",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAMS / "postgres", "-D", self.folder / "data", *options, *self._options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **_NOT_AS_ROOT,
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        import psycopg

        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(f"postgresql://basiq@127.0.0.1:{self.port}/postgres", connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.02)

    def make_database(self, name: str) -> None:
        """Make a database, to which ``url`` leads from now on."""
        import psycopg

        with psycopg.connect(f"postgresql://basiq@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        self.database = name

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT disconnects everybody; SIGQUIT ends without a word, and the next start recovers."""
        pid_file = self.folder / "data" / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid_file.read_text().split()[0]), how)
        deadline = time.monotonic() + 60
        while pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process is not None:
            self._process.wait(60)
            self._process = None


@contextlib.contextmanager
def postgres_server(*options: str) -> Iterator[PostgresServer]:
    """A running server of one test; skips the test where there is none to run."""
    if PROGRAMS is None:
        pytest.skip("no PostgreSQL is installed here")
    with tempfile.TemporaryDirectory(prefix="basiq-postgres-") as name:
        server = PostgresServer(Path(name), *options)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


_STARTED: list[PostgresServer] = []
"""Kept to the end of the process: another worker may stop the server, and a Popen that is dropped early warns."""


@contextlib.contextmanager
def shared_postgres() -> Iterator[PostgresServer]:
    """One server for all the workers of a test session, with a database for each.

    The first one starts it, the last one stops it.
    """
    if PROGRAMS is None:
        pytest.skip("no PostgreSQL is installed here")
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"basiq-postgres-{run}"
    folder.mkdir(exist_ok=True)
    with _counting(folder) as users:
        port = users.get("port")
        server = PostgresServer(folder, port=port)
        if port is None:
            server.make()
            server.start()
            _STARTED.append(server)
        users.update(port=server.port, count=users.get("count", 0) + 1)
    try:
        server.make_database(f"worker_{os.getpid()}")
        yield server
    finally:
        with _counting(folder) as users:
            users["count"] -= 1
            if not users["count"]:
                server.stop()
                shutil.rmtree(folder)


@contextlib.contextmanager
def _counting(folder: Path) -> Iterator[dict[str, int]]:
    lock = folder.with_suffix(".lock")
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = folder / "users.json"
        users: dict[str, int] = json.loads(state.read_text()) if state.exists() else {}
        yield users
        if folder.exists():
            state.write_text(json.dumps(users))
        else:
            lock.unlink()
