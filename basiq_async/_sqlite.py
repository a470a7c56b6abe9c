"""A SQLite file that is used from asyncio: in a thread of its own, with group commits, for many processes."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import attrs

from .errors import BasiqError, ConfigurationError

__all__ = ["Database", "FileKind"]

T = TypeVar("T")

_MOST_IN_A_GROUP = 256


@attrs.frozen
class FileKind:
    """What tells a file of ours from another: SQLite's ``application_id`` and ``user_version``.

    ``name`` is for people, ``schema`` is run on a new file, ``failure`` makes the error for what is not the
    file's own fault: a full disk, a lock that lasts.
    """

    name: str
    application_id: int
    version: int
    schema: tuple[str, ...]
    failure: Callable[[str], BasiqError]


@attrs.define(eq=False)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    write: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Database:
    """A SQLite file (WAL, ``synchronous=FULL``), opened when it is first used and made when it is not there.

    ``run`` executes in a thread; what several tasks ask for at once shares one transaction and one sync to
    disk. A file of another program, another kind or version, and a damaged one raise ``ConfigurationError``
    and are left as they are; failures of the moment raise ``kind.failure``. ``busy_timeout`` is for how many
    seconds it waits for another process to finish writing. A forked child opens the file anew.
    """

    def __init__(self, path: str | os.PathLike[str], kind: FileKind, *, busy_timeout: float = 5.0) -> None:
        text = os.fspath(path)
        if not isinstance(text, str) or not text or text.startswith((":memory:", "file:")):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"the {kind.name} must be the path of a file on a local disk")
        self.path = text
        self._kind = kind
        self._busy_timeout = busy_timeout
        self._worker: _Worker | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{self._kind.name} {self.path!r}{', closed' if self._closed else ''}>"

    async def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        """Do ``work`` in a transaction, and return its result once that is durable.

        ``work`` gets the connection, runs in the thread, and is short. With ``write=False`` it only reads.
        """
        if self._closed:
            raise self._kind.failure(f"the {self._kind.name} {self.path} is closed")
        if self._worker is None or self._worker.pid != os.getpid():
            self._worker = _Worker(self.path, self._kind, self._busy_timeout)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._worker.jobs.put(_Job(work, write, future, loop))
        return await future

    async def aclose(self) -> None:
        """Finish what was asked for, and close the file. May be called twice."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker is not None and worker.pid == os.getpid():
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[None] = loop.create_future()
            worker.at_end = lambda: _tell([_Job(_nothing, False, ended, loop)], [None])
            worker.jobs.put(None)
            await ended
            worker.thread.join()

    def __del__(self) -> None:
        worker = getattr(self, "_worker", None)
        if worker is not None and worker.pid == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)
            worker.jobs.put(None)


def _nothing(*arguments: object) -> None:
    pass


class _Worker:
    """The thread, and the only one that touches the connection."""

    def __init__(self, path: str, kind: FileKind, busy_timeout: float) -> None:
        self.pid = os.getpid()
        self.at_end: Callable[[], None] = _nothing
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._path = path
        self._kind = kind
        self._busy_timeout = busy_timeout
        # A daemon: a program that forgets to close must still end, and a commit is whole or not there.
        self.thread = threading.Thread(target=self._serve, name=f"basiq-async {kind.name}", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (first := self.jobs.get()) is not None:
                group, last = self._group(first)
                try:
                    connection = connection or self._open()
                    results = self._commit(connection, group)
                except BaseException as exc:
                    _tell(group, [self._translate(exc)] * len(group))
                else:
                    _tell(group, results)
                    del results
                del group, first
                if last:
                    return
        finally:
            if connection is not None:
                connection.close()
            self.at_end()

    def _group(self, first: _Job) -> tuple[list[_Job], bool]:
        group = [first]
        while len(group) < _MOST_IN_A_GROUP:
            try:
                job = self.jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return group, True
            group.append(job)
        return group, False

    def _commit(self, connection: sqlite3.Connection, group: list[_Job]) -> list[Any]:
        connection.execute("BEGIN IMMEDIATE" if any(job.write for job in group) else "BEGIN")
        try:
            results = [None if job.future.cancelled() else job.work(connection) for job in group]
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite itself rolls back when the disk is full
                connection.execute("ROLLBACK")
            raise
        return results

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._busy_timeout, isolation_level=None)
        try:
            connection.execute("BEGIN")  # what is read of one state, while another process may be making it
            ours = self._is_ours(connection)
            connection.execute("COMMIT")
            if not ours:
                self._make(connection)
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """False for a file with nothing in it. Only reads: a file that is not ours stays as it is."""
        kind = self._kind
        found: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables: int = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not (found or version or tables):
            return False
        if found != kind.application_id:
            raise ConfigurationError(
                f"{self._path} is a SQLite file, but no {kind.name}; it was left as it is: give another path"
            )
        if version != kind.version:
            raise ConfigurationError(
                f"{self._path} is a {kind.name} of version {version}, this is version {kind.version}; it was "
                "left as it is: use the release that made it, or give another path"
            )
        return True

    def _make(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as exc:
                # SQLite does not wait for this lock by itself, where two processes make the file at once.
                if _code(exc) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        if mode != "wal":
            raise ConfigurationError(f"{self._path} is not on a local disk: SQLite's WAL mode does not work there")
        connection.execute("BEGIN IMMEDIATE")
        if not self._is_ours(connection):  # another process may have been quicker
            for statement in self._kind.schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={self._kind.application_id}")
            connection.execute(f"PRAGMA user_version={self._kind.version}")
        connection.execute("COMMIT")

    def _translate(self, exc: BaseException) -> BaseException:
        if not isinstance(exc, sqlite3.Error):
            return exc
        name, path = self._kind.name, self._path
        code = _code(exc)
        if code == sqlite3.SQLITE_NOTADB:
            error: BasiqError = ConfigurationError(
                f"{path} is not a {name}, and no SQLite file at all; it was left as it is: give another path"
            )
        elif code == sqlite3.SQLITE_CORRUPT:
            error = ConfigurationError(
                f"the {name} {path} is damaged; restore it from a copy, or move it away together with its "
                "-wal and -shm files to begin anew"
            )
        elif code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            folder = Path(path).absolute().parent
            error = ConfigurationError(
                f"the {name} {path} cannot be opened for writing ({exc}): is there a folder {folder}, and "
                "may this process write in it?"
            )
        else:
            error = self._kind.failure(f"the {name} {path} does not work right now: {exc}")
        error.__cause__ = exc
        return error


def _code(exc: sqlite3.Error) -> int:
    """The primary error code; -1 where sqlite3 itself raised."""
    code: int = getattr(exc, "sqlite_errorcode", -1)
    return code & 0xFF if code > 0 else code


def _tell(group: list[_Job], results: list[Any]) -> None:
    """Hand the results to the event loops, one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, result in zip(group, results, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, result))
    for loop, pairs in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
