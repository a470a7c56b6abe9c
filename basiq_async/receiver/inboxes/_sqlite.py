"""The inbox in a SQLite file, which the processes of one machine share."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import cache, partial
from types import EllipsisType
from typing import Any, Self, TypeVar

from ..._arguments import Duration, check_remember, check_seconds
from ..._storage.sqlite import SQLiteStore
from ..._storage.sqlite_files import FileKind
from ..._storage.statements import read_statements
from ..._wire.hosts import show_place
from ..._work.clock import RetentionClock, TimeSource, in_seconds, lease_clock
from ..._work.keys import in_parts
from ..._work.notes import check_note, read_note, write_note
from ..._work.protocol import (
    MOST_UNENDED,
    Claim,
    ClaimedEntry,
    ClaimStatus,
    InboxEntry,
    Waiting,
    WaitingInbox,
    unpack_entry,
)
from ..._work.schedule import LONGEST_WAIT
from ...errors import ConfigurationError

T = TypeVar("T")

_PRUNE_EVERY, _PRUNED = 16, 256
"""Of the first number of records, one deletes up to the second number of old entries: an inbox may rarely be used."""
_CLOCK_EVERY = 60.0
"""Seconds between two writes of the clock's time, for the other processes and the next one."""


class SQLiteInbox(WaitingInbox):
    """An inbox in a SQLite file. The processes of one machine share it, and it survives a crash.

    .. code-block:: python

        async with SQLiteInbox("inbox.db") as inbox:
            receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

    An entry is on disk before the call that records it returns (WAL, ``synchronous=FULL``). Entries are kept for
    ``remember``, 30 days by default, so that a replay knows the handled events; older ones are deleted, up to four days
    later (or at the next use of the file), because a clock that is wrong must not have them forgotten. None keeps them
    for ever. ``clock`` returns the time as an aware datetime. The file must be on a local disk, and only its owner can
    read it. Entering the inbox, or its first use, opens the file, and creates it if it does not exist. One that this
    user cannot write can be read.

    Raises ``InboxError`` for a file of another program or version, a damaged file (neither is changed), a file that
    other users can open, a file that was deleted or replaced while it was open, a full disk, and a lock that lasts
    longer than ``busy_timeout`` seconds. Also raises it in a child that was forked while the file was open: make the
    inbox in each worker process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        remember: Duration | None = 30 * 86_400.0,
        busy_timeout: Duration = 5.0,
        clock: TimeSource | None = None,
    ) -> None:
        self._store = SQLiteStore(
            path,
            _file_kind(),
            busy_timeout=check_seconds("busy_timeout", busy_timeout, from_zero=True),
            fill=partial(_fill, in_seconds(clock)),
        )
        self._sql = _statements()
        self._remember = check_remember(remember)
        self._clock = clock
        self._lease_clock = lease_clock(clock)
        self._retention: RetentionClock | None = None
        self._clock_due = -math.inf
        self._unpruned = _PRUNE_EVERY - 1  # the first record prunes: a process may be short

    def __repr__(self) -> str:
        return f"SQLiteInbox({self._store.path!r})"

    async def check(self) -> None:
        """See ``Inbox``: opens the file, creates it if it does not exist, and writes to it."""

        def look(connection: sqlite3.Connection) -> None:
            name, text = check_note()
            connection.execute(self._sql["look"]).fetchone()
            connection.execute(self._sql["set_note"], {"name": name, "text": text})

        await self._store.run(look)

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        def work(connection: sqlite3.Connection) -> Claim:
            times = self._times(connection)
            # What becomes of an attempt is remembered for as long as what was handled.
            now, expires = times["now"], max(times["expires"], times["wall"] + lease)
            values = {**times, "key": key, "token": token, "lease": lease, "expires": expires}
            statement = self._sql["claim_quarantined"] if quarantined else self._sql["claim"]
            if connection.execute(statement, values).rowcount:
                unended: int = connection.execute(self._sql["count_unended"], (key,)).fetchone()[0]
                return Claim(ClaimStatus.CLAIMED, unended=unended)
            found = connection.execute(self._sql["find"], values).fetchone()
            handled, in_quarantine, _, holder, length, ends = found or _NONE
            if not in_quarantine if quarantined else handled:
                return Claim(ClaimStatus.DONE)
            if ends - now > length:
                # The clock was set back, or the machine restarted: the lease must not last longer than it was made for.
                connection.execute(self._sql["shorten_lease"], values)
            return Claim(ClaimStatus.BUSY, min(ends - now, length), holder)

        return await self._store.run(work)

    async def complete(self, key: str, token: str) -> bool:
        return bool(await self._store.run(partial(self._record, "complete", {"key": key, "token": token})))

    async def release(self, key: str, token: str, *, failed: bool = False) -> int:
        def work(connection: sqlite3.Connection) -> int:
            values = {**self._times(connection), "key": key, "token": token}
            if not connection.execute(self._sql["fail"], values).rowcount:
                return 0
            connection.execute(self._sql["release"], values)
            failures: int = connection.execute(self._sql["find"], values).fetchone()[2]
            return failures

        if failed:
            return await self._store.run(work)
        await self._store.run(partial(self._record, "release", {"key": key, "token": token}))
        return 0

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        found: set[str] = set()
        for part in in_parts(keys):
            found.update(row[0] for row in await self._read("known", list, keys=json.dumps(part)))
        return found

    async def unended(self, keys: Sequence[str]) -> Mapping[str, int]:
        """Return how many attempts of events that are not handled had no end."""
        found: dict[str, int] = {}
        for part in in_parts(keys):
            found.update(await self._read("unended", list, keys=json.dumps(part)))
        return found

    async def note(self, name: str) -> str | None:
        values = {"name": write_note(name)}
        row = await self._store.run(
            lambda connection: connection.execute(self._sql["find_note"], values).fetchone(), write=False
        )
        return row and read_note(row[0])

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        key, value = write_note(name), write_note(text)

        def work(connection: sqlite3.Connection) -> bool:
            if expected is not ...:
                row = connection.execute(self._sql["find_note"], {"name": key}).fetchone()
                if (row and read_note(row[0])) != expected:
                    return False
            connection.execute(self._sql["set_note"], {"name": key, "text": value})
            return True

        return await self._store.run(work)

    async def known_since(self) -> datetime:
        return await self._read("since", lambda rows: _time(rows[0][0]), remember=self._remember)

    async def last_recorded(self) -> datetime | None:
        """Return when it last recorded something, by the clock of its writer; None if it has nothing."""
        return await self._read("last_recorded", lambda rows: None if rows[0][0] is None else _time(rows[0][0]))

    async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
        values = {
            "key": key,
            "token": token,
            "at": entry.quarantined_at.timestamp(),
            "acknowledged": entry.acknowledged,
            "tried": entry.failures if entry.acknowledged else 0,
            "entry_json": entry.pack(),
        }
        return bool(await self._store.run(partial(self._record, "quarantine", values)))

    async def entries(
        self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
    ) -> Sequence[InboxEntry]:
        at, key = (-math.inf, "") if after is None else (after.quarantined_at.timestamp(), after.key)
        return await self._read("list_waiting" if waiting else "entries", _entries, at=at, key=key, limit=limit)

    async def store(self, entry: InboxEntry, *, now: datetime | None = None) -> bool:
        values = {"key": entry.key, **_columns(entry), **_at(now)}
        return bool(await self._store.run(partial(self._record, "store", values)))

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
        types = json.dumps([write_note(each) for each in without])
        place = {"limit": limit, "retries": retries, "without": types, **_at(now)}

        def take(connection: sqlite3.Connection) -> list[ClaimedEntry]:
            values = {**self._times(connection), **place}
            claim = {"token": token, "lease": lease}
            if limit:
                rows = connection.execute(self._sql["find_due"], values).fetchall()
                keys = json.dumps([row[1] for row in rows])
                connection.execute(self._sql["claim_due"], {**values, **claim, "keys": keys})
            else:
                rows = connection.execute(self._sql["claim_again"], {**values, **claim}).fetchall()
            claimed_at = _time(values["wall"])
            return [
                ClaimedEntry(_entry(entry, key, stored, due), token, attempts, claimed_at)
                for due, key, stored, entry, attempts in rows
            ]

        # A worker that finds nothing every second must not take the lock of the writers every second.
        if limit and not await self._read("find_due", list, **place):
            return []
        return await self._store.run(take)

    async def put_off(self, entry: InboxEntry, token: str, *, seconds: float, now: datetime | None = None) -> bool:
        values = {"key": entry.key, "token": token, "seconds": seconds, **_columns(entry), **_at(now)}
        return bool(await self._store.run(partial(self._record, "put_off", values)))

    async def waiting(self, *, now: datetime | None = None) -> Waiting:
        [row] = await self._read("waiting", list, **_at(now))
        return Waiting(count=row[0], fresh=row[1], size=row[2], age=row[3], failing_age=row[4])

    async def aclose(self) -> None:
        """Finish the calls that are queued already, and close the file. May be called twice."""
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self._store.run(lambda connection: None, write=False)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _read(self, name: str, read: Callable[[list[Any]], T], **values: Any) -> Awaitable[T]:
        """Run a statement that only reads, and return what ``read`` makes of its rows: in the thread, as its faults."""

        def work(connection: sqlite3.Connection) -> T:
            return read(connection.execute(self._sql[name], {**self._times(connection), **values}).fetchall())

        return self._store.run(work, write=False)

    # --- in the thread ---

    def _record(self, name: str, values: Mapping[str, Any], connection: sqlite3.Connection) -> int:
        """Run a statement that ends a claim. Return the number of entries that it changed."""
        times = self._times(connection)
        changed = connection.execute(self._sql[name], {**times, **values}).rowcount
        if changed and name != "release":
            connection.execute(self._sql["note_record"], (times["wall"],))
        self._tidy(connection, times)
        return changed

    def _times(self, connection: sqlite3.Connection) -> dict[str, float]:
        """Return the times in the statements, and read the clock of retention."""
        retention = self._retention = self._retention or self._make_retention(connection)
        wall, horizon = retention.read()
        # What is recorded while the clock is behind is remembered for as long.
        expires = max(wall, retention.believed) + self._remember
        return {"now": self._lease_clock(), "wall": wall, "horizon": horizon, "expires": expires}

    def _make_retention(self, connection: sqlite3.Connection) -> RetentionClock:
        shown, believed = connection.execute(self._sql["read_clock"]).fetchone()
        return RetentionClock(self._clock, shown=shown, believed=-math.inf if believed is None else believed)

    def _tidy(self, connection: sqlite3.Connection, times: dict[str, float]) -> None:
        """Delete the oldest entries that are expired, more than came since the last time."""
        wall = times["wall"]
        self._unpruned += 1
        if self._unpruned >= _PRUNE_EVERY:
            connection.execute(self._sql["prune"], {**times, "most": _PRUNED})
            self._unpruned = 0
        if not self._clock_due - _CLOCK_EVERY <= wall < self._clock_due:  # also if the clock was set back
            self._clock_due = wall + _CLOCK_EVERY
            if self._retention is not None:
                clock = {"shown": self._retention.shown, "believed": self._retention.believed}
                connection.execute(self._sql["note_clock"], clock)
            if self._remember < math.inf:  # ahead: for all records until the next write
                kept = {**times, "remember": self._remember, "until": self._clock_due}
                connection.execute(self._sql["keep"], kept)
                connection.execute(self._sql["end_kept"], kept)


@cache
def _statements() -> Mapping[str, str]:
    return read_statements(
        "basiq_async.receiver.inboxes",
        "_sqlite_statements.sql",
        MOST_UNENDED=MOST_UNENDED,
        LONGEST_WAIT=LONGEST_WAIT,
    )


def _file_kind() -> FileKind:
    """Return what tells an inbox from another file. A file of another version is refused."""
    schema = tuple(text for name, text in _statements().items() if name.startswith("create_"))
    return FileKind(application_id=0x42515349, version=10, schema=schema)


def _fill(clock: Callable[[], float], connection: sqlite3.Connection) -> None:
    connection.execute(_statements()["begin_clock"], {"wall": clock()})


def _columns(entry: InboxEntry) -> dict[str, Any]:
    """Return the columns of an entry that waits."""
    text, since = entry.pack(), entry.failing_since
    return {
        "stored": entry.quarantined_at.timestamp(),
        "failing": entry.failures > 0,
        "failing_since": None if since is None else since.timestamp(),
        "attempts": entry.failures,
        "size": len(text),
        "event_type": write_note(entry.event_type_id),
        "entry_json": text,
    }


def _at(now: datetime | None) -> dict[str, Any]:
    """Return the parameter of the wall clock, if the caller gave the time."""
    return {} if now is None else {"wall": now.timestamp()}


def _entry(text: str, key: str, at: float, due: float | None) -> InboxEntry:
    """Return the entry of a row, at its time, and when it is due, or None."""
    return unpack_entry(text, key=key, at=_time(at), due=None if due is None else _time(due))


def _entries(rows: Iterable[Sequence[Any]]) -> list[InboxEntry]:
    return [_entry(*row) for row in rows]


def _time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError):  # another program wrote it
        raise ValueError("not a time") from None


_NONE = (False, False, 0, None, 0.0, 0.0)


def open_place(stack: AsyncExitStack, place: str, *, make: bool = False, **options: Any) -> SQLiteInbox:
    """See ``InboxKind.open``."""
    shown = show_place(place)
    if not os.path.isfile(place) and (not make or shown != place):
        raise ConfigurationError(f"the inbox file {shown!r} does not exist")
    inbox = SQLiteInbox(place, **options)
    stack.push_async_callback(inbox.aclose)
    return inbox
