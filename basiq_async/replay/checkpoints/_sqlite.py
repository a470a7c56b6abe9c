"""A checkpoint in an SQLite file: durable against kill -9 and power loss, locked as long as its run lives."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from ...errors import CheckpointError, ConfigurationError
from ._memory import Commit, DeadLetter, Job, State, another_job

__all__ = ["SQLiteCheckpoint"]

_APPLICATION = 0x62617271
"""Written into the file's header, to tell it from every other SQLite file."""
_FORMAT = 1
_SCHEMA = (
    "CREATE TABLE job (webhook_id TEXT NOT NULL, filter TEXT NOT NULL, cursor TEXT, position INTEGER NOT NULL, "
    "handled INTEGER NOT NULL, failed INTEGER NOT NULL, interrupted INTEGER NOT NULL, token TEXT NOT NULL, "
    "done TEXT NOT NULL) STRICT",
    # Nearly every commit is one statement: for each one the thread has to get hold of the interpreter again, which
    # can take longer than the disk. A row is what was done since the cursor moved: ids as a JSON list, and counts not
    # yet added to the job's. Where the cursor moves, the job's own list takes their place.
    "CREATE TABLE done (ids TEXT NOT NULL, handled INTEGER NOT NULL, failed INTEGER NOT NULL) STRICT",
    "CREATE TRIGGER advanced AFTER UPDATE OF done ON job BEGIN DELETE FROM done; END",
    "CREATE TABLE dead (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, error TEXT NOT NULL, "
    "failed_at TEXT NOT NULL, message TEXT NOT NULL) STRICT",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)
_NO_FILES = (":memory:", "")

T = TypeVar("T")


class SQLiteCheckpoint:
    """Keeps the state of a replay in a file, which is made when there is none.

    In SQLite's WAL mode with ``synchronous=FULL``: what is recorded survives the process, and the machine. While
    a run has it open, SQLite's own lock keeps every other one out, and ends with the process. The file holds the
    messages that failed, as Basiq gave them; a new one can be read by its owner alone. It must be on a local
    disk. Nothing touches the disk before it is opened. Raises ``CheckpointError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        if not isinstance(self._path, str) or self._path in _NO_FILES or "\0" in self._path:
            raise ConfigurationError("path must be that of a file; to keep nothing on disk, use MemoryCheckpoint")
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"SQLiteCheckpoint({self._path!r})"

    async def open(self, job: Job, *, concurrency: int) -> State:
        """See ``Checkpoint``."""
        if self._thread is not None:
            raise self._in_use()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="basiq-checkpoint")
        try:
            return await self._run(self._begin, job, concurrency)
        except BaseException:
            await self.close()
            raise

    async def peek(self, job: Job) -> State | None:
        """See ``Checkpoint``."""
        if self._thread is not None:
            raise self._in_use()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="basiq-checkpoint")
        try:
            return await self._run(self._look, job)
        finally:
            await self.close()

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        await self._run(self._save, commit)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        return await self._run(self._dead_letters, after, limit)

    async def close(self) -> None:
        """See ``Checkpoint``."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        closing = asyncio.get_running_loop().run_in_executor(thread, self._close)
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])
            raise
        finally:
            thread.shutdown(wait=False)

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        if self._thread is None:
            raise CheckpointError(f"the checkpoint {self._path!r} is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._translated, work, *args)

    # --- in the thread ---

    def _translated(self, work: Callable[..., T], *args: object) -> T:
        try:
            return work(*args)
        except sqlite3.Error as exc:
            raise self._explained(exc) from exc
        except (ValueError, TypeError, KeyError) as exc:
            raise CheckpointError(
                f"the checkpoint {self._path!r} holds what no checkpoint holds ({type(exc).__name__}): it is damaged; "
                "restore it, or pass another path to begin anew"
            ) from exc

    def _begin(self, job: Job, concurrency: int) -> State:
        new = not os.path.exists(self._path)
        if new:
            # Made here and not by SQLite, so that it is its owner's alone from the first moment.
            try:
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            except FileExistsError:
                pass
            except OSError as exc:
                raise CheckpointError(
                    f"the checkpoint {self._path!r} cannot be made: {exc.strerror}; pass a path that can be written"
                ) from exc
        connection = self._connect()
        blank = self._is_blank(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        with _transaction(connection):
            if blank:
                for statement in _SCHEMA:
                    connection.execute(statement)
                row = (job.webhook_id, job.filter, State().token)
                connection.execute("INSERT INTO job VALUES (?, ?, NULL, 0, 0, 0, 0, ?, '[]')", row)
            state = self._state(connection, job)
            connection.execute("UPDATE job SET interrupted = interrupted + ?", (concurrency,))
        return state

    def _look(self, job: Job) -> State | None:
        if not os.path.exists(self._path):
            return None
        connection = self._connect()
        return None if self._is_blank(connection) else self._state(connection, job)

    def _connect(self) -> sqlite3.Connection:
        """Lock the file and look whether it is ours, without writing to it."""
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=0, check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        return connection

    def _is_blank(self, connection: sqlite3.Connection) -> bool:
        application: int = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if application == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return True
        if application != _APPLICATION:
            raise CheckpointError(
                f"{self._path!r} is an SQLite file of something else, no checkpoint; it was left as it is: "
                "pass another path"
            )
        if version != _FORMAT:
            raise CheckpointError(
                f"the checkpoint {self._path!r} has format {version}, and this release knows format {_FORMAT} alone: "
                "use the release that made it, or pass another path to begin anew"
            )
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(str(found))
        return False

    def _state(self, connection: sqlite3.Connection, job: Job) -> State:
        rows = connection.execute(
            "SELECT webhook_id, filter, cursor, position, handled, failed, interrupted, token, done FROM job"
        ).fetchall()
        if len(rows) != 1:
            raise ValueError
        webhook_id, filter_text, cursor, position, handled, failed, interrupted, token, behind = rows[0]
        recorded = Job(webhook_id, filter_text)
        if recorded != job:
            raise another_job(f"the checkpoint {self._path!r}", recorded, job)
        done: set[str] = set(json.loads(behind))
        for ids, more_handled, more_failed in connection.execute("SELECT ids, handled, failed FROM done"):
            done.update(json.loads(ids))
            handled += more_handled
            failed += more_failed
        dead: int = connection.execute("SELECT count(*) FROM dead").fetchone()[0]
        return State(cursor, position, frozenset(done), handled, failed, dead, interrupted, token)

    def _save(self, commit: Commit) -> None:
        connection = self._opened()
        if not commit.dead and not commit.revived and not commit.ended:
            self._record(connection, commit)
            return
        with _transaction(connection):
            self._record(connection, commit)
            if commit.ended:
                connection.execute("UPDATE job SET interrupted = 0")
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
            connection.execute(
                "UPDATE job SET cursor = ?, position = ?, done = ?, "
                "handled = handled + ? + (SELECT coalesce(sum(handled), 0) FROM done), "
                "failed = failed + ? + (SELECT coalesce(sum(failed), 0) FROM done)",
                (advance.cursor, advance.position, json.dumps(list(advance.done)), *counts),
            )
        elif commit.done or any(counts):
            connection.execute("INSERT INTO done VALUES (?, ?, ?)", (json.dumps(list(commit.done)), *counts))

    def _dead_letters(self, after: int, limit: int) -> Sequence[DeadLetter]:
        rows = self._opened().execute(
            "SELECT id, error, failed_at, message, number FROM dead WHERE number > ? ORDER BY number LIMIT ?",
            (after, limit),
        )
        return [
            DeadLetter(
                json.loads(name), json.loads(error), datetime.fromisoformat(failed_at), json.loads(message), number
            )
            for name, error, failed_at, message, number in rows
        ]

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise CheckpointError(f"the checkpoint {self._path!r} is not open")
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- errors ---

    def _in_use(self) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self._path!r} is in use by another run, which is still alive: "
            "wait for it or stop it, or pass another path"
        )

    def _explained(self, exc: sqlite3.Error) -> CheckpointError:
        name = getattr(exc, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return self._in_use()
        told = _TOLD.get("_".join(name.split("_")[:2])) or ("failed: {error}" if name else _DAMAGED)
        return CheckpointError(f"the checkpoint {self._path!r} " + told.format(error=exc))


_DAMAGED = (
    "is damaged, or no checkpoint at all ({error}); it was left as it is: restore it, or pass another path "
    "to begin anew"
)
_TOLD = {
    "SQLITE_FULL": "cannot be written, the disk is full, and nothing was recorded since: make room, run it again",
    "SQLITE_IOERR": "cannot be read or written ({error}): look after the disk, then run the same again",
    "SQLITE_READONLY": "cannot be written: give this user the right to, or pass another path",
    "SQLITE_CANTOPEN": "cannot be opened: pass the path of a file, in a folder that is there and can be written",
    "SQLITE_PERM": "cannot be opened: give this user the right to, or pass another path",
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_ERROR": _DAMAGED,
}


def _ascii(text: str) -> str:
    """As JSON: an id or an error can hold lone surrogates, which SQLite does not take."""
    return json.dumps(text)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
