"""SQL databases, as inboxes and checkpoints use them: names of tables, transactions, errors."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, MetaData, String, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from .._redaction.tracebacks import drop_tracebacks, walk
from ..errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 63 - len("_quarantine_order")
"""PostgreSQL cuts longer names, those of the indexes included."""


def check_names(table: str, schema: str | None, *, what: str) -> None:
    """Raises ``ConfigurationError`` for what cannot name the tables of an inbox or a checkpoint."""
    for name in (table, schema):
        if name is not None and (not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME):
            raise ConfigurationError(
                f"{name!r} cannot name a table or schema of {what}: use letters, digits and underscores, at most "
                f"{_LONGEST_NAME}"
            )


def make_ddl(metadata: MetaData, dialect: Dialect) -> str:
    """The statements that make the tables, each with its semicolon."""
    parts: list[str] = []
    for table in metadata.sorted_tables:
        parts.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        parts += [str(CreateIndex(index).compile(dialect=dialect)).strip() for index in table.indexes]
    return "".join(f"{part};\n" for part in parts)


def key_type() -> String:
    """The type of a column that rows are found by."""
    # Ordered by bytes: an index is smaller and quicker so, and the order is everywhere the same.
    return String(400).with_variant(String(400, collation="C"), "postgresql")


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
        """Begin. False if another worker has SQLite's lock on writing; ``patient`` waits for it without a limit.

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
    """Why a statement failed, in a line; ``passing``: another attempt may succeed."""

    text: str
    passing: bool


def watch_failures(engine: AsyncEngine) -> None:
    """Have ``failed_in`` know of the statements that fail on connections of this engine."""
    if not event.contains(engine.sync_engine, "handle_error", _note_failure):
        event.listen(engine.sync_engine, "handle_error", _note_failure)


def failed_in(connection: AsyncConnection) -> Failure | None:
    """Return the last failure of a statement on this connection, even if a handler caught it; or None."""
    sync = connection.sync_connection
    return None if sync is None else _failures.get(sync)


def has_ended(connection: AsyncConnection) -> bool:
    """Whether the driver knows that the transaction has ended: a COMMIT or ROLLBACK in SQL."""
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


_PASSING = ("08", "40", "53", "55P03", "57", "58", "25P03", "25P04")
"""SQLSTATEs of errors that another attempt may not meet: lost connections, conflicts, lack of resources, timeouts,
operator intervention, system errors (PostgreSQL, appendix A)."""


def is_passing(exc: BaseException) -> bool:
    """Whether another attempt may not meet this error of the database."""
    if not isinstance(exc, DBAPIError):
        return False
    return exc.connection_invalidated or sqlstate(exc).startswith(_PASSING) or "locked" in str(exc.orig)


def brief(exc: BaseException) -> str:
    """Return a driver's error text, in one line, without the statement and its values: they are consumers' data."""
    cause = getattr(exc, "orig", None) or exc
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def without_values(exc: BaseException) -> BaseException:
    """Remove a statement's values, and the frames, which hold values and passwords, from a driver's error."""
    for one in walk(exc):
        if isinstance(one, StatementError):
            one.hide_parameters = True
    return drop_tracebacks(exc)


def sqlstate(exc: BaseException) -> str:
    """Return the SQLSTATE of a driver's error, or an empty text."""
    cause = getattr(exc, "orig", None) or exc
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")
