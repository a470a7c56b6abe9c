"""Use SQLite from asyncio: a connection in a thread of its own, and group commits for the calls of many tasks."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import attrs

from .sqlite import FileKind, SQLiteFile

T = TypeVar("T")

_MOST_IN_A_GROUP = 256


@attrs.define(eq=False)
class ThreadCall:
    """A call by a task. The thread sets its result or error on ``future``, in the task's ``loop``."""

    work: Callable[[], Any]
    write: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class ConnectionThread:
    """A thread that runs all calls on one connection.

    ``do`` is called in the thread with the calls that are waiting, and returns a result or an exception for each.
    ``end`` is called last, also in the thread. The thread is a daemon, so that a program ends even if it does not close
    the connection, or if the disk hangs: a commit is atomic.
    """

    def __init__(self, name: str, do: Callable[[Sequence[ThreadCall]], Sequence[Any]], end: Callable[[], None]) -> None:
        self.pid = os.getpid()
        self._calls: queue.SimpleQueue[ThreadCall | None] = queue.SimpleQueue()
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        # The target is not a method: the thread must not keep this object alive, because its deletion ends the thread.
        self._thread = threading.Thread(target=_serve, args=(self._calls, do, end, self._ended), name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T], *, write: bool = True) -> asyncio.Future[T]:
        """Queue ``work`` for the thread, and return the future of its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put(ThreadCall(work, write, future, loop))
        return future

    def stop(self) -> None:
        """End the thread after the calls that are queued already. May be called more than once."""
        self._calls.put(None)

    async def join(self, timeout: float | None = None) -> None:
        """Stop, and wait until the thread has ended, for at most ``timeout`` seconds."""
        self.stop()
        await asyncio.wait((asyncio.wrap_future(self._ended),), timeout=timeout)
        if self._ended.done():
            self._thread.join()

    def __del__(self) -> None:
        if self.pid == os.getpid():
            self.stop()


def _serve(
    calls: queue.SimpleQueue[ThreadCall | None],
    do: Callable[[Sequence[ThreadCall]], Sequence[Any]],
    end: Callable[[], None],
    ended: Future[None],
) -> None:
    last = False
    try:
        while not last and (first := calls.get()) is not None:
            group, last = _group(calls, first)
            try:
                results = do(group)
            except BaseException as exc:
                results = [exc] * len(group)
            _resolve_in_loops(group, results)
            del results, group, first
        end()
    finally:
        ended.set_result(None)


def _group(calls: queue.SimpleQueue[ThreadCall | None], first: ThreadCall) -> tuple[list[ThreadCall], bool]:
    """Return the calls that are waiting, and whether the thread is to end after them."""
    group = [first]
    while len(group) < _MOST_IN_A_GROUP:
        try:
            call = calls.get_nowait()
        except queue.Empty:
            break
        if call is None:
            return group, True
        group.append(call)
    return group, False


def _resolve_in_loops(group: Sequence[ThreadCall], results: Sequence[Any]) -> None:
    """Set the results on their futures, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for call, result in zip(group, results, strict=True):
        by_loop.setdefault(call.loop, []).append((call.future, result))
    for loop, pairs in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed, so no task waits for the result
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


class Database:
    """A SQLite file, opened at the first use, and created if it does not exist.

    ``run`` executes in a thread. Calls that several tasks make at once share one transaction and one sync to disk.
    Failures raise ``kind.failure``. ``busy_timeout`` is the number of seconds to wait for another process to finish
    writing. A forked child cannot use the file: a call raises an error that says so.
    """

    def __init__(self, path: str | os.PathLike[str], kind: FileKind, *, busy_timeout: float = 5.0) -> None:
        self._file = SQLiteFile(path, kind)
        self._busy_timeout = busy_timeout
        self._commits: _GroupCommits | None = None
        self._thread: ConnectionThread | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{self._file.kind.name} {self.path!r}{', closed' if self._closed else ''}>"

    @property
    def path(self) -> str:
        """The path of the file."""
        return self._file.path

    @property
    def file(self) -> SQLiteFile:
        """The ``SQLiteFile`` with that path."""
        return self._file

    async def run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        """Do ``work`` in a transaction, and return its result after the commit.

        ``work`` is called with the connection, in the thread, and must be short. With ``write=False`` it only reads.
        """
        kind = self._file.kind
        if self._closed:
            raise kind.failure(f"the {kind.name} {self.path!r} {kind.closed}")
        if self._thread is None or self._commits is None:
            commits = self._commits = _GroupCommits(self._file, self._busy_timeout)
            self._thread = ConnectionThread(f"basiq-async {kind.name}", commits.commit, commits.close)
        elif self._thread.pid != os.getpid():
            raise kind.failure(
                f"the {kind.name} {self.path!r} was in use when this process forked, and SQLite cannot use a file on "
                "both sides of a fork: open it after the fork, in each worker process"
            )
        commits = self._commits
        return await self._thread.submit(lambda: work(commits.connection), write=write)

    async def aclose(self) -> None:
        """Finish the calls that are queued already, and close the file. May be called twice."""
        self._closed = True
        thread = self._thread
        if thread is None or thread.pid != os.getpid():  # the parent process's file must not be closed here
            return
        self._thread = None
        await thread.join()

    def __del__(self) -> None:
        thread = getattr(self, "_thread", None)
        if thread is not None and thread.pid == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)


class _GroupCommits:
    """The connection of a ``Database``, used only in its thread."""

    def __init__(self, file: SQLiteFile, busy_timeout: float) -> None:
        self._file = file
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, opened at the first use."""
        if self._connection is None:
            self._connection = self._file.open(timeout=self._busy_timeout)
        return self._connection

    def commit(self, group: Sequence[ThreadCall]) -> Sequence[Any]:
        """Do all calls of a group in one transaction, which succeeds or fails as a whole."""
        try:
            return self._commit(self.connection, group)
        except BaseException as exc:
            return [self._file.translate(exc)] * len(group)

    def _commit(self, connection: sqlite3.Connection, group: Sequence[ThreadCall]) -> list[Any]:
        connection.execute("BEGIN IMMEDIATE" if any(call.write for call in group) else "BEGIN")
        try:
            results = [None if call.future.cancelled() else call.work() for call in group]
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite itself rolls back when the disk is full
                connection.execute("ROLLBACK")
            raise
        self._file.check_in_place()
        return results

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._file.close(self._connection)
