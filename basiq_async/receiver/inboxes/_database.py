"""A SQLite file that is used from asyncio: in a thread, with group commits, for many processes."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import attrs

from ..._storage.sqlite import FileKind, SQLiteFile
from ._process import CLOSED

T = TypeVar("T")

_MOST_IN_A_GROUP = 256


@attrs.define(eq=False)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    write: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Database:
    """A SQLite file, opened when it is first used and made when it is not there.

    ``run`` executes in a thread; what several tasks ask for at once shares one transaction and one sync to
    disk. Failures raise ``kind.failure``. ``busy_timeout`` is for how many seconds it waits for another process to
    finish writing. A forked child cannot use it, and is told so.
    """

    def __init__(self, path: str | os.PathLike[str], kind: FileKind, *, busy_timeout: float = 5.0) -> None:
        self._file = SQLiteFile(path, kind)
        self._busy_timeout = busy_timeout
        self._worker: _Worker | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{self._file.kind.name} {self.path!r}{', closed' if self._closed else ''}>"

    @property
    def path(self) -> str:
        """The path of the file."""
        return self._file.path

    @property
    def file(self) -> SQLiteFile:
        """The file."""
        return self._file

    async def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        """Do ``work`` in a transaction, and return its result once that is durable.

        ``work`` gets the connection, runs in the thread, and is short. With ``write=False`` it only reads.
        """
        kind = self._file.kind
        if self._closed:
            raise kind.failure(f"the {kind.name} {self.path!r} {CLOSED}")
        if self._worker is None:
            self._worker = _Worker(self._file, self._busy_timeout)
        elif self._worker.pid != os.getpid():
            raise kind.failure(
                f"the {kind.name} {self.path!r} was in use when this process forked, and SQLite cannot use a file on "
                "both sides of a fork: open it after the fork, in each worker process"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._worker.jobs.put(_Job(work, write, future, loop))
        return await future

    async def aclose(self) -> None:
        """Finish what was asked for, and close the file. May be called twice."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if worker.pid != os.getpid():
            self._worker = worker  # the parent's; nothing of it may be closed here
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        worker.at_end = lambda: _resolve_in_loops([_Job(_nothing, False, ended, loop)], [None])
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

    def __init__(self, file: SQLiteFile, busy_timeout: float) -> None:
        self.pid = os.getpid()
        self.at_end: Callable[[], None] = _nothing
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._file = file
        self._busy_timeout = busy_timeout
        # A daemon: a program that forgets to close must still end, and a commit is whole or not there.
        self.thread = threading.Thread(target=self._serve, name=f"basiq-async {file.kind.name}", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (first := self.jobs.get()) is not None:
                group, last = self._group(first)
                try:
                    connection = connection or self._file.open(timeout=self._busy_timeout)
                    results = self._commit(connection, group)
                except BaseException as exc:
                    _resolve_in_loops(group, [self._file.translate(exc)] * len(group))
                else:
                    _resolve_in_loops(group, results)
                    del results
                del group, first
                if last:
                    return
        finally:
            if connection is not None:
                self._file.close(connection)
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
        self._file.check_in_place()
        return results


def _resolve_in_loops(group: list[_Job], results: list[Any]) -> None:
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
