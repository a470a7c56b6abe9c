"""The inbox in a SQL database, whose entry commits together with the handler's writes."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import attrs
from sqlalchemy import URL, Executable, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from ..._arguments import Duration, check_remember, check_seconds
from ..._storage.sql import BusyError, SQLStore, as_aware
from ..._storage.sql_tables import LONGEST_SERVICE
from ..._wire.hosts import ENCODE, is_readable_url, show_url, split_service
from ..._work.notes import check_note
from ..._work.protocol import Claim, InboxEntry, TransactionalInbox, WaitingInbox, unpack_entry
from ..._work.store_use import store_use
from ..._work.tasks import run_to_completion
from ...errors import ConfigurationError
from ._sql_pruning import Pruning
from ._sql_rows import SQLRows, facts
from ._sql_statements import BUSY, CLAIMED, DONE, Statements
from ._sql_tables import Tables
from ._sql_transactions import Held, Transactions, done_in_sqlite

logger = logging.getLogger("basiq_async.receiver")

_SERVICE = re.compile(rf"[A-Za-z0-9._-]{{0,{LONGEST_SERVICE}}}", re.ASCII)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


class SQLInbox(SQLRows, WaitingInbox, TransactionalInbox):
    """An inbox in PostgreSQL or SQLite. A handler's writes and the inbox's entry commit together, or neither does.

    .. code-block:: python

        async with SQLInbox(engine) as inbox:
            receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

            @receiver.on("consent.revoked")
            async def revoked(delivery: Delivery, session: AsyncSession) -> None:
                session.add(Revocation(event_id=delivery.event_id))

    The writes of a handler with a ``session`` happen exactly once while the inbox remembers the event, even if a
    process or the database is killed at any time. A handler without ``session`` runs at least once.
    ``docs/guarantees.md`` has each case.

    A handler with a session is claimed by a transaction, which holds a connection while the handler runs and ends with
    it. PostgreSQL also ends the transaction when its connection was idle for the length of the lease, so that a machine
    that vanished frees its claims. Any other claim is a lease, timed by the server's clock, and holds no connection.
    Handlers with a session never use the whole pool: a fifth of its connections, and at least one, is kept for all
    other calls. SQLite has a single write lock, so it runs one handler with a session at a time.

    engine: the caller closes it. It must not be in AUTOCOMMIT mode.
    service: the name of the service whose inbox this is. Several services share the tables, each with a name of its
        own: none sees what another has handled, waits for, or quarantined.
    sessions: makes the sessions that handlers get; ``async_sessionmaker(expire_on_commit=False)`` by default.
    table, schema: the name of the table; the names of three more tables begin with it. Entering the inbox creates
        missing tables, unless ``create_tables`` is False: see ``metadata`` and ``ddl``.
    remember: for how long to remember handled events; None is for ever.
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
        service: str = "",
        sessions: async_sessionmaker[Any] | None = None,
        table: str = "basiq_inbox",
        schema: str | None = None,
        create_tables: bool = True,
        remember: Duration | None = 30 * 86_400.0,
        timeout: Duration = 4.0,
    ) -> None:
        super().__init__()
        if not isinstance(service, str) or not _SERVICE.fullmatch(service):
            raise ConfigurationError(
                f"service must be a name of at most {LONGEST_SERVICE} letters, digits, dots, hyphens and underscores"
            )
        self._tables = Tables(table, schema, service)
        limit = check_seconds("timeout", timeout)
        self._store = SQLStore(engine, self._tables, create_tables=create_tables, timeout=limit)
        self._sql = Statements(self._tables, engine)
        sessions = async_sessionmaker(expire_on_commit=False) if sessions is None else sessions
        self._transactions = Transactions(self._store, self._sql, sessions)
        self._pruning = Pruning(self._store, self._sql, check_remember(remember))

    def __repr__(self) -> str:
        closed = ", closed" if self._store.closed else ""
        service = f" of {self._tables.service}" if self._tables.service else ""
        return f"<SQLInbox {self._tables.name}{service}, {len(self._transactions)} transactions{closed}>"

    @property
    def most_sessions(self) -> int:
        """How many handlers with a session run at once, in this process. Half of them at most are deferred ones."""
        return self._transactions.most

    def ddl(self) -> str:
        """Return the SQL statements that create the inbox's tables, in the engine's dialect."""
        return self._tables.ddl(self._store.engine.dialect)

    async def check(self) -> None:
        """See ``Inbox``: connects, checks its tables and their columns, and writes a note. It first creates missing
        tables, unless ``create_tables`` is False.
        """
        name, text = check_note()

        async def look(connection: AsyncConnection) -> None:
            await self._store.look(connection)
            await connection.execute(self._sql["set_note"], {"name": name, "text": text})

        try:
            await self._store.run(look, write=True, wait_for_writer=False)
        except BusyError:  # SQLite's one writer is another handler, which can write
            await self._store.run(self._store.look)

    async def __aenter__(self) -> Self:
        self._store.check_usable()
        await self._store.within_limit(self._store.prepare)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Roll back every open transaction, and so release its claim. May be called twice; the engine stays open."""
        self._store.closed = True
        if self._store.process.inherited:
            return  # the claims belong to the parent process

        async def end() -> None:
            await self._pruning.end()
            await self._transactions.roll_back_all()

        await run_to_completion(end)

    # --- claims ---

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        """See ``Inbox``. The lease runs by the server's clock.

        ``transaction``: see ``TransactionalInbox``. PostgreSQL ends such a claim when its connection was idle for
        ``lease`` seconds.
        """
        if transaction:
            self._store.check_usable()
            claim = await self._transactions.begin(key, token, lease, quarantined=quarantined)
            mine = self._transactions.mine(key, token)
            if mine is not None and token in self._leases:
                mine.leased = True
            return claim

        async def work(connection: AsyncConnection) -> Claim:
            statement = self._sql["lease_quarantined"] if quarantined else self._sql["lease"]
            values = {"key": key, "token": token, "lease": lease}
            row = (await connection.execute(statement, values)).first()
            if row is not None:
                self._leases.append(token)
                return attrs.evolve(CLAIMED, unended=row.unended.count("\n") // 2)
            return await self._sql.describe(connection, key, quarantined=quarantined)

        held = await self._transactions.known(key, token, quarantined=quarantined)
        if held is not None:
            return held
        if await done_in_sqlite(self._store, self._sql, key, quarantined=quarantined):
            return DONE
        try:
            return await self._store.run(work, write=True, wait_for_writer=False)
        except BusyError:
            return BUSY

    async def _record(self, statement: Executable, key: str, token: str, **values: object) -> bool:
        """End this worker's lease by a statement, or enter a free key. Return False if another worker has the key."""
        # SQLite's one writer may be the handler that has the key. Wait for it only with a lease on the key, and to keep
        # what failed: it would be lost without a sign.
        wait_for_writer = self._store.on_postgresql
        if not wait_for_writer:
            row = await self._store.run(lambda connection: self._sql.find(connection, key))
            leased = row is not None and row.remaining > 0
            wait_for_writer = row.token == token if row is not None and leased else statement is self._sql["quarantine"]
        values.update(key=key, token=token)
        try:
            return bool(await self._store.rows(statement, values, write=True, wait_for_writer=wait_for_writer))
        except BusyError:
            return False

    def transaction(self, key: str, token: str) -> AbstractAsyncContextManager[AsyncSession]:
        """Return an ``AsyncSession`` in the claim's transaction: see ``TransactionalInbox``.

        ``session.commit()`` only flushes: everything commits together with the inbox's entry. Use
        ``session.begin_nested()`` for a part that may fail; ``session.rollback()`` of the whole is an error.
        """
        self._store.check_usable()
        return self._transactions.transaction(key, token)

    # --- the ends of claims ---

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``: if the claim is a transaction, commits it.

        Raises ``InboxError`` if the commit failed or its result is unknown. If the database refuses the handler's
        writes, as a deferred constraint does, it raises SQLAlchemy's ``IntegrityError``, and ``ConfigurationError`` if
        a statement failed and the handler went on: both are the handler's failure.
        """
        self._store.check_usable()
        held = self._transactions.mine(key, token)
        if held is not None:
            await self._transactions.commit(key, held)
        elif self._transactions.other(key) is not None or not await self._record(self._sql["complete"], key, token):
            return False
        self._pruning.count(1)
        return True

    async def release(self, key: str, token: str, *, failed: bool = False) -> int:
        """See ``Inbox``: if the claim is a transaction, rolls it back, and ends the lease that it was made upon."""
        self._store.check_usable()
        held = await self._transactions.roll_back_mine(key, token)
        if failed:
            return await self._count_failure(key, token, held)
        if held is not None and not held.leased:
            return 0  # another connection may not be free
        if self._transactions.other(key) is None and not await self._record(self._sql["release"], key, token):
            await self._take_back(key, token)
        return 0

    async def _take_back(self, key: str, token: str) -> None:
        """Let the claim of a token, after which another one was made, be none without an end."""
        row = await self._store.run(lambda connection: self._sql.find(connection, key))
        if row is not None and token in row.unended:
            await self._store.rows(self._sql["take_back"], {"key": key, "token": token}, write=True)

    async def _count_failure(self, key: str, token: str, held: Held | None) -> int:
        """End the lease of a token, which held the key by a transaction or not, and count a failure of the key."""

        async def work(connection: AsyncConnection) -> int:
            values = {"key": key, "token": token}
            mine = (await connection.execute(self._sql["release"], values)).first() is not None
            if not mine:
                await connection.execute(self._sql["take_back"], values)
            row = await self._sql.find(connection, key)
            before = 0
            if row is not None and row.handled_at is not None:
                if not row.in_quarantine or not (mine or (held is not None and held.quarantined)):
                    return 0
                before = unpack_entry(row.entry_json, key=key, at=_EVER).failures
            counted = await connection.execute(self._sql["count_failure"], {"key": key, "count": before})
            failures: int = counted.scalar_one()
            return failures

        return await self._store.run(work, write=True)

    # --- what is recorded ---

    async def known_since(self) -> datetime:
        while not (rows := await self._store.rows(self._sql["since"])):  # somebody emptied the tables
            self._store.began = None  # and the next call begins again
        [row] = rows
        known = [row.began, self._pruning.horizon(self._pruning.read_clock(row)[0]), row.forgotten_at]
        return max(as_aware(moment) for moment in known if moment is not None)

    async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
        held = await self._transactions.roll_back_mine(key, token)  # it discards the handler's writes
        if held is None and self._transactions.other(key) is not None:
            return False
        values = {
            "placed_at": entry.quarantined_at,
            "due": entry.quarantined_at.timestamp(),
            "entry_json": entry.pack(),
            "acknowledged": entry.acknowledged,
            "quarantined": held is not None and held.quarantined,
        }
        return await self._record(self._sql["quarantine"], key, token, **values)

    async def put_off(self, entry: InboxEntry, token: str, *, seconds: float, now: datetime | None = None) -> bool:
        self._store.check_usable()
        held = await self._transactions.roll_back_mine(entry.key, token)
        if held is None and self._transactions.other(entry.key) is not None:
            return False
        values = {**facts(entry), **self._sql.time(now), "held": held is not None, "seconds": seconds}
        return await self._record(self._sql["put_off"], entry.key, token, **values)


_MODES = {"existing": "rw", "look": "ro"}


def _only_existing(place: str) -> URL:
    """Return the URL of a database, by which SQLite makes no file unless the process may make stores."""
    url, mode = make_url(place), _MODES.get(store_use.get())
    if (
        mode is None
        or url.get_backend_name() != "sqlite"
        or not url.database
        or url.database.startswith(("file:", ":"))
    ):
        return url
    if not Path(url.database).is_file():
        raise ConfigurationError(f"the database {show_url(place)!r} does not exist")
    uri = Path(url.database).absolute().as_uri()  # with mode=ro, SQLite may make a -shm file, and nothing else
    return url.set(database=uri, query={**url.query, "mode": mode, "uri": "true"})


_DRIVER = "name an async driver that is installed, such as postgresql+asyncpg:// or sqlite+aiosqlite://"


def open_place(stack: AsyncExitStack, place: str, *, make: bool = False, **options: Any) -> SQLInbox:
    """See ``InboxKind.open``. ``make``: whether to create missing tables. The place may end with ``?service=NAME``."""
    place, service = split_service(place)
    shown = f"the URL {show_url(place)!r} of the database cannot be used"
    if not is_readable_url(place):
        raise ConfigurationError(f"{shown}: {ENCODE}")
    try:
        engine = create_async_engine(_only_existing(place))
    except ConfigurationError:  # which is a ValueError
        raise
    except (SQLAlchemyError, ImportError, ValueError, TypeError) as exc:  # the error's text can hold the password
        raise ConfigurationError(f"{shown}: {type(exc).__name__}; {_DRIVER}; {ENCODE}") from None
    stack.push_async_callback(engine.dispose)
    inbox = SQLInbox(engine, create_tables=make, service=service, **options)
    stack.push_async_callback(inbox.aclose)  # what it does in the background ends before its engine
    return inbox
