"""A checkpoint in a SQLite file, which survives kill -9 and power loss, and is locked while its run is alive."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from ..._storage.sqlite import FileKind, SQLiteFile
from ..._storage.sqlite_thread import ConnectionThread, ThreadCall
from ..._work.tasks import run_to_completion, wait_uncancelled
from ...errors import CheckpointError, CheckpointInUseError
from ._base import Commit, DeadLetter, Job, State, another_job

_SCHEMA = (
    "CREATE TABLE job (webhook_id TEXT NOT NULL, filter TEXT NOT NULL, source TEXT NOT NULL, "
    "selection TEXT NOT NULL, cursor TEXT, position INTEGER NOT NULL, last_id TEXT, "
    "handled INTEGER NOT NULL, failed INTEGER NOT NULL, interrupted INTEGER NOT NULL, token TEXT NOT NULL, "
    "done TEXT NOT NULL, notes TEXT NOT NULL) STRICT",
    # Nearly every commit is a single statement, because for each statement the thread has to wait for the interpreter,
    # which can take longer than the disk. A row has the messages done since the cursor moved: their ids as a JSON
    # list, and counts to be added to the job's. When the cursor moves, the job's own list replaces the rows.
    "CREATE TABLE done (ids TEXT NOT NULL, handled INTEGER NOT NULL, failed INTEGER NOT NULL) STRICT",
    "CREATE TRIGGER advanced AFTER UPDATE OF done ON job BEGIN DELETE FROM done; END",
    "CREATE TABLE dead (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, error TEXT NOT NULL, "
    "failed_at TEXT NOT NULL, message TEXT NOT NULL) STRICT",
)
_KIND = FileKind(
    name="checkpoint",
    application_id=0x62617271,
    version=1,
    schema=_SCHEMA,
    failure=CheckpointError,
    busy="is in use by another run that is still alive: wait for it or stop it, or pass another path",
    in_use=CheckpointInUseError,
    check=True,
)
_TIMEOUT = 60.0
"""Seconds to wait for one call to the disk. After that, the call raises, and its thread is left to finish it."""

_CHECK_EVERY = 0.25
"""Seconds within which a busy run notices that its file was deleted. The end of a run always checks it."""

T = TypeVar("T")


class SQLiteCheckpoint:
    """Keeps the state of a replay in a file, which is created if it does not exist.

    It uses SQLite's WAL mode with ``synchronous=FULL``, so that recorded state survives a crash of the process or the
    machine. While a run has it open, SQLite's own lock, which ends with the process, keeps every other run out. The
    file holds the dead letters, with the messages as Basiq sent them; only its owner can read it. It must be on a local
    disk. The constructor does not access the disk. Raises ``CheckpointError``, also if the file was deleted or replaced
    while it was open, and in a child that was forked meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = SQLiteFile(path, _KIND).path
        self._run: _Run | None = None

    def __repr__(self) -> str:
        return f"SQLiteCheckpoint({self._path!r})"

    async def open(self, job: Job, *, concurrency: int) -> State:
        """See ``Checkpoint``."""
        run = self._begin()
        try:
            return await run.call(run.begin, job, concurrency)
        except BaseException:
            await self.aclose()
            raise

    async def peek(self, job: Job) -> State | None:
        """See ``Checkpoint``."""
        run = self._begin()
        try:
            return await run.call(run.look, job)
        finally:
            await self.aclose()

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        run = self._current()
        await run.call(run.save, commit)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        run = self._current()
        return await run.call(run.dead_letters, after, limit)

    async def aclose(self) -> None:
        """See ``Checkpoint``."""
        run = self._run
        if run is None or run.pid != os.getpid():  # the parent process closes its own run
            return
        try:
            await run_to_completion(run.aclose)
        finally:
            # Keep a run that was begun meanwhile.
            if self._run is run:
                self._run = None

    def _begin(self) -> _Run:
        if self._run is not None:
            raise CheckpointInUseError(f"the checkpoint {self._path!r} {_KIND.busy}")
        self._run = _Run(self._path)
        return self._run

    def _current(self) -> _Run:
        if self._run is None:
            raise CheckpointError(f"the checkpoint {self._path!r} is not open")
        if self._run.pid != os.getpid():
            raise CheckpointError(
                f"the checkpoint {self._path!r} was open when this process forked: make a new one after the fork"
            )
        return self._run


class _Run:
    """The connection of one run, and the thread that uses it. Closing it does not affect other runs."""

    def __init__(self, path: str) -> None:
        self.pid = os.getpid()
        self._path = path
        self._file = SQLiteFile(path, _KIND)
        self._connection: sqlite3.Connection | None = None
        self._thread = ConnectionThread("basiq-async checkpoint", _do_each, lambda: None)

    async def call(self, work: Callable[..., T], *args: object) -> T:
        """Do ``work`` in the thread. A cancellation waits for its end, because a thread cannot be cancelled."""
        future = self._thread.submit(partial(self._translate, work, *args))
        cancelled = await wait_uncancelled(future, _TIMEOUT)
        if not future.done():
            future.add_done_callback(_ignore)
        elif not future.cancelled():
            future.exception()
        if cancelled is not None:
            raise cancelled
        if not future.done():
            raise CheckpointError(
                f"the disk with the checkpoint {self._path!r} did not respond within {_TIMEOUT:g} s: fix it, then run "
                "the same again"
            )
        return future.result()

    async def aclose(self) -> None:
        """Close the connection, and end the thread."""
        self._thread.submit(self._close).add_done_callback(_ignore)
        await self._thread.join(_TIMEOUT)

    # --- in the thread ---

    def _translate(self, work: Callable[..., T], *args: object) -> T:
        try:
            return work(*args)
        except sqlite3.Error as exc:
            raise self._file.translate(exc) from exc
        except (ValueError, TypeError, KeyError) as exc:
            raise self._file.describe_damage(exc) from exc

    def begin(self, job: Job, concurrency: int) -> State:
        """See ``Checkpoint.open``."""

        def fill(connection: sqlite3.Connection) -> None:
            row = (job.webhook_id, job.filter, job.source, job.selection, State().token)
            connection.execute("INSERT INTO job VALUES (?, ?, ?, ?, NULL, 0, NULL, 0, 0, 0, ?, '[]', '')", row)

        connection = self._connection = self._file.open(timeout=0, exclusive=True, fill=fill)
        with _transaction(connection):
            state = self._state(connection, job)
            connection.execute("UPDATE job SET interrupted = interrupted + ?", (concurrency,))
        return state

    def look(self, job: Job) -> State | None:
        """See ``Checkpoint.peek``."""
        connection = self._connection = self._file.open_existing(timeout=0, exclusive=True)
        return None if connection is None else self._state(connection, job)

    def _state(self, connection: sqlite3.Connection, job: Job) -> State:
        rows = connection.execute(
            "SELECT webhook_id, filter, source, selection, cursor, position, last_id, handled, failed, interrupted, "
            "token, done, notes FROM job"
        ).fetchall()
        if len(rows) != 1:
            raise ValueError
        cursor, position, last_id, handled, failed, interrupted, token, after, notes = rows[0][4:]
        recorded = Job(*rows[0][:4])
        if recorded != job:
            raise another_job(f"the checkpoint {self._path!r}", recorded, job)
        done: set[str] = set(json.loads(after))
        for ids, more_handled, more_failed in connection.execute("SELECT ids, handled, failed FROM done"):
            done.update(json.loads(ids))
            handled += more_handled
            failed += more_failed
        dead: int = connection.execute("SELECT count(*) FROM dead").fetchone()[0]
        last_id = None if last_id is None else json.loads(last_id)
        return State(cursor, position, frozenset(done), handled, failed, dead, interrupted, token, last_id, notes)

    def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        connection = self._require_open()
        if not commit.dead and not commit.revived and not commit.ended and commit.notes is None:
            self._record(connection, commit)
        else:
            self._record_all(connection, commit)
        self._file.check_in_place(every=0.0 if commit.ended else _CHECK_EVERY)

    def _record_all(self, connection: sqlite3.Connection, commit: Commit) -> None:
        with _transaction(connection):
            self._record(connection, commit)
            if commit.ended:
                connection.execute("UPDATE job SET interrupted = ?", (commit.interrupted,))
            if commit.notes is not None:
                connection.execute("UPDATE job SET notes = ?", (commit.notes,))
            for letter in commit.dead:
                connection.execute(
                    "INSERT INTO dead (id, error, failed_at, message) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
                    "SET error = excluded.error, failed_at = excluded.failed_at, message = excluded.message",
                    (_ascii(letter.id), _ascii(letter.error), letter.failed_at.isoformat(), json.dumps(letter.message)),
                )
            connection.executemany("DELETE FROM dead WHERE id = ?", [(_ascii(each),) for each in commit.revived])

    def _record(self, connection: sqlite3.Connection, commit: Commit) -> None:
        counts, advance = (commit.handled, commit.failed), commit.advance
        if advance is not None:
            last_id = None if advance.last_id is None else _ascii(advance.last_id)
            connection.execute(
                "UPDATE job SET cursor = ?, position = ?, last_id = ?, done = ?, "
                "handled = handled + ? + (SELECT coalesce(sum(handled), 0) FROM done), "
                "failed = failed + ? + (SELECT coalesce(sum(failed), 0) FROM done)",
                (advance.cursor, advance.position, last_id, json.dumps(list(advance.done)), *counts),
            )
        elif commit.done or any(counts):
            connection.execute("INSERT INTO done VALUES (?, ?, ?)", (json.dumps(list(commit.done)), *counts))

    def dead_letters(self, after: int, limit: int) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        rows = self._require_open().execute(
            "SELECT id, error, failed_at, message, number FROM dead WHERE number > ? ORDER BY number LIMIT ?",
            (after, limit),
        )
        return [
            DeadLetter(
                json.loads(name), json.loads(error), datetime.fromisoformat(failed_at), json.loads(message), number
            )
            for name, error, failed_at, message, number in rows
        ]

    def _require_open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise CheckpointError(f"the checkpoint {self._path!r} is not open")
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._file.close(connection)


def _do_each(calls: Sequence[ThreadCall]) -> Sequence[Any]:
    """Make each call without a transaction: a run saves one commit at a time, mostly of a single statement."""
    results: list[Any] = []
    for each in calls:
        try:
            results.append(each.work())
        except BaseException as exc:
            results.append(exc)
    return results


def _ignore(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()


def _ascii(text: str) -> str:
    """Return a text as JSON, because an id or an error can hold lone surrogates, which SQLite does not accept."""
    return json.dumps(text)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when the disk is full
            connection.execute("ROLLBACK")
        raise
