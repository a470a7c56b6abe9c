"""The inbox in a SQLite file, which the processes of one machine share."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

from ..._arguments import Duration, check_remember, check_seconds
from ..._storage.sqlite import SQLiteStore
from ..._storage.sqlite_files import FileKind
from ..._work.calls import CLOSED
from ..._work.clock import JUMP, RetentionClock, TimeSource, in_seconds, lease_clock
from ..._work.keys import in_parts
from ..._work.notes import read_note, write_note
from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, Waiting, unpack_entry
from ...errors import InboxError

_KIND = FileKind(
    name="inbox",
    application_id=0x42515349,
    version=6,
    schema=(
        # ``expires`` is by the wall clock. The lease, of so many seconds, ends by the clock of leases, which is the
        # monotonic one. ``letter`` is a quarantined delivery as JSON, and ``at`` is the time when it was set aside. The
        # key is ``handled`` only if that was acknowledged, and its failures are then ``tried``. What waits has a letter
        # too, and is not handled: ``due`` is by the wall clock, and ``stored``, ``attempts`` (those that failed) and
        # ``size`` stand beside the letter, so that nobody has to read it to count.
        "CREATE TABLE inbox (key TEXT PRIMARY KEY, handled INTEGER NOT NULL, failures INTEGER NOT NULL, "
        "expires REAL NOT NULL, token TEXT, lease REAL, ends REAL, at REAL, tried INTEGER NOT NULL DEFAULT 0, "
        "due REAL, webhook TEXT, stored REAL, attempts INTEGER, size INTEGER, letter TEXT) WITHOUT ROWID",
        "CREATE INDEX inbox_expires ON inbox (expires)",
        "CREATE INDEX inbox_quarantine ON inbox (at, key) WHERE at IS NOT NULL",
        "CREATE INDEX inbox_due ON inbox (webhook, due, attempts, size, stored) WHERE due IS NOT NULL",
        "CREATE INDEX inbox_waiting ON inbox (stored, key) WHERE due IS NOT NULL",
        # When the file was made, and the state of the clock of retention.
        "CREATE TABLE clock (began REAL NOT NULL, seen_at REAL, hold_until REAL)",
        # For how long entries were kept that were recorded up to a moment.
        "CREATE TABLE kept (remember REAL PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID",
        "CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID",
    ),
    failure=InboxError,
    closed=CLOSED,
)

_PRUNE_EVERY = 16
"""Of this number of records, one deletes old entries."""
_NOTE_EVERY = 60.0
"""Seconds between two notes of the time, for the other processes and the next one."""


def _sql(statement: str) -> str:
    """Return a statement with its parts, which stand in braces.

    :now is the time of the clock of leases, and :horizon the moment up to which entries are forgotten.
    """
    parts = {
        "may_complete": "(token = :token OR (({open} OR at IS NOT NULL) AND NOT {live}))",
        "may_set_aside": "(token = :token OR ({open} AND NOT {live}))",
        "free": "(token = :token OR NOT {live})",
        "live": "(token IS NOT NULL AND ends > :now)",
        "open": "(NOT handled OR expires <= :horizon)",
        "counted": "CASE WHEN expires <= :horizon THEN 0 ELSE failures END",
        "no_claim": "token = NULL, lease = NULL, ends = NULL",
        "no_letter": "at = NULL, tried = 0, letter = NULL, {no_wait}",
        "no_wait": "due = NULL, webhook = NULL, stored = NULL, attempts = NULL, size = NULL",
    }
    for name, part in parts.items():
        statement = statement.replace("{" + name + "}", part)
    return statement


_ONE = "VALUES (:key, 1, 0, :expires)"
# The row of a claim is kept for longer than the lease, because the wall clock, by which rows expire, may be set.
_CLAIM = _sql("""
INSERT INTO inbox (key, handled, failures, expires, token, lease, ends)
VALUES (:key, 0, 0, :expires, :token, :lease, :now + :lease)
ON CONFLICT (key) DO UPDATE SET handled = 0, failures = {counted}, expires = max(expires, excluded.expires),
token = excluded.token, lease = excluded.lease, ends = excluded.ends WHERE {open} AND {free}
""")
_CLAIM_QUARANTINED = _sql("""
UPDATE inbox SET token = :token, lease = :lease, ends = :now + :lease
WHERE key = :key AND at IS NOT NULL AND {free}
""")
_COMPLETE_ALL = _sql("""
INSERT INTO inbox (key, handled, failures, expires) SELECT value, 1, 0, :expires FROM json_each(:key) WHERE true
ON CONFLICT (key) DO UPDATE SET handled = 1, failures = 0, expires = excluded.expires, {no_claim}, {no_letter}
WHERE {may_complete}
""")
_COMPLETE = _COMPLETE_ALL.replace("SELECT value, 1, 0, :expires FROM json_each(:key) WHERE true", _ONE)
# A quarantined key is forgotten only when it is handled or dropped.
_QUARANTINE = _sql("""
INSERT INTO inbox (key, handled, failures, expires, at, tried, letter)
VALUES (:key, :acknowledged, 0, 1e18, :at, :tried, :letter)
ON CONFLICT (key) DO UPDATE SET handled = excluded.handled, failures = {counted}, expires = excluded.expires,
{no_claim}, {no_wait}, at = excluded.at, tried = excluded.tried, letter = excluded.letter WHERE {may_set_aside}
""")
_RELEASE = _sql("UPDATE inbox SET {no_claim} WHERE key = :key AND token = :token")
_FAIL = _sql("""
INSERT INTO inbox (key, handled, failures, expires) VALUES (:key, 0, 1, :expires)
ON CONFLICT (key) DO UPDATE SET failures = max({counted}, tried) + 1, expires = max(expires, excluded.expires),
handled = handled AND expires > :horizon WHERE {open} OR token = :token
""")
_DROP = _sql("""
UPDATE inbox SET handled = 1, failures = 0, expires = :expires, {no_claim}, {no_letter}
WHERE key = :key AND at IS NOT NULL
""")
_STORE = _sql("""
INSERT INTO inbox (key, handled, failures, expires, due, webhook, stored, attempts, size, letter)
VALUES (:key, 0, 0, 1e18, :wall, :webhook, :stored, :attempts, :size, :letter)
ON CONFLICT (key) DO UPDATE SET handled = 0, failures = {counted}, expires = excluded.expires, at = NULL, tried = 0,
due = excluded.due, webhook = excluded.webhook, stored = excluded.stored, attempts = excluded.attempts,
size = excluded.size, letter = excluded.letter WHERE {open} AND due IS NULL
""")
# A lease that begins later than now is one of before a restart, which sets the clock of leases back.
_DUE = """
SELECT letter, key, stored FROM inbox
WHERE webhook = :webhook AND due <= :wall AND (token IS NULL OR ends <= :now OR ends - lease > :now + 1)
ORDER BY due LIMIT :limit
"""
_CLAIM_DUE = """
UPDATE inbox SET token = :token, lease = :lease, ends = :now + :lease WHERE key IN (SELECT value FROM json_each(:key))
"""
_PUT_OFF = _sql("""
UPDATE inbox SET due = :wall + :seconds, {no_claim}, stored = coalesce(:stored, stored),
attempts = coalesce(:attempts, attempts), size = coalesce(:size, size), letter = coalesce(:letter, letter)
WHERE key = :key AND token = :token AND due IS NOT NULL
""")
_WAITING = """
SELECT count(*), coalesce(sum(attempts = 0), 0), coalesce(sum(size), 0), min(stored) FROM inbox
WHERE webhook = ? AND due IS NOT NULL
"""
_LIST_WAITING = """
SELECT letter, key, stored FROM inbox WHERE due IS NOT NULL AND (stored, key) > (?, ?) ORDER BY stored, key LIMIT ?
"""
_FIND = "SELECT handled AND expires > ?, at IS NOT NULL, failures, token, lease, ends FROM inbox WHERE key = ?"
_KNOWN = """
SELECT key FROM inbox WHERE key IN (SELECT value FROM json_each(?))
AND (at IS NOT NULL OR due IS NOT NULL OR (handled AND expires > ?))
"""
_LETTERS = "SELECT letter, key, at FROM inbox WHERE at IS NOT NULL AND (at, key) > (?, ?) ORDER BY at, key LIMIT ?"
_KEPT = """
INSERT INTO kept (remember, until) VALUES (?, ?) ON CONFLICT (remember) DO UPDATE SET until = max(until, excluded.until)
"""
_SINCE = "SELECT began, (SELECT max(min(until, ? - remember)) FROM kept) FROM clock"
_NOTE = "INSERT INTO notes (name, text) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text"
_PRUNE = "DELETE FROM inbox WHERE key IN (SELECT key FROM inbox WHERE expires <= ? ORDER BY expires LIMIT ?)"


class SQLiteInbox:
    """An inbox in a SQLite file. The processes of one machine share it, and it survives a crash.

    .. code-block:: python

        async with SQLiteInbox("inbox.db") as inbox:
            receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

    An entry is on disk before the call that records it returns (WAL, ``synchronous=FULL``). Entries are kept for
    ``remember``, 30 days by default, so that a replay knows the handled events; older ones are deleted. None keeps them
    for ever. ``clock`` returns the time as an aware datetime. The file must be on a local disk, and only its owner can
    read it. Entering the inbox, or its first use, opens the file, and creates it if it does not exist.

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
            _KIND,
            busy_timeout=check_seconds("busy_timeout", busy_timeout, from_zero=True),
            fill=partial(_fill, in_seconds(clock)),
        )
        self._remember = check_remember(remember)
        self._clock = clock
        self._lease_clock = lease_clock(clock)
        self._retention: RetentionClock | None = None
        self._note_at = -math.inf
        self._unpruned = _PRUNE_EVERY - 1  # the first record prunes: a process may be short

    def __repr__(self) -> str:
        return f"SQLiteInbox({self._store.path!r})"

    async def check(self) -> None:
        """See ``Inbox``: opens the file, creates it if it does not exist, and waits until it may be written."""
        await self._store.run(lambda connection: connection.execute("SELECT 1 FROM inbox LIMIT 1").fetchone())

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> Claim:
            wall, horizon = (self._retention or self._make_retention(connection)).read()
            return self._claim(connection, _CLAIM, key, token, lease, horizon, expires=wall + lease + JUMP)

        return await self._store.run(work)

    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        """See ``Inbox``."""
        if isinstance(key, str):
            return bool(await self._record(_COMPLETE, key, token))
        recorded = [
            await self._record(_COMPLETE_ALL, json.dumps(part), token, count=len(part)) == len(part)
            for part in in_parts(key)
        ]
        return all(recorded)

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``."""
        await self._record(_RELEASE, key, token)

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        """See ``Record``."""

        def work(part: list[str], connection: sqlite3.Connection) -> list[str]:
            _, horizon = (self._retention or self._make_retention(connection)).read()
            return [row[0] for row in connection.execute(_KNOWN, (json.dumps(part), horizon))]

        found: set[str] = set()
        for part in in_parts(keys):
            found.update(await self._store.run(partial(work, part), write=False))
        return found

    async def note(self, name: str) -> str | None:
        """See ``Record``."""

        def work(connection: sqlite3.Connection) -> Any:
            return connection.execute("SELECT text FROM notes WHERE name = ?", (write_note(name),)).fetchone()

        row = await self._store.run(work, write=False)
        return None if row is None else read_note(row[0])

    async def set_note(self, name: str, text: str) -> None:
        """See ``Record``."""
        await self._store.run(lambda connection: connection.execute(_NOTE, (write_note(name), write_note(text))))

    async def known_since(self) -> datetime:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> float:
            wall, _ = (self._retention or self._make_retention(connection)).read()
            began, forgotten = connection.execute(_SINCE, (wall,)).fetchone()
            return max(map(float, (began, wall - self._remember, began if forgotten is None else forgotten)))

        return datetime.fromtimestamp(await self._store.run(work, write=False), UTC)

    async def fail(self, key: str, token: str) -> int:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> int:
            wall, horizon = (self._retention or self._make_retention(connection)).read()
            values = {"key": key, "token": token, "horizon": horizon, "expires": wall + self._remember}
            if not connection.execute(_FAIL, values).rowcount:
                return 0
            connection.execute(_RELEASE, values)
            failures: int = connection.execute(_FIND, (horizon, key)).fetchone()[2]
            return failures

        return await self._store.run(work)

    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        """See ``Inbox``."""
        values: dict[str, Any] = {
            "at": delivery.quarantined_at.timestamp(),
            "acknowledged": delivery.acknowledged,
            "tried": delivery.failures if delivery.acknowledged else 0,
            "letter": delivery.pack(),
        }
        return bool(await self._record(_QUARANTINE, key, token, **values))

    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """See ``Inbox``."""
        return await self._page(_LETTERS, after, limit, trusted=True)

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> Claim:
            return self._claim(connection, _CLAIM_QUARANTINED, key, token, lease, -math.inf)

        return await self._store.run(work)

    async def drop_quarantined(self, key: str) -> bool:
        """See ``Inbox``."""
        return bool(await self._record(_DROP, key, ""))

    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        """See ``WaitingInbox``."""
        values = {**_columns(delivery), "webhook": webhook_id or ""}
        return bool(await self._record(_STORE, delivery.key, "", **values))

    async def claim_due(
        self, webhook_id: str | None, token: str, *, limit: int, lease: float
    ) -> Sequence[QuarantinedDelivery]:
        """See ``WaitingInbox``."""

        def find(limit: int, connection: sqlite3.Connection) -> list[Any]:
            wall, _ = (self._retention or self._make_retention(connection)).read()
            values = {"webhook": webhook_id or "", "wall": wall, "now": self._lease_clock(), "limit": limit}
            return connection.execute(_DUE, values).fetchall()

        def take(connection: sqlite3.Connection) -> list[QuarantinedDelivery]:
            found = find(limit, connection)
            keys = json.dumps([key for _, key, _ in found])
            values = {"key": keys, "token": token, "lease": lease, "now": self._lease_clock()}
            connection.execute(_CLAIM_DUE, values)
            return _read(found, trusted=False)

        # A worker that finds nothing every second must not take the lock of the writers every second.
        if not await self._store.run(partial(find, 1), write=False):
            return []
        return await self._store.run(take)

    async def put_off(
        self, key: str, token: str, *, seconds: float, delivery: QuarantinedDelivery | None = None
    ) -> bool:
        """See ``WaitingInbox``."""
        return bool(await self._record(_PUT_OFF, key, token, seconds=seconds, **_columns(delivery)))

    async def waiting(self, webhook_id: str | None) -> Waiting:
        """See ``WaitingInbox``."""

        def work(connection: sqlite3.Connection) -> Waiting:
            wall, _ = (self._retention or self._make_retention(connection)).read()
            count, fresh, size, oldest = connection.execute(_WAITING, (webhook_id or "",)).fetchone()
            age = None if oldest is None else max(0.0, wall - oldest)
            return Waiting(count=count, fresh=fresh, size=size, age=age)

        return await self._store.run(work, write=False)

    async def list_waiting(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """See ``WaitingInbox``."""
        return await self._page(_LIST_WAITING, after, limit, trusted=False)

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

    async def _page(
        self, statement: str, after: QuarantinedDelivery | None, limit: int, *, trusted: bool
    ) -> Sequence[QuarantinedDelivery]:
        place = (-math.inf, "") if after is None else (after.quarantined_at.timestamp(), after.key)

        def work(connection: sqlite3.Connection) -> list[QuarantinedDelivery]:
            return _read(connection.execute(statement, (*place, limit)), trusted=trusted)

        return await self._store.run(work, write=False)

    def _record(self, statement: str, key: str, token: str, *, count: int = 1, **values: Any) -> Awaitable[int]:
        """Run a statement that ends a claim, or ``count`` of them. Its result is the number of entries it changed."""

        def work(connection: sqlite3.Connection) -> int:
            wall, horizon = (self._retention or self._make_retention(connection)).read()
            times = {"now": self._lease_clock(), "wall": wall, "horizon": horizon, "expires": wall + self._remember}
            changed = connection.execute(statement, {"key": key, "token": token, **times, **values}).rowcount
            self._tidy(connection, wall, horizon, count)
            return changed

        return self._store.run(work)

    # --- in the thread ---

    def _claim(
        self,
        connection: sqlite3.Connection,
        statement: str,
        key: str,
        token: str,
        lease: float,
        horizon: float,
        expires: float = 0.0,
    ) -> Claim:
        now = self._lease_clock()
        values = {"key": key, "token": token, "lease": lease, "now": now, "horizon": horizon, "expires": expires}
        if connection.execute(statement, values).rowcount:
            return Claim(ClaimStatus.CLAIMED)
        handled, quarantined, _, holder, length, ends = connection.execute(_FIND, (horizon, key)).fetchone() or _NONE
        if (handled and statement is _CLAIM) or (not quarantined and statement is _CLAIM_QUARANTINED):
            return Claim(ClaimStatus.DONE)
        if ends - now > length:
            # The clock was set back, or the machine restarted: the lease must not last longer than it was made for.
            connection.execute("UPDATE inbox SET ends = ? WHERE key = ?", (now + length, key))
        return Claim(ClaimStatus.BUSY, min(ends - now, length), holder)

    def _make_retention(self, connection: sqlite3.Connection) -> RetentionClock:
        seen_at, hold_until = connection.execute("SELECT seen_at, hold_until FROM clock").fetchone()
        hold_until = -math.inf if hold_until is None else hold_until
        self._retention = RetentionClock(self._clock, seen_at=seen_at, hold_until=hold_until)
        return self._retention

    def _tidy(self, connection: sqlite3.Connection, wall: float, horizon: float, count: int) -> None:
        """Delete the oldest entries that are expired, twice as many as came since the last time."""
        self._unpruned += count
        if self._unpruned >= _PRUNE_EVERY:
            connection.execute(_PRUNE, (horizon, 2 * self._unpruned))
            self._unpruned = 0
        if not self._note_at - _NOTE_EVERY <= wall < self._note_at:  # also if the clock was set back
            self._note_at = wall + _NOTE_EVERY
            hold = None if self._retention is None else self._retention.hold_until
            connection.execute("UPDATE clock SET seen_at = ?, hold_until = ?", (wall, hold))
            if self._remember < math.inf:
                connection.execute(_KEPT, (self._remember, self._note_at))  # ahead: for all records until the next note


def _fill(clock: Callable[[], float], connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO clock VALUES (?, NULL, NULL)", (clock(),))


def _columns(delivery: QuarantinedDelivery | None) -> dict[str, Any]:
    """Return the columns of a delivery that waits."""
    if delivery is None:
        return dict.fromkeys(("stored", "attempts", "size", "letter"))
    letter = delivery.pack(seal=True)
    stored = delivery.quarantined_at.timestamp()
    return {"stored": stored, "attempts": delivery.failures, "size": len(letter), "letter": letter}


def _read(rows: Iterable[Sequence[Any]], *, trusted: bool) -> list[QuarantinedDelivery]:
    """Return the entries of rows with a letter, its key and its time. What is not ``trusted`` keeps its seal."""
    return [
        unpack_entry(letter, key=key, at=datetime.fromtimestamp(at, UTC), trusted=trusted) for letter, key, at in rows
    ]


_NONE = (False, False, 0, None, 0.0, 0.0)
