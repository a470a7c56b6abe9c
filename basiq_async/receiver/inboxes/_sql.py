"""The inbox in a SQL database, whose entry commits together with the handler's writes."""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import attrs
from sqlalchemy import CursorResult, Executable, MetaData, Row, event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from ..._arguments import check_positive
from ..._storage.sql import (
    BusyError,
    SQLStore,
    SQLTransaction,
    brief,
    failed_in,
    is_passing,
    transaction_state,
    without_values,
)
from ..._work.calls import CLOSED
from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, pack, unpack_all
from ..._work.tasks import run_to_completion
from ...errors import BasiqError, ConfigurationError, InboxError
from ._pruning import LOCKING, SHARING, Pruning
from ._sql_statements import Statements, Tables

_PRUNE_EVERY = 60.0
_KEPT_FREE = 5
"""One of this number of the pool's connections is kept for short calls."""
_RETRY_AFTER = 1.0
"""Seconds for ``retry_after`` if another worker holds the key by a transaction, whose end is unknown."""

_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)
_BUSY = Claim(ClaimStatus.BUSY, _RETRY_AFTER)


class _State(enum.Enum):
    BEGINNING, OPEN, ENDING, FAILED = range(4)


@attrs.define(eq=False)
class _Held:
    """A claim that is a transaction of this process. ``retry``: the delivery is in the quarantine, and is tried again.

    If its commit FAILED, it is kept until it is released, so that a second ``complete`` records nothing either.
    """

    token: str
    retry: bool
    state: _State = _State.BEGINNING
    transaction: SQLTransaction | None = None
    has_slot: bool = False


class SQLInbox:
    """An inbox in PostgreSQL or SQLite. A handler's writes and the inbox's entry commit together, or neither does.

    .. code-block:: python

        async with SQLInbox(engine) as inbox:
            receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

            @receiver.on("consent.revoked")
            async def revoked(delivery: Delivery, session: AsyncSession) -> None:
                session.add(Revocation(event_id=delivery.event_id))

    The writes of a handler with a ``session`` happen exactly once, even if a process or the database is killed at any
    time. A handler without ``session`` runs at least once, as with any inbox that several machines share.

    A handler with a session is claimed by a transaction, which holds a connection while the handler runs and ends with
    it. PostgreSQL also ends the transaction when its connection was idle for the length of the lease, so that a machine
    that vanished frees its claims. Any other claim is a lease, timed by the server's clock, and holds no connection.
    Handlers with a session never use the whole pool: a fifth of its connections, and at least one, is kept for all
    other calls. SQLite has a single write lock, so it runs one handler with a session at a time.

    engine: the caller closes it. It must not be in AUTOCOMMIT mode.
    sessions: makes the sessions that handlers get; ``async_sessionmaker(expire_on_commit=False)`` by default.
    table, schema: the name of the table; the names of two more tables begin with it. Entering the inbox creates
        missing tables, unless ``create_tables`` is False: see ``metadata`` and ``ddl``.
    remember: for how long to remember handled events.
    timeout: seconds for each call, including the wait for a connection of the pool. Keep it below the receiver's
        ``inbox_timeout``.

    Raises ``InboxError`` if the database fails or does not respond, if its tables are missing or of another version,
    and in a child that was forked after the inbox was used: make engine and inbox in each worker process. Raises
    ``ConfigurationError`` for invalid arguments.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        sessions: async_sessionmaker[Any] | None = None,
        table: str = "basiq_inbox",
        schema: str | None = None,
        create_tables: bool = True,
        remember: timedelta = timedelta(days=30),
        timeout: float = 4.0,
    ) -> None:
        if remember <= timedelta(0):
            raise ConfigurationError("remember must be longer than zero")
        self._sessions = async_sessionmaker(expire_on_commit=False) if sessions is None else sessions
        self._tables = Tables(table, schema)
        limit = check_positive("timeout", timeout, "of seconds")
        self._store = SQLStore(engine, self._tables, create_tables=create_tables, timeout=limit)
        self._sql = Statements(self._tables, engine.dialect.name)
        self._slots = asyncio.Semaphore(_most_transactions(engine))
        self._remember = remember
        self._held: dict[str, _Held] = {}
        self._prune_at = time.monotonic() + _PRUNE_EVERY
        pace = SHARING if self._store.on_postgresql else LOCKING
        self._pruning = Pruning(self._delete_old, f"the inbox {self._tables.name}", pace)

    def __repr__(self) -> str:
        held = sum(held.transaction is not None for held in self._held.values())
        return f"<SQLInbox {self._tables.name}, {held} transactions{', closed' if self._store.closed else ''}>"

    @property
    def metadata(self) -> MetaData:
        """The inbox's tables, for Alembic's ``target_metadata``."""
        return self._tables.metadata

    def ddl(self) -> str:
        """Return the SQL statements that create the inbox's tables, in the engine's dialect."""
        return self._tables.ddl(self._store.engine.dialect)

    async def check(self) -> None:
        """See ``Inbox``: connects, and checks its tables and their columns. It first creates missing tables, unless
        ``create_tables`` is False.
        """
        await self._store.run(self._store.look)

    async def __aenter__(self) -> Self:
        self._store.check_usable()
        await self._store.within_limit(self._store.prepare())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Roll back every open transaction, and so release its claim. May be called twice; the engine stays open."""
        self._store.closed = True
        if self._store.inherited:
            return  # the claims belong to the parent process
        try:
            await self._pruning.aclose()
        finally:
            await run_to_completion(self._roll_back_all)

    # --- claims that are leases ---

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``. The lease runs by the server's clock."""
        return await self._lease(key, token, lease, retry=False)

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        return await self._lease(key, token, lease, retry=True)

    async def _lease(self, key: str, token: str, lease: float, *, retry: bool) -> Claim:
        async def work(connection: AsyncConnection) -> Claim:
            statement = self._sql.lease_letter if retry else self._sql.lease
            values = {"a_key": key, "a_token": token, "a_lease": lease}
            if (await connection.execute(statement, values)).first() is not None:
                return _CLAIMED
            return await self._describe(connection, key, retry=retry)

        known = self._known(key, token, retry=retry) or await self._done_in_sqlite(key, retry=retry)
        if known is not None:
            return known
        try:
            return await self._store.run(work, write=True, patient=False)
        except BusyError:
            return _BUSY

    async def _record(self, statement: Executable, key: str, token: str, **values: object) -> bool:
        """End this worker's lease by a statement, or enter a free key. Return False if another worker has the key."""

        async def work(connection: AsyncConnection) -> bool:
            found = await connection.execute(statement, {"a_key": key, "a_token": token, **values})
            return found.first() is not None

        # SQLite's one writer may be the handler that has the key. Wait for it only with a lease on the key.
        patient = self._store.on_postgresql
        if not patient:
            row = await self._store.run(lambda connection: self._find(connection, key))
            patient = row is not None and row.token == token and row.remaining > 0
        try:
            return await self._store.run(work, write=True, patient=patient)
        except BusyError:
            return False

    async def _find(self, connection: AsyncConnection, key: str) -> Row[Any] | None:
        found: CursorResult[Any] = await connection.execute(self._sql.find, {"a_key": key})
        return found.first()

    async def _describe(self, connection: AsyncConnection, key: str, *, retry: bool) -> Claim:
        """Return the claim's result for a key that cannot be claimed: DONE, or BUSY with ``retry_after``."""
        row = await self._find(connection, key)
        if retry and (row is None or row.letter is None):
            return _DONE
        if row is not None and row.handled_at is not None and not retry:
            return _DONE
        if row is not None and row.token is not None and row.remaining > 0:
            return Claim(ClaimStatus.BUSY, row.remaining, row.token)
        return _BUSY

    async def _done_in_sqlite(self, key: str, *, retry: bool) -> Claim | None:
        """Return DONE if SQLite knows the key: a reader does not wait for the writer, which runs another handler."""
        if self._store.on_postgresql:
            return None
        found = await self._store.run(lambda connection: self._describe(connection, key, retry=retry))
        return found if found.status is ClaimStatus.DONE else None

    # --- claims that are transactions ---

    async def claim_transaction(self, key: str, token: str, *, lease: float, quarantined: bool = False) -> Claim:
        """See ``TransactionalInbox``. PostgreSQL ends the claim when its connection was idle for ``lease`` seconds."""
        self._store.check_usable()
        known = self._known(key, token, retry=quarantined)
        if known is not None:
            return known
        held = self._held[key] = _Held(token, quarantined)

        async def begin() -> Claim:
            # When its loop shuts down, this coroutine may be cancelled and started again.
            if self._held.setdefault(key, held) is not held:
                return _BUSY
            claim: Claim | None = None
            try:
                claim = await self._store.within_limit(self._begin(key, held, lease))
                return claim
            finally:
                if claim is _CLAIMED:
                    held.state = _State.OPEN
                else:
                    await self._end(key, held, broken=claim is None)

        # A cancellation waits for the end: breaking off in the middle of a statement would cost the pool a connection.
        return await run_to_completion(begin)

    def _known(self, key: str, token: str, *, retry: bool) -> Claim | None:
        """Return the claim's result if a transaction of this process has the key, else None."""
        held = self._other(key)
        if held is None:
            return None
        if held.retry is not retry:
            return _DONE
        if held.token == token and held.state is _State.OPEN:
            return _CLAIMED
        return attrs.evolve(_BUSY, holder=held.token)

    def _other(self, key: str) -> _Held | None:
        """Return the claim that a transaction of this process has on the key, whoever's it is."""
        held = self._held.get(key)
        return None if held is None or held.state is _State.FAILED else held

    def _mine(self, key: str, token: str) -> _Held | None:
        """Return the claim if it is a transaction of this token, which can be ended."""
        held = self._held.get(key)
        if held is None or held.token != token or held.state not in (_State.OPEN, _State.FAILED):
            return None
        return held

    async def _begin(self, key: str, held: _Held, lease: float) -> Claim:
        await self._store.prepare()
        done = await self._done_in_sqlite(key, retry=held.retry)
        if done is not None:
            return done
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

    async def _begin_once(self, key: str, held: _Held, lease: float) -> Claim:
        transaction = held.transaction = SQLTransaction(self._store)
        try:
            await transaction.begin()
        except BusyError:
            return _BUSY
        values: dict[str, object] = {"a_key": key}
        if self._store.on_postgresql:
            values["a_idle"] = f"{math.ceil(lease * 1000)}ms"
        statement = self._sql.begin_letter if held.retry else self._sql.begin
        if (await transaction.connection.execute(statement, values)).first() is not None:
            return _CLAIMED
        return await self._describe(transaction.connection, key, retry=held.retry)

    @asynccontextmanager
    async def transaction(self, key: str, token: str) -> AsyncGenerator[AsyncSession]:
        """Return a session in the claim's transaction: see ``TransactionalInbox``.

        ``session.commit()`` only flushes: everything commits together with the inbox's entry. Use
        ``session.begin_nested()`` for a part that may fail; ``session.rollback()`` of the whole is an error.
        """
        self._store.check_usable()
        held = self._mine(key, token)
        if held is None or held.transaction is None:
            raise InboxError("this worker has not claimed the key with claim_transaction()")
        connection = held.transaction.connection
        outer = connection.get_transaction()
        session: AsyncSession = self._sessions(bind=connection, join_transaction_mode="rollback_only")

        def check(*_: object) -> None:
            if outer is None or not outer.is_active:
                if self._store.closed:
                    raise InboxError(f"while the handler ran, the inbox was closed; it {CLOSED}")
                raise ConfigurationError(
                    "the handler rolled its session back, and with it the inbox's entry: raise an exception instead, "
                    "or use session.begin_nested() for the part that may fail"
                )

        # Writes after a rollback would commit without the inbox's entry, so no new transaction may begin.
        event.listen(session.sync_session, "after_begin", check)
        try:
            yield session
            check()
            await session.commit()
            session.sync_session.close()  # nothing is open, so there is nothing to wait for
        except Exception as exc:
            if self._store.closed and isinstance(exc, SQLAlchemyError):
                raise InboxError(f"while the handler ran, the inbox was closed; it {CLOSED}") from without_values(exc)
            if isinstance(exc, BasiqError) or not (connection.invalidated or is_passing(exc)):
                raise
            raise InboxError(f"the database failed while the handler ran: {brief(exc)}") from without_values(exc)
        finally:
            if session.in_transaction():
                await run_to_completion(session.close)

    async def _commit(self, key: str, held: _Held) -> None:
        """Commit the claim's transaction, and end the claim. A cancellation waits for that."""
        held.state = _State.ENDING

        async def commit() -> None:
            transaction = held.transaction
            try:
                if transaction is None:
                    raise InboxError("the claim's transaction ended before it could be committed")
                await self._store.within_limit(_commit_whole(transaction))
            except BaseException as exc:
                held.state = _State.FAILED
                await self._end(key, held, broken=True)
                if isinstance(exc, InboxError) and isinstance(exc.__cause__, IntegrityError):
                    raise exc.__cause__ from None  # a deferred constraint refused the handler's writes
                raise
            await self._end(key, held)

        await run_to_completion(commit)

    async def _roll_back(self, key: str, held: _Held) -> None:
        held.state = _State.ENDING
        await run_to_completion(lambda: self._end(key, held))

    async def _roll_back_all(self) -> None:
        for key, held in list(self._held.items()):
            await self._roll_back(key, held)

    async def _end(self, key: str, held: _Held, *, broken: bool = False) -> None:
        """Roll back the transaction unless it was committed, and forget the claim unless it is to be remembered."""
        transaction, held.transaction = held.transaction, None
        if transaction is not None:
            await transaction.end(broken=broken)
        if held.has_slot:
            held.has_slot = False
            self._slots.release()
        if held.state is not _State.FAILED and self._held.get(key) is held:
            del self._held[key]

    # --- the ends of both kinds ---

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``: if the claim is a transaction, commits it.

        Raises ``InboxError`` if the commit failed or its result is unknown. If the database refuses the handler's
        writes, as a deferred constraint does, it raises SQLAlchemy's ``IntegrityError``, and ``ConfigurationError`` if
        a statement failed and the handler went on: both are the handler's failure.
        """
        self._store.check_usable()
        held = self._mine(key, token)
        if held is not None:
            if held.state is _State.FAILED:
                raise InboxError("the transaction of this claim failed: nothing was recorded")
            await self._commit(key, held)
        elif self._other(key) is not None or not await self._record(self._sql.complete, key, token):
            return False
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_EVERY
            self._pruning.start()
        return True

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``: if the claim is a transaction, rolls it back."""
        self._store.check_usable()
        held = self._mine(key, token)
        if held is not None:
            await self._roll_back(key, held)
        elif self._other(key) is None:
            await self._record(self._sql.release, key, token)

    async def fail(self, key: str, token: str) -> int:
        """See ``Inbox``."""
        held = self._mine(key, token)
        if held is not None:
            await self._roll_back(key, held)

        async def work(connection: AsyncConnection) -> int:
            mine = (await connection.execute(self._sql.release, {"a_key": key, "a_token": token})).first() is not None
            row = await self._find(connection, key)
            retried = row is not None and row.letter is not None and (mine or (held is not None and held.retry))
            if row is not None and row.handled_at is not None and not retried:
                return 0
            before = unpack_all([row.letter], self._tables.name)[0].failures if row is not None and retried else 0
            counted = await connection.execute(self._sql.count_failure, {"a_key": key, "a_count": before})
            failures: int = counted.scalar_one()
            return failures

        return await self._store.run(work, write=True)

    # --- what is recorded ---

    async def seen(self, key: str) -> bool:
        """See ``Inbox``."""
        row = await self._store.run(lambda connection: self._find(connection, key))
        return row is not None and row.handled_at is not None

    async def known_since(self) -> datetime:
        """See ``Inbox``."""
        now = await self._store.run(self._store.now)
        return now - self._remember if self._store.began is None else max(self._store.began, now - self._remember)

    async def quarantine(self, key: str, token: str, letter: QuarantinedDelivery) -> bool:
        """See ``Inbox``."""
        held = self._mine(key, token)
        if held is not None:
            await self._roll_back(key, held)  # discard the handler's writes
        elif self._other(key) is not None:
            return False
        values = {"a_moment": letter.quarantined_at, "a_letter": pack(letter)}
        retry = held is not None and held.retry
        return await self._record(self._sql.quarantine, key, token, a_retry=retry, **values)

    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """See ``Inbox``."""

        async def work(connection: AsyncConnection) -> Sequence[str]:
            if after is None:
                rows = await connection.execute(self._sql.letters, {"a_limit": limit})
            else:
                place = {"a_limit": limit, "a_moment": after.quarantined_at, "a_key": after.key}
                rows = await connection.execute(self._sql.letters_after, place)
            return rows.scalars().all()

        return unpack_all(await self._store.run(work), self._tables.name)

    async def drop_quarantined(self, key: str) -> bool:
        """See ``Inbox``. Raises ``InboxError`` while a handler with a session retries the delivery."""

        async def work(connection: AsyncConnection) -> bool:
            if (await connection.execute(self._sql.drop, {"a_key": key})).first() is not None:
                return True
            row = await self._find(connection, key)
            if row is not None and row.letter is not None:
                raise InboxError(
                    "the delivery is being retried by a handler, and cannot be dropped until that has ended"
                )
            return False

        return await self._store.run(work, write=True)

    async def _delete_old(self, most: int) -> int:
        """Delete entries that are older than ``remember``: at most ``most`` rows of each table."""

        async def work(connection: AsyncConnection) -> int:
            # An entry must be old by both clocks, so that a clock that jumps ahead deletes nothing.
            moment = min(datetime.now(UTC), await self._store.now(connection)) - self._remember
            values = {"a_moment": moment, "a_limit": most}
            return max([(await connection.execute(each, values)).rowcount for each in self._sql.prune])

        return await self._store.run(work, write=True)


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
