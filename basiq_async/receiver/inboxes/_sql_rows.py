"""What a SQL inbox has recorded, quarantined or stored: what it reads, and what waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from types import EllipsisType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from ..._storage.sql import BusyError, SQLStore, as_aware
from ..._work.keys import in_parts
from ..._work.notes import read_note, write_note
from ..._work.protocol import MOST_UNENDED, ClaimedEntry, InboxEntry, Waiting, unpack_entry
from ...errors import InboxError
from ._sql_statements import Statements

_WHEN_DUE = attrgetter("due", "key")
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_BEFORE_ALL = -1e18
"""Before the time of any entry, in seconds."""
_ASK_TIMES = 15
"""How often to ask, while another statement or transaction has the key."""
_ASK_EVERY = 0.02
_MOST_TOKENS = 256


class SQLRows:
    """The calls of a SQL inbox that end no claim."""

    _store: SQLStore
    _sql: Statements

    def __init__(self) -> None:
        self._leases: deque[str] = deque(maxlen=_MOST_TOKENS)
        """The last tokens of leases: a transaction that begins with such a token has a lease beside."""

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        """See ``Record``."""
        found: set[str] = set()
        for part in in_parts(keys):
            found.update(row.key for row in await self._store.rows(self._sql["known"], self._sql.given(part)))
        return found

    async def unended(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return how many attempts of events that are not handled had no end."""
        found: dict[str, int] = {}
        for part in in_parts(keys):
            for row in await self._store.rows(self._sql["unended"], self._sql.given(part)):
                if count := min(MOST_UNENDED, row.unended.count("\n") // 2 + row.ran_out):
                    found[row.key] = count
        return found

    async def note(self, name: str) -> str | None:
        """See ``Record``."""
        rows = await self._store.rows(self._sql["note"], {"name": write_note(name)})
        return read_note(rows[0].text) if rows else None

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        """See ``Record``."""
        values = {"name": write_note(name), "text": write_note(text)}
        if expected is ...:
            return bool(await self._store.rows(self._sql["set_note"], values, write=True))
        rows = await self._store.rows(self._sql["note"], {"name": values["name"]})
        if (read_note(rows[0].text) if rows else None) != expected:
            return False
        if not rows:
            return bool(await self._store.rows(self._sql["add_note"], values, write=True))
        values["expected"] = rows[0].text
        return bool(await self._store.rows(self._sql["replace_note"], values, write=True))

    async def handled_at(self, key: str) -> datetime | None:
        """Return when ``key`` was handled or acknowledged, by the database's clock; None if it was not."""
        rows = await self._store.rows(self._sql["find"], {"key": key})
        return as_aware(rows[0].handled_at) if rows and rows[0].handled_at is not None else None

    async def last_recorded(self) -> datetime | None:
        """Return when it last recorded something, by the database's clock; None if it has nothing."""
        rows = await self._store.rows(self._sql["last_recorded"])
        return max((as_aware(row.last_recorded) for row in rows if row.last_recorded is not None), default=None)

    async def is_read_only(self) -> bool:
        """Return whether the database can only be read, as a standby of PostgreSQL."""
        if not self._store.on_postgresql:
            return False
        [row] = await self._store.rows(self._sql["read_only"])
        return bool(row[0] == "on")

    async def entries(
        self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
    ) -> Sequence[InboxEntry]:
        """See ``Inbox``."""
        if waiting:
            moment, key = (_FIRST, "") if after is None else (after.quarantined_at, after.key)
            place = {"limit": limit, "placed_at": moment, "key": key}
            return [_read_waiting(row) for row in await self._store.rows(self._sql["list_waiting"], place)]
        due, key = (_BEFORE_ALL, "") if after is None else (after.quarantined_at.timestamp(), after.key)
        rows = await self._store.rows(self._sql["entries"], {"limit": limit, "due": due, "key": key})
        return [unpack_entry(row.entry_json, key=row.key, at=as_aware(row.placed_at)) for row in rows]

    async def waiting(self, *, now: datetime | None = None) -> Waiting:
        """See ``WaitingInbox``."""
        [row] = await self._store.rows(self._sql["waiting"], self._sql.time(now))
        if not row.number:
            return Waiting()
        return Waiting(
            count=row.number,
            fresh=row.number - int(row.failing),
            size=int(row.size),
            age=None if row.oldest is None else max(0.0, row.now - as_aware(row.oldest).timestamp()),
            failing_age=None if row.since is None else max(0.0, row.now - row.since),
        )

    async def store(self, entry: InboxEntry, *, now: datetime | None = None) -> bool:
        """See ``WaitingInbox``. It asks again for a moment while another statement has the key."""
        values = {"key": entry.key, **self._sql.time(now), **facts(entry)}
        values["event_type"] = write_note(entry.event_type_id)

        async def look(connection: AsyncConnection) -> bool | None:
            row = await self._sql.find(connection, entry.key)
            return None if row is None or (row.handled_at is None and not row.waits) else False

        # SQLite's writer may be a handler: a duplicate does not wait for it.
        if not self._store.on_postgresql and await self._store.run(look) is False:
            return False
        for _ in range(_ASK_TIMES):
            if await self._store.rows(self._sql["store"], values, write=True):
                return True
            if await self._store.run(look) is False:
                return False
            await asyncio.sleep(_ASK_EVERY)
        raise InboxError("another worker is handling the event in a transaction that has not ended: try again")

    async def claim_due(
        self,
        token: str,
        *,
        limit: int,
        retries: int,
        lease: float,
        without: Collection[str] = (),
        now: datetime | None = None,
    ) -> Sequence[ClaimedEntry]:
        """See ``WaitingInbox``. The lease runs by the server's clock."""
        values = {**self._sql.time(now), "limit": limit, "retries": retries}
        values.update(self._sql.given([write_note(each) for each in without]))
        if limit and not self._store.on_postgresql and not await self._store.rows(self._sql["find_due"], values):
            return []  # without SQLite's lock for writers
        values.update(token=token, lease=lease)
        statement = self._sql["claim_due"] if limit else self._sql["claim_again"]
        try:
            rows = await self._store.rows(statement, values, write=True, wait_for_writer=not limit)
        except BusyError:
            return []
        if rows:
            self._leases.append(token)
        return [
            ClaimedEntry(_read_waiting(row), token, row.attempts, datetime.fromtimestamp(row.now, UTC))
            for row in sorted(rows, key=_WHEN_DUE)
        ]


def facts(entry: InboxEntry) -> dict[str, object]:
    """Return the parameters of an entry that waits."""
    text, since = entry.pack(), entry.failing_since
    return {
        "placed_at": entry.quarantined_at,
        "failing": int(entry.failures > 0),
        "failing_since": None if since is None else since.timestamp(),
        "attempts": entry.failures,
        "size": len(text),
        "entry_json": text,
    }


def _read_waiting(row: Any) -> InboxEntry:
    """Return the entry of a row that waits."""
    due = datetime.fromtimestamp(row.due, UTC)
    return unpack_entry(row.entry_json, key=row.key, at=as_aware(row.placed_at), due=due)
