"""Databases for tests of SQL inboxes: URLs, engines, and inboxes on them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from basiq_async.receiver import SQLInbox
from basiq_async.receiver.protocol import Claim
from tests.support.servers import PostgresServer


def url_of(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of a database for the driver that a fixture is parametrized with."""
    if request.param == "aiosqlite":
        return f"sqlite+aiosqlite:///{folder}/inbox.db"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.url(request.param)


class ByTransaction(SQLInbox):
    """As handlers with a session use it."""

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        return await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=True)


def new_table() -> str:
    return f"inbox_{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def engine_of(url: str, **options: Any) -> AsyncGenerator[AsyncEngine]:
    """Yield an engine. When it ends, every connection must be back in its pool: a lost one warns in some later test."""
    engine = create_async_engine(url, **options)
    try:
        yield engine
        if isinstance(engine.pool, QueuePool):
            assert not in_use(engine), f"connections that were not given back: {engine.pool.status()}"
    finally:
        await engine.dispose()


@asynccontextmanager
async def engine_with(tables: MetaData, url: str, **options: Any) -> AsyncGenerator[AsyncEngine]:
    """The same with these tables, which are empty."""
    async with engine_of(url, **options) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(tables.create_all)
            for table in tables.sorted_tables:
                await connection.execute(table.delete())
        yield engine


@asynccontextmanager
async def inbox_of(url: str, table: str, **options: Any) -> AsyncGenerator[SQLInbox]:
    """Yield an inbox on an engine of its own, as another process would have."""
    async with engine_of(url) as engine, SQLInbox(engine, table=table, **options) as inbox:
        yield inbox


async def scalar(engine: AsyncEngine, statement: str) -> Any:
    async with engine.connect() as connection:
        return (await connection.execute(text(statement))).scalar()


async def run(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


def in_use(engine: AsyncEngine) -> int:
    """Return the number of connections that are checked out of the pool."""
    pool: Any = engine.pool
    return int(pool.checkedout())


async def pruned(inbox: SQLInbox) -> None:
    """Wait until the inbox has deleted its old entries."""
    if inbox._pruning.task is not None:
        await asyncio.wait((inbox._pruning.task,))


async def plans_of(
    engine: AsyncEngine, table: str, call: Awaitable[object], *, scan: bool = True
) -> dict[str, list[str]]:
    """Return the statements about a table that a call makes, each with the steps of its plan.

    scan: whether PostgreSQL may read a whole table that is small. Else it does so only where there is no index.
    """
    found: dict[str, Any] = {}

    def keep(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if table in statement and f"FROM {table}_version" not in statement:  # which has one row
            found[statement] = parameters

    event.listen(engine.sync_engine, "before_cursor_execute", keep)
    await call
    event.remove(engine.sync_engine, "before_cursor_execute", keep)
    on_postgresql = engine.dialect.name == "postgresql"
    explain = "EXPLAIN" if on_postgresql else "EXPLAIN QUERY PLAN"
    plans: dict[str, list[str]] = {}
    async with engine.connect() as connection:
        if on_postgresql and not scan:
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for statement, parameters in found.items():
            rows = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            plans[statement] = [str(row[-1]) for row in rows]
    return plans


async def let_time_be_believed(engine: AsyncEngine, table: str) -> None:
    """Let an inbox in SQLite forget by the time of now: its clock has gone on for three days."""
    await run(engine, f"UPDATE {table}_version SET shown = {time.time()}, believed = {time.time()}")
