"""A SQLite store, such as an inbox: a file, a connection in a thread, and batches of commits."""

from __future__ import annotations

import asyncio
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

import attrs

from .._work.calls import CLOSED
from ..errors import InboxError
from .sqlite_files import FileKind, SQLiteFile

T = TypeVar("T")
SQLiteWork = Callable[[sqlite3.Connection], T]

_MOST_IN_A_BATCH = 256
_CHECK_EVERY = 1.0
"""Seconds within which a file that was deleted is noticed. To look costs the thread a wait for the interpreter."""
_CLEAR_AFTER = 60.0
"""Seconds after a write until the write-ahead log is emptied: it holds what was removed since."""


@attrs.define(eq=False)
class _Queued:
    """A call by a task. The thread writes its ``result`` or error, which the task's ``loop`` sets on ``future``."""

    work: SQLiteWork[Any]
    write: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None


class SQLiteStore:
    """A SQLite file, opened at the first use, and created if it does not exist.

    All work is done in a thread. What several tasks ask for at once shares one transaction and one sync to disk. Every
    failure is an ``InboxError``, also in a child that was forked while the file was open.

    busy_timeout: seconds to wait for another process to finish writing.
    fill: writes the first rows of a new file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: FileKind,
        *,
        busy_timeout: float = 5.0,
        fill: SQLiteWork[None] | None = None,
    ) -> None:
        self.file = SQLiteFile(path, kind)
        self.path = self.file.path
        self.closed = False
        self._open = partial(self.file.open, timeout=busy_timeout, fill=fill)
        self._calls: queue.SimpleQueue[Sequence[_Queued] | None] = queue.SimpleQueue()
        self._collected: dict[asyncio.AbstractEventLoop, list[_Queued]] = {}
        """The calls of an event loop's present turn: the thread gets them together, and wakes once."""
        self._ended: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._connection: sqlite3.Connection | None = None
        self._check_at = 0.0
        self._busy_timeout = busy_timeout
        self._clear_at = math.inf

    def __repr__(self) -> str:
        return f"<inbox {self.path!r}{', closed' if self.closed else ''}>"

    def run(self, work: SQLiteWork[T], *, write: bool = True) -> asyncio.Future[T]:
        """Queue ``work``, and return the future of its result, which comes after the commit.

        ``work`` is called with the connection, in the thread, and must be short. With ``write=False`` it only reads.
        """
        if self.closed:
            raise InboxError(f"the inbox {self.path!r} {CLOSED}")
        if self._thread is None:
            self._pid = os.getpid()
            # A daemon, so that a program ends even if it does not close the file, or if the disk hangs.
            self._thread = threading.Thread(target=self._serve, name="basiq-async inbox", daemon=True)
            self._thread.start()
        elif self._pid != os.getpid():
            raise self.file.fork_error()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        collected = self._collected.setdefault(loop, [])
        if not collected:
            loop.call_soon(self._send, loop)
        collected.append(_Queued(work, write, future, loop))
        return future

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand the collected calls to the thread."""
        if collected := self._collected.pop(loop, None):
            self._calls.put(collected)

    async def aclose(self) -> None:
        """Finish the work that is queued already, and close the file. May be called twice."""
        self.closed = True
        thread, self._thread = self._thread, None
        if thread is None or self._pid != os.getpid():  # the parent process's file must not be closed here
            return
        for loop in list(self._collected):
            self._send(loop)
        self._calls.put(None)
        await asyncio.wait((asyncio.wrap_future(self._ended),))
        thread.join()

    # --- in the thread ---

    def _serve(self) -> None:
        """Run the queued calls in batches until None comes; then close the connection."""
        try:
            more: Sequence[_Queued] | None = ()
            while more is not None:
                if time.monotonic() >= self._clear_at:
                    self._clear_log()
                idle = None if self._clear_at == math.inf else max(self._clear_at - time.monotonic(), 0.0)
                try:
                    more = self._calls.get(timeout=idle)
                except queue.Empty:
                    continue
                calls: list[_Queued] = []
                while more is not None:
                    calls += more
                    if len(calls) >= _MOST_IN_A_BATCH or self._calls.empty():  # only this takes calls from the queue
                        break
                    more = self._calls.get()
                if calls:
                    self._commit(calls)
            self._clear_log()
            if self._connection is not None:
                self.file.close(self._connection)
        finally:
            self._ended.set_result(None)

    def _commit(self, calls: Sequence[_Queued]) -> None:
        """Do all calls in one transaction, which succeeds or fails as a whole, and return the results."""
        connection = self._connection
        try:
            if connection is not None and self.file.for_a_look:
                self.file.close(connection)
                connection = self._connection = None
            if connection is None:
                connection = self._connection = self._open()
            writes = any(map(_WRITES, calls))
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            for call in calls:
                if not call.future.cancelled():
                    call.result = call.work(connection)
            connection.execute("COMMIT")
            now = time.monotonic()
            if writes:
                self._clear_at = min(self._clear_at, now + _CLEAR_AFTER)
            if now >= self._check_at:
                self.file.check_in_place()
                self._check_at = now + _CHECK_EVERY
        except BaseException as exc:
            with suppress(sqlite3.Error):
                if connection is not None and connection.in_transaction:  # on a full disk SQLite rolls back itself
                    connection.execute("ROLLBACK")
            failure = self.file.translate(exc)
            for each in calls:
                each.result = failure
        answers: dict[asyncio.AbstractEventLoop, list[_Queued]] = {}
        for each in calls:
            answers.setdefault(each.loop, []).append(each)
        for loop, done in answers.items():
            with suppress(RuntimeError):  # the loop is closed, so no task waits for the result
                loop.call_soon_threadsafe(_resolve, done)

    def _clear_log(self) -> None:
        """Move what the log has into the file, and cut the log. If another process reads, try again later."""
        written, self._clear_at = self._clear_at < math.inf, math.inf
        connection = self._connection
        if connection is None or not written:
            return
        busy = 1
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout=0")  # else all calls wait for that process
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        with suppress(sqlite3.Error):
            connection.execute(f"PRAGMA busy_timeout={math.ceil(self._busy_timeout * 1000)}")
        if busy:
            self._clear_at = time.monotonic() + _CLEAR_AFTER


_WRITES = attrgetter("write")


def _resolve(calls: Sequence[_Queued]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if isinstance(call.result, BaseException):
            call.future.set_exception(call.result)
        else:
            call.future.set_result(call.result)
