"""A checkpoint in a SQLite file, which survives kill -9 and power loss, and is locked while its run is alive."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from ..._storage.private_files import open_private, replace_private
from ..._storage.sqlite import SQLiteStore
from ..._storage.sqlite_files import FileKind
from ..._work.tasks import run_to_completion, wait_uncancelled
from ...errors import CheckpointError, CheckpointInUseError
from ._base import Commit, DeadLetter, ReplayJob, State, _Closing, another_job, this_process

_SCHEMA = (
    "CREATE TABLE job (webhook_id TEXT NOT NULL, filter TEXT NOT NULL, source TEXT NOT NULL, "
    "selection TEXT NOT NULL, cursor TEXT, position INTEGER NOT NULL, "
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
    busy="is in use by another run, which is alive: wait for it or stop it",
    in_use=CheckpointInUseError,
    check=True,
)
_TIMEOUT = 60.0
"""Seconds to wait for one call to the disk. After that, the call raises, and its thread is left to finish it."""

_HOLDER = "-run"
"""The end of the name of a file beside the checkpoint, which says who has it open."""

T = TypeVar("T")


class SQLiteCheckpoint(_Closing):
    """Keeps the state of a replay in a file, which is created if it does not exist.

    It uses SQLite's WAL mode with ``synchronous=FULL``, so that recorded state survives a crash of the process or the
    machine. While a run has it open, SQLite's own lock, which ends with the process, keeps every other run out; a file
    beside it says which process that is. The file holds the dead letters, with the messages as Basiq sent them; only
    its owner can read it. It must be on a local disk. The constructor does not access the disk. Raises
    ``CheckpointError``, also if the file was deleted or replaced while it was open, and in a child that was forked
    meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = SQLiteStore(path, _KIND).path
        self._store: SQLiteStore | None = None
        self._pid = 0
        self._named = False

    def __repr__(self) -> str:
        return f"SQLiteCheckpoint({self._path!r})"

    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        """See ``Checkpoint``."""

        def fill(connection: sqlite3.Connection) -> None:
            row = (job.webhook_id, job.filter, job.source, job.selection, State().token)
            connection.execute("INSERT INTO job VALUES (?, ?, ?, ?, NULL, 0, 0, 0, 0, ?, '[]', '')", row)

        def begin(connection: sqlite3.Connection) -> State:
            state = _read_state(connection, job, self._path)
            connection.execute("UPDATE job SET interrupted = interrupted + ?", (concurrency,))
            with suppress(OSError):
                replace_private(self._path + _HOLDER, this_process().encode())
            self._named = True
            return state

        store = self._begin(SQLiteStore(self._path, _KIND, busy_timeout=0, exclusive=True, fill=fill))
        try:
            return await self._call(store, begin)
        except BaseException:
            await self.aclose()
            raise

    async def peek(self, job: ReplayJob) -> State | None:
        """See ``Checkpoint``."""
        store = self._begin(SQLiteStore(self._path, _KIND, busy_timeout=0, exclusive=True, create=False))
        try:
            return await self._call(store, lambda connection: _read_state(connection, job, self._path), write=False)
        finally:
            await self.aclose()

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        # Nearly every commit is one statement: for each, the thread has to wait for the interpreter, which can take
        # longer than the disk.
        alone = not (commit.dead or commit.revived or commit.ended or commit.notes is not None)
        await self._call(self._current(), lambda connection: _record(connection, commit), transaction=not alone)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""

        def work(connection: sqlite3.Connection) -> Sequence[DeadLetter]:
            rows = connection.execute(
                "SELECT id, error, failed_at, message, number FROM dead WHERE number > ? ORDER BY number LIMIT ?",
                (after, limit),
            )
            return [
                DeadLetter(
                    json.loads(name), json.loads(error), datetime.fromisoformat(failed_at), json.loads(message), number
                )
                for name, error, failed_at, message, number in rows
            ]

        return await self._call(self._current(), work, write=False)

    async def aclose(self) -> None:
        """See ``Checkpoint``."""
        store = self._store
        if store is None or self._pid != os.getpid():  # the parent process closes its own run
            return
        if self._named:  # before another run can have written it
            self._named = False
            with suppress(OSError):
                os.unlink(self._path + _HOLDER)
        try:
            await run_to_completion(lambda: store.aclose(_TIMEOUT))
        finally:
            # Keep a run that was begun meanwhile.
            if self._store is store:
                self._store = None

    def _begin(self, store: SQLiteStore) -> SQLiteStore:
        if self._store is not None:
            raise CheckpointInUseError(self._in_use())
        self._store, self._pid = store, os.getpid()
        return store

    def _current(self) -> SQLiteStore:
        if self._store is None:
            raise CheckpointError(f"the checkpoint {self._path!r} is not open")
        return self._store

    def _in_use(self) -> str:
        """Return the description of the run that has the checkpoint, from the file beside it, if that is ours."""
        holder = "which is alive"
        with suppress(OSError), open(open_private(self._path + _HOLDER, os.O_RDONLY), "rb") as file:
            holder = file.read(200).decode("ascii", "replace")
        return f"the checkpoint {self._path!r} is in use by another run ({holder}): wait for it or stop it"

    async def _call(
        self,
        store: SQLiteStore,
        work: Callable[[sqlite3.Connection], T],
        *,
        write: bool = True,
        transaction: bool = True,
    ) -> T:
        """Do ``work`` in the store's thread. A cancellation waits for its end, because a thread cannot be cancelled."""
        future = store.run(work, write=write, transaction=transaction)
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
        try:
            return future.result()
        except CheckpointInUseError as exc:
            raise CheckpointInUseError(self._in_use()) from exc.__cause__


def _read_state(connection: sqlite3.Connection, job: ReplayJob, path: str) -> State:
    rows = connection.execute(
        "SELECT webhook_id, filter, source, selection, cursor, position, handled, failed, interrupted, "
        "token, done, notes FROM job"
    ).fetchall()
    if len(rows) != 1:
        raise ValueError
    cursor, position, handled, failed, interrupted, token, after, notes = rows[0][4:]
    recorded = ReplayJob(*rows[0][:4])
    if recorded != job:
        raise another_job(f"the checkpoint {path!r}", recorded, job)
    done: set[str] = set(json.loads(after))
    for ids, more_handled, more_failed in connection.execute("SELECT ids, handled, failed FROM done"):
        done.update(json.loads(ids))
        handled += more_handled
        failed += more_failed
    dead: int = connection.execute("SELECT count(*) FROM dead").fetchone()[0]
    return State(cursor, position, frozenset(done), handled, failed, dead, interrupted, token, notes)


def _record(connection: sqlite3.Connection, commit: Commit) -> None:
    counts, advance = (commit.handled, commit.failed), commit.advance
    if advance is not None:
        connection.execute(
            "UPDATE job SET cursor = ?, position = ?, done = ?, "
            "handled = handled + ? + (SELECT coalesce(sum(handled), 0) FROM done), "
            "failed = failed + ? + (SELECT coalesce(sum(failed), 0) FROM done)",
            (advance.cursor, advance.position, json.dumps(list(advance.done)), *counts),
        )
    elif commit.done or any(counts):
        connection.execute("INSERT INTO done VALUES (?, ?, ?)", (json.dumps(list(commit.done)), *counts))
    if commit.ended:
        connection.execute("UPDATE job SET interrupted = ?", (commit.interrupted,))
    if commit.notes is not None:
        connection.execute("UPDATE job SET notes = ?", (commit.notes,))
    for dead_letter in commit.dead:
        connection.execute(
            "INSERT INTO dead (id, error, failed_at, message) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET error = excluded.error, failed_at = excluded.failed_at, message = excluded.message",
            (
                _ascii(dead_letter.id),
                _ascii(dead_letter.error),
                dead_letter.failed_at.isoformat(),
                json.dumps(dead_letter.message),
            ),
        )
    for revived in commit.revived:
        connection.execute("DELETE FROM dead WHERE id = ?", (_ascii(revived),))


def _ignore(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()


def _ascii(text: str) -> str:
    """Return a text as JSON, because an id or an error can hold lone surrogates, which SQLite does not accept."""
    return json.dumps(text)
