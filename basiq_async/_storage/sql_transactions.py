"""One transaction on one connection of the pool, which is given back whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .._redaction.tracebacks import drop_tracebacks
from ..errors import ConfigurationError
from .sql_errors import brief, is_passing

logger = logging.getLogger("basiq_async.receiver")

_LOCK_WAIT = 0.2
"""For how long to wait for the writer of a SQLite file in another process, in seconds."""
_QUEUE_WAIT = 1.0
"""For how long to wait for the writer in this process."""

_CLOSE = 1.0


class Transaction:
    """Begin it, use its ``connection``, then ``commit`` or not, and ``end`` it in any case.

    ``writing`` is the lock of SQLite's one writer in this process, or None for a database that has many.
    """

    def __init__(self, engine: AsyncEngine, *, writing: asyncio.Lock | None = None) -> None:
        self.connection: AsyncConnection = engine.connect()
        self._writing = writing
        self._locked = False

    async def begin(self, *, patient: bool = False) -> bool:
        """False where another worker has SQLite's lock on writing; ``patient`` waits for it without a limit.

        May raise whatever SQLAlchemy and the driver do.
        """
        if self._writing is None:
            await self.connection.start()
            await self.connection.begin()
            return True
        try:
            async with asyncio.timeout(None if patient else _QUEUE_WAIT):
                await self._writing.acquire()
        except TimeoutError:
            return False
        self._locked = True
        await self.connection.start()
        return await self._begin_immediate(patient)

    async def commit(self) -> None:
        """Make it durable."""
        await self.connection.commit()

    async def end(self, *, broken: bool) -> None:
        """Give the connection back, rolled back; a broken one, which may be in the middle of something, is ended.

        Does not raise. Takes at most a second.
        """
        try:
            async with asyncio.timeout(_CLOSE):
                if self.connection.sync_connection is not None and not self.connection.closed:
                    if broken and self._writing is None:  # nothing can be in the middle of a file
                        await self.connection.invalidate()
                    await self.connection.close()
        except Exception as exc:
            logger.debug("a connection to the database could not be closed in order", exc_info=drop_tracebacks(exc))
        finally:
            if self._locked and self._writing is not None:
                self._locked = False
                self._writing.release()

    async def _begin_immediate(self, patient: bool) -> bool:
        # The driver's own transactions begin as readers, and may fail when they first write: this one writes at once.
        await self.connection.execution_options(isolation_level="AUTOCOMMIT")
        await self.connection.begin()
        deadline = time.monotonic() + _LOCK_WAIT
        configured = (await self.connection.exec_driver_sql("PRAGMA busy_timeout")).scalar_one()
        await self.connection.exec_driver_sql("PRAGMA busy_timeout=0")
        try:
            while True:
                try:
                    await self.connection.exec_driver_sql("BEGIN IMMEDIATE")
                except DBAPIError as exc:
                    if "locked" not in str(exc.orig):
                        raise
                    if not patient and time.monotonic() >= deadline:
                        return False
                    await asyncio.sleep(0.005)
                else:
                    return True
        finally:
            if not self.connection.invalidated:  # as a cancellation in the middle of a statement leaves it
                await self.connection.exec_driver_sql(f"PRAGMA busy_timeout={int(configured)}")


async def refuse_autocommit(connection: AsyncConnection) -> None:
    """Raises ``ConfigurationError`` for a connection of PostgreSQL in AUTOCOMMIT mode.

    A connection of SQLite is in this mode by our own doing.
    """
    driver = (await connection.get_raw_connection()).dbapi_connection
    dialect = connection.dialect
    if dialect.name == "postgresql" and driver and dialect.detect_autocommit_setting(driver):
        raise ConfigurationError(
            "the engine is in AUTOCOMMIT mode, so nothing commits together: pass an engine without it"
        )


class Failure(NamedTuple):
    """What a statement failed with, in a line, and whether another attempt may not."""

    text: str
    passing: bool


def watch_failures(engine: AsyncEngine) -> None:
    """Have ``failed_in`` know of the statements that fail on connections of this engine."""
    if not event.contains(engine.sync_engine, "handle_error", _note_failure):
        event.listen(engine.sync_engine, "handle_error", _note_failure)


def failed_in(connection: AsyncConnection) -> Failure | None:
    """What a statement on this connection failed with last, also where a handler caught that, or None."""
    sync = connection.sync_connection
    return None if sync is None else _failures.get(sync)


def has_ended(connection: AsyncConnection) -> bool:
    """Whether the driver knows that no transaction is open any more: somebody has ended it in SQL."""
    sync = connection.sync_connection
    driver: Any = None if sync is None else sync.connection.driver_connection
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return not driver.is_in_transaction()
    if hasattr(driver, "info"):  # psycopg
        return int(driver.info.transaction_status) == _IDLE
    return not getattr(driver, "in_transaction", True)  # aiosqlite


_IDLE = 0
_failures: WeakKeyDictionary[Connection, Failure] = WeakKeyDictionary()


def _note_failure(context: ExceptionContext) -> None:
    if context.connection is not None and context.sqlalchemy_exception is not None:
        # Not the exception: its traceback leads to the connection, which would then never be forgotten.
        exc = context.sqlalchemy_exception
        _failures[context.connection] = Failure(brief(exc), is_passing(exc))
