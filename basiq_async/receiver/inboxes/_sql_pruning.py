"""A SQL inbox forgets what is old, in a task of its own."""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from ..._redaction.tracebacks import hide_parameters
from ..._storage.sql import SQLStore, as_aware
from ..._work.clock import RetentionClock
from ._sql_statements import Statements

logger = logging.getLogger("basiq_async.receiver")

_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_RELEASED, _UNENDED = timedelta(days=1), timedelta(days=30)
"""After such a time the row of a claim is deleted that was released, and that of an attempt without an end."""
_PRUNE_EVERY = 128
"""Of so many records, one has twice as many old entries deleted: so they go faster than new ones come."""


class Pruning:
    """Deletes what is older than ``remember``, in seconds, as new records come: no delivery waits for it."""

    def __init__(self, store: SQLStore, sql: Statements, remember: float) -> None:
        self._store = store
        self._sql = sql
        self._remember = remember
        self.unpruned = _PRUNE_EVERY - 1  # the first record prunes: a process may be short
        self.task: asyncio.Task[None] | None = None

    def horizon(self, now: datetime) -> datetime:
        """Return the moment before which entries are forgotten, by a time that no wrong clock has moved."""
        return _EVER if self._remember == math.inf else max(_EVER, now - timedelta(seconds=self._remember))

    def read_clock(self, row: Any) -> tuple[datetime, RetentionClock | None]:
        """Return the time by which the inbox forgets, from the row with the server's; and the clock of SQLite."""
        if self._store.on_postgresql:
            return as_aware(row.server_time), None
        clock = RetentionClock(None, shown=row.shown, believed=-math.inf if row.believed is None else row.believed)
        _, moment = clock.read()
        return datetime.fromtimestamp(max(0.0, moment), UTC), clock

    def count(self, count: int) -> None:
        """Count new records, and delete old ones if enough have come."""
        self.unpruned += count
        if self.unpruned >= _PRUNE_EVERY and not self._runs():
            self.task = asyncio.get_running_loop().create_task(self._prune())

    async def end(self) -> None:
        """Wait for the deletion that runs."""
        if self.task is not None and self._runs():
            await asyncio.wait((self.task,))

    def _runs(self) -> bool:
        """Return whether old entries are being deleted: by a task of this loop, not of one that was closed."""
        task = self.task
        return task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()

    async def _prune(self) -> None:
        """Delete, of each table, twice as many rows as came since the last time."""
        limit, self.unpruned = 2 * self.unpruned, 0

        async def work(connection: AsyncConnection) -> None:
            moment, clock = self.read_clock((await connection.execute(self._sql["since"])).one())
            if clock is None:  # an entry must be old by both clocks, so that one that jumps ahead deletes nothing
                moment = min(datetime.now(UTC), moment)
            else:
                believed = None if clock.believed == -math.inf else clock.believed
                await connection.execute(self._sql["set_clock"], {"shown": clock.shown, "believed": believed})
            values = {"before": self.horizon(moment), "limit": limit}
            deleted = (await connection.execute(self._sql["delete_old"], values)).scalars().all()
            if deleted:  # a later inbox, which is to remember for longer, must not believe that they are still there
                await connection.execute(self._sql["forget"], {"forgotten_at": max(deleted)})
            claims = {
                "released_before": max(_EVER, moment - _RELEASED),
                "unended_before": max(_EVER, moment - _UNENDED),
            }
            await connection.execute(self._sql["delete_abandoned"], {**claims, "limit": limit})
            await connection.execute(self._sql["delete_failures"], values)

        try:
            await self._store.run(work, write=True)
        except Exception as exc:
            if not self._store.closed:
                logger.warning(
                    "old entries of the inbox %s could not be deleted",
                    self._store.tables.name,
                    exc_info=hide_parameters(exc),
                )
