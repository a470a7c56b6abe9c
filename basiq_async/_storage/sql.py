"""What inboxes and checkpoints in SQL databases share: names of tables, transactions, and errors."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, MetaData, String, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from .._redaction.tracebacks import drop_tracebacks, walk
from ..errors import ConfigurationError, InboxError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME = 63 - len("_quarantine_order")
"""PostgreSQL truncates longer names, and the names of the indexes are made from the table's."""


def check_names(table: str, schema: str | None, *, what: str) -> None:
    """Raise ``ConfigurationError`` if these cannot be the names of tables. ``what`` is "an inbox" or "a checkpoint"."""
    for name in (table, schema):
        if name is not None and (not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME):
            raise ConfigurationError(
                f"{name!r} cannot name a table or schema of {what}: use letters, digits and underscores, at most "
                f"{_LONGEST_NAME}"
            )


def make_ddl(metadata: MetaData, dialect: Dialect) -> str:
    """Return the SQL statements that create the tables, each with its semicolon."""
    parts: list[str] = []
    for table in metadata.sorted_tables:
        parts.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        parts += [str(CreateIndex(index).compile(dialect=dialect)).strip() for index in table.indexes]
    return "".join(f"{part};\n" for part in parts)


def key_type() -> String:
    """Return the type of a key column."""
    # With the order of bytes an index is smaller and faster, and every server has the same order.
    return String(400).with_variant(String(400, collation="C"), "postgresql")


logger = logging.getLogger("basiq_async.receiver")

_LOCK_WAIT = 0.2
"""Seconds to wait for another process that writes to the SQLite file."""
_QUEUE_WAIT = 1.0
"""Seconds to wait for another task of this process that writes to the SQLite file."""

_CLOSE = 1.0


class Transaction:
    """A transaction: ``begin`` it, use its ``connection``, ``commit`` it or not, and always ``end`` it.

    ``writing`` is the lock by which the tasks of this process take turns writing to SQLite, or None for PostgreSQL.
    """

    def __init__(self, engine: AsyncEngine, *, writing: asyncio.Lock | None = None) -> None:
        self.connection: AsyncConnection = engine.connect()
        self._writing = writing
        self._locked = False

    async def begin(self, *, patient: bool = False) -> bool:
        """Begin the transaction. Return False if another worker holds SQLite's write lock.

        ``patient``: wait for the lock without a limit. Raises the errors of SQLAlchemy and the driver.
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
        """Commit the transaction."""
        await self.connection.commit()

    async def end(self, *, broken: bool) -> None:
        """Roll back unless it was committed, and return the connection to the pool.

        ``broken``: a statement may have been interrupted, so close the connection to PostgreSQL instead. Does not
        raise, and takes at most a second.
        """
        try:
            async with asyncio.timeout(_CLOSE):
                if self.connection.sync_connection is not None and not self.connection.closed:
                    if broken and self._writing is None:  # SQLite has no connection to a server that could be broken
                        await self.connection.invalidate()
                    await self.connection.close()
        except Exception as exc:
            logger.debug("a connection to the database could not be closed properly", exc_info=drop_tracebacks(exc))
        finally:
            if self._locked and self._writing is not None:
                self._locked = False
                self._writing.release()

    async def _begin_immediate(self, patient: bool) -> bool:
        # The driver's own transactions begin as readers, and can fail at their first write. BEGIN IMMEDIATE gets the
        # write lock at once.
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
            if not self.connection.invalidated:  # a cancellation in the middle of a statement invalidates it
                await self.connection.exec_driver_sql(f"PRAGMA busy_timeout={int(configured)}")


async def refuse_autocommit(connection: AsyncConnection) -> None:
    """Raise ``ConfigurationError`` for a connection to PostgreSQL in AUTOCOMMIT mode.

    A connection to SQLite is in this mode because ``Transaction`` sets it.
    """
    driver = (await connection.get_raw_connection()).dbapi_connection
    dialect = connection.dialect
    if dialect.name == "postgresql" and driver and dialect.detect_autocommit_setting(driver):
        raise ConfigurationError(
            "the engine is in AUTOCOMMIT mode, so each statement would commit alone: pass an engine without it"
        )


class Failure(NamedTuple):
    """Why a statement failed, in one line. ``passing``: another attempt may succeed."""

    text: str
    passing: bool


def watch_failures(engine: AsyncEngine) -> None:
    """Record the failures of statements on this engine's connections, for ``failed_in``."""
    # The dialect's own listeners, not event.contains(): that goes by the id() of the engine, which Python reuses.
    if _note_failure not in engine.dialect.dispatch.handle_error:
        event.listen(engine.dialect, "handle_error", _note_failure)


def failed_in(connection: AsyncConnection) -> Failure | None:
    """Return the last failure of a statement on this connection, even if a handler caught it, else None."""
    sync = connection.sync_connection
    return None if sync is None else _failures.get(sync)


async def transaction_state(connection: AsyncConnection) -> Literal["open", "ended", "failed"]:
    """Return whether a transaction can still commit, has "ended" by a COMMIT or ROLLBACK in SQL, or has "failed".

    PostgreSQL rolls back a transaction in which a statement failed, even if that error was caught, and its response to
    COMMIT then looks like a success. So ask the connection itself: a statement may have gone past SQLAlchemy.
    """
    sync = connection.sync_connection
    driver: Any = None if sync is None else sync.connection.driver_connection
    if hasattr(driver, "is_in_transaction"):  # asyncpg, which does not tell a failed transaction from an open one
        if not driver.is_in_transaction():
            return "ended"
        try:
            await driver.execute("SELECT 1")
        except Exception as exc:
            if sqlstate(exc) != _FAILED:
                raise InboxError(f"the database failed while the handler ran: {brief(exc)}") from without_values(exc)
            return "failed"
        return "open"
    if hasattr(driver, "info"):  # psycopg
        return _PSYCOPG_STATES.get(int(driver.info.transaction_status), "open")
    return "open" if getattr(driver, "in_transaction", True) else "ended"  # aiosqlite


_FAILED = "25P02"
_PSYCOPG_STATES: dict[int, Literal["ended", "failed"]] = {0: "ended", 3: "failed"}
_failures: WeakKeyDictionary[Connection, Failure] = WeakKeyDictionary()


def _note_failure(context: ExceptionContext) -> None:
    if context.connection is not None and context.sqlalchemy_exception is not None:
        # Keep the text, not the exception: its traceback refers to the connection, which would never be freed.
        exc = context.sqlalchemy_exception
        _failures[context.connection] = Failure(brief(exc), is_passing(exc))


_PASSING = ("08", "40", "53", "55P03", "57", "58", "25P03", "25P04")
"""SQLSTATEs of errors after which another attempt may succeed: lost connections, conflicts, lack of resources,
timeouts, operator intervention, system errors (PostgreSQL, appendix A)."""


def is_passing(exc: BaseException) -> bool:
    """Return whether another attempt may succeed after this error of the database."""
    if not isinstance(exc, DBAPIError):
        return False
    return exc.connection_invalidated or sqlstate(exc).startswith(_PASSING) or "locked" in str(exc.orig)


def brief(exc: BaseException) -> str:
    """Return a driver's error text in one line, without the statement and its values, which can be user data."""
    cause = getattr(exc, "orig", None) or exc
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def without_values(exc: BaseException) -> BaseException:
    """Remove from a driver's error the statement's values, and the tracebacks, whose frames hold values and passwords.

    Return the error.
    """
    for one in walk(exc):
        if isinstance(one, StatementError):
            one.hide_parameters = True
    return drop_tracebacks(exc)


def sqlstate(exc: BaseException) -> str:
    """Return the SQLSTATE of a driver's error, or an empty text."""
    cause = getattr(exc, "orig", None) or exc
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")
