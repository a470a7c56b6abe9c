"""What is special in the stored inboxes about deliveries that wait. The suite has what holds for all."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from basiq_async import InboxError, receiver
from basiq_async._work.inbox_kinds import KINDS
from basiq_async.receiver import SQLInbox, SQLiteInbox
from basiq_async.receiver.protocol import ClaimStatus, Waiting, WaitingInbox
from basiq_async.testing import ManualClock
from tests.support.databases import engine_of, inbox_of, new_table, plans_of, pruned, run, scalar
from tests.support.deliveries import NOW, quarantined_delivery
from tests.support.servers import PostgresServer

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY
MANY = 100_000


def entry(key: str, *, failures: int = 0) -> Any:
    return quarantined_delivery(key, failures=failures)


async def store(inbox: WaitingInbox, *keys: str) -> None:
    for key in keys:
        assert await inbox.store(entry(key))


async def due(inbox: WaitingInbox, token: str, *, limit: int = 10) -> list[str]:
    found = await inbox.claim_due(token, limit=limit, retries=limit, lease=60)
    return [each.entry.key for each in found]


def test_redis_keeps_nothing_that_waits() -> None:
    classes = {kind.extra: getattr(receiver, kind.name) for kind in KINDS}
    assert [extra for extra, each in classes.items() if not issubclass(each, WaitingInbox)] == ["redis"]


# --- handlers with a session ---


async def write(inbox: SQLInbox, table: str, token: str) -> None:
    async with inbox.transaction("k", token) as session:
        await session.execute(text(f"INSERT INTO {table}_rows VALUES (1)"))


async def test_a_handler_with_a_session_takes_what_its_token_claimed_and_both_commit(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await run(engine, f"CREATE TABLE {table}_rows (number INTEGER)")
        await store(inbox, "k")
        assert await due(inbox, "a") == ["k"]
        claim = await inbox.claim("k", "b", lease=60, transaction=True)
        assert (claim.status, claim.holder) == (BUSY, "a")
        assert (await inbox.claim("k", "a", lease=60, transaction=True)).status is CLAIMED
        await write(inbox, table, "a")
        assert await inbox.complete("k", "a")
        assert await scalar(engine, f"SELECT count(*) FROM {table}_rows") == 1
        assert await inbox.waiting() == Waiting()
        assert (await inbox.claim("k", "b", lease=60, transaction=True)).status is DONE


async def test_a_transaction_that_is_rolled_back_leaves_the_delivery_leased_and_putting_it_off_ends_both(
    url: str,
) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await run(engine, f"CREATE TABLE {table}_rows (number INTEGER)")
        await store(inbox, "k")
        await due(inbox, "a")
        await inbox.claim("k", "a", lease=60, transaction=True)
        await write(inbox, table, "a")
        await inbox.aclose()  # as a process that ends: its transaction is rolled back, and its lease lasts
        async with SQLInbox(engine, table=table) as other:
            assert (await other.claim("k", "b", lease=60)).holder == "a"
            assert await due(other, "b") == []
            await other.claim("k", "a", lease=60, transaction=True)
            await write(other, table, "a")
            assert await other.put_off(entry("k", failures=1), "a", seconds=0)
            assert await scalar(engine, f"SELECT count(*) FROM {table}_rows") == 0
            [found] = await other.claim_due("c", limit=1, retries=1, lease=60)
            assert (found.entry.failures, found.attempts, found.unended) == (1, 2, 0)


async def test_a_released_transaction_ends_the_lease_too(url: str) -> None:
    async with engine_of(url) as engine, SQLInbox(engine, table=new_table()) as inbox:
        await store(inbox, "k")
        await due(inbox, "a")
        await inbox.claim("k", "a", lease=60, transaction=True)
        await inbox.release("k", "a")
        assert await due(inbox, "b") == ["k"]


@pytest.mark.parametrize("url", ["asyncpg", "psycopg"], indirect=True)
async def test_nothing_waits_for_a_transaction_that_has_the_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.receiver.inboxes._sql_rows._ASK_TIMES", 2)
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await inbox.claim("new", "a", lease=60, transaction=True)
        await store(inbox, "k")
        await inbox.claim("k", "a", lease=60, transaction=True)
        async with inbox_of(url, table) as other, asyncio.timeout(2):
            with pytest.raises(InboxError, match="in a transaction that has not ended"):
                await other.store(entry("new"))
            assert await other.store(entry("k")) is False, "it waits already"
            assert await due(other, "b") == []
            assert not await other.put_off(entry("k"), "a", seconds=0), "the token holds nothing that is committed"
            assert not await inbox.put_off(entry("new"), "a", seconds=0), "it does not wait"
            assert (await other.claim("new", "b", lease=60)).status is CLAIMED, "its transaction was rolled back"
            assert await other.store(entry("new"))


async def test_a_worker_that_finds_nothing_does_not_take_the_lock_of_sqlites_writers(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    async with (
        engine_of(f"sqlite+aiosqlite:///{tmp_path}/sql.db") as engine,
        SQLInbox(engine) as sql,
        SQLiteInbox(path, busy_timeout=0) as inbox,
    ):
        for each, file in ((inbox, path), (sql, tmp_path / "sql.db")):
            assert await due(each, "a") == []
            with closing(sqlite3.connect(file, isolation_level=None)) as writer:
                writer.execute("BEGIN IMMEDIATE")
                async with asyncio.timeout(0.15):
                    assert await due(each, "a") == []
        await store(sql, "k")
        with closing(sqlite3.connect(tmp_path / "sql.db", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert await due(sql, "a") == [], "the writer may be its handler"
        assert await due(sql, "a") == ["k"]


# --- sharing ---


async def handle_due(inbox: SQLInbox, token: str) -> list[str]:
    taken: list[str] = []
    while keys := await due(inbox, token, limit=7):
        taken += keys
        for key in keys:
            assert await inbox.complete(key, token)
    return taken


def in_a_process(url: str, table: str, token: str) -> list[str]:
    async def main() -> list[str]:
        async with inbox_of(url, table) as inbox:
            return await handle_due(inbox, token)

    return asyncio.run(main())


async def test_two_processes_share_what_waits_and_none_gets_the_others(postgres: PostgresServer) -> None:
    url, table = postgres.url("asyncpg"), new_table()
    keys = [f"k-{number:03}" for number in range(300)]
    async with inbox_of(url, table) as inbox:
        await asyncio.gather(*(store(inbox, key) for key in keys))
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            work = [loop.run_in_executor(pool, in_a_process, url, table, token) for token in ("a", "b")]
            taken = [key for part in await asyncio.gather(*work) for key in part]
        assert sorted(taken) == keys
        assert await inbox.waiting() == Waiting()


async def test_of_many_workers_on_one_server_each_gets_others_and_no_more_than_its_limit(inbox: SQLInbox) -> None:
    await asyncio.gather(*(store(inbox, f"k-{number}") for number in range(40)))
    found = await asyncio.gather(*(due(inbox, f"t-{number}", limit=4) for number in range(10)))
    assert max(map(len, found)) == 4
    keys = [key for part in found for key in part]
    assert len(keys) == len(set(keys))


# --- many ---


async def fill_sql(engine: AsyncEngine, table: str) -> None:
    """One that is due, and 99,999 that failed and are not, as after a bad deploy."""
    rows = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})"
    await run(
        engine,
        f"INSERT INTO {table} (service, key, due, queue, failing, placed_at, failing_since, attempts, size, "
        f"event_type, entry_json) {rows} "
        f"SELECT '', 'k-' || i, CASE i WHEN 1 THEN 1e3 ELSE {time.time() + 1800} + i / 1e3 END, "
        "'waiting', 1, '2026-01-05 12:00:00.000000', "
        f"1e9, 1, 900, 'a', '{'x' * 900}' FROM n",
    )


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_with_100_000_that_wait_a_count_and_a_claim_read_the_index_alone(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await fill_sql(engine, table)
        on_postgresql = engine.dialect.name == "postgresql"
        async with engine.connect() as connection:
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.exec_driver_sql(f"VACUUM ANALYZE {table}" if on_postgresql else "ANALYZE")
        assert (await inbox.waiting()).count == MANY
        calls = (inbox.waiting(), due(inbox, "a"), inbox.entries(waiting=True, limit=10))
        plans = [await plans_of(engine, table, call) for call in calls]
        counted, claimed, listed = ("\n".join(chain.from_iterable(each.values())) for each in plans)
        if on_postgresql:
            assert f"Index Only Scan using {table}_queue" in counted
            assert f"Index Scan using {table}_queue" in claimed
            assert f"Index Only Scan using {table}_queue" in listed
            assert "(queue = 'waiting'" in claimed.partition("Index Cond")[2].partition("\n")[0]
            for each in ("(due <= ", "(due > "):
                assert claimed.count(each) == claimed.count("Index Cond: ") // 2, "each has ranges of the index"
        else:
            assert f"COVERING INDEX {table}_queue (service=? AND queue=?" in counted
            for each in "<>":
                assert f"USING INDEX {table}_queue (service=? AND queue=? AND failing=? AND due{each}?)" in claimed
            assert f"COVERING INDEX {table}_queue (service=? AND queue=?" in listed
        assert "Seq Scan" not in counted + claimed + listed


async def test_with_100_000_that_wait_in_a_file_a_count_and_a_claim_read_the_index_alone(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    statements: list[str] = []
    async with SQLiteInbox(path) as inbox:
        await inbox.check()
        with closing(sqlite3.connect(path)) as connection, connection:
            soon = time.time() + 1800
            connection.execute(
                f"INSERT INTO inbox (key, handled, failures, expires, due, event_type, stored, failing, "
                "failing_since, attempts, size, entry_json) "
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) "
                f"SELECT 'k-' || i, 0, 0, 1e18, CASE i WHEN 1 THEN 1 ELSE {soon} + i / 1e3 END, 'w', i, 1, i, 1, 200, "
                f"'{'x' * 200}' FROM n"
            )
        trace: Any = statements.append
        await inbox._store.run(lambda connection: connection.set_trace_callback(trace))
        assert await due(inbox, "a") == ["k-1"]
        assert (await inbox.waiting()).count == MANY
        assert len(await inbox.entries(waiting=True, limit=2)) == 2
        await inbox._store.run(lambda connection: connection.set_trace_callback(None))
    plans: list[str] = []
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            if statement.lstrip().startswith(("SELECT", "UPDATE")):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.replace('-Inf', '-9e999')}").fetchall()
                plans.append(", ".join(row[3] for row in rows))
    search = "SEARCH inbox USING INDEX inbox_due (failing=? AND due<?)"
    for beyond in (search, search.replace("<", ">")):  # and what a clock that was ahead has put off
        assert sum(plan.count(beyond) for plan in plans) == 4, "of each look, for what never failed and for what did"
    assert "SCAN inbox USING COVERING INDEX inbox_due" in plans
    assert any("USING INDEX inbox_waiting" in plan for plan in plans)


# --- what else could lose one ---


async def test_no_pruning_of_a_database_takes_what_waits(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.receiver.inboxes._sql_pruning._PRUNE_EVERY", 1)
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table, remember=1) as inbox:
        await store(inbox, "k")
        await due(inbox, "dead")
        old = "2020-01-01 00:00:00.000000"
        await run(engine, f"UPDATE {table} SET lease_ends = -1e9, due = 1, placed_at = '{old}'")
        await inbox.complete("other", "a")
        await pruned(inbox)
        assert await inbox.known(["k"])
        waiting = await inbox.waiting()
        assert waiting.age is not None
        assert waiting.age > 5 * 365 * 86_400
        assert await due(inbox, "b") == ["k"]


async def test_after_a_restart_of_the_machine_a_dead_claim_in_a_file_is_due_again(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    async with SQLiteInbox(tmp_path / "inbox.db", clock=clock) as inbox:
        await store(inbox, "k")
        await due(inbox, "dead")
        assert await due(inbox, "b") == [], "at the same time by the clock"
        await inbox._store.run(lambda connection: connection.execute("UPDATE inbox SET ends = ends + 1e6"))
        assert await due(inbox, "b") == ["k"], "the monotonic clock began again"


async def test_what_somebody_wrote_over_a_delivery_that_waits_is_unreadable_and_hides_no_other(tmp_path: Path) -> None:
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/sql.db") as engine, SQLInbox(engine) as inbox:
        await store(inbox, "k", "l")
        await run(engine, "UPDATE basiq_inbox SET entry_json = 'nonsense' WHERE key = 'k'")
        found = [each.entry for each in await inbox.claim_due("a", limit=2, retries=2, lease=60)]
        assert [(each.key, each.kind) for each in found] == [("k", "unreadable"), ("l", "delivery")]
        assert await inbox.quarantine("k", "a", attrs.evolve(found[0], acknowledged=True))
        assert [each.key for each in await inbox.entries()] == ["k"]
