"""What waits in a SQL inbox: it is stored, claimed when it is due, counted and listed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncConnection

from ..._storage.sql import BusyError, SQLStore, as_aware
from ..._work.protocol import QuarantinedDelivery, Waiting, unpack_entry
from ...errors import InboxError
from ._sql_statements import Statements

_WHEN_DUE = attrgetter("due", "key")
_ASK_TIMES = 15
"""How often to ask, while another statement or transaction has the key."""
_ASK_EVERY = 0.02
_MOST_TOKENS = 256


class Waits:
    """What waits in one inbox. See ``WaitingInbox``."""

    def __init__(self, store: SQLStore, sql: Statements) -> None:
        self._store = store
        self._sql = sql
        self.tokens: deque[str] = deque(maxlen=_MOST_TOKENS)
        """The last tokens that claimed what was due: a transaction of such a token has a lease beside."""

    async def store(self, delivery: QuarantinedDelivery, webhook_id: str | None) -> bool:
        """Store a delivery, due at once. Return False if its key was handled, or waits already."""
        values = {"a_key": delivery.key, **self._sql.queue(webhook_id), **_facts(delivery)}

        async def work(connection: AsyncConnection) -> bool | None:
            if (await connection.execute(self._sql.store, values)).first() is not None:
                return True
            return await look(connection)

        async def look(connection: AsyncConnection) -> bool | None:
            row = await self._sql.find(connection, delivery.key)
            return None if row is None or (row.handled_at is None and not row.waits) else False

        # SQLite's writer may be a handler: a duplicate does not wait for it.
        if not self._store.on_postgresql and await self._store.run(look) is False:
            return False
        for _ in range(_ASK_TIMES):
            if (stored := await self._store.run(work, write=True)) is not None:
                return stored
            await asyncio.sleep(_ASK_EVERY)
        raise InboxError("another worker is handling the event in a transaction that has not ended: try again")

    async def claim_due(
        self, webhook_id: str | None, token: str, limit: int, lease: float
    ) -> Sequence[QuarantinedDelivery]:
        """Claim what is due and free, the longest due first."""
        queue = self._sql.queue(webhook_id)

        async def find(connection: AsyncConnection) -> bool:
            return (await connection.execute(self._sql.find_due, queue)).first() is not None

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            values = {**queue, "a_token": token, "a_lease": lease, "a_limit": limit}
            return (await connection.execute(self._sql.claim_due, values)).all()

        if not self._store.on_postgresql and not await self._store.run(find):
            return []  # without SQLite's lock for writers
        try:
            rows = await self._store.run(work, write=True, patient=False)
        except BusyError:
            return []
        if rows:
            self.tokens.append(token)
        return _read(sorted(rows, key=_WHEN_DUE))

    def put_off(self, seconds: float, delivery: QuarantinedDelivery | None) -> tuple[Executable, dict[str, object]]:
        """Return the statement that puts a delivery off, as ``delivery`` if given, and its parameters."""
        values: dict[str, object] = {"a_seconds": seconds}
        if delivery is None:
            return self._sql.put_off, values
        return self._sql.put_off_changed, {**values, **_facts(delivery)}

    async def waiting(self, webhook_id: str | None) -> Waiting:
        """Return what waits of a webhook."""

        async def work(connection: AsyncConnection) -> Waiting:
            row = (await connection.execute(self._sql.waiting, self._sql.queue(webhook_id))).one()
            if not row.number:
                return Waiting()
            age = max(0.0, row.now - as_aware(row.oldest).timestamp())
            return Waiting(count=row.number, fresh=int(row.fresh), size=int(row.size), age=age)

        return await self._store.run(work)

    async def list(self, after: QuarantinedDelivery | None, limit: int) -> Sequence[QuarantinedDelivery]:
        """Return what waits of all webhooks, in order of time, after an entry."""

        async def work(connection: AsyncConnection) -> Sequence[QuarantinedDelivery]:
            if after is None:
                return _read(await connection.execute(self._sql.list_waiting, {"a_limit": limit}))
            place = {"a_limit": limit, "a_moment": after.quarantined_at, "a_key": after.key}
            return _read(await connection.execute(self._sql.list_waiting_after, place))

        return await self._store.run(work)


def _facts(delivery: QuarantinedDelivery) -> dict[str, object]:
    """Return the parameters of a delivery that waits."""
    letter = delivery.pack(seal=True)
    return {
        "a_moment": delivery.quarantined_at,
        "a_attempts": delivery.failures,
        "a_size": len(letter),
        "a_letter": letter,
    }


def _read(rows: Iterable[Any]) -> Sequence[QuarantinedDelivery]:
    """Return the entries of rows that wait, with their seals."""
    return [
        unpack_entry(
            row.letter,
            key=row.key,
            at=as_aware(row.placed_at),
            trusted=False,
            due=datetime.fromtimestamp(row.due, UTC),
        )
        for row in rows
    ]
