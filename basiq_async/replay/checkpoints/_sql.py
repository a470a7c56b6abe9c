"""A checkpoint in a SQL database, for services without a disk of their own, and for several workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
from sqlalchemy import MetaData, RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..._arguments import Duration, check_seconds
from ..._storage.sql import BusyError, SQLStore, Work
from ..._storage.sql_errors import brief, is_away, is_missing, without_values
from ..._work.tasks import run_to_completion
from ...errors import CheckpointError, CheckpointInUseError, ConfigurationError
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
from ._sql_statements import Statements, Tables, key_of

T = TypeVar("T")

logger = logging.getLogger("basiq_async.replay")

_BEATS = 4
"""The number of times that a run renews its lease within the length of the lease."""
_LOST = "another run has taken the job over: this one did not renew its lease in time"
_LONGEST_NAME = 200
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts while the database is away."""


class SQLCheckpoint(_Closing):
    """Keeps the state of replays in PostgreSQL or SQLite, so that a pod needs no disk.

    .. code-block:: python

        replay = Replay(basiq, webhook_id, handler, checkpoint=SQLCheckpoint(engine))
        report = await replay.run()

    One set of tables holds any number of jobs. A run that is alive renews a lease in the job's row, and only it can
    record progress. If two workers begin the same job, one works, and the other gets a ``CheckpointInUseError`` within
    half of the lease. If a worker is killed, or loses the database, another one can take the job over when the lease
    ends; the first can then record nothing more. Leases are timed by the database's clock. No connection is held
    between two calls, so a pool of 5 is enough, and PgBouncer's transaction mode works. While the database is away, a
    call is tried again for up to ``timeout`` seconds.

    engine: the caller closes it; it may be the engine of a ``SQLInbox``.
    name: names the job; by default the webhook's id. Needed for a second job of the same webhook, with another
        ``filter`` or ``where``. The two sources of a webhook, messages and events, are always kept apart.
    table, schema: the name of the table; the names of two more tables begin with it. Missing tables are created,
        unless ``create_tables`` is False: see ``metadata`` and ``ddl``.
    lease: seconds for which a run that was killed still keeps the job.
    timeout: seconds for each call; ``open`` may take the lease's length in addition.

    The tables hold the dead letters, with the messages as Basiq sent them. Raises ``CheckpointError``, also in a child
    that was forked while it was open, and ``ConfigurationError`` for invalid arguments.
    """

    both_sources = True

    def __init__(
        self,
        engine: AsyncEngine,
        name: str | None = None,
        *,
        table: str = "basiq_checkpoint",
        schema: str | None = None,
        create_tables: bool = True,
        lease: Duration = 20.0,
        timeout: Duration = 20.0,
    ) -> None:
        if name is not None and not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME):
            raise ConfigurationError(f"name must be a str of 1 to {_LONGEST_NAME} characters, or None")
        self._name = name
        self._tables = Tables(table, schema)
        self._lease = check_seconds("lease", lease)
        limit = check_seconds("timeout", timeout)
        self._store = SQLStore(engine, self._tables, create_tables=create_tables, timeout=limit)
        self._sql = Statements(self._tables, engine.dialect.name)
        self._run: _Run | None = None

    def __repr__(self) -> str:
        name = "" if self._name is None else f" {self._name!r}"
        return f"<SQLCheckpoint{name} in {self._tables.name}{', open' if self._run else ''}>"

    @property
    def metadata(self) -> MetaData:
        """The checkpoint's tables, for Alembic's ``target_metadata``."""
        return self._tables.metadata

    def ddl(self) -> str:
        """Return the SQL statements that create the checkpoint's tables, in the engine's dialect."""
        return self._tables.ddl(self._store.engine.dialect)

    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        """See ``Checkpoint``. If a run was killed, waits until its lease ends."""
        if self._run is not None:
            raise CheckpointInUseError(f"{self._describe(job)} is in use by another run of this process")
        run = self._run = _Run(job, self._key(job), concurrency)
        try:
            state = await self._take(run)
        except BaseException:
            await self.aclose()
            raise
        run.heartbeat = asyncio.get_running_loop().create_task(self._keep_alive(run))
        return state

    async def peek(self, job: ReplayJob) -> State | None:
        """See ``Checkpoint``. Works also while a run has the checkpoint open."""

        async def work(connection: AsyncConnection) -> State | None:
            key = self._key(job)
            row = await _first(connection, self._sql.read, key)
            if row is None:
                return None
            self._check_job(row, job)
            return (await self._read_state(connection, key))[0]

        try:
            return await self._call(work)
        except CheckpointError as exc:
            if self._store.create_tables and exc.__cause__ is not None and is_missing(exc.__cause__):
                return None
            raise

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        run = self._current()
        async with run.saving:
            self._current()  # the run may have lost its lease, or been closed, meanwhile
            # Only the database has the ids of done messages. New totals are written, and nothing is added to the old
            # ones, because an attempt with an unknown result is repeated.
            before, after = run.state, attrs.evolve(apply(run.state, commit), done=frozenset())
            advance, number = commit.advance, run.number + 1
            entry = Entry.of(after, commit.done, before) if advance is None else Entry.of(after, advance.done)

            def recorded() -> None:
                run.state, run.number, run.dead_letters = after, number, run.dead_letters + len(commit.dead)

            try:
                await self._call(lambda connection: self._record(connection, run, commit, entry), recorded)
            except BaseException:
                if run.number != number:
                    run.lost = run.lost or "an earlier save failed, and it is unknown whether it was recorded"
                raise

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        run = self._current()
        place = {**run.key, "a_number": after, "a_limit": limit}

        async def work(connection: AsyncConnection) -> Sequence[DeadLetter]:
            return [read_dead_letter(*row) for row in await connection.execute(self._sql.dead_letters, place)]

        return await self._call(work)

    async def aclose(self) -> None:
        """See ``Checkpoint``. If the database is away, the job is free when the lease ends."""
        run = self._run
        if run is None or self._store.process.inherited:  # the parent process closes its own run
            return
        try:
            await run_to_completion(lambda: self._let_go(run))
        finally:
            # Keep a run that was begun meanwhile.
            if self._run is run:
                self._run = None

    # --- a run ---

    async def _take(self, run: _Run) -> State:
        """Take the job. If another run has it and may be dead, wait for the end of its lease."""
        seen: tuple[object, object] | None = None
        while True:
            found = await self._call(lambda connection: self._take_once(connection, run), prepare=True)
            if isinstance(found, State):
                return found
            beat = found["holder"], found["renewed_at"]
            if seen not in (None, beat):
                holder = found["holder"].rpartition("/")[0]
                raise CheckpointInUseError(
                    f"{self._describe(run.job)} is in use by another run, which is alive ({holder}): wait for it or "
                    "stop it"
                )
            seen = beat
            lease: float = found["lease"]
            await asyncio.sleep(max(0.01, min(lease / (2 * _BEATS), found["renewed_at"] + lease - found["now"])))

    async def _take_once(self, connection: AsyncConnection, run: _Run) -> State | RowMapping:
        """Take the job if it is free. Return its state, or the job's row if another run has it."""
        sql, key = self._sql, run.key
        row = await _first(connection, sql.lock, key)
        if row is None:
            for leftover in sql.clear:  # rows of a job whose own row was deleted by hand
                await connection.execute(leftover, key)
            await connection.execute(
                sql.make, {**run.columns, "job": json.dumps(attrs.asdict(run.job)), "lease": self._lease}
            )
            await self._add(connection, run, Entry.of(State(), ()), 1)
            row = await _first(connection, sql.lock, key)
        if row is None:
            raise CheckpointError(f"{self._describe(run.job)} cannot be created: another process removes it")
        self._check_job(row, run.job)
        mine = row["holder"] == run.holder  # an earlier attempt of this run, whose result was unknown, succeeded
        # abs(), so that a clock that was set back does not extend a lease.
        if row["holder"] is not None and not mine and abs(row["now"] - row["renewed_at"]) < row["lease"]:
            return row
        state, number = await self._read_state(connection, key)
        if mine:
            state = attrs.evolve(state, interrupted=state.interrupted - run.concurrency)
        begun = attrs.evolve(state, done=frozenset(), interrupted=state.interrupted + run.concurrency)
        if not mine:
            number += 1
            await connection.execute(sql.take, {**key, "holder": run.holder, "lease": self._lease})
            await self._add(connection, run, Entry.of(begun, (), state), number)
        run.state, run.number, run.dead_letters = begun, number, row["dead_letters"]
        return state

    async def _record(self, connection: AsyncConnection, run: _Run, commit: Commit, entry: Entry) -> None:
        sql, key, number = self._sql, run.key, run.number + 1
        dead_letters = run.dead_letters + len(commit.dead)
        # This statement comes first, because it locks the row: it waits for an earlier attempt that still runs.
        renewed = await connection.execute(sql.renew, {**key, "a_holder": run.holder, "dead_letters": dead_letters})
        if not renewed.rowcount:
            run.lost = _LOST
            raise CheckpointError(f"{self._describe(run.job)}: {run.lost}")
        await self._add(connection, run, entry, number)
        if entry.whole:
            await connection.execute(sql.cut, {**key, "a_number": number})
        if commit.dead:
            rows = [
                {**run.columns, "number": place, "key": key_of(each.id), "letter": write_dead_letter(each)}
                for place, each in enumerate(commit.dead, run.dead_letters + 1)
            ]
            await connection.execute(sql.put_dead_letter, rows)
        if commit.revived:
            await connection.execute(sql.revive, [{**key, "a_key": key_of(each)} for each in commit.revived])

    async def _add(self, connection: AsyncConnection, run: _Run, entry: Entry, number: int) -> None:
        row = {**run.columns, "number": number, "fields": entry.fields, "done": entry.done}
        await connection.execute(self._sql.add, row)

    async def _keep_alive(self, run: _Run) -> None:
        """Renew the lease until the run ends or has lost it."""

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(self._sql.renew, {**run.key, "a_holder": run.holder})).rowcount

        seconds = min(self._store.timeout, self._lease / 2)
        while not run.lost:
            try:
                async with asyncio.timeout(self._lease / _BEATS):
                    await run.ending.wait()
                return
            except TimeoutError:
                pass
            try:
                if not await self._store.run(work, write=True, timeout=seconds, prepare=False):
                    run.lost = _LOST
            except Exception as exc:
                logger.debug("the lease of a checkpoint could not be renewed: %s", brief(exc))

    async def _let_go(self, run: _Run) -> None:
        run.ending.set()
        if run.heartbeat is not None:
            await asyncio.wait((run.heartbeat,))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(self._sql.let_go, {**run.key, "a_holder": run.holder})

        try:
            await self._store.run(work, write=True, prepare=False)
        except Exception as exc:
            if exc.__cause__ is not None and is_missing(exc.__cause__):
                return
            logger.warning(
                "%s could not be released (%s): another run can begin when the lease ends, in %g s",
                self._describe(run.job),
                brief(exc),
                self._lease,
            )

    async def _call(self, work: Work[T], recorded: Callable[[], None] = lambda: None, *, prepare: bool = False) -> T:
        """Do ``work`` in a transaction, then call ``recorded``. Try again while the database is away or busy.

        ``work`` must be safe to repeat. A cancellation waits for the attempt that is under way.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._store.timeout, _FIRST_PAUSE

        while True:
            try:
                return await self._store.run(
                    work, write=True, timeout=until - loop.time(), prepare=prepare, recorded=recorded
                )
            except (CheckpointError, BusyError) as exc:
                cause = exc.__cause__ or exc
                if not isinstance(cause, BusyError) and not is_away(cause):
                    raise
                if until - loop.time() <= pause:
                    raise CheckpointError(
                        f"the database of the checkpoint was away for {self._store.timeout:g} s ({brief(cause)}): fix "
                        "it, then run the same again to continue"
                    ) from without_values(cause)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _current(self) -> _Run:
        run = self._run
        if run is None or run.ending.is_set():
            raise CheckpointError("the checkpoint is not open")
        self._store.check_usable()
        if run.lost:
            raise CheckpointError(f"{self._describe(run.job)}: {run.lost}")
        return run

    # --- rows ---

    def _key(self, job: ReplayJob) -> dict[str, str]:
        return {"a_name": key_of(job.webhook_id if self._name is None else self._name), "a_source": job.source}

    def _describe(self, job: ReplayJob) -> str:
        name = job.webhook_id if self._name is None else self._name
        return f"the checkpoint {name!r} ({job.source}) in {self._tables.name}"

    def _check_job(self, row: RowMapping, asked: ReplayJob) -> None:
        recorded = ReplayJob(**json.loads(row["job"]))
        if recorded != asked:
            raise another_job(self._describe(asked), recorded, asked)

    async def _read_state(self, connection: AsyncConnection, key: dict[str, str]) -> tuple[State, int]:
        """Return the state, and the number of the last entry in its log."""
        rows = (await connection.execute(self._sql.log, key)).all()
        dead: int = (await connection.execute(self._sql.count_dead, key)).scalar_one()
        return read_log(((row.fields, row.done) for row in rows), dead), rows[-1].number


class _Run:
    """The state of one run, and of the job that it has taken."""

    def __init__(self, job: ReplayJob, key: dict[str, str], concurrency: int) -> None:
        self.job, self.key, self.concurrency = job, key, concurrency
        self.holder = f"{describe_run()}/{os.urandom(8).hex()}"
        self.columns = {"name": key["a_name"], "source": key["a_source"]}
        self.state = State()
        self.number = self.dead_letters = 0
        self.lost = ""
        self.heartbeat: asyncio.Task[None] | None = None
        self.ending = asyncio.Event()
        self.saving = asyncio.Lock()


async def _first(connection: AsyncConnection, statement: Any, key: dict[str, str]) -> RowMapping | None:
    row = (await connection.execute(statement, key)).first()
    return None if row is None else row._mapping
