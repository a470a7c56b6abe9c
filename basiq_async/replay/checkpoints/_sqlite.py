"""A checkpoint in a SQLite file, which survives kill -9 and power loss, and is locked while its run is alive."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import attrs

from ..._storage.private_files import open_private, replace_private
from ..._storage.sqlite import SQLiteStore
from ..._storage.sqlite_files import FileKind
from ..._work.tasks import run_to_completion, wait_uncancelled
from ...errors import CheckpointError, CheckpointInUseError
from ._base import (
    Commit,
    DeadLetter,
    Entry,
    ReplayJob,
    State,
    _Closing,
    another_job,
    apply,
    describe_run,
    read_dead_letter,
    read_log,
    write_dead_letter,
)

_SCHEMA = (
    "CREATE TABLE job (job TEXT NOT NULL) STRICT",
    # Nearly every commit is one row, and so a single statement, because for each statement the thread has to wait for
    # the interpreter, which can take longer than the disk.
    "CREATE TABLE log (number INTEGER PRIMARY KEY, fields TEXT NOT NULL, done TEXT NOT NULL, whole INTEGER NOT NULL) "
    "STRICT",
    "CREATE TRIGGER whole AFTER INSERT ON log WHEN new.whole BEGIN DELETE FROM log WHERE number < new.number; END",
    # The id is JSON, because it can hold lone surrogates, which SQLite does not accept.
    "CREATE TABLE dead (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, letter TEXT NOT NULL) "
    "STRICT",
)
_KIND = FileKind(
    name="checkpoint",
    application_id=0x62617271,
    version=2,
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
        self._state = State()
        self._saving = asyncio.Lock()
        self._pid = 0
        self._named = False

    def __repr__(self) -> str:
        return f"SQLiteCheckpoint({self._path!r})"

    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        """See ``Checkpoint``."""

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO job VALUES (?)", (json.dumps(attrs.asdict(job)),))
            _add(connection, Entry.of(State(), ()))

        def begin(connection: sqlite3.Connection) -> State:
            state = _read_state(connection, job, self._path)
            self._state = attrs.evolve(state, done=frozenset(), interrupted=state.interrupted + concurrency)
            _add(connection, Entry.of(self._state, (), state))
            with suppress(OSError):
                replace_private(self._path + _HOLDER, describe_run().encode())
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
        async with self._saving:
            store = self._current()
            # Only the file has the ids of done messages.
            before, after = self._state, attrs.evolve(apply(self._state, commit), done=frozenset())
            advance = commit.advance
            entry = Entry.of(after, commit.done, before) if advance is None else Entry.of(after, advance.done)

            def record(connection: sqlite3.Connection) -> None:
                _add(connection, entry)
                for dead_letter in commit.dead:
                    connection.execute(_PUT_DEAD_LETTER, (json.dumps(dead_letter.id), write_dead_letter(dead_letter)))
                for revived in commit.revived:
                    connection.execute("DELETE FROM dead WHERE id = ?", (json.dumps(revived),))

            def recorded() -> None:
                self._state = after

            await self._call(store, record, transaction=bool(commit.dead or commit.revived), recorded=recorded)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""

        def work(connection: sqlite3.Connection) -> Sequence[DeadLetter]:
            rows = connection.execute(
                "SELECT letter, number FROM dead WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
            )
            return [read_dead_letter(letter, number) for letter, number in rows]

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
        recorded: Callable[[], None] = lambda: None,
    ) -> T:
        """Do ``work`` in the store's thread, then call ``recorded``.

        A cancellation waits for its end, because a thread cannot be cancelled.
        """
        future = store.run(work, write=write, transaction=transaction)
        cancelled = await wait_uncancelled(future, _TIMEOUT)
        if not future.done():
            future.add_done_callback(_ignore)
        elif not future.cancelled() and future.exception() is None:
            recorded()
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


_PUT_DEAD_LETTER = "INSERT INTO dead (id, letter) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET letter = excluded.letter"


def _add(connection: sqlite3.Connection, entry: Entry) -> None:
    connection.execute("INSERT INTO log (fields, done, whole) VALUES (?, ?, ?)", attrs.astuple(entry))


def _read_state(connection: sqlite3.Connection, job: ReplayJob, path: str) -> State:
    ((text,),) = connection.execute("SELECT job FROM job").fetchall()
    recorded = ReplayJob(**json.loads(text))
    if recorded != job:
        raise another_job(f"the checkpoint {path!r}", recorded, job)
    dead: int = connection.execute("SELECT count(*) FROM dead").fetchone()[0]
    return read_log(connection.execute("SELECT fields, done FROM log ORDER BY number"), dead)


def _ignore(future: asyncio.Future[T]) -> None:
    if not future.cancelled():
        future.exception()
