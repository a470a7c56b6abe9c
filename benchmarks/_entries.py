"""Stores whose inboxes are filled in bulk, with exactly the rows that the inboxes themselves write."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, cast

import psycopg
import redis
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async._work.inbox_kinds import kind_of
from basiq_async.receiver import Inbox, SQLInbox, SQLiteInbox
from basiq_async.receiver.protocol import inbox_key
from benchmarks._harness import children_time, processor_time
from tests.support.servers import (
    POSTGRES_PROGRAMS,
    REDIS_PROGRAM,
    PostgresServer,
    RedisServer,
    postgres_server,
    redis_server,
)

_TYPE = "consent.revoked"
_DAY = 86_400.0
_REMEMBER = 30 * _DAY


def new_key() -> str:
    """The key of an event that is in no inbox."""
    return inbox_key(str(uuid.uuid4()), None)


class Store(Protocol):
    """Where inboxes of one kind are kept, each below a name of its own."""

    kind: str
    filled: set[str]

    def inbox(self, name: str) -> AbstractAsyncContextManager[Inbox]:
        """The inbox of this name. It deletes what is expired while events are recorded."""

    def fill(self, name: str, live: int, expired: int = 0) -> None:
        """Enter so many handled events, after so many that are to be forgotten."""

    def row(self, name: str, key: str, *, other: bool = False) -> object:
        """What is kept of the key, or of any other one; the key itself as its length."""

    def entries(self, name: str) -> int:
        """How many entries are kept, expired ones included."""

    def size(self, name: str) -> float:
        """Bytes for each entry, on the disk or in memory."""

    def processor(self) -> float:
        """Seconds of the processor that the server has used."""

    def expire(self, name: str, seconds: float) -> None:
        """Have entries expire within so many seconds, if the server forgets each at its own moment."""


class _SQLite:
    kind = "SQLite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.filled: set[str] = set()

    @contextlib.asynccontextmanager
    async def inbox(self, name: str) -> AsyncIterator[Inbox]:
        async with SQLiteInbox(self._path(name)) as inbox:
            yield inbox

    def fill(self, name: str, live: int, expired: int = 0) -> None:
        with contextlib.closing(sqlite3.connect(self._path(name), isolation_level=None)) as connection:
            for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-3000000"):
                connection.execute(f"PRAGMA {setting}").fetchall()
            index = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'inbox_expires'").fetchone()[0]
            connection.execute("DROP INDEX inbox_expires")
            connection.execute("BEGIN")
            for count, ends in ((expired, time.time() - 1), (live, time.time() + _REMEMBER)):
                for begin in range(0, count, max(count // 10, 1)):
                    values = {"begin": begin, "end": min(begin + max(count // 10, 1), count), "count": count}
                    connection.execute(_SQLITE_FILL, values | {"ends": ends})
            connection.execute(index)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode=WAL").fetchall()

    def row(self, name: str, key: str, *, other: bool = False) -> object:
        columns = "length(key), typeof(expires), handled, failures, token, lease, ends, at, entry_json"
        return self._ask(name, f"SELECT {columns} FROM inbox WHERE key {'!=' if other else '='} ? LIMIT 1", key)

    def entries(self, name: str) -> int:
        return int(self._ask(name, "SELECT count(*) FROM inbox")[0])

    def size(self, name: str) -> float:
        return self._path(name).stat().st_size / self.entries(name)

    def processor(self) -> float:
        return 0.0

    def expire(self, name: str, seconds: float) -> None:
        """What is expired is there already."""

    def _ask(self, name: str, statement: str, *values: str) -> Any:
        with contextlib.closing(sqlite3.connect(self._path(name))) as connection:
            return connection.execute(statement, values).fetchone()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.db"


# Ids at random, a tenth of all at a time, in the order of their keys: the pages are as full as those of a table
# that grew by itself, and are filled in a fifth of the time.
_SQLITE_FILL = """
WITH RECURSIVE numbers(n) AS (SELECT :begin + 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :end),
ids(n, id) AS MATERIALIZED (SELECT n, lower(hex(randomblob(16))) FROM numbers)
INSERT INTO inbox (key, handled, failures, expires)
SELECT substr(id, 1, 8) || '-' || substr(id, 9, 4) || '-' || substr(id, 13, 4) || '-' || substr(id, 17, 4)
  || '-' || substr(id, 21), 1, 0, :ends - (1 - 1.0 * n / :count) * 86400 FROM ids ORDER BY id
"""


class _PostgreSQL:
    kind = "PostgreSQL"

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.filled: set[str] = set()
        # One engine for all: its connections are open before anything is measured.
        self._engine = create_async_engine(server.url(), pool_size=16)

    @contextlib.asynccontextmanager
    async def inbox(self, name: str) -> AsyncIterator[Inbox]:
        async with SQLInbox(self._engine, table=name) as inbox:
            yield inbox

    def fill(self, name: str, live: int, expired: int = 0) -> None:
        with psycopg.connect(self._server.plain_url, autocommit=True) as connection:
            ask: Any = connection.execute
            ask("SET maintenance_work_mem = '1GB'")
            found = ask("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s", [name]).fetchall()
            indexes = dict(found)
            del indexes[f"{name}_pkey"]
            ask(f"ALTER TABLE {name} DROP CONSTRAINT {name}_pkey")
            for index in indexes:
                ask(f"DROP INDEX {index}")
            for count, age in ((expired, "31 days"), (live, "0 days")):
                ask(_POSTGRES_FILL.format(name=name, count=count, age=age))
            ask(f"ALTER TABLE {name} ADD PRIMARY KEY (service, key)")
            for definition in indexes.values():
                ask(definition)
            ask(f"VACUUM ANALYZE {name}")
            ask("CHECKPOINT")

    def row(self, name: str, key: str, *, other: bool = False) -> object:
        columns = "length(key), pg_typeof(handled_at)::text, handled_at IS NULL, token, lease, lease_ends"
        sign = "!=" if other else "="
        return self._ask(f"SELECT {columns} FROM {name} WHERE key {sign} %s LIMIT 1", key)

    def entries(self, name: str) -> int:
        return int(self._ask(f"SELECT count(*) FROM {name}")[0])

    def size(self, name: str) -> float:
        return float(self._ask(f"SELECT pg_total_relation_size('{name}')")[0] / self.entries(name))

    def processor(self) -> float:
        assert self._server._process is not None
        return children_time(self._server._process.pid)

    def expire(self, name: str, seconds: float) -> None:
        """What is expired is there already."""

    def _ask(self, statement: str, *values: str) -> Any:
        with psycopg.connect(self._server.plain_url) as connection:
            ask: Any = connection.execute
            return ask(statement, values).fetchone()


_POSTGRES_FILL = """
INSERT INTO {name} (service, key, handled_at)
SELECT '', gen_random_uuid()::text, now() - interval '{age}' - interval '1 day' * (1 - n::float8 / {count})
FROM generate_series(1, {count}) AS numbers(n)
"""


class _Redis:
    kind = "Redis"

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.filled: set[str] = set()
        self._databases: dict[str, int] = {}
        self._sizes: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def inbox(self, name: str) -> AsyncIterator[Inbox]:
        async with contextlib.AsyncExitStack() as stack:
            url = f"{self._url(name)}?max_connections=1000"
            yield kind_of(url).open(stack, url)

    def fill(self, name: str, live: int, expired: int = 0) -> None:
        before = self._memory()
        self._enter(name, live, int(_REMEMBER * 1000), spread=int(_DAY * 1000))
        self._sizes[name] = (self._memory() - before) / live

    def row(self, name: str, key: str, *, other: bool = False) -> object:
        with self._client(name) as client:
            there = found = f"{{basiq}}:inbox:{key}".encode()
            while other and (found == there or b":inbox:" not in found):
                found = cast("bytes", client.randomkey())
            return len(found), client.get(found), client.pttl(found) > (_REMEMBER - 2 * _DAY) * 1000

    def entries(self, name: str) -> int:
        with self._client(name) as client:
            return int(client.dbsize())

    def size(self, name: str) -> float:
        return self._sizes[name]

    def processor(self) -> float:
        assert self._server._process is not None
        return processor_time(self._server._process.pid)

    def expire(self, name: str, seconds: float) -> None:
        """Redis forgets each entry at its own moment: here, very many of them in this time."""
        self._enter(name, int(REDIS_EXPIRES * seconds), 1, spread=int(seconds * 1000))

    def _enter(self, name: str, count: int, least: int, spread: int) -> None:
        """So many entries that expire after ``least`` ms, and within ``spread`` ms from then on."""
        with self._client(name) as client:
            for begin in range(0, count, 5_000):
                number = min(5_000, count - begin)
                client.eval(_REDIS_FILL, 0, "{basiq}:inbox:", number, least, spread, uuid.uuid4().int % 2**31)

    def _memory(self) -> int:
        with self._client("") as client:
            return int(client.info("memory")["used_memory"])

    def _url(self, name: str) -> str:
        """A database for each inbox: its keys are a table of their own."""
        return f"{self._server.url[:-1]}{self._databases.setdefault(name, len(self._databases))}"

    def _client(self, name: str) -> Any:
        return redis.Redis.from_url(self._url(name))


REDIS_EXPIRES = 50_000
"""Entries a second: ten times as many as an inbox on such a machine can have written."""
_REDIS_FILL = """
math.randomseed(ARGV[5])
local random, format = math.random, string.format
for number = 1, ARGV[2] do
  local id = format('%04x%04x-%04x-%04x-%04x-%06x%06x', random(0, 0xffff), random(0, 0xffff), random(0, 0xffff),
    random(0, 0xffff), random(0, 0xffff), random(0, 0xffffff), random(0, 0xffffff))
  redis.call('SET', ARGV[1] .. id, 'done', 'PX', ARGV[3] + random(0, ARGV[4]))
end
"""


@contextlib.contextmanager
def sqlite_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        yield _SQLite(Path(folder))


@contextlib.contextmanager
def postgresql_store() -> Iterator[Store]:
    with postgres_server("-c", "shared_buffers=512MB", "-c", "max_wal_size=8GB") as server:
        yield _PostgreSQL(server)


@contextlib.contextmanager
def redis_store() -> Iterator[Store]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield _Redis(stack.enter_context(redis_server(folder, "--auto-aof-rewrite-percentage", "0")))


def stores() -> dict[str, Any]:
    """What opens each store that is installed, by its kind."""
    found: dict[str, Any] = {"SQLite": sqlite_store}
    if POSTGRES_PROGRAMS is not None:
        found["PostgreSQL"] = postgresql_store
    if REDIS_PROGRAM is not None:
        found["Redis"] = redis_store
    return found
