"""The inbox in a file, for any number of processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import timedelta
from typing import Self

from ..._sqlite import Database, FileKind
from ...errors import ConfigurationError, InboxError
from .._clock import Clock, in_seconds
from ._memory import Claim, ClaimStatus

__all__ = ["SQLiteInbox"]

_KIND = FileKind(
    name="inbox",
    application_id=0x42515349,
    version=1,
    schema=(
        "CREATE TABLE inbox (key TEXT PRIMARY KEY, token TEXT NOT NULL, expires REAL NOT NULL, "
        "done INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX inbox_expires ON inbox (expires)",
    ),
    failure=InboxError,
)

_PRUNE_EVERY = 60.0
_MOST_AT_ONCE = 5_000

_FIND = "SELECT token, expires, done FROM inbox WHERE key = ?"
_PUT = "INSERT OR REPLACE INTO inbox (key, token, expires, done) VALUES (?, ?, ?, ?)"
_PRUNE = "DELETE FROM inbox WHERE key IN (SELECT key FROM inbox WHERE expires <= ? ORDER BY expires LIMIT ?)"


class SQLiteInbox:
    """An inbox in a SQLite file: shared by the processes of one machine, and still there after a crash.

        async with SQLiteInbox("inbox.db") as inbox:
            receiver = WebhookReceiver(secret, inbox=inbox)

    What it records is on disk before it says so (WAL, ``synchronous=FULL``). It remembers for ``remember``
    (30 days by default, so that a replay knows what was handled) and prunes itself. ``clock`` gives the
    time. The file must be on a local disk. Entering it, or its first use, opens the file: a foreign or
    damaged one is a ``ConfigurationError`` and is left as it is. A full disk or a lock that lasts longer than
    ``busy_timeout`` seconds is an ``InboxError``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        remember: timedelta = timedelta(days=30),
        busy_timeout: float = 5.0,
        clock: Clock = time.time,
    ) -> None:
        if remember <= timedelta(0):
            raise ConfigurationError("remember must be more than nothing")
        self._database = Database(path, _KIND, busy_timeout=busy_timeout)
        self._remember = remember.total_seconds()
        self._clock = in_seconds(clock)
        self._prune_at = 0.0

    def __repr__(self) -> str:
        return f"SQLiteInbox({self._database.path!r})"

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> Claim:
            now = self._clock()
            self._prune(connection, now)
            row = connection.execute(_FIND, (key,)).fetchone()
            if row is not None and row[1] > now:
                if row[2]:
                    return Claim(ClaimStatus.DONE)
                if row[0] != token:
                    return Claim(ClaimStatus.BUSY, row[1] - now)
            connection.execute(_PUT, (key, token, now + lease, 0))
            return Claim(ClaimStatus.CLAIMED)

        return await self._database.run(work)

    async def complete(self, key: str, token: str) -> bool:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> bool:
            now = self._clock()
            row = connection.execute(_FIND, (key,)).fetchone()
            if row is not None and row[1] > now and (row[2] or row[0] != token):
                return False
            connection.execute(_PUT, (key, token, now + self._remember, 1))
            return True

        return await self._database.run(work)

    async def release(self, key: str, token: str) -> None:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM inbox WHERE key = ? AND token = ? AND NOT done", (key, token))

        await self._database.run(work)

    async def seen(self, key: str) -> bool:
        """See ``Inbox``."""

        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute(_FIND, (key,)).fetchone()
            return row is not None and bool(row[2]) and row[1] > self._clock()

        return await self._database.run(work, write=False)

    async def aclose(self) -> None:
        """Finish what was asked for, and close the file. May be called twice."""
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

    def _prune(self, connection: sqlite3.Connection, now: float) -> None:
        if now >= self._prune_at:
            gone = connection.execute(_PRUNE, (now, _MOST_AT_ONCE)).rowcount
            self._prune_at = now if gone == _MOST_AT_ONCE else now + _PRUNE_EVERY
