"""Databases and servers that the tests of inboxes share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from basiq_async.receiver import Inbox, MemoryInbox, SQLInbox
from tests.support.databases import engine_of, new_table, url_of
from tests.support.inboxes import opened
from tests.support.servers import PostgresServer, RedisServer, redis_server


@pytest.fixture(params=["asyncpg", "psycopg", "aiosqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


@pytest.fixture
async def engine(postgres: PostgresServer) -> AsyncGenerator[AsyncEngine]:
    async with engine_of(postgres.url()) as engine:
        yield engine


@pytest.fixture
async def inbox(engine: AsyncEngine) -> AsyncGenerator[SQLInbox]:
    async with SQLInbox(engine, table=new_table()) as inbox:
        yield inbox


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that all tests share: take a prefix of your own, or flush it first."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis", "asyncpg", "aiosqlite"])
async def any_inbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Inbox]:
    """An empty inbox of each kind, and in a database on each of two drivers."""
    kind: str = request.param
    if kind == "memory":
        yield MemoryInbox()
    elif kind == "sqlite":
        async with opened(tmp_path / "inbox.db") as inbox:
            yield inbox
    elif kind == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        async with Redis.from_url(server.url) as client:
            await client.flushall()
        async with opened(server.url) as inbox:
            yield inbox
    else:
        async with engine_of(url_of(request, tmp_path)) as engine, SQLInbox(engine, table=new_table()) as inbox:
            yield inbox


@pytest.fixture
async def client(redis: RedisServer) -> AsyncGenerator[Redis]:
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
        await client.config_set("maxmemory-policy", "noeviction")
        yield client
