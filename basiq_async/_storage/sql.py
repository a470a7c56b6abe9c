"""One store in a SQL database, for an inbox: its tables, its transactions, and its errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event, func
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from .._work.calls import CLOSED, OneProcess
from .._work.limits import limit
from .._work.store_use import NO_INBOX, store_use
from .._work.tasks import run_to_completion, wait_uncancelled
from ..errors import BasiqError, ConfigurationError, InboxError
from .sql_commit import keep_tags
from .sql_errors import brief, is_missing, keep_failure, said_by, sqlstate, without_values
from .sql_tables import StoreTables

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

logger = logging.getLogger("basiq_async.storage")

_LOCK_WAIT = 0.2
"""Seconds to wait for another process that writes to the SQLite file."""
_QUEUE_WAIT = 1.0
"""Seconds to wait for another task of this process that writes to the SQLite file."""
_CLOSE = 1.0
"""Seconds for the end of a transaction."""
_NO_LIMIT = 1_000_000


class SQLStore:
    """The tables in one engine's database, created or checked at the first use, and short transactions in them.

    ``timeout``: seconds for a call of ``run``. No connection is held between two calls.
    """

    def __init__(self, engine: AsyncEngine, tables: StoreTables, *, create_tables: bool, timeout: float) -> None:
        if not isinstance(engine, AsyncEngine):
            raise ConfigurationError("the inbox needs an AsyncEngine: sqlalchemy.ext.asyncio.create_async_engine(...)")
        if engine.dialect.name not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"the inbox works with PostgreSQL and SQLite, not with {engine.dialect.name}")
        if "@" in (engine.url.host or ""):  # the driver's errors name the host
            raise ConfigurationError(
                "the inbox cannot use the engine's url: a '@' in its password must be percent-encoded, as %40"
            )
        self.engine = engine
        self.tables = tables
        self.timeout = timeout
        self.on_postgresql = engine.dialect.name == "postgresql"
        self.use = store_use.get()
        self.create_tables = create_tables and self.use == "make"
        self.closed = False
        self.began: datetime | None = None
        self.connections = _count_connections(engine)
        """How many connections the engine's pool has at the most."""
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._writing = asyncio.Lock()
        self._preparing = asyncio.Lock()
        self.process = OneProcess(f"the inbox {tables.name}")
        # Asks the dialect for its listeners: event.contains() would go by the engine's id(), which Python reuses.
        if keep_failure not in engine.dialect.dispatch.handle_error:
            event.listen(engine.dialect, "handle_error", keep_failure)
        keep_tags(engine)

    def check_usable(self) -> None:
        """Raise ``InboxError`` after the store was closed, and in a child that was forked after the first use."""
        self.process.check()
        if self.closed:
            raise InboxError(f"the inbox {self.tables.name} {CLOSED}")

    async def run(self, work: Work[T], *, write: bool = False, wait_for_writer: bool = True, alone: bool = False) -> T:
        """Do ``work`` in a transaction, within the time limit. See ``within_limit`` for a cancellation.

        alone: the work is one statement, so that a server needs no other to begin and to commit: one round trip.
        write: commit. In SQLite, it waits for another writer: up to the limit if ``wait_for_writer``, else briefly.
        Raises ``InboxError``, and ``BusyError`` if the other writer does not finish.
        """

        async def prepare_and_run() -> T:
            await self.prepare()
            return await self._run(
                work, write=write, wait_for_writer=wait_for_writer, alone=alone and self.on_postgresql
            )

        self.check_usable()
        return await self.within_limit(prepare_and_run)

    async def rows(
        self,
        statement: sa.Executable,
        values: Mapping[str, object] | None = None,
        *,
        write: bool = False,
        wait_for_writer: bool = True,
    ) -> Sequence[sa.Row[Any]]:
        """Run one statement, which returns rows. See ``run``."""

        async def work(connection: AsyncConnection) -> Sequence[sa.Row[Any]]:
            return (await connection.execute(statement, values)).all()

        return await self.run(work, write=write, wait_for_writer=wait_for_writer, alone=True)

    async def within_limit(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``. Raises ``InboxError`` if it takes too long, and in place of a driver's error.

        A cancellation costs the connection to a server, which then rolls back. In SQLite it waits for the end: the
        driver's thread goes on with a statement that is not awaited.
        """
        limited = partial(self._within_limit, work)
        return await (limited() if self.on_postgresql else run_to_completion(limited))

    async def _within_limit(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async with limit(self.timeout):
                return await work()
        except (BasiqError, BusyError):
            raise
        except TimeoutError as exc:
            raise InboxError(
                f"the database did not respond within {self.timeout:.3g} s: it is unreachable, or all connections of "
                "the pool are in use (a handler with a session holds one while it runs)"
            ) from without_values(exc)
        except Exception as exc:  # a driver's own error when it cannot connect
            raise InboxError(self.describe(exc)) from without_values(exc)

    async def _run(self, work: Work[T], *, write: bool, wait_for_writer: bool, alone: bool = False) -> T:
        again, committing = True, False
        while True:
            try:
                async with self._transaction(write=write, wait_for_writer=wait_for_writer) as connection:
                    if alone:
                        await connection.execution_options(isolation_level="AUTOCOMMIT")
                    result = await work(connection)
                    if write:
                        committing = True
                        await connection.commit()
                return result
            except DBAPIError as exc:
                if committing or not again or not exc.connection_invalidated:
                    raise
            again = False  # the server was restarted after the pool connected, so connect again

    @asynccontextmanager
    async def _transaction(self, *, write: bool, wait_for_writer: bool) -> AsyncGenerator[AsyncConnection]:
        """Begin a transaction. Its end rolls back what was not committed. See ``open``."""
        connection, uninterrupted = self.engine.connect(), False
        await self.open(connection, write=write, wait_for_writer=wait_for_writer)
        try:
            yield connection
            uninterrupted = True
        finally:
            await self.close(connection, write=write, uninterrupted=uninterrupted)

    async def open(self, connection: AsyncConnection, *, write: bool, wait_for_writer: bool) -> None:
        """Connect. The first statement begins the transaction, in SQLite this call if it is to ``write``.

        Raises ``BusyError`` if another worker holds SQLite's write lock, unless ``wait_for_writer``: then it waits.
        Raises the errors of SQLAlchemy and the driver.
        """
        in_turn = write and not self.on_postgresql
        if in_turn:  # the tasks of this process take turns to write to SQLite
            async with limit(None if wait_for_writer else _QUEUE_WAIT, BusyError):
                await self._writing.acquire()
        try:
            await self._line.acquire()
        except BaseException:
            if in_turn:
                self._writing.release()
            raise
        try:
            await (connection.start() if self.on_postgresql else _connect_to_file(connection))
            if in_turn:
                await _begin_immediate(connection, wait_for_writer=wait_for_writer)
        except BaseException:
            await self.close(connection, write=write, uninterrupted=False)
            raise

    @property
    def _line(self) -> asyncio.Semaphore:
        """The line in which calls of this event loop wait for a connection, in the order in which they came.

        The pool itself gives a free connection to a new call before those that wait.
        """
        loop = asyncio.get_running_loop()
        if (line := self._lines.get(loop)) is None:
            line = self._lines[loop] = asyncio.Semaphore(self.connections)
        return line

    async def close(self, connection: AsyncConnection, *, write: bool, uninterrupted: bool) -> None:
        """Roll back what was not committed, and give the connection back to the pool.

        uninterrupted: no statement was interrupted. Does not raise.
        """
        in_turn = write and not self.on_postgresql
        try:
            if uninterrupted or in_turn:  # SQLite has no connection to a server that could be broken
                await _give_back(connection)
            else:
                await run_to_completion(lambda: _give_back(connection, broken=True))
        finally:
            self._line.release()
            if in_turn:
                self._writing.release()

    async def prepare(self) -> None:
        """At the first call, create missing tables, unless ``create_tables`` is False, and check their version.

        Raises ``InboxError``, also for tables of another version, and ``ConfigurationError`` for an engine in
        AUTOCOMMIT mode.
        """
        if self.began is None:
            async with self._preparing:
                if self.began is None:
                    self.began = await self._run(self._prepare, write=self.use != "look", wait_for_writer=True)

    async def look(self, connection: AsyncConnection) -> None:
        """Read the columns of all tables."""
        for table in self.tables.metadata.sorted_tables:
            await connection.execute(sa.select(*table.columns).limit(0))

    def describe(self, exc: BaseException) -> str:
        """Return why the database failed, in a line, and the remedy if it is known."""
        text, said, code = f"the database failed: {brief(exc)}", said_by(exc), sqlstate(exc)
        if is_missing(exc):
            return (
                f"{text}. The inbox's tables are missing: run the migration that creates them (inbox.ddl() returns its "
                "statements), or leave create_tables as True"
            )
        if code == "42703" or said.startswith("no such column"):
            return f"{text}. {self._another_version()}"
        if code == "25006" or "readonly" in said:
            return (
                f"the database is read-only: {brief(exc)}. Connect the engine to a server that can write, such as the "
                "primary"
            )
        if code == "53100" or "disk is full" in said:
            return f"{text}. Nothing was recorded: make room on its disk, run it again"
        if isinstance(exc, (ValueError, TypeError, KeyError)):
            return f"the tables of {self.tables.name} hold data that no inbox has written: restore them"
        if isinstance(exc, OSError) or "connection failed" in said:
            return f"{text}. Is it running, and is the engine's url right?"
        return text

    async def _prepare(self, connection: AsyncConnection) -> datetime:
        driver = (await connection.get_raw_connection()).dbapi_connection
        # A connection to SQLite is in this mode because ``transaction`` sets it.
        if self.on_postgresql and driver and connection.dialect.detect_autocommit_setting(driver):
            raise ConfigurationError(
                "the engine is in AUTOCOMMIT mode, so each statement would commit alone: pass an engine without it"
            )
        if self.on_postgresql and self.use == "make":  # two processes that do this at once would fail
            await connection.execute(sa.select(func.pg_advisory_xact_lock(func.hashtext(self.tables.name))))
        if self.create_tables:
            await connection.run_sync(self._create_tables)
        version, service = self.tables.version, self.tables.service
        found = (await connection.execute(sa.select(version).where(version.c.service == service))).all()
        others = sa.select(version.c.version).where(version.c.version != self.tables.layout).limit(1)
        if not found and self.use != "make":
            raise InboxError(f"the tables {self.tables.name} cannot be used: {NO_INBOX}")
        if (await connection.execute(others)).first() is not None:
            raise InboxError(self._another_version())
        if not found:
            new = {"service": service, "version": self.tables.layout, "began": func.now()}
            await connection.execute(sa.insert(version).values(new))
            found = (await connection.execute(sa.select(version).where(version.c.service == service))).all()
        return as_aware(found[0].began)

    def _create_tables(self, connection: Connection) -> None:
        found = sa.inspect(connection)
        there = {table for table in self.tables.metadata.sorted_tables if found.has_table(table.name, table.schema)}
        if there and self.tables.version not in there:
            raise InboxError(self._another_version())
        self.tables.metadata.create_all(connection)

    def _another_version(self) -> str:
        return (
            f"The inbox's tables {self.tables.name} were made by another version of this library, and were left as "
            "they are: run the version that made them until nothing waits in them or is in their quarantine, then pass "
            "another table= to this one"
        )


def _count_connections(engine: AsyncEngine) -> int:
    """Return how many connections the engine's pool has at the most."""
    pool = engine.pool
    if not isinstance(pool, QueuePool) or pool.size() == 0:
        return _NO_LIMIT
    overflow: int = getattr(pool, "_max_overflow", 0)  # SQLAlchemy has no public name for it
    return _NO_LIMIT if overflow < 0 else pool.size() + overflow


class BusyError(Exception):
    """Another worker holds SQLite's write lock, and does not finish."""

    def __str__(self) -> str:
        return "another worker holds the database's write lock, and does not finish: try again"


async def _connect_to_file(connection: AsyncConnection) -> None:
    """Connect to SQLite. A connection that is being set up has a second to end, whatever cancels this call."""
    # If SQLAlchemy is cancelled while it sets up a new connection, it drops that without closing it.
    connecting = asyncio.get_running_loop().create_task(connection.start())
    try:
        await asyncio.shield(connecting)
    except asyncio.CancelledError:
        await wait_uncancelled(connecting, _CLOSE)  # the pool may have no free one
        connecting.cancel()
        await wait_uncancelled(connecting, _CLOSE)
        raise


async def _give_back(connection: AsyncConnection, *, broken: bool = False) -> None:
    """Roll back what was not committed, and return a connection to the pool; close a ``broken`` one.

    Does not raise, and lasts a second at most.
    """
    if connection.sync_connection is None or connection.closed:
        return
    try:
        async with limit(_CLOSE):
            if broken:
                await connection.invalidate()
            await connection.close()
    except Exception as exc:
        logger.debug("a connection to the database could not be closed properly", exc_info=without_values(exc))


async def _begin_immediate(connection: AsyncConnection, *, wait_for_writer: bool) -> None:
    # The driver's own transactions begin as readers, and can fail at their first write. BEGIN IMMEDIATE gets the write
    # lock at once.
    await connection.execution_options(isolation_level="AUTOCOMMIT")
    await connection.begin()
    deadline = time.monotonic() + _LOCK_WAIT
    configured = (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar_one()
    await connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            except DBAPIError as exc:
                if "locked" not in said_by(exc):
                    raise
                if not wait_for_writer and time.monotonic() >= deadline:
                    raise BusyError from None
                await asyncio.sleep(0.005)
            else:
                return
    finally:
        if not connection.invalidated:  # a cancellation in the middle of a statement invalidates it
            await connection.exec_driver_sql(f"PRAGMA busy_timeout={int(configured)}")


def as_aware(moment: datetime) -> datetime:
    """Return a moment that the database returned with its time zone, which is UTC: SQLite keeps none."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
