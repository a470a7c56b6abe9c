"""Claims of a SQL inbox that are leases: a worker's token in the row of the key, and no open transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncConnection

from ..._inbox.protocol import Claim, ClaimStatus, QuarantinedDelivery, pack
from ._sql_database import LockedError, SQLDatabase

RETRY_AFTER = 1.0
"""Where another worker is at a key, in seconds: nobody knows how long it will take."""
_GATE_WAIT = 0.5
"""For how long to wait for one who is at a key in a transaction, in seconds: an attempt to claim it ends sooner."""
_GATE_PAUSE = 0.01

_CLAIMED = Claim(ClaimStatus.CLAIMED)
_DONE = Claim(ClaimStatus.DONE)


class Leases:
    """Claims, ends and records them, each in a short transaction of its own."""

    def __init__(self, database: SQLDatabase) -> None:
        self._database = database
        self._sql = database.sql

    async def claim(self, key: str, token: str, lease: float, *, retry: bool) -> Claim:
        sql = self._sql

        async def look(connection: AsyncConnection) -> Claim:
            return await self.describe(connection, key, retry=retry)

        async def work(connection: AsyncConnection) -> Claim:
            statement = sql.lease_letter if retry else sql.lease
            found = await sql.first(connection, statement, key, token=token, lease=lease)
            return await look(connection) if found is None else _CLAIMED

        if not sql.on_postgresql:  # SQLite's readers do not wait for its writer
            claim = await self._database.call(look)
            if claim.status is ClaimStatus.DONE:
                return claim
        try:
            return await self._database.call(work, write=True, patient=False)
        except LockedError:
            return Claim(ClaimStatus.BUSY, RETRY_AFTER)

    async def record(
        self, key: str, token: str, *, letter: QuarantinedDelivery | None = None, retry: bool = False
    ) -> bool:
        """Record a key that this worker holds by a lease, or that nobody holds; with a letter, as quarantined.

        ``retry``: it was held by a transaction that was rolled back.
        """
        sql = self._sql

        async def work(connection: AsyncConnection) -> bool | None:
            if retry:
                await sql.first(connection, sql.lease_letter, key, token=token, lease=self._database.timeout)
            found = await sql.first(connection, sql.record, key, token=token)
            if found is None:
                found = await sql.first(connection, sql.enter, key, token=token)
            if found is None:
                claim = await self.describe(connection, key)
                # Without a holder, one who is at it in a transaction, or only tries.
                return None if claim.status is ClaimStatus.BUSY and claim.holder in (None, token) else False
            if letter is not None:
                values = {"a_key": key, "a_moment": letter.quarantined_at, "a_letter": pack(letter)}
                await connection.execute(sql.put_letter, values)
                return True
            if found.letter is not None:
                await connection.execute(sql.remove_letter, {"a_key": key})
            if found.failures is not None:
                await connection.execute(sql.forgive, {"a_key": key})
            return True

        try:
            return bool(await self.past_the_gate(work, patient=await self._is_worth_waiting(key, token)))
        except LockedError:
            return False

    async def release(self, key: str, token: str) -> None:
        """End this worker's lease."""
        patient = await self._is_worth_waiting(key, token)
        with suppress(LockedError):  # it has expired, so the key is free or another's
            await self._database.call(lambda connection: self.free(connection, key, token), write=True, patient=patient)

    async def _is_worth_waiting(self, key: str, token: str) -> bool:
        """Whether this worker has a lease. Else one who has SQLite's lock on writing may have taken over."""
        if self._sql.on_postgresql:
            return True
        row = await self._database.call(lambda connection: self._sql.first(connection, self._sql.holder, key))
        return row is not None and row.token == token and row.remaining > 0

    async def free(self, connection: AsyncConnection, key: str, token: str) -> str | None:
        """End this worker's lease. Returns the letter of the key where it has one."""
        sql = self._sql
        if await sql.first(connection, sql.free, key, token=token) is not None:
            return None
        found = await sql.first(connection, sql.free_letter, key, token=token)
        letter: str | None = None if found is None else found.letter
        return letter

    async def describe(self, connection: AsyncConnection, key: str, *, retry: bool = False) -> Claim:
        """Why a key cannot be claimed."""
        row = await self._sql.first(connection, self._sql.holder, key)
        if retry:
            if not await self.has(connection, self._sql.has_letter, key):
                return _DONE
        elif row is not None and row.handled_at is not None:
            return _DONE
        if row is not None and row.token is not None and row.remaining > 0:
            return Claim(ClaimStatus.BUSY, row.remaining, row.token)
        return Claim(ClaimStatus.BUSY, RETRY_AFTER)

    async def past_the_gate(
        self, work: Callable[[AsyncConnection], Awaitable[bool | None]], *, patient: bool = True
    ) -> bool | None:
        """Do ``work`` until it returns something: one who only tries to claim the key is gone in a moment."""
        deadline = time.monotonic() + _GATE_WAIT
        while True:
            done = await self._database.call(work, write=True, patient=patient)
            if done is not None or time.monotonic() >= deadline:
                return done
            await asyncio.sleep(_GATE_PAUSE)

    async def has(self, connection: AsyncConnection, statement: Executable, key: str) -> bool:
        return await self._sql.first(connection, statement, key) is not None
