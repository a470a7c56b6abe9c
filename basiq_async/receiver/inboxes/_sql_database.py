"""Short transactions in an inbox's SQL database, each within a time limit, and the leases that they write.

The tables are created at the first use. A lease is a worker's token in the row of the key: no transaction stays open
for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Executable
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from ..._storage.sql import Transaction, brief, refuse_autocommit, sqlstate, watch_failures, without_values
from ..._work.calls import CLOSED, OneProcess
from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, pack
from ..._work.tasks import run_to_completion
from ...errors import BasiqError, InboxError
from ._sql_statements import Statements, Tables

T = TypeVar("T")

_BEGAN = "began"
_NO_TABLE, _NO_SCHEMA, _NO_COLUMN = "42P01", "3F000", "42703"
_READ_ONLY = "25006"
_KEPT_FREE = 5
"""One of this number of the pool's connections is kept for short calls."""


class LockedError(InboxError):
    """Another worker holds SQLite's write lock."""


class SQLDatabase:
    """The engine, the tables and the statements of one inbox.

    ``slots`` limits the number of handlers with a session, so that their transactions never use the whole pool.
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
        """Raise ``InboxError`` in a forked child, and after the inbox was closed."""
        self.process.check()
        if self.closed:
            raise InboxError(f"the inbox {CLOSED}")

    def transaction(self) -> Transaction:
        """Return a transaction that may write."""
        return Transaction(self.engine, writing=None if self.sql.on_postgresql else self._writing)

    async def call(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, write: bool = False, patient: bool = True
    ) -> T:
        """Do ``work`` in a separate transaction. A cancellation waits for its end.

        A call that writes to SQLite waits for another writer: a ``patient`` call up to the time limit, any other only
        briefly. Raises ``LockedError`` if the other writer does not finish.
        """
        self.check_usable()

        async def attempt() -> T:
            await self.prepare()
            try:
                return await self._call_once(work, write, patient)
            except DBAPIError as exc:
                if not exc.connection_invalidated:
                    raise
            # The server was restarted after the pool connected, so connect anew.
            return await self._call_once(work, write, patient)

        return await run_to_completion(lambda: self.within_limit(attempt()))

    async def within_limit(self, work: Awaitable[T]) -> T:
        """Await ``work``. Raises ``InboxError`` if it takes too long, and in place of a driver's error."""
        try:
            async with asyncio.timeout(self.timeout):
                return await work
        except BasiqError:
            raise
        except TimeoutError as exc:
            raise InboxError(
                f"the database did not respond within {self.timeout:g} s: it is unreachable, or all connections of the "
                "pool are in use (a handler with a session holds one while it runs)"
            ) from without_values(exc)
        except Exception as exc:  # a driver's own error when it cannot connect
            raise InboxError(_describe(exc)) from without_values(exc)

    async def prepare(self) -> None:
        """Create the tables at the first call, unless ``create_tables`` is False."""
        if self._ready:
            return
        async with self._preparing:
            if self._ready:
                return
            await self._call_once(self._make_tables, write=True, patient=True)
            self._ready = True

    async def look(self, connection: AsyncConnection) -> None:
        """Check the tables and their columns. Raises ``InboxError`` if the database is read-only."""
        for statement in self.sql.look:
            await connection.execute(statement)
        if self.sql.on_postgresql and (await connection.execute(self.sql.is_read_only)).scalar_one() == "on":
            raise InboxError(_describe_read_only("the server, or this role, is read-only"))

    async def _call_once(self, work: Callable[[AsyncConnection], Awaitable[T]], write: bool, patient: bool) -> T:
        transaction = self.transaction() if write else Transaction(self.engine)
        whole = False
        try:
            if not await transaction.begin(patient=patient):
                raise LockedError("another worker holds the database's write lock, and does not finish: try again")
            result = await work(transaction.connection)
            if write:
                try:
                    await transaction.commit()
                except SQLAlchemyError as exc:  # it may have been carried out, so it is not repeated
                    raise InboxError(_describe(exc)) from without_values(exc)
            whole = True
        finally:
            await transaction.end(broken=not whole)
        return result

    async def _make_tables(self, connection: AsyncConnection) -> None:
        await refuse_autocommit(connection)
        if self._create_tables:
            if self.sql.on_postgresql:  # two processes that create the tables at once would fail
                await connection.execute(self.sql.lock_tables)
            await connection.run_sync(self.tables.metadata.create_all)
            await self.pin_beginning(connection)

    async def pin(self, connection: AsyncConnection, name: str, value: str) -> str:
        """See ``Inbox``."""
        found: str = (await connection.execute(self.sql.pin, {"a_name": name, "a_value": value})).scalar_one()
        return found

    async def pin_beginning(self, connection: AsyncConnection) -> tuple[datetime, datetime]:
        """Return the time when the tables were first used, and the present time."""
        now: datetime = (await connection.execute(self.sql.now)).scalar_one()
        now = now if now.tzinfo is not None else now.replace(tzinfo=UTC)
        return datetime.fromisoformat(await self.pin(connection, _BEGAN, now.isoformat())), now


def _describe(exc: BaseException) -> str:
    """Return why the database failed, and the remedy if it is known."""
    text, said, code = f"the database failed: {brief(exc)}", str(getattr(exc, "orig", "")), sqlstate(exc)
    if code in (_NO_TABLE, _NO_SCHEMA) or said.startswith("no such table"):
        return (
            f"{text}. The inbox's tables are missing: run the migration that creates them (inbox.ddl() returns its "
            "statements), or leave create_tables as True"
        )
    if code == _NO_COLUMN or said.startswith("no such column"):
        return (
            f"{text}. The inbox's tables were made by another version of this library: migrate them to the tables of "
            "inbox.ddl(), or pass another table="
        )
    if code == _READ_ONLY or "readonly" in said:
        return _describe_read_only(brief(exc))
    if isinstance(exc, OSError) or "connection failed" in said:
        return f"{text}. Is it running, and is the engine's url right?"
    return text


def _describe_read_only(said: str) -> str:
    """Return the error text for a database that is read-only, with the remedy."""
    return f"the database is read-only: {said}. Connect the engine to a server that can write, such as the primary"


def _most_transactions(engine: AsyncEngine) -> int:
    """Return the number of handlers with a session that may run at once: some connections are kept for short calls."""
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return 1_000_000  # such a pool has no limit
    overflow: int = getattr(pool, "_max_overflow", 0)  # SQLAlchemy has no public name for it
    if overflow < 0 or pool.size() == 0:
        return 1_000_000
    total = pool.size() + overflow
    return max(1, total - max(1, total // _KEPT_FREE))


RETRY_AFTER = 1.0
"""Seconds for ``retry_after`` if another worker holds the key by a transaction, whose end is unknown."""
_GATE_WAIT = 0.5
"""Seconds to wait while another worker's transaction locks a key. A transaction of a mere attempt ends sooner."""
_GATE_PAUSE = 0.01

_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)


class Leases:
    """Claims, releases and records keys by leases, each in a separate short transaction."""

    def __init__(self, database: SQLDatabase) -> None:
        self._database = database
        self._sql = database.sql

    async def claim(self, key: str, token: str, lease: float, *, retry: bool) -> Claim:
        sql = self._sql

        async def look(connection: AsyncConnection) -> Claim:
            return await self.describe(connection, key, retry=retry)

        async def work(connection: AsyncConnection) -> Claim:
            statement = sql.lease_letter if retry else sql.lease
            found = await sql.first(connection, statement, key, token=token, lease=lease)
            return await look(connection) if found is None else _CLAIMED

        if not sql.on_postgresql:  # a reader of SQLite does not wait for the writer
            claim = await self._database.call(look)
            if claim.status is ClaimStatus.DONE:
                return claim
        try:
            return await self._database.call(work, write=True, patient=False)
        except LockedError:
            return Claim(ClaimStatus.BUSY, RETRY_AFTER)

    async def record(
        self, key: str, token: str, *, letter: QuarantinedDelivery | None = None, retry: bool = False
    ) -> bool:
        """Record a key that this worker holds by a lease, or that no worker holds. With a letter, quarantine it.

        ``retry``: the key is in the quarantine, and its transaction was rolled back. Return whether it was recorded.
        """
        sql = self._sql

        async def work(connection: AsyncConnection) -> bool | None:
            if retry:
                await sql.first(connection, sql.lease_letter, key, token=token, lease=self._database.timeout)
            found = await sql.first(connection, sql.record, key, token=token)
            if found is None:
                found = await sql.first(connection, sql.enter, key, token=token)
            if found is None:
                claim = await self.describe(connection, key)
                # Without a holder, another worker has a transaction on the key, or is trying to claim it.
                return None if claim.status is ClaimStatus.BUSY and claim.holder in (None, token) else False
            if letter is not None:
                values = {"a_key": key, "a_moment": letter.quarantined_at, "a_letter": pack(letter)}
                await connection.execute(sql.put_letter, values)
                return True
            if found.letter is not None:
                await connection.execute(sql.remove_letter, {"a_key": key})
            if found.failures is not None:
                await connection.execute(sql.forgive, {"a_key": key})
            return True

        try:
            return bool(await self.past_the_gate(work, patient=await self._is_worth_waiting(key, token)))
        except LockedError:
            return False

    async def release(self, key: str, token: str) -> None:
        """Release this worker's lease."""
        patient = await self._is_worth_waiting(key, token)
        with suppress(LockedError):  # the lease has expired, so the key is free or another worker's
            await self._database.call(lambda connection: self.free(connection, key, token), write=True, patient=patient)

    async def _is_worth_waiting(self, key: str, token: str) -> bool:
        """Return whether to wait for SQLite's write lock: only if this worker has a lease on the key.

        Otherwise the worker that holds the lock may be the one that claimed the key.
        """
        if self._sql.on_postgresql:
            return True
        row = await self._database.call(lambda connection: self._sql.first(connection, self._sql.holder, key))
        return row is not None and row.token == token and row.remaining > 0

    async def free(self, connection: AsyncConnection, key: str, token: str) -> str | None:
        """Release this worker's lease. Return the key's letter if it is in the quarantine, else None."""
        sql = self._sql
        if await sql.first(connection, sql.free, key, token=token) is not None:
            return None
        found = await sql.first(connection, sql.free_letter, key, token=token)
        letter: str | None = None if found is None else found.letter
        return letter

    async def describe(self, connection: AsyncConnection, key: str, *, retry: bool = False) -> Claim:
        """Return the claim's result for a key that cannot be claimed: DONE, or BUSY with ``retry_after``."""
        row = await self._sql.first(connection, self._sql.holder, key)
        if retry:
            if not await self.has(connection, self._sql.has_letter, key):
                return _DONE
        elif row is not None and row.handled_at is not None:
            return _DONE
        if row is not None and row.token is not None and row.remaining > 0:
            return Claim(ClaimStatus.BUSY, row.remaining, row.token)
        return Claim(ClaimStatus.BUSY, RETRY_AFTER)

    async def past_the_gate(
        self, work: Callable[[AsyncConnection], Awaitable[bool | None]], *, patient: bool = True
    ) -> bool | None:
        """Repeat ``work`` until it does not return None, for at most ``_GATE_WAIT`` seconds.

        None means that another worker has a transaction on the key. If it only tries to claim it, that ends soon.
        """
        deadline = time.monotonic() + _GATE_WAIT
        while True:
            done = await self._database.call(work, write=True, patient=patient)
            if done is not None or time.monotonic() >= deadline:
                return done
            await asyncio.sleep(_GATE_PAUSE)

    async def has(self, connection: AsyncConnection, statement: Executable, key: str) -> bool:
        return await self._sql.first(connection, statement, key) is not None
