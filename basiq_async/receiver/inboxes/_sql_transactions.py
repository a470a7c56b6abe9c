"""Claims of a SQL inbox that are transactions: those of handlers with a session."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from ..._storage.sql import BusyError, SQLStore
from ..._storage.sql_commit import commit
from ..._storage.sql_errors import brief, failed_in, is_passing, without_values
from ..._work.calls import CLOSED
from ..._work.failures import leaves
from ..._work.protocol import Claim
from ..._work.tasks import run_to_completion
from ...errors import BasiqError, ConfigurationError, InboxError
from ._sql_statements import BUSY, CLAIMED, DONE, Statements

_KEPT_FREE = 5
"""One of this number of the pool's connections is kept for short calls."""


class HandlersConnection(AsyncConnection):
    """The connection of a handler's transaction, which only the inbox commits."""

    async def commit(self) -> None:
        """Roll back in place of the handler's COMMIT."""
        await self.rollback()
        raise _ended()


@attrs.define(eq=False)
class Held:
    """A claim that is a transaction of this process. ``quarantined``: it is of an entry of the quarantine.

    ``leased``: the token has a lease beside, which is left when the process is killed.

    It is ``open`` until its commit begins. If that failed, the claim is kept until it is released, so that a second
    ``complete`` records nothing either.
    """

    token: str
    quarantined: bool
    connection: HandlersConnection
    open: bool = True
    leased: bool = False


class Transactions:
    """The claims of one inbox, in this process, that are transactions.

    A semaphore limits their number, so that they never use the whole pool. ``sessions`` makes the sessions of handlers.
    """

    def __init__(self, store: SQLStore, sql: Statements, sessions: async_sessionmaker[Any]) -> None:
        self._store = store
        self._sql = sql
        self._sessions = sessions
        # Some connections are kept for short calls.
        self.most = max(1, store.connections - max(1, store.connections // _KEPT_FREE))
        self._slots = asyncio.Semaphore(self.most)
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return sum(held.open for held in self._held.values())

    async def begin(self, key: str, token: str, lease: float, *, quarantined: bool) -> Claim:
        """Claim the key: begin a transaction, and enter the event as handled.

        PostgreSQL ends the transaction when its connection was idle for ``lease`` seconds.
        """
        known = await self.known(key, token, quarantined=quarantined)
        if known is not None:
            return known
        return await self._store.within_limit(partial(self._prepare_and_begin, key, token, lease, quarantined))

    async def _prepare_and_begin(self, key: str, token: str, lease: float, quarantined: bool) -> Claim:
        await self._store.prepare()
        if await done_in_sqlite(self._store, self._sql, key, quarantined=quarantined):
            return DONE
        try:
            return await self._begin(key, token, lease, quarantined)
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise
        # The server was restarted after the pool connected, so connect again.
        return await self._begin(key, token, lease, quarantined)

    async def _begin(self, key: str, token: str, lease: float, quarantined: bool) -> Claim:
        values = {"key": key} if quarantined else {"key": key, "token": token}
        if self._store.on_postgresql:
            values["idle"] = f"{math.ceil(lease * 1000)}ms"
        statement = self._sql["begin_quarantined"] if quarantined else self._sql["begin"]
        held = Held(token, quarantined, HandlersConnection(self._store.engine))
        await self._slots.acquire()
        try:
            await self._store.open(held.connection, write=True, wait_for_writer=False)
        except BaseException as exc:
            self._slots.release()
            if isinstance(exc, BusyError):
                return BUSY
            raise
        try:
            if await held.connection.run_sync(_enter, statement, values):
                self._store.check_usable()  # it may have been closed meanwhile
                self._held[key] = held
                return CLAIMED
            claim = await self._sql.describe(held.connection, key, quarantined=quarantined)
        except BaseException:
            await self._end(held, uninterrupted=False)
            raise
        await self._end(held, uninterrupted=True)
        return claim

    async def _end(self, held: Held, *, uninterrupted: bool) -> None:
        """Roll back, unless it was committed, and give the connection back. ``uninterrupted``: see ``close``."""
        held.open = False
        try:
            await self._store.close(held.connection, write=True, uninterrupted=uninterrupted)
        finally:
            self._slots.release()

    async def known(self, key: str, token: str, *, quarantined: bool) -> Claim | None:
        """Return the claim's result if a transaction of this process has the key, else None."""
        held = self.other(key)
        if held is None:
            return None
        if held.quarantined is not quarantined:  # what is committed says whether this kind of claim can be made at all
            committed = await self._store.run(
                lambda connection: self._sql.describe(connection, key, quarantined=quarantined)
            )
            if committed is DONE:
                return DONE
        return CLAIMED if held.token == token else attrs.evolve(BUSY, holder=held.token)

    def other(self, key: str) -> Held | None:
        """Return the open claim that any transaction of this process has on the key."""
        held = self._held.get(key)
        return None if held is None or not held.open else held

    def mine(self, key: str, token: str) -> Held | None:
        """Return the claim if it is a transaction of this token."""
        held = self._held.get(key)
        return held if held is not None and held.token == token else None

    @asynccontextmanager
    async def transaction(self, key: str, token: str) -> AsyncGenerator[AsyncSession]:
        """Yield a session in the claim's transaction, which only ``commit`` ends.

        Raises if the handler has ended its transaction. Writes after that would commit without the inbox's entry, so no
        new transaction may begin.
        """
        held = self.mine(key, token)
        if held is None or not held.open:
            raise InboxError("this worker has not claimed the key with claim(transaction=True)")
        connection = held.connection
        outer = connection.get_transaction()
        try:
            async with self._session(connection) as opened:
                yield opened
            if outer is None or not outer.is_active:
                raise _ended()
        except Exception as exc:
            if self._store.closed:
                raise InboxError(f"while the handler ran, the inbox was closed; it {CLOSED}") from without_values(exc)
            found = leaves(exc)
            of_the_handler = any(isinstance(each, BasiqError) for each in found)
            if of_the_handler or not (connection.invalidated or all(map(is_passing, found))):
                if type(exc) is InvalidRequestError and outer is not None and not outer.is_active:
                    raise _ended() from without_values(exc)
                raise
            raise InboxError(f"the database failed while the handler ran: {brief(found[0])}") from without_values(exc)

    @asynccontextmanager
    async def _session(self, connection: AsyncConnection) -> AsyncGenerator[AsyncSession]:
        session: AsyncSession = self._sessions(bind=connection, join_transaction_mode="rollback_only")
        try:
            yield session
            await session.commit()  # only flushes
            session.sync_session.close()  # nothing is open, so there is nothing to wait for
        finally:
            if session.in_transaction():
                await run_to_completion(session.close)

    async def commit(self, key: str, held: Held) -> None:
        """Commit the claim's transaction, and end the claim. A cancellation waits for that."""
        if not held.open:
            raise InboxError("the transaction of this claim failed: nothing was recorded")
        held.open = False

        async def commit_once() -> None:
            uninterrupted = False
            try:
                await self._store.within_limit(partial(_commit_or_raise, held.connection))
                uninterrupted = True
            finally:
                await self._end(held, uninterrupted=uninterrupted)
            self._forget(key, held)

        try:
            await run_to_completion(commit_once)
        except InboxError as exc:
            if isinstance(exc.__cause__, IntegrityError):
                raise exc.__cause__ from None  # a deferred constraint refused the handler's writes
            raise

    async def roll_back(self, key: str, held: Held) -> None:
        """Roll the claim's transaction back, and end the claim. A cancellation waits for that."""
        self._forget(key, held)
        if held.open:
            held.open = False
            await run_to_completion(lambda: self._end(held, uninterrupted=True))

    async def roll_back_mine(self, key: str, token: str) -> Held | None:
        """Roll the claim back if it is a transaction of this token, and return it."""
        held = self.mine(key, token)
        if held is not None:
            await self.roll_back(key, held)
        return held

    async def roll_back_all(self) -> None:
        for key, held in list(self._held.items()):
            await self.roll_back(key, held)

    def _forget(self, key: str, held: Held) -> None:
        if self._held.get(key) is held:
            del self._held[key]


async def done_in_sqlite(store: SQLStore, sql: Statements, key: str, *, quarantined: bool) -> bool:
    """Return whether SQLite has the key recorded: a reader does not wait for the writer, which runs another handler."""
    if store.on_postgresql:
        return False
    return await store.run(lambda connection: sql.describe(connection, key, quarantined=quarantined)) is DONE


def _enter(connection: Connection, statement: Executable, values: dict[str, str]) -> bool:
    """Begin the transaction, and enter the event. Return whether it was entered."""
    # In its context, nothing can be written after a rollback: it would commit without the entry.
    (connection.get_transaction() or connection.begin()).__enter__()
    return connection.execute(statement, values).first() is not None


def _ended() -> ConfigurationError:
    return ConfigurationError(
        "the handler ended its transaction, with commit() or rollback() or in SQL of its own, and so divided it from "
        "the inbox's entry: leave both to the inbox, raise an exception to roll back, and use begin_nested() for a "
        "part that may fail"
    )


async def _commit_or_raise(connection: AsyncConnection) -> None:
    """Commit a handler's transaction. Raises if it did not commit."""
    result = await commit(connection)
    if result == "ended":
        raise _ended()
    if result == "failed":
        failure = failed_in(connection)
        if failure is not None and failure.passing:
            raise InboxError(f"the database failed while the handler ran: {failure.text}")
        said = "" if failure is None else f" ({failure.text})"
        raise ConfigurationError(
            f"a statement of the handler failed{said}, and the handler continued, but the database rolls the whole "
            "transaction back: use session.begin_nested() for a part that may fail"
        )
