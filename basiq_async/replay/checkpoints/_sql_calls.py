"""Calls of a checkpoint's database: each a transaction with a time limit, which lasts through a short outage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..._concurrency.tasks import run_to_completion
from ..._storage.sql import Transaction, brief, is_passing, refuse_autocommit, without_values
from ...errors import BasiqError, CheckpointError
from ._sql_tables import Statements, Tables

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts while the database is away."""
_NOT_THERE = ("42P01", "42703")
"""SQLSTATEs of a table, or a column, that is not there."""


class NoTablesError(CheckpointError):
    """The tables are missing."""


class Calls:
    """Transactions on an engine, each of at most ``timeout`` seconds. No connection is held between two."""

    def __init__(
        self, engine: AsyncEngine, tables: Tables, sql: Statements, *, create_tables: bool, timeout: float
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._sql = sql
        self._create_tables = create_tables
        self._timeout = timeout
        self._ready = False

    async def prepare(self) -> None:
        """Make what is missing of the tables. Raises ``ConfigurationError`` for an engine in AUTOCOMMIT mode."""

        async def work(connection: AsyncConnection) -> None:
            await refuse_autocommit(connection)
            if self._create_tables:
                if self._sql.on_postgresql:  # one process at a time, or the second one's CREATE fails
                    await connection.execute(self._sql.lock_tables)
                await connection.run_sync(self._tables.metadata.create_all)

        if not self._ready:
            await self.call(work)
            self._ready = True

    async def call(
        self, work: Callable[[AsyncConnection], Awaitable[T]], recorded: Callable[[], None] = lambda: None
    ) -> T:
        """Do ``work`` in a transaction, then call ``recorded``; again, while the database is away or busy.

        So it must be safe to repeat. A cancellation waits for the attempt that is under way.
        """

        async def once(timeout: float) -> T:
            result = await self.attempt(work, timeout=timeout)
            recorded()
            return result

        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._timeout, _FIRST_PAUSE
        while True:
            left = until - loop.time()
            try:
                return await run_to_completion(partial(once, left))
            except BasiqError:
                raise
            except Exception as exc:
                if not _may_pass(exc):
                    raise self._translate(exc) from without_values(exc)
                if until - loop.time() <= pause:
                    raise CheckpointError(
                        f"the database of the checkpoint was away for {self._timeout:g} s ({brief(exc)}): mend it, "
                        "then run the same again to continue"
                    ) from without_values(exc)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, 2 * pause)

    async def attempt(self, work: Callable[[AsyncConnection], Awaitable[T]], *, timeout: float) -> T:
        """Do ``work`` in a transaction, once. Raises what SQLAlchemy and the driver do, or ``CheckpointError``."""
        transaction = Transaction(self._engine, writing=None if self._sql.on_postgresql else asyncio.Lock())
        whole = False
        try:
            async with asyncio.timeout(timeout):
                if not await transaction.begin():
                    raise _LockedError("another connection writes to the database, and does not finish")
                result = await work(transaction.connection)
                await transaction.commit()
                whole = True
                return result
        except TimeoutError as exc:
            raise CheckpointError(
                f"the database of the checkpoint did not respond within {timeout:.3g} s: it is away, or all "
                "connections of the pool are in use; mend it, then run the same again to continue"
            ) from without_values(exc)
        except BasiqError:
            raise
        except (ValueError, TypeError, KeyError) as exc:
            raise CheckpointError(
                f"the tables of {self._tables.name} hold what no checkpoint has written: restore them, or pass "
                "another name to begin anew"
            ) from without_values(exc)
        except DBAPIError as exc:
            if _is_not_there(exc):
                raise self._no_tables(exc) from without_values(exc)
            raise
        finally:
            await transaction.end(broken=not whole)

    def _no_tables(self, exc: DBAPIError) -> NoTablesError:
        return NoTablesError(
            f"the tables of the checkpoint {self._tables.name} are missing, or of another release ({brief(exc)}): make "
            "them with checkpoint_metadata() in Alembic or the SQL of .ddl(), or leave create_tables on"
        )

    def _translate(self, exc: Exception) -> CheckpointError:
        return CheckpointError(f"the database of the checkpoint failed: {brief(exc)}")


class _LockedError(Exception):
    """SQLite's one writer is another."""


def _is_not_there(exc: DBAPIError) -> bool:
    code = getattr(exc.orig, "sqlstate", None)
    return code in _NOT_THERE or str(exc.orig).startswith(("no such table", "no such column"))


def _may_pass(exc: Exception) -> bool:
    """Whether the database may work in a while: away, starting, busy."""
    if isinstance(exc, (OSError, _LockedError, PoolTimeoutError)):
        return True
    original = getattr(exc, "orig", exc)
    code = getattr(original, "sqlstate", None)
    if isinstance(exc, (OperationalError, InterfaceError)) and code is None:
        return "unable to open" not in str(original)
    return is_passing(exc) or (code or "").startswith(("08", "57", "53"))
