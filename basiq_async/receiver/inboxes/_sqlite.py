"""The inbox in a SQLite file, which the processes of one machine share."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

from ..._storage.sqlite import FileKind
from ..._storage.sqlite_thread import Database
from ..._work.calls import CLOSED
from ..._work.clock import JUMP, RetentionClock, TimeSource, lease_clock
from ..._work.protocol import Claim, ClaimStatus, QuarantinedDelivery, pack, unpack
from ...errors import ConfigurationError, InboxError
from ._pruning import LOCKING, Pruning

_OPEN, _DONE, _QUARANTINED = 0, 1, 2
_FOREVER = 1e18
"""The expiry of a quarantined key: it is forgotten only when it is handled or dropped."""

_KIND = FileKind(
    name="inbox",
    application_id=0x42515349,
    version=3,
    schema=(
        # A lease ends by the monotonic clock, an entry expires by the wall clock.
        "CREATE TABLE inbox (key TEXT PRIMARY KEY, state INTEGER NOT NULL, failures INTEGER NOT NULL, "
        "expires REAL NOT NULL, token TEXT, lease REAL NOT NULL, ends REAL NOT NULL) WITHOUT ROWID",
        "CREATE INDEX inbox_expires ON inbox (expires)",
        "CREATE TABLE quarantine (at REAL NOT NULL, key TEXT NOT NULL UNIQUE, letter TEXT NOT NULL, "
        "PRIMARY KEY (at, key)) WITHOUT ROWID",
        "CREATE TABLE clock (seen_at REAL NOT NULL, hold_until REAL NOT NULL)",
        "CREATE TABLE pinned (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ),
    failure=InboxError,
    closed=CLOSED,
)

_PRUNE_EVERY = 60.0
_BEGAN = "began"

_FIND = "SELECT state, failures, expires, token, lease, ends FROM inbox WHERE key = ?"
_PUT = "INSERT OR REPLACE INTO inbox (key, state, failures, expires, token, lease, ends) VALUES (?, ?, ?, ?, ?, ?, ?)"
_PRUNE = "DELETE FROM inbox WHERE key IN (SELECT key FROM inbox WHERE expires <= ? ORDER BY expires LIMIT ?)"


class SQLiteInbox:
    """An inbox in a SQLite file. The processes of one machine share it, and it survives a crash.

    .. code-block:: python

        async with SQLiteInbox("inbox.db") as inbox:
            receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

    An entry is on disk before the call that records it returns (WAL, ``synchronous=FULL``). Entries are kept for
    ``remember``, 30 days by default, so that a replay knows the handled events; older ones are deleted. ``clock``
    returns the time. The file must be on a local disk, and only its owner can read it. Entering the inbox, or its first
    use, opens the file, and creates it if it does not exist.

    Raises ``InboxError`` for a file of another program, a damaged file (neither is changed), a file that other users
    can open, a file that was deleted or replaced while it was open, a full disk, and a lock that lasts longer than
    ``busy_timeout`` seconds. Also raises it in a child that was forked while the file was open: make the inbox in each
    worker process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        remember: timedelta = timedelta(days=30),
        busy_timeout: float = 5.0,
        clock: TimeSource = time.time,
    ) -> None:
        if remember <= timedelta(0):
            raise ConfigurationError("remember must be longer than zero")
        self._database = Database(path, _KIND, busy_timeout=busy_timeout)
        self._remember = remember.total_seconds()
        self._clock = clock
        self._lease_clock = lease_clock(clock)
        self._retention: RetentionClock | None = None
        self._prune_at = -math.inf
        self._pruning = Pruning(self._delete_expired, f"the inbox {self._database.path!r}", LOCKING)

    def __repr__(self) -> str:
        return f"SQLiteInbox({self._database.path!r})"

    async def check(self) -> None:
        """See ``Inbox``: opens the file, creates it if it does not exist, and waits until it may be written."""
        await self._database.run(lambda connection: connection.execute("SELECT 1 FROM inbox LIMIT 1").fetchone())

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> tuple[Claim, bool]:
            retention, now = self._look(connection)
            due = self._is_due(connection, retention, now)
            entry = _Entry.read(connection, key, retention.horizon(now))
            return Claim(ClaimStatus.DONE) if entry.recorded else self._take(connection, entry, token, lease, now), due

        claim, due = await self._database.run(work)
        if due:
            self._pruning.start()
        return claim

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> bool:
            retention, now = self._look(connection)
            entry = _Entry.read(connection, key, retention.horizon(now))
            if not self._may_record(entry, token):
                return False
            if entry.state == _QUARANTINED:
                connection.execute("DELETE FROM quarantine WHERE key = ?", (key,))
            entry.write(connection, _DONE, now + self._remember)
            return True

        return await self._database.run(work)

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> None:
            entry = _Entry.read(connection, key)
            if entry.token == token:
                self._free(connection, entry)

        await self._database.run(work)

    async def seen(self, key: str) -> bool:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> bool:
            retention, now = self._look(connection)
            return _Entry.read(connection, key, retention.horizon(now)).recorded

        return await self._database.run(work, write=False)

    async def known_since(self) -> datetime:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> float:
            now = self._look(connection)[1]
            return max(float(_pin(connection, _BEGAN, repr(now))), now - self._remember)

        return datetime.fromtimestamp(await self._database.run(work), UTC)

    async def pin(self, name: str, value: str) -> str:
        """See ``Inbox``."""
        return await self._database.run(lambda connection: _pin(connection, name, value))

    async def pinned(self, name: str) -> str | None:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT value FROM pinned WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row[0])

        return await self._database.run(work, write=False)

    async def fail(self, key: str, token: str) -> int:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> int:
            retention, now = self._look(connection)
            entry = _Entry.read(connection, key, retention.horizon(now))
            mine = entry.token == token
            if entry.recorded and not mine:
                return 0
            entry.failures += 1
            entry.expires = max(entry.expires, now + self._remember)
            if mine:
                self._free(connection, entry)
            else:
                entry.write(connection, entry.state, entry.expires, keep=True)
            return entry.failures

        return await self._database.run(work)

    async def quarantine(self, key: str, token: str, letter: QuarantinedDelivery) -> bool:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> bool:
            retention, now = self._look(connection)
            entry = _Entry.read(connection, key, retention.horizon(now))
            if not self._may_record(entry, token):
                return False
            connection.execute("DELETE FROM quarantine WHERE key = ?", (key,))
            connection.execute(
                "INSERT INTO quarantine (at, key, letter) VALUES (?, ?, ?)",
                (letter.quarantined_at.timestamp(), key, pack(letter)),
            )
            entry.failures = max(entry.failures, letter.failures)
            entry.write(connection, _QUARANTINED, _FOREVER)
            return True

        return await self._database.run(work)

    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        """See ``Inbox``."""
        place = (-math.inf, "") if after is None else (after.quarantined_at.timestamp(), after.key)

        def work(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                "SELECT letter FROM quarantine WHERE (at, key) > (?, ?) ORDER BY at, key LIMIT ?", (*place, limit)
            )
            return [row[0] for row in rows]

        letters = await self._database.run(work, write=False)
        try:
            return [unpack(text) for text in letters]
        except (ValueError, TypeError, KeyError) as exc:
            raise self._database.file.describe_damage(exc) from exc
        finally:
            del letters  # error reporters show local variables

    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> Claim:
            entry = _Entry.read(connection, key)
            if entry.state != _QUARANTINED:
                return Claim(ClaimStatus.DONE)
            return self._take(connection, entry, token, lease, 0.0)

        return await self._database.run(work)

    async def drop_quarantined(self, key: str) -> bool:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> bool:
            if not connection.execute("DELETE FROM quarantine WHERE key = ?", (key,)).rowcount:
                return False
            _, now = self._look(connection)
            _Entry(key).write(connection, _DONE, now + self._remember)
            return True

        return await self._database.run(work)

    async def aclose(self) -> None:
        """Finish the calls that are queued already, and close the file. May be called twice."""
        try:
            await self._pruning.aclose()
        finally:  # even if this is cancelled, the thread is told to end
            await self._database.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self._database.run(lambda connection: None, write=False)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # --- in the thread ---

    def _take(self, connection: sqlite3.Connection, entry: _Entry, token: str, lease: float, now: float) -> Claim:
        present = self._lease_clock()
        if entry.token not in (None, token):
            # If the clock was set back, or the machine restarted, the lease must not last longer than it was made for.
            remaining = min(entry.ends - present, entry.lease)
            if entry.ends - present > entry.lease:
                entry.ends = present + entry.lease
                entry.write(connection, entry.state, entry.expires, keep=True)
            if remaining > 0:
                return Claim(ClaimStatus.BUSY, remaining, entry.token)
        entry.token, entry.lease, entry.ends = token, lease, present + lease
        # The row is kept for longer than the lease, because the wall clock, by which rows expire, may be set.
        entry.write(connection, entry.state, max(entry.expires, now + lease + JUMP), keep=True)
        return Claim(ClaimStatus.CLAIMED)

    def _may_record(self, entry: _Entry, token: str) -> bool:
        if entry.token == token:
            return True
        present = self._lease_clock()
        held = entry.token is not None and min(entry.ends - present, entry.lease) > 0
        return not held and not entry.recorded

    def _free(self, connection: sqlite3.Connection, entry: _Entry) -> None:
        """Release the claim. The failure count and the quarantined delivery stay."""
        entry.token = None
        if entry.state == _OPEN and not entry.failures:
            connection.execute("DELETE FROM inbox WHERE key = ?", (entry.key,))
        else:
            entry.write(connection, entry.state, entry.expires, keep=True)

    def _look(self, connection: sqlite3.Connection) -> tuple[RetentionClock, float]:
        if self._retention is None:
            row = connection.execute("SELECT seen_at, hold_until FROM clock").fetchone()
            self._retention = (
                RetentionClock(self._clock)
                if row is None
                else RetentionClock(self._clock, seen_at=row[0], hold_until=row[1])
            )
        return self._retention, self._retention.now()

    def _is_due(self, connection: sqlite3.Connection, retention: RetentionClock, now: float) -> bool:
        """Return whether it is time to prune. If so, write the state of the clock for the other processes."""
        if self._prune_at - _PRUNE_EVERY <= now < self._prune_at:  # prune at once if the clock was set back
            return False
        self._prune_at = now + _PRUNE_EVERY
        _pin(connection, _BEGAN, repr(now))
        connection.execute("DELETE FROM clock")
        connection.execute("INSERT INTO clock VALUES (?, ?)", (now, retention.hold_until))
        return True

    async def _delete_expired(self, most: int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            retention, now = self._look(connection)
            return connection.execute(_PRUNE, (retention.horizon(now), most)).rowcount

        return await self._database.run(work)


def _pin(connection: sqlite3.Connection, name: str, value: str) -> str:
    connection.execute("INSERT OR IGNORE INTO pinned VALUES (?, ?)", (name, value))
    found: str = connection.execute("SELECT value FROM pinned WHERE name = ?", (name,)).fetchone()[0]
    return found


class _Entry:
    """The entry of a key: a row of the table, or the default values if there is no row."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.state = _OPEN
        self.failures = 0
        self.expires = 0.0
        self.token: str | None = None
        self.lease = self.ends = 0.0

    @classmethod
    def read(cls, connection: sqlite3.Connection, key: str, horizon: float = -math.inf) -> _Entry:
        """Read the entry of a key. One that expired by ``horizon`` counts as forgotten, except for its claim."""
        entry = cls(key)
        row = connection.execute(_FIND, (key,)).fetchone()
        if row is not None:
            entry.state, entry.failures, entry.expires, entry.token, entry.lease, entry.ends = row
            if entry.expires <= horizon:
                entry.state, entry.failures = _OPEN, 0
        return entry

    @property
    def recorded(self) -> bool:
        return self.state != _OPEN

    def write(self, connection: sqlite3.Connection, state: int, expires: float, *, keep: bool = False) -> None:
        """Write the entry with this state. Unless ``keep``, end its claim, and clear the failures of a handled key."""
        self.state, self.expires = state, expires
        if not keep:
            self.token, self.lease, self.ends = None, 0.0, 0.0
            if state == _DONE:
                self.failures = 0
        values = (self.key, state, self.failures, expires, self.token, self.lease, self.ends)
        connection.execute(_PUT, values)
