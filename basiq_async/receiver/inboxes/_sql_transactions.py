"""Claims of a SQL inbox that are transactions: those of handlers with a session."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from ..._storage.sql import BusyError, SQLStore, SQLTransaction
from ..._storage.sql_errors import brief, failed_in, is_passing, transaction_state, without_values
from ..._work.calls import CLOSED
from ..._work.protocol import Claim
from ..._work.tasks import run_to_completion
from ...errors import BasiqError, ConfigurationError, InboxError
from ._sql_statements import BUSY, CLAIMED, DONE, Statements

_KEPT_FREE = 5
"""One of this number of the pool's connections is kept for short calls."""


class State(enum.Enum):
    """The state of a claim that is a transaction."""

    BEGINNING, OPEN, ENDING, FAILED = range(4)


@attrs.define(eq=False)
class Held:
    """A claim that is a transaction of this process. ``retry``: the delivery is in the quarantine, and is tried again.

    If its commit FAILED, it is kept until it is released, so that a second ``complete`` records nothing either.
    """

    token: str
    retry: bool
    state: State = State.BEGINNING
    transaction: SQLTransaction | None = None
    has_slot: bool = False


class Transactions:
    """The claims of one inbox, in this process, that are transactions.

    A semaphore limits their number, so that they never use the whole pool. ``sessions`` makes the sessions of handlers.
    """

    def __init__(self, store: SQLStore, sql: Statements, sessions: async_sessionmaker[Any]) -> None:
        self._store = store
        self._sql = sql
        self._sessions = sessions
        self._slots = asyncio.Semaphore(_most_transactions(store.engine))
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return sum(held.transaction is not None for held in self._held.values())

    async def begin(self, key: str, token: str, lease: float, *, retry: bool) -> Claim:
        """Claim the key: begin a transaction, and enter the event as handled. A cancellation waits for the end.

        PostgreSQL ends the transaction when its connection was idle for ``lease`` seconds.
        """
        known = self.known(key, token, retry=retry)
        if known is not None:
            return known
        held = self._held[key] = Held(token, retry)

        async def begin() -> Claim:
            # When its loop shuts down, this coroutine may be cancelled and started again.
            if self._held.setdefault(key, held) is not held:
                return BUSY
            claim: Claim | None = None
            try:
                claim = await self._store.within_limit(self._begin(key, held, lease))
                return claim
            finally:
                if claim is CLAIMED:
                    held.state = State.OPEN
                else:
                    await self._end(key, held, broken=claim is None)

        # A cancellation waits for the end: breaking off in the middle of a statement would cost the pool a connection.
        return await run_to_completion(begin)

    def known(self, key: str, token: str, *, retry: bool) -> Claim | None:
        """Return the claim's result if a transaction of this process has the key, else None."""
        held = self.other(key)
        if held is None:
            return None
        if held.retry is not retry:
            return DONE
        if held.token == token and held.state is State.OPEN:
            return CLAIMED
        return attrs.evolve(BUSY, holder=held.token)

    def other(self, key: str) -> Held | None:
        """Return the claim that any transaction of this process has on the key."""
        held = self._held.get(key)
        return None if held is None or held.state is State.FAILED else held

    def mine(self, key: str, token: str) -> Held | None:
        """Return the claim if it is a transaction of this token, which can be ended."""
        held = self._held.get(key)
        if held is None or held.token != token or held.state not in (State.OPEN, State.FAILED):
            return None
        return held

    async def _begin(self, key: str, held: Held, lease: float) -> Claim:
        await self._store.prepare()
        if await done_in_sqlite(self._store, self._sql, key, retry=held.retry):
            return DONE
        await self._slots.acquire()
        held.has_slot = True
        try:
            return await self._begin_once(key, held, lease)
        except DBAPIError as exc:
            if held.transaction is None or not exc.connection_invalidated:
                raise
        # The server was restarted after the pool connected. Nothing was written yet, so connect anew.
        await held.transaction.end(broken=True)
        return await self._begin_once(key, held, lease)

    async def _begin_once(self, key: str, held: Held, lease: float) -> Claim:
        transaction = held.transaction = SQLTransaction(self._store)
        try:
            await transaction.begin()
        except BusyError:
            return BUSY
        values: dict[str, object] = {"a_key": key}
        if self._store.on_postgresql:
            values["a_idle"] = f"{math.ceil(lease * 1000)}ms"
        statement = self._sql.begin_letter if held.retry else self._sql.begin
        if (await transaction.connection.execute(statement, values)).first() is not None:
            return CLAIMED
        return await self._sql.describe(transaction.connection, key, retry=held.retry)

    @asynccontextmanager
    async def session(self, key: str, token: str) -> AsyncGenerator[AsyncSession]:
        """Return a session in the claim's transaction, which only ``commit`` ends."""
        async with self._transaction(key, token) as (connection, check_open):
            session: AsyncSession = self._sessions(bind=connection, join_transaction_mode="rollback_only")
            event.listen(session.sync_session, "after_begin", check_open)
            try:
                yield session
                check_open()
                await session.commit()
                session.sync_session.close()  # nothing is open, so there is nothing to wait for
            finally:
                if session.in_transaction():
                    await run_to_completion(session.close)

    @asynccontextmanager
    async def connection(self, key: str, token: str) -> AsyncGenerator[AsyncConnection]:
        """Return the connection of the claim's transaction, which only ``commit`` ends."""
        async with self._transaction(key, token) as (connection, check_open):
            event.listen(connection.sync_connection, "begin", check_open)
            yield connection
            check_open()

    @asynccontextmanager
    async def _transaction(self, key: str, token: str) -> AsyncGenerator[tuple[AsyncConnection, Callable[..., None]]]:
        """Yield the connection of a claim, and a function that raises if the handler has ended its transaction.

        Writes after that would commit without the inbox's entry, so no new transaction may begin.
        """
        held = self.mine(key, token)
        if held is None or held.transaction is None:
            raise InboxError("this worker has not claimed the key with claim_transaction()")
        connection = held.transaction.connection
        outer = connection.get_transaction()

        def check_open(*_: object) -> None:
            if outer is None or not outer.is_active:
                if self._store.closed:
                    raise InboxError(f"while the handler ran, the inbox was closed; it {CLOSED}")
                raise ConfigurationError(
                    "the handler ended its transaction with commit() or rollback(), and so divided it from the inbox's "
                    "entry: leave that to the inbox, raise an exception to roll back, and use begin_nested() for a "
                    "part that may fail"
                )

        try:
            yield connection, check_open
        except Exception as exc:
            if self._store.closed and isinstance(exc, SQLAlchemyError):
                raise InboxError(f"while the handler ran, the inbox was closed; it {CLOSED}") from without_values(exc)
            if isinstance(exc, BasiqError) or not (connection.invalidated or is_passing(exc)):
                raise
            raise InboxError(f"the database failed while the handler ran: {brief(exc)}") from without_values(exc)

    async def commit(self, key: str, held: Held) -> None:
        """Commit the claim's transaction, and end the claim. A cancellation waits for that."""
        held.state = State.ENDING

        async def commit_once() -> None:
            transaction = held.transaction
            try:
                if transaction is None:
                    raise InboxError("the claim's transaction ended before it could be committed")
                await self._store.within_limit(_commit_whole(transaction))
            except BaseException as exc:
                held.state = State.FAILED
                await self._end(key, held, broken=True)
                if isinstance(exc, InboxError) and isinstance(exc.__cause__, IntegrityError):
                    raise exc.__cause__ from None  # a deferred constraint refused the handler's writes
                raise
            await self._end(key, held)

        await run_to_completion(commit_once)

    async def roll_back(self, key: str, held: Held) -> None:
        held.state = State.ENDING
        await run_to_completion(lambda: self._end(key, held))

    async def roll_back_all(self) -> None:
        for key, held in list(self._held.items()):
            await self.roll_back(key, held)

    async def _end(self, key: str, held: Held, *, broken: bool = False) -> None:
        """Roll back the transaction unless it was committed, and forget the claim unless it is to be remembered."""
        transaction, held.transaction = held.transaction, None
        if transaction is not None:
            await transaction.end(broken=broken)
        if held.has_slot:
            held.has_slot = False
            self._slots.release()
        if held.state is not State.FAILED and self._held.get(key) is held:
            del self._held[key]


async def done_in_sqlite(store: SQLStore, sql: Statements, key: str, *, retry: bool) -> bool:
    """Return whether SQLite has the key recorded: a reader does not wait for the writer, which runs another handler."""
    if store.on_postgresql:
        return False
    return await store.run(lambda connection: sql.describe(connection, key, retry=retry)) is DONE


async def _commit_whole(transaction: SQLTransaction) -> None:
    """Commit a handler's transaction. Raises if it cannot commit, which the response to COMMIT may not say."""
    state = await transaction_state(transaction.connection)
    if state == "ended":
        raise ConfigurationError(
            "the handler ended the transaction with COMMIT or ROLLBACK in its own SQL, so that the inbox's entry is "
            "not part of it: leave both to the inbox, and use session.begin_nested() for a part that may fail"
        )
    if state == "failed":
        failure = failed_in(transaction.connection)
        if failure is not None and failure.passing:
            raise InboxError(f"the database failed while the handler ran: {failure.text}")
        said = "" if failure is None else f" ({failure.text})"
        raise ConfigurationError(
            f"a statement of the handler failed{said}, and the handler continued, but the database rolls the whole "
            "transaction back: use session.begin_nested() for a part that may fail"
        )
    await transaction.commit()


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
