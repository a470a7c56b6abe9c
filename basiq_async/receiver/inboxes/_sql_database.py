"""A SQL database as an inbox uses it: tables made when first needed, and a limit on the time of each call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from ..._concurrency.tasks import run_to_completion
from ..._inbox.calls import CLOSED, OneProcess
from ..._storage.sql import Transaction, describe, describe_read_only, refuse_autocommit, watch_failures, without_values
from ...errors import BasiqError, InboxError
from ._sql_statements import Statements
from ._sql_tables import Tables

T = TypeVar("T")

_BEGAN = "began"
_KEPT_FREE = 5
"""One of so many connections of the pool is left to calls that give it back at once."""


class LockedError(InboxError):
    """Another worker has SQLite's lock on writing."""


class SQLDatabase:
    """The engine, the tables and the statements of one inbox.

    ``slots`` limits the transactions that last as long as a handler, so that they never take the whole pool.
    """

    def __init__(self, engine: AsyncEngine, tables: Tables, *, create_tables: bool, timeout: float) -> None:
        self.engine = engine
        self.tables = tables
        self.sql = Statements(tables, engine.dialect.name)
        self.timeout = timeout
        self.process = OneProcess(f"the inbox {tables.name}")
        self.closed = False
        self.slots = asyncio.Semaphore(_most_transactions(engine))
        self._create_tables = create_tables
        self._ready = False
        self._preparing = asyncio.Lock()
        self._writing = asyncio.Lock()
        watch_failures(engine)

    def check_usable(self) -> None:
        """Raises ``InboxError`` in a forked child, and after the inbox was closed."""
        self.process.check()
        if self.closed:
            raise InboxError(f"the inbox {CLOSED}")

    def transaction(self) -> Transaction:
        """A transaction that may write."""
        return Transaction(self.engine, writing=None if self.sql.on_postgresql else self._writing)

    async def call(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, write: bool = False, patient: bool = True
    ) -> T:
        """Do ``work`` in a transaction of its own; a cancellation waits for that.

        Where it writes to SQLite, it waits for another writer: as long as the limit allows where it is ``patient``.
        Raises ``LockedError`` where that one does not finish.
        """
        self.check_usable()

        async def attempt() -> T:
            await self.prepare()
            try:
                return await self._call_once(work, write, patient)
            except DBAPIError as exc:
                if not exc.connection_invalidated:
                    raise
            # The server was restarted since the pool connected.
            return await self._call_once(work, write, patient)

        return await run_to_completion(lambda: self.within_limit(attempt()))

    async def within_limit(self, work: Awaitable[T]) -> T:
        """Await ``work``. Raises ``InboxError`` where it takes too long, and for what a driver raises."""
        try:
            async with asyncio.timeout(self.timeout):
                return await work
        except BasiqError:
            raise
        except TimeoutError as exc:
            raise InboxError(
                f"the database did not respond within {self.timeout:g} s: it is away, or all connections of the "
                "pool are in use (a handler that takes a session holds one while it runs)"
            ) from without_values(exc)
        except Exception as exc:  # a driver's own, where it could not connect
            raise InboxError(describe(exc)) from without_values(exc)

    async def prepare(self) -> None:
        """Make the tables, once."""
        if self._ready:
            return
        async with self._preparing:
            if self._ready:
                return
            await self._call_once(self._make_tables, write=True, patient=True)
            self._ready = True

    async def look(self, connection: AsyncConnection) -> None:
        """Look for the tables and their columns. Raises ``InboxError`` where nothing can be written."""
        for statement in self.sql.look:
            await connection.execute(statement)
        if self.sql.on_postgresql and (await connection.execute(self.sql.is_read_only)).scalar_one() == "on":
            raise InboxError(describe_read_only("the server, or this role, is set to read only"))

    async def _call_once(self, work: Callable[[AsyncConnection], Awaitable[T]], write: bool, patient: bool) -> T:
        transaction = self.transaction() if write else Transaction(self.engine)
        whole = False
        try:
            if not await transaction.begin(patient=patient):
                raise LockedError("another worker writes to the database, and does not finish: try again")
            result = await work(transaction.connection)
            if write:
                try:
                    await transaction.commit()
                except SQLAlchemyError as exc:  # it may have been carried out: never again by itself
                    raise InboxError(describe(exc)) from without_values(exc)
            whole = True
        finally:
            await transaction.end(broken=not whole)
        return result

    async def _make_tables(self, connection: AsyncConnection) -> None:
        await refuse_autocommit(connection)
        if self._create_tables:
            if self.sql.on_postgresql:  # one process at a time, or the second one's CREATE fails
                await connection.execute(self.sql.lock_tables)
            await connection.run_sync(self.tables.metadata.create_all)
            await self.pin_beginning(connection)

    async def pin(self, connection: AsyncConnection, name: str, value: str) -> str:
        """See ``Inbox``."""
        found: str = (await connection.execute(self.sql.pin, {"a_name": name, "a_value": value})).scalar_one()
        return found

    async def pin_beginning(self, connection: AsyncConnection) -> tuple[datetime, datetime]:
        """Return when the tables were first used, and the time."""
        now: datetime = (await connection.execute(self.sql.now)).scalar_one()
        now = now if now.tzinfo is not None else now.replace(tzinfo=UTC)
        return datetime.fromisoformat(await self.pin(connection, _BEGAN, now.isoformat())), now


def _most_transactions(engine: AsyncEngine) -> int:
    """For how many handlers at once the pool has a connection, with some left for calls that are brief."""
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return 1_000_000  # it opens as many as are asked for
    overflow: int = getattr(pool, "_max_overflow", 0)  # SQLAlchemy tells the size alone
    if overflow < 0 or pool.size() == 0:
        return 1_000_000
    total = pool.size() + overflow
    return max(1, total - max(1, total // _KEPT_FREE))
