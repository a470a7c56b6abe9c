"""The inbox in a SQL database, whose entry commits together with the handler's writes."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import attrs
from sqlalchemy import Executable, MetaData, event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from ..._arguments import check_positive
from ..._storage.sql import Transaction, brief, failed_in, is_passing, transaction_state, without_values
from ..._work.calls import CLOSED
from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, unpack_all
from ..._work.tasks import run_to_completion
from ...errors import BasiqError, ConfigurationError, InboxError
from ._pruning import LOCKING, SHARING, Pruning
from ._sql_database import RETRY_AFTER, Leases, SQLDatabase
from ._sql_statements import Tables

logger = logging.getLogger("basiq_async.receiver")

T = TypeVar("T")

_PRUNE_EVERY = 60.0
_MOST_BROKEN = 1_000

_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)


@attrs.define(eq=False)
class _TransactionClaim:
    """A claim held by an open transaction. ``retry``: the delivery is in the quarantine, and is tried again."""

    token: str
    retry: bool
    has_slot: bool = False
    transaction: Transaction | None = None
    failures: int = 0
    letter: str | None = attrs.field(default=None, repr=False)
    has_session: bool = False
    ending: bool = False


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
    table, schema: the name of the table; the names of three more tables begin with it. Entering the inbox creates
        missing tables, unless ``create_tables`` is False: see ``metadata`` and ``ddl``.
    remember: for how long to remember handled events.
    timeout: seconds for each call, including the wait for a connection of the pool. Keep it below the receiver's
        ``inbox_timeout``.

    Raises ``InboxError`` if the database fails or does not respond, and in a child that was forked after the inbox
    was used: make engine and inbox in each worker process. Raises ``ConfigurationError`` for invalid arguments.
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
        if not isinstance(engine, AsyncEngine):
            raise ConfigurationError("SQLInbox needs an AsyncEngine: sqlalchemy.ext.asyncio.create_async_engine(...)")
        if remember <= timedelta(0):
            raise ConfigurationError("remember must be longer than zero")
        self._sessions = async_sessionmaker(expire_on_commit=False) if sessions is None else sessions
        self._tables = Tables(table, schema)
        limit = check_positive("timeout", timeout, "of seconds")
        self._database = SQLDatabase(engine, self._tables, create_tables=create_tables, timeout=limit)
        self._engine = engine
        self._sql = self._database.sql
        self._leases = Leases(self._database)
        self._remember = remember
        self._held: dict[str, _TransactionClaim] = {}
        self._broken: dict[tuple[str, str], None] = {}
        self._prune_at = time.monotonic() + _PRUNE_EVERY
        pace = SHARING if self._sql.on_postgresql else LOCKING
        self._pruning = Pruning(self._delete_old, f"the inbox {self._tables.name}", pace)

    def __repr__(self) -> str:
        closed = ", closed" if self._database.closed else ""
        return f"<SQLInbox {self._tables.name}, {len(self._held)} transactions{closed}>"

    @property
    def metadata(self) -> MetaData:
        """The inbox's tables, for Alembic's ``target_metadata``."""
        return self._tables.metadata

    def ddl(self) -> str:
        """Return the SQL statements that create the inbox's tables, in the engine's dialect."""
        return self._tables.ddl(self._engine.dialect)

    async def check(self) -> None:
        """See ``Inbox``: connects, and checks its tables and their columns. It first creates missing tables, unless
        ``create_tables`` is False.
        """

        await self._database.call(self._database.look)

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``. The lease runs by the server's clock."""
        return self._known(key, token, retry=False) or await self._leases.claim(key, token, lease, retry=False)

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        return self._known(key, token, retry=True) or await self._leases.claim(key, token, lease, retry=True)

    async def claim_transaction(self, key: str, token: str, *, lease: float, quarantined: bool = False) -> Claim:
        """See ``TransactionalInbox``. PostgreSQL ends the claim when its connection was idle for ``lease`` seconds."""
        return await self._begin(key, token, lease, retry=quarantined)

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``: if the claim is a transaction, commits it.

        Raises ``InboxError`` if the commit failed or its result is unknown. If the database refuses the handler's
        writes, as a deferred constraint does, it raises SQLAlchemy's ``IntegrityError``, and ``ConfigurationError`` if
        a statement failed and the handler went on: both are the handler's failure.
        """
        self._database.process.check()
        if (key, token) in self._broken:
            raise InboxError("the transaction of this claim failed: nothing was recorded")
        held = self._held.get(key)
        if held is None:
            recorded = await self._leases.record(key, token)
        elif held.token != token or held.transaction is None or held.ending:
            return False
        else:
            recorded = await self._commit(key, held)
        if recorded and time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_EVERY
            self._pruning.start()
        return recorded

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``: if the claim is a transaction, rolls it back."""
        self._database.process.check()
        held = self._mine(key, token)
        if held is not None:
            await self._roll_back(key, held)
        elif key not in self._held:
            await self._leases.release(key, token)

    async def seen(self, key: str) -> bool:
        """See ``Inbox``."""
        return await self._database.call(lambda connection: self._leases.has(connection, self._sql.is_recorded, key))

    async def known_since(self) -> datetime:
        """See ``Inbox``."""

        async def work(connection: AsyncConnection) -> datetime:
            began, now = await self._database.pin_beginning(connection)
            return max(began, now - self._remember)

        return await self._database.call(work, write=True)

    async def pin(self, name: str, value: str) -> str:
        """See ``Inbox``."""
        return await self._database.call(lambda connection: self._database.pin(connection, name, value), write=True)

    async def pinned(self, name: str) -> str | None:
        """See ``Inbox``."""

        async def work(connection: AsyncConnection) -> str | None:
            found: str | None = (await connection.execute(self._sql.pinned, {"a_name": name})).scalar_one_or_none()
            return found

        return await self._database.call(work)

    async def fail(self, key: str, token: str) -> int:
        """See ``Inbox``."""
        held = self._mine(key, token)
        if held is not None:
            await self._roll_back(key, held)

        async def work(connection: AsyncConnection) -> int:
            if held is None:
                letter = await self._leases.free(connection, key, token)
            else:
                letter = held.letter if await self._leases.has(connection, self._sql.has_letter, key) else None
            if letter is None and await self._leases.has(connection, self._sql.is_recorded, key):
                return 0
            before = 0 if letter is None else unpack_all([letter], self._tables.name)[0].failures
            counted = await connection.execute(self._sql.count_failure, {"a_key": key, "a_count": before})
            failures: int = counted.scalar_one()
            return failures

        return await self._database.call(work, write=True)

    async def quarantine(self, key: str, token: str, letter: QuarantinedDelivery) -> bool:
        """See ``Inbox``."""
        held = self._mine(key, token)
        if held is not None:
            await self._roll_back(key, held)  # discard the handler's writes
        elif key in self._held:
            return False
        return await self._leases.record(key, token, letter=letter, retry=held is not None and held.retry)

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

        return unpack_all(await self._database.call(work), self._tables.name)

    async def drop_quarantined(self, key: str) -> bool:
        """See ``Inbox``. Raises ``InboxError`` while a handler with a session retries the delivery."""

        async def work(connection: AsyncConnection) -> bool | None:
            if await self._sql.first(connection, self._sql.drop_letter, key) is None:
                return None if await self._leases.has(connection, self._sql.has_letter, key) else False
            for statement in (self._sql.forgive, self._sql.renew):
                await connection.execute(statement, {"a_key": key})
            return True

        dropped = await self._leases.past_the_gate(work)
        if dropped is None:
            raise InboxError("the delivery is being retried by a handler, and cannot be dropped until that has ended")
        return dropped

    @asynccontextmanager
    async def transaction(self, key: str, token: str) -> AsyncGenerator[AsyncSession]:
        """Return a session in the claim's transaction: see ``TransactionalInbox``.

        ``session.commit()`` only flushes: everything commits together with the inbox's entry. Use
        ``session.begin_nested()`` for a part that may fail; ``session.rollback()`` of the whole is an error.
        """
        self._database.process.check()
        held = self._held.get(key)
        if held is None or held.token != token or held.transaction is None or held.ending:
            raise InboxError("this worker has not claimed the key with claim_transaction()")
        held.has_session = True
        connection = held.transaction.connection
        outer = connection.get_transaction()
        session: AsyncSession = self._sessions(bind=connection, join_transaction_mode="rollback_only")

        def check(*_: object) -> None:
            if outer is None or not outer.is_active:
                if self._database.closed:
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
            if self._database.closed and isinstance(exc, SQLAlchemyError):
                raise InboxError(f"while the handler ran, the inbox was closed; it {CLOSED}") from without_values(exc)
            if isinstance(exc, BasiqError) or not (connection.invalidated or is_passing(exc)):
                raise
            raise InboxError(f"the database failed while the handler ran: {brief(exc)}") from without_values(exc)
        finally:
            if session.in_transaction():
                await run_to_completion(session.close)

    async def aclose(self) -> None:
        """Roll back every open transaction, and so release its claim. May be called twice; the engine stays open."""
        self._database.closed = True
        if self._database.process.inherited:
            return  # the claims belong to the parent process
        try:
            await self._pruning.aclose()
        finally:
            await run_to_completion(self._roll_back_all)

    async def _roll_back_all(self) -> None:
        for key, held in list(self._held.items()):
            await self._roll_back(key, held)

    async def __aenter__(self) -> Self:
        self._database.check_usable()
        await self._database.within_limit(self._database.prepare())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # --- claims that are transactions ---

    def _known(self, key: str, token: str, *, retry: bool) -> Claim | None:
        """Return the claim's result if a transaction of this process holds the key, else None."""
        held = self._held.get(key)
        if held is None:
            return None
        if held.retry is not retry:
            return _DONE
        if held.token == token and held.transaction is not None and not held.ending:
            return _CLAIMED
        return Claim(ClaimStatus.BUSY, RETRY_AFTER, held.token)

    def _mine(self, key: str, token: str) -> _TransactionClaim | None:
        held = self._held.get(key)
        return held if held is not None and held.token == token and not held.ending else None

    async def _begin(self, key: str, token: str, lease: float, *, retry: bool) -> Claim:
        self._database.check_usable()
        known = self._known(key, token, retry=retry)
        if known is not None:
            return known
        held = self._held[key] = _TransactionClaim(token, retry)

        async def begin() -> Claim:
            # When its loop shuts down, this coroutine may be cancelled and started again.
            if self._held.setdefault(key, held) is not held:
                return Claim(ClaimStatus.BUSY, RETRY_AFTER)
            held.ending = False
            claim: Claim | None = None
            try:
                claim = await self._database.within_limit(self._begin_within_limit(key, held, lease))
                return claim
            finally:
                if claim is not _CLAIMED:
                    held.ending = True
                    await self._end(key, held, broken=claim is None)

        # A cancellation waits for the end: breaking off in the middle of a statement would cost the pool a connection.
        return await run_to_completion(begin)

    async def _begin_within_limit(self, key: str, held: _TransactionClaim, lease: float) -> Claim:
        await self._database.prepare()
        if not self._sql.on_postgresql:  # SQLite's readers do not wait for its writer
            async with self._engine.connect() as reading:
                claim = await self._leases.describe(reading, key, retry=held.retry)
            if claim.status is ClaimStatus.DONE:
                return _DONE
        await self._database.slots.acquire()
        held.has_slot = True
        held.transaction = self._database.transaction()
        try:
            return await self._take(key, held, held.transaction, lease)
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise
        # The server was restarted after the pool connected. Nothing was written yet, so connect anew.
        await held.transaction.end(broken=True)
        held.transaction = self._database.transaction()
        return await self._take(key, held, held.transaction, lease)

    async def _take(self, key: str, held: _TransactionClaim, transaction: Transaction, lease: float) -> Claim:
        if not await transaction.begin():
            return Claim(ClaimStatus.BUSY, RETRY_AFTER)
        connection, sql = transaction.connection, self._sql
        statement = sql.begin_letter if held.retry else sql.begin
        found = await sql.first(connection, statement, key, token=held.token, lease=lease)
        if found is None:
            return await self._leases.describe(connection, key, retry=held.retry)
        held.letter, held.failures = found.letter, found.failures or 0
        return _CLAIMED

    async def _commit(self, key: str, held: _TransactionClaim) -> bool:
        """Commit the claim's transaction, and end the claim. A cancellation waits for that."""
        held.ending = True
        sql = self._sql
        statements: tuple[Executable, ...] = (sql.forgive,) if held.failures else ()
        if held.retry:
            statements = (sql.remove_letter, sql.renew, sql.forgive)

        async def commit() -> bool:
            transaction = held.transaction
            committed = False
            try:
                if transaction is None:
                    raise InboxError("the claim's transaction ended before it could be committed")
                await self._database.within_limit(_commit(transaction, statements, key))
                committed = True
            except InboxError as exc:
                if held.has_session and isinstance(exc.__cause__, IntegrityError):
                    raise exc.__cause__ from None  # a deferred constraint refused the handler's writes
                raise
            finally:
                if not committed and held.has_session:
                    self._remember_broken(key, held.token)
                await self._end(key, held, broken=not committed)
            return True

        return await run_to_completion(commit)

    async def _roll_back(self, key: str, held: _TransactionClaim) -> None:
        held.ending = True
        await run_to_completion(lambda: self._end(key, held))

    async def _end(self, key: str, held: _TransactionClaim, *, broken: bool = False) -> None:
        """Roll back the transaction, and forget the claim."""
        transaction, held.transaction = held.transaction, None
        if transaction is not None:
            await transaction.end(broken=broken)
        if held.has_slot:
            held.has_slot = False
            self._database.slots.release()
        if self._held.get(key) is held:
            del self._held[key]

    def _remember_broken(self, key: str, token: str) -> None:
        # A second complete() of this claim must not record writes that were rolled back.
        self._broken[key, token] = None
        if len(self._broken) > _MOST_BROKEN:
            del self._broken[next(iter(self._broken))]

    async def _delete_old(self, most: int) -> int:
        """Delete entries that are older than ``remember``: at most ``most`` rows of each table."""

        async def work(connection: AsyncConnection) -> int:
            # An entry must be old by both clocks, so that a clock that jumps ahead deletes nothing.
            moment = datetime.now(UTC)
            if self._sql.on_postgresql:
                moment = min(moment, (await connection.execute(self._sql.now)).scalar_one())
            values: dict[str, Any] = {"a_moment": moment - self._remember, "a_limit": most}
            await self._database.pin_beginning(connection)
            return max([(await self._sql.run(connection, each, **values)).rowcount for each in self._sql.prune])

        return await self._database.call(work, write=True)


async def _commit(transaction: Transaction, statements: Sequence[Executable], key: str) -> None:
    await _check_whole(transaction.connection)
    for statement in statements:
        await transaction.connection.execute(statement, {"a_key": key})
    await transaction.commit()


async def _check_whole(connection: AsyncConnection) -> None:
    """Raise if the handler's transaction cannot commit, which a response to COMMIT may not say."""
    state = await transaction_state(connection)
    if state == "ended":
        raise ConfigurationError(
            "the handler ended the transaction with COMMIT or ROLLBACK in its own SQL, so that the inbox's entry "
            "is not part of it: leave both to the inbox, and use session.begin_nested() for a part that may fail"
        )
    if state == "failed":
        failure = failed_in(connection)
        if failure is not None and failure.passing:
            raise InboxError(f"the database failed while the handler ran: {failure.text}")
        said = "" if failure is None else f" ({failure.text})"
        raise ConfigurationError(
            f"a statement of the handler failed{said}, and the handler continued, but the database rolls the whole "
            "transaction back: use session.begin_nested() for a part that may fail"
        )
