"""The inbox in a SQL database: its entry commits together with what a handler writes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import attrs
from sqlalchemy import Executable, MetaData, event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from ..._arguments import check_positive
from ..._causes import drop_tracebacks
from ..._tasks import see_through
from ...errors import BasiqError, ConfigurationError, InboxError
from ._claim import Claim, ClaimStatus
from ._process import OneProcess
from ._quarantine import QuarantinedDelivery, pack, unpack
from ._sql_errors import brief, describe, describe_read_only, is_passing, without_values
from ._sql_statements import Statements
from ._sql_tables import Tables
from ._sql_transactions import Transaction, failed_in, has_ended, refuse_autocommit, watch_failures

__all__ = ["SQLInbox"]

logger = logging.getLogger("basiq_async.receiver")

T = TypeVar("T")

_RETRY_AFTER = 1.0
_BEGAN = "began"
"""Where another worker is at a key, in seconds: nobody knows how long it will take."""
_PRUNE_EVERY = 60.0
_MOST_AT_ONCE = 500
_MOST_BROKEN = 1_000

_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)


@attrs.define(eq=False)
class _Held:
    """A claim, and the transaction that it is. ``retry``: of a delivery in the quarantine, with its ``letter``."""

    token: str
    retry: bool = False
    transaction: Transaction | None = None
    failures: int = 0
    letter: str = attrs.field(default="", repr=False)
    has_session: bool = False
    ending: bool = False


class SQLInbox:
    """An inbox in PostgreSQL or SQLite: a handler's effect and its entry commit together, or neither does.

    .. code-block:: python

        async with SQLInbox(engine) as inbox:
            receiver = WebhookReceiver(secret, inbox=inbox)

            @receiver.on("consent.revoked")
            async def revoked(delivery: Delivery, session: AsyncSession) -> None:
                session.add(Revocation(event_id=delivery.event_id))

    Such a handler happens exactly once, whatever is killed and whenever. A handler without ``session`` has an ordinary
    inbox that many machines share: it happens at least once.

    A claim is a transaction: it lives as long as its connection, and there is no lease to run out. PostgreSQL also
    ends it when its connection was idle for as long as the lease, which frees what a vanished machine held. Each
    delivery that is being handled takes one connection of the pool. SQLite has one lock on writing, so it handles one
    delivery at a time.

    engine: the caller closes it. It must not be in AUTOCOMMIT mode.
    sessions: makes the sessions that handlers get; ``async_sessionmaker(expire_on_commit=False)`` by default.
    table, schema: the name of the table; two more begin with it. Entering the inbox makes what is missing, unless
        ``create_tables`` is False: see ``metadata`` and ``ddl``.
    remember: for how long to remember what was handled.
    timeout: seconds for each call, waiting for a connection of the pool included. Keep it below the receiver's
        ``inbox_timeout``.

    Raises ``InboxError`` where the database fails or does not respond, and in a child that was forked after the inbox
    was used: make engine and inbox in each worker process. Raises ``ConfigurationError`` for
    arguments that cannot be right.
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
        if not isinstance(engine, AsyncEngine):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("SQLInbox needs an AsyncEngine: sqlalchemy.ext.asyncio.create_async_engine(...)")
        if remember <= timedelta(0):
            raise ConfigurationError("remember must be more than nothing")
        self._engine = engine
        self._sessions = async_sessionmaker(expire_on_commit=False) if sessions is None else sessions
        self._tables = Tables(table, schema)
        self._sql = Statements(self._tables, engine.dialect.name)
        self._create_tables = create_tables
        self._remember = remember
        self._timeout = check_positive("timeout", timeout, "of seconds")
        self._held: dict[str, _Held] = {}
        self._broken: dict[tuple[str, str], None] = {}
        self._ready = False
        self._preparing = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._prune_at = time.monotonic() + _PRUNE_EVERY
        self._process = OneProcess(f"the inbox {self._tables.name}")
        self._closed = False
        watch_failures(engine)

    def __repr__(self) -> str:
        return f"<SQLInbox {self._tables.name}, {len(self._held)} claims{', closed' if self._closed else ''}>"

    @property
    def metadata(self) -> MetaData:
        """Its tables, for Alembic's ``target_metadata``."""
        return self._tables.metadata

    def ddl(self) -> str:
        """The statements that make its tables, in the engine's dialect."""
        return self._tables.ddl(self._engine.dialect)

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``. PostgreSQL ends the claim when its connection was idle for ``lease`` seconds."""
        return await self._claim(key, token, lease, retry=False)

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""
        return await self._claim(key, token, lease, retry=True)

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``: commits the claim's transaction. Raises ``InboxError`` where that failed or is uncertain.

        Where the database refuses what a handler wrote, as a deferred constraint does, it raises SQLAlchemy's
        ``IntegrityError``: that is the handler's failure.
        """
        self._process.check()
        if (key, token) in self._broken:
            raise InboxError("the transaction of this claim failed: nothing was recorded")
        held = self._held.get(key)
        if held is None:
            held = await self._claim_to_record(key, token)
        if held is None or held.token != token or held.transaction is None or held.ending:
            return False
        if held.retry:
            statements: tuple[Executable, ...] = (self._sql.remove_letter, self._sql.renew, self._sql.forgive)
        else:
            statements = (self._sql.forgive,) if held.failures else ()
        await self._record(key, held, [(statement, {"a_key": key}) for statement in statements])
        await self._prune()
        return True

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``: rolls the claim's transaction back."""
        self._process.check()
        held = self._held.get(key)
        if held is not None and held.token == token and not held.ending:
            held.ending = True
            await see_through(lambda: self._end(key, held))

    async def seen(self, key: str) -> bool:
        """See ``Inbox``."""
        return await self._call(lambda connection: _exists(connection, self._sql.is_recorded, key))

    async def known_since(self) -> datetime:
        """See ``Inbox``."""

        async def work(connection: AsyncConnection) -> datetime:
            began, now = await self._pin_beginning(connection)
            return max(began, now - self._remember)

        return await self._call(work, write=True)

    async def pin(self, name: str, value: str) -> str:
        """See ``Inbox``."""
        return await self._call(lambda connection: self._pin(connection, name, value), write=True)

    async def pinned(self, name: str) -> str | None:
        """See ``Inbox``."""

        async def work(connection: AsyncConnection) -> str | None:
            found: str | None = (await connection.execute(self._sql.pinned, {"a_name": name})).scalar_one_or_none()
            return found

        return await self._call(work)

    async def fail(self, key: str, token: str) -> int:
        """See ``Inbox``."""
        held = self._held.get(key)
        mine = held is not None and held.token == token
        await self.release(key, token)
        retry = held if mine and held is not None and held.retry else None

        async def work(connection: AsyncConnection) -> int:
            before = 0
            if retry is not None:
                if not await _exists(connection, self._sql.has_letter, key):
                    return 0
                before = max(retry.failures, self._read([retry.letter])[0].failures)
            elif await _exists(connection, self._sql.is_recorded, key):
                return 0
            counted = await connection.execute(self._sql.count_failure, {"a_key": key, "a_count": before})
            failures: int = counted.scalar_one()
            return failures

        return await self._call(work, write=True)

    async def quarantine(self, key: str, token: str, letter: QuarantinedDelivery) -> bool:
        """See ``Inbox``."""
        held = self._held.get(key)
        retry = held is not None and held.token == token and held.retry
        await self.release(key, token)  # what the handler wrote goes
        held = await self._claim_to_record(key, token, retry=retry)
        if held is None:
            return False
        values = {"a_key": key, "a_moment": letter.quarantined_at, "a_letter": pack(letter)}
        await self._record(key, held, [(self._sql.put_letter, values)])
        return True

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

        return self._read(await self._call(work))

    async def drop_quarantined(self, key: str) -> bool:
        """See ``Inbox``. Raises ``InboxError`` while a worker retries the delivery."""

        async def work(connection: AsyncConnection) -> bool:
            found = await connection.execute(self._sql.claim_letter, self._sql.for_letter(key, self._timeout))
            if found.first() is None:
                if await _exists(connection, self._sql.has_letter, key):
                    raise InboxError("the delivery is being retried right now: try again when that has ended")
                return False
            for statement in (self._sql.remove_letter, self._sql.forgive, self._sql.renew):
                await connection.execute(statement, {"a_key": key})
            return True

        return await self._call(work, write=True)

    async def check(self) -> None:
        """See ``Inbox``: connects, and looks for its tables and their columns. It makes those that are missing first,
        unless ``create_tables`` is False.
        """

        async def work(connection: AsyncConnection) -> None:
            for statement in self._sql.look:
                await connection.execute(statement)
            if self._sql.on_postgresql and (await connection.execute(self._sql.is_read_only)).scalar_one() == "on":
                raise InboxError(describe_read_only("the server, or this role, is set to read only"))

        await self._call(work)

    @asynccontextmanager
    async def transaction(self, key: str, token: str) -> AsyncGenerator[AsyncSession]:
        """The session of the claim's transaction: see ``TransactionalInbox``.

        Its ``commit`` only writes what is pending: all of it commits with the entry. Use ``begin_nested`` for a part
        that may fail; ``rollback`` of the whole is an error.
        """
        self._process.check()
        held = self._held.get(key)
        if held is None or held.token != token or held.transaction is None or held.ending:
            raise InboxError("there is no claim of this worker on the key, so there is no transaction")
        held.has_session = True
        connection = held.transaction.connection
        outer = connection.get_transaction()
        session: AsyncSession = self._sessions(bind=connection, join_transaction_mode="rollback_only")

        def check(*_: object) -> None:
            if outer is None or not outer.is_active:
                raise ConfigurationError(
                    "the handler rolled its session back, and with it the inbox's entry: raise an exception instead, "
                    "or use session.begin_nested() for the part that may fail"
                )

        # What a handler wrote after a rollback would commit without the entry, so it must not begin.
        event.listen(session.sync_session, "after_begin", check)
        try:
            yield session
            check()
            await session.commit()
            await self._check_whole(connection, key, retry=held.retry)
            session.sync_session.close()  # nothing is open any more, so there is nothing to wait for
        except Exception as exc:
            if isinstance(exc, BasiqError) or not (connection.invalidated or is_passing(exc)):
                raise
            raise InboxError(f"the database failed under the handler: {brief(exc)}") from without_values(exc)
        finally:
            if session.in_transaction():
                await see_through(session.close)

    async def _check_whole(self, connection: AsyncConnection, key: str, *, retry: bool) -> None:
        """Raise where the handler's transaction cannot commit any more.

        PostgreSQL undoes a transaction in which a statement failed, also where that was caught, and answers a COMMIT
        as if it had been one.
        """
        if has_ended(connection):
            raise ConfigurationError(
                "the handler ended the transaction with SQL of its own, and with it what the inbox's entry belongs to: "
                "leave COMMIT and ROLLBACK to the inbox, and use session.begin_nested() for a part that may fail"
            )
        failure = failed_in(connection)
        if failure is None:
            return
        wanted = self._sql.has_letter if retry else self._sql.is_recorded
        try:
            if await _exists(connection, wanted, key):
                return  # it was in a nested transaction
        except DBAPIError as exc:
            if is_passing(exc):
                raise
        if failure.passing:
            raise InboxError(f"the database failed under the handler: {failure.text}")
        raise ConfigurationError(
            f"a statement of the handler failed ({failure.text}), and the database undoes the whole transaction for "
            "that, though the handler went on: use session.begin_nested() for a part that may fail"
        )

    async def aclose(self) -> None:
        """Give back every claim. May be called twice; the engine stays open."""
        self._closed = True
        if self._process.inherited:
            return  # the claims are the parent's
        for key, held in list(self._held.items()):
            await self.release(key, held.token)

    async def __aenter__(self) -> Self:
        self._process.check()
        await self._within_limit(self._prepare())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # --- claims ---

    async def _claim(self, key: str, token: str, lease: float, *, retry: bool) -> Claim:
        self._check_usable()
        known = self._held.get(key)
        if known is not None:
            if known.token == token and known.transaction is not None and not known.ending:
                return _CLAIMED
            return _DONE if known.retry and not retry else Claim(ClaimStatus.BUSY, _RETRY_AFTER, known.token)
        held = self._held[key] = _Held(token, retry)

        async def begin() -> Claim:
            # A loop that shuts down cancels this and starts it again.
            if self._held.setdefault(key, held) is not held:
                return Claim(ClaimStatus.BUSY, _RETRY_AFTER)
            held.ending = False
            claim: Claim | None = None
            try:
                claim = await self._within_limit(self._begin(key, held, lease))
                return claim
            finally:
                if claim is not _CLAIMED:
                    held.ending = True
                    await self._end(key, held, broken=claim is None)

        # A cancellation waits: to break off in the middle of a statement would cost the pool a connection.
        return await see_through(begin)

    async def _claim_to_record(self, key: str, token: str, *, retry: bool = False) -> _Held | None:
        claim = await self._claim(key, token, self._timeout, retry=retry)
        return self._held[key] if claim is _CLAIMED else None

    async def _begin(self, key: str, held: _Held, lease: float) -> Claim:
        await self._prepare()
        if not self._sql.on_postgresql:  # SQLite's readers do not wait for its writer
            wanted = self._sql.has_letter if held.retry else self._sql.is_recorded
            async with self._engine.connect() as reading:
                if await _exists(reading, wanted, key) is not held.retry:
                    return _DONE
        held.transaction = self._transaction()
        try:
            return await self._take(key, held, held.transaction, lease)
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise
        # The server was restarted since the pool connected. Nothing was done yet, so connect anew.
        await held.transaction.end(broken=True)
        held.transaction = self._transaction()
        return await self._take(key, held, held.transaction, lease)

    async def _take(self, key: str, held: _Held, transaction: Transaction, lease: float) -> Claim:
        sql, busy = self._sql, Claim(ClaimStatus.BUSY, _RETRY_AFTER)
        if not await transaction.begin():
            return busy
        connection = transaction.connection
        if held.retry:
            found = (await connection.execute(sql.claim_letter, sql.for_letter(key, lease))).first()
            if found is None:
                return busy if await _exists(connection, sql.has_letter, key) else _DONE
            held.letter, held.failures = found.letter, found.failures or 0
        else:
            found = (await connection.execute(sql.claim, sql.for_claim(key, lease))).first()
            if found is None:
                return _DONE if await _exists(connection, sql.is_recorded, key) else busy
            held.failures = found.failures or 0
        return _CLAIMED

    async def _record(self, key: str, held: _Held, statements: Sequence[tuple[Executable, dict[str, object]]]) -> None:
        """Commit a claim after these statements, and end it. A cancellation waits for it."""
        held.ending = True

        async def commit() -> None:
            transaction = held.transaction
            committed = False
            try:
                if transaction is None:
                    raise InboxError("the claim has ended meanwhile")
                await self._within_limit(_commit(transaction, statements))
                committed = True
            except InboxError as exc:
                if held.has_session and isinstance(exc.__cause__, IntegrityError):
                    raise exc.__cause__ from None  # a deferred constraint: what the handler wrote is at fault
                raise
            finally:
                if not committed and held.has_session:
                    self._remember_broken(key, held.token)
                await self._end(key, held, broken=not committed)

        await see_through(commit)

    async def _end(self, key: str, held: _Held, *, broken: bool = False) -> None:
        """Roll back what is not committed, and forget the claim."""
        transaction, held.transaction = held.transaction, None
        if transaction is not None:
            await transaction.end(broken=broken)
        if self._held.get(key) is held:
            del self._held[key]

    def _remember_broken(self, key: str, token: str) -> None:
        # A second complete() of this claim must not record an effect that was rolled back.
        self._broken[key, token] = None
        if len(self._broken) > _MOST_BROKEN:
            del self._broken[next(iter(self._broken))]

    def _transaction(self) -> Transaction:
        return Transaction(self._engine, writing=None if self._sql.on_postgresql else self._writing)

    # --- calls ---

    def _check_usable(self) -> None:
        self._process.check()
        if self._closed:
            raise InboxError("the inbox is closed")

    async def _call(self, work: Callable[[AsyncConnection], Awaitable[T]], *, write: bool = False) -> T:
        """Do ``work`` in a transaction of its own."""
        self._check_usable()

        async def attempt() -> T:
            await self._prepare()
            try:
                return await self._call_once(work, write)
            except DBAPIError as exc:
                if not exc.connection_invalidated:
                    raise
            # The server was restarted since the pool connected.
            return await self._call_once(work, write)

        return await see_through(lambda: self._within_limit(attempt()))

    async def _call_once(self, work: Callable[[AsyncConnection], Awaitable[T]], write: bool) -> T:
        transaction = self._transaction() if write else Transaction(self._engine)
        whole = False
        try:
            if not await transaction.begin():
                raise InboxError("another worker writes to the database, and does not finish: try again")
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

    async def _within_limit(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await work
        except BasiqError:
            raise
        except TimeoutError as exc:
            raise InboxError(
                f"the database did not respond within {self._timeout:g} s: it is away, or all connections of the "
                "pool are in use (each delivery that is being handled takes one)"
            ) from without_values(exc)
        except Exception as exc:  # a driver's own, where it could not connect
            raise InboxError(describe(exc)) from without_values(exc)

    async def _prepare(self) -> None:
        if self._ready:
            return
        async with self._preparing:
            if self._ready:
                return
            await self._call_once(self._make_tables, write=True)
            self._ready = True

    async def _make_tables(self, connection: AsyncConnection) -> None:
        await refuse_autocommit(connection)
        if self._create_tables:
            if self._sql.on_postgresql:  # one process at a time, or the second one's CREATE fails
                await connection.execute(self._sql.lock_tables)
            await connection.run_sync(self._tables.metadata.create_all)
            await self._pin_beginning(connection)

    async def _pin(self, connection: AsyncConnection, name: str, value: str) -> str:
        found: str = (await connection.execute(self._sql.pin, {"a_name": name, "a_value": value})).scalar_one()
        return found

    async def _pin_beginning(self, connection: AsyncConnection) -> tuple[datetime, datetime]:
        """Return when the tables were first used, and the time."""
        now: datetime = (await connection.execute(self._sql.now)).scalar_one()
        now = now if now.tzinfo is not None else now.replace(tzinfo=UTC)
        return datetime.fromisoformat(await self._pin(connection, _BEGAN, now.isoformat())), now

    async def _prune(self) -> None:
        """Forget, now and then and a little at a time, what is older than ``remember``."""
        if time.monotonic() < self._prune_at:
            return
        self._prune_at = time.monotonic() + _PRUNE_EVERY

        async def work(connection: AsyncConnection) -> int:
            # Both clocks have to agree that it is old: one that jumps ahead forgets nothing.
            moment = datetime.now(UTC)
            if self._sql.on_postgresql:
                moment = min(moment, (await connection.execute(self._sql.now)).scalar_one())
            values = {"a_moment": moment - self._remember, "a_limit": _MOST_AT_ONCE}
            await self._pin_beginning(connection)
            return max([(await connection.execute(each, values)).rowcount for each in self._sql.prune])

        try:
            if await self._call(work, write=True) == _MOST_AT_ONCE:
                self._prune_at = time.monotonic()
        except InboxError:
            logger.warning("old entries of the inbox %s could not be pruned", self._tables.name, exc_info=True)

    def _read(self, letters: Sequence[str]) -> Sequence[QuarantinedDelivery]:
        try:
            return [unpack(text) for text in letters]
        except (ValueError, TypeError, KeyError) as exc:
            del letters  # error reporters show local variables
            text = f"the quarantine of {self._tables.name} holds what no inbox has written"
            raise InboxError(text) from drop_tracebacks(exc)


async def _commit(transaction: Transaction, statements: Sequence[tuple[Executable, dict[str, object]]]) -> None:
    for statement, parameters in statements:
        await transaction.connection.execute(statement, parameters)
    await transaction.commit()


async def _exists(connection: AsyncConnection, statement: Executable, key: str) -> bool:
    return (await connection.execute(statement, {"a_key": key})).first() is not None
