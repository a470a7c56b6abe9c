"""One transaction on one connection of the pool, which is given back whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..._causes import drop_tracebacks

__all__ = ["Transaction", "is_passing"]

logger = logging.getLogger("basiq_async.receiver")

_LOCK_WAIT = 0.2
"""For how long to wait for the writer of a SQLite file in another process, in seconds."""
_QUEUE_WAIT = 1.0
"""For how long to wait for the writer in this process."""

_CLOSE = 1.0

_PASSING = ("08", "40", "53", "55P03", "57", "58", "25P03", "25P04")
"""SQLSTATEs of what another attempt may not meet: lost connections, conflicts, too little of something, timeouts, an
operator, the system (PostgreSQL, appendix A)."""


class Transaction:
    """Begin it, use its ``connection``, then ``commit`` or not, and ``end`` it in any case.

    ``writing`` is the lock of SQLite's one writer in this process, or None for a database that has many.
    """

    def __init__(self, engine: AsyncEngine, *, writing: asyncio.Lock | None = None) -> None:
        self.connection: AsyncConnection = engine.connect()
        self._writing = writing
        self._locked = False

    async def begin(self) -> bool:
        """False where another worker has SQLite's lock on writing. May raise whatever SQLAlchemy and the driver do."""
        if self._writing is None:
            await self.connection.start()
            await self.connection.begin()
            return True
        try:
            async with asyncio.timeout(_QUEUE_WAIT):
                await self._writing.acquire()
        except TimeoutError:
            return False
        self._locked = True
        await self.connection.start()
        return await self._begin_immediate()

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

    async def _begin_immediate(self) -> bool:
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
                    if time.monotonic() >= deadline:
                        return False
                    await asyncio.sleep(0.005)
                else:
                    return True
        finally:
            await self.connection.exec_driver_sql(f"PRAGMA busy_timeout={int(configured)}")


def is_passing(exc: BaseException) -> bool:
    """Whether an error of the database may not happen again, whatever was asked of it."""
    if not isinstance(exc, DBAPIError):
        return False
    code = getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "pgcode", None) or ""
    return exc.connection_invalidated or str(code).startswith(_PASSING) or "locked" in str(exc.orig)
