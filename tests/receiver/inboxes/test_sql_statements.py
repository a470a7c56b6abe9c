"""What is old is deleted, and no delivery has to wait for it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import DateTime, text
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async._work.inbox_calls import InboxCalls
from basiq_async.receiver import SQLInbox, SQLiteInbox, inbox_metadata
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.testing import ManualClock
from tests.support.databases import engine_of, let_time_be_believed, new_table, plans_of, pruned, run, scalar
from tests.support.deliveries import NOW, quarantined_delivery
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer

CLAIMED, DONE = ClaimStatus.CLAIMED, ClaimStatus.DONE


def test_only_what_an_entry_may_lack_can_be_null() -> None:
    columns = {str(column): column.nullable for table in inbox_metadata("t").sorted_tables for column in table.columns}
    assert {name for name, nullable in columns.items() if not nullable} >= {
        "t.key",
        "t_failures.key",
        "t_failures.failures",
        "t_failures.failed_at",
    }


def test_each_moment_is_one_in_every_time_zone_of_a_server() -> None:
    columns = [column for table in inbox_metadata("t").sorted_tables for column in table.columns]
    moments = [column.type.timezone for column in columns if isinstance(column.type, DateTime)]
    assert len(moments) >= 6
    assert all(moments)


# --- a file ---


async def test_a_file_deletes_old_entries_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.receiver.inboxes._sqlite._PRUNE_EVERY", 3)
    monkeypatch.setattr("basiq_async.receiver.inboxes._sqlite._PRUNED", 6)
    clock = ManualClock(NOW)
    async with SQLiteInbox(tmp_path / "inbox.db", clock=clock, remember=timedelta(days=1)) as inbox:
        for number in range(25):
            await inbox.claim(str(number), "dead", lease=1)
        for _ in range(12):
            clock.advance(timedelta(hours=12))
            await inbox.known(["any"])
        left = []
        for number in range(9):
            assert await inbox.complete(f"new-{number}", "a")
            left.append(await inbox._store.run(count_entries) - number - 1)
        assert left == [19, 19, 19, 13, 13, 13, 7, 7, 7]
        for _ in range(6):
            await inbox.release("new-0", "a")
        assert await inbox._store.run(count_entries) == 9
        assert await inbox.known(["new-0"])


def count_entries(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM inbox").fetchone()[0]
    return count


# --- a database ---


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune with every record."""
    monkeypatch.setattr("basiq_async.receiver.inboxes._sql_pruning._PRUNE_EVERY", 1)


@pytest.mark.usefixtures("due")
async def test_a_claim_that_was_never_ended_is_deleted_some_day(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await let_time_be_believed(engine, table)
        # In a file, a claim of before a restart of the machine has a lease that ends later than now.
        for age, keys in ((31, ["old"]), (2, ["dead", "released"])):
            for key in keys:
                await inbox.claim(key, "a", lease=60)
            at = f"{datetime.now(UTC) - timedelta(days=age):%Y-%m-%d %H:%M:%S.000000}"
            named = ", ".join(f"'{key}'" for key in keys)
            await run(engine, f"UPDATE {table} SET claimed_at = '{at}' WHERE key IN ({named})")
        await inbox.release("released", "a")
        ahead = "1e9" if engine.dialect.name == "sqlite" else "-1e3"
        await run(engine, f"UPDATE {table} SET lease_ends = lease_ends + {ahead}")
        await inbox.claim("new", "a", lease=60)
        await inbox.complete("k", "a")
        await pruned(inbox)
        assert await inbox.known(["k"])
        assert (await inbox.claim("dead", "b", lease=60)).unended == 1, "it is remembered for a month"
        assert await scalar(engine, f"SELECT count(*) FROM {table}") == 3


@pytest.mark.usefixtures("due")
async def test_a_database_forgets_a_heap_beside_the_deliveries(url: str) -> None:
    table = new_table()
    old = f"{datetime.now(UTC) - timedelta(days=31):%Y-%m-%d %H:%M:%S.000000}"
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await inbox.quarantine("old-quarantined", "a", quarantined_delivery("old-quarantined"))
        for number in range(7):
            await inbox.complete(f"old-{number}", "a")
        await inbox.release("old-failure", "a", failed=True)
        await pruned(inbox)
        await let_time_be_believed(engine, table)
        await run(
            engine, f"UPDATE {table} SET handled_at = '{old}'", f"UPDATE {table}_failures SET failed_at = '{old}'"
        )
        await inbox.release("new-failure", "a", failed=True)
        inbox._pruning.unpruned = 0  # private: those that came while it was pruning
        for left in (8 - 1, 8 - 2, 8 - 3, 8 - 4):  # two of seven go with each, and a new one comes
            assert await inbox.complete(f"new-{left}", "a")
            await pruned(inbox)
            assert await scalar(engine, f"SELECT count(*) FROM {table}") == max(left, 1 + 4)
        assert await inbox.known(["new-7"])
        assert await inbox.known(["old-quarantined"])
        assert not await inbox.known(["old-1"])
        assert await inbox.release("new-failure", "a", failed=True) == 2
        assert await inbox.release("old-failure", "a", failed=True) == 1


@pytest.mark.usefixtures("due")
@pytest.mark.parametrize("wrong", ["ours", "the server's"])
async def test_one_clock_that_is_ahead_forgets_nothing(
    wrong: str, inbox: SQLInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inbox.complete("k", "a")
    await pruned(inbox)
    if wrong == "ours":

        class Ahead(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return datetime.now(UTC) + timedelta(days=40)

        monkeypatch.setattr("basiq_async.receiver.inboxes._sql_pruning.datetime", Ahead)
    else:
        ahead = text("SELECT now() + interval '40 days' AS server_time, NULL AS forgotten_at")
        monkeypatch.setitem(inbox._sql.by_name, "since", ahead)
    await inbox.complete("l", "a")
    await pruned(inbox)
    assert await inbox.known(["k"])


@pytest.mark.usefixtures("due")
@pytest.mark.parametrize("url", ["aiosqlite"], indirect=True)
@pytest.mark.parametrize("hours", [40 * 24, 2, -2])
async def test_a_database_in_a_file_forgets_nothing_by_a_wrong_clock(
    url: str, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the other inboxes do, though each process is new, and SQLite has no clock but the machine's."""
    table, now = new_table(), time.time()
    since = []
    for number, moment in enumerate((now, now + hours * 3_600, now + hours * 3_600 + 60, now + 120)):
        monkeypatch.setattr("basiq_async._work.clock.time.time", lambda moment=moment: moment)
        async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
            await inbox.complete(f"k-{number}", "a")
            await pruned(inbox)
            since.append(await inbox.known_since())
            assert len(await inbox.known([f"k-{each}" for each in range(number + 1)])) == number + 1
    assert len({*since}) == 1, "it knows since when it was made"


@pytest.mark.usefixtures("due")
@pytest.mark.parametrize("url", ["aiosqlite"], indirect=True)
async def test_a_database_in_a_file_that_is_used_once_a_day_forgets(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, now = new_table(), time.time()
    for day in range(45):
        moment = now + day * 86_400
        monkeypatch.setattr("basiq_async._work.clock.time.time", lambda moment=moment: moment)
        async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
            await inbox.complete(f"k-{day}", "a")
            at = f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S.000000}"
            await run(engine, f"UPDATE {table} SET handled_at = '{at}' WHERE key = 'k-{day}'")
            await pruned(inbox)
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        found = await inbox.known([f"k-{day}" for day in range(45)])
    assert 30 <= len(found) <= 36, "a month, and six days at the most"


@pytest.mark.usefixtures("due")
async def test_a_prune_that_fails_harms_no_delivery(
    inbox: SQLInbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(inbox._sql.by_name, "since", text("SELECT nothing"))
    assert await inbox.complete("k", "a")
    await pruned(inbox)
    assert "could not be deleted" in caplog.text


@pytest.mark.usefixtures("due")
async def test_a_record_does_not_wait_for_the_pruning_and_the_end_of_the_inbox_does(
    inbox: SQLInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released = 0, asyncio.Event()

    async def slow() -> None:
        nonlocal begun
        begun += 1
        await released.wait()

    monkeypatch.setattr(inbox._pruning, "_prune", slow)
    async with asyncio.timeout(PATIENCE):
        for key in ("k", "l"):
            assert await inbox.complete(key, "a")
            await asyncio.sleep(0)
    assert begun == 1, "there is one at a time"
    closing = asyncio.create_task(inbox.aclose())
    done, _ = await asyncio.wait((closing,), timeout=0.05)
    assert not done
    released.set()
    await closing


@pytest.mark.usefixtures("due")
def test_an_event_loop_that_was_closed_does_not_hinder_the_next_one(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    async def for_ever() -> None:
        begun.append(asyncio.current_task())
        await asyncio.Event().wait()

    async def record(key: str) -> None:
        async with engine_of(postgres.url()) as engine:
            inbox._store.engine = engine
            assert await inbox.complete(key, "a")
            await asyncio.sleep(0)

    engine = create_async_engine(postgres.url())
    inbox = SQLInbox(engine, table=new_table())
    monkeypatch.setattr(inbox._pruning, "_prune", for_ever)
    for key in ("k", "l"):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(record(key))
        begun[-1]._log_destroy_pending = False
        loop.close()
    assert len(begun) == 2


# --- indexes ---


async def each_call(inbox: Any) -> None:
    """Have an inbox run every statement that it has about a key, and those that prune."""
    await inbox.claim("k", "a", lease=60)
    await inbox.claim("k", "b", lease=60)
    await inbox.complete("k", "a")
    await inbox.known(["k"])
    await inbox.known([str(number) for number in range(500)])
    await inbox.set_note("name", "text")
    await inbox.note("name")
    await inbox.known_since()
    await inbox.claim("l", "a", lease=60)
    await inbox.release("l", "a", failed=True)
    await inbox.release("l", "a")
    await inbox.quarantine("m", "a", quarantined_delivery("m"))
    await inbox.claim("m", "a", lease=60, quarantined=True)
    await inbox.release("m", "a", failed=True)
    await inbox.claim("m", "a", lease=60, quarantined=True)
    await inbox.complete("m", "a")
    await inbox.quarantine("n", "a", quarantined_delivery("n"))
    await inbox.entries(limit=1, after=(await inbox.entries(limit=1))[0])
    await InboxCalls(inbox, 5).drop("n")
    for number in range(3):
        await inbox.store(quarantined_delivery(f"w-{number}"))
    for each in await inbox.claim_due("a", limit=2, retries=1, lease=60):
        await inbox.put_off(each.entry, "a", seconds=0)
    await inbox.waiting()
    await inbox.entries(waiting=True, limit=1, after=(await inbox.entries(waiting=True, limit=1))[0])
    if isinstance(inbox, SQLInbox):
        await inbox._pruning._prune()


async def test_no_statement_of_a_file_reads_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.receiver.inboxes._sqlite._PRUNE_EVERY", 1)
    path = tmp_path / "inbox.db"
    statements: list[str] = []
    async with SQLiteInbox(path) as inbox:
        trace: Callable[[str], object] = statements.append
        await inbox._store.run(lambda connection: connection.set_trace_callback(trace))
        await each_call(inbox)
        await inbox._store.run(lambda connection: connection.set_trace_callback(None))
    plans = {}
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            if statement.strip().startswith(("SELECT", "INSERT", "DELETE", "UPDATE")):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.replace('-Inf', '-9e999')}")
                plans[statement] = [row[3] for row in rows]
    assert sum("inbox" in statement for statement in plans) >= 20
    assert sum("DELETE FROM inbox" in statement for statement in plans) == 1
    scans = {statement: [step for step in plan if "SCAN" in step] for statement, plan in plans.items()}
    found = {step for steps in scans.values() for step in steps}
    # The clock has one row, what was kept has one for each duration that still matters, a subquery has a limit, and the
    # index of what is due has only what waits, which a count reads.
    subqueries = {step for step in found if step.startswith("SCAN (subquery-")}
    small = {"SCAN clock", "SCAN kept", "SCAN json_each VIRTUAL TABLE INDEX 1:"}
    assert found - subqueries <= {*small, "SCAN inbox USING COVERING INDEX inbox_due"}, scans


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_no_statement_of_a_database_reads_a_whole_table(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:

        async def calls() -> None:
            await each_call(inbox)
            for quarantined in (False, True):
                await inbox.claim("o", "a", lease=60, quarantined=quarantined, transaction=True)
                await inbox.release("o", "a")

        plans = await plans_of(engine, table, calls(), scan=False)
    assert len(plans) > 12
    assert sum(f"DELETE FROM {table}" in statement for statement in plans) >= 3
    scans = {statement: plan for statement, plan in plans.items() if any(reads_all(step) for step in plan)}
    assert scans == {}
    [old] = [plan for statement, plan in plans.items() if "ORDER BY handled_at" in statement]
    assert not [step for step in old if "Sort" in step or "TEMP B-TREE" in step], old


def reads_all(step: str) -> bool:
    """A page of the quarantine is read in the order of an index, from its beginning; some parts are few in any case."""
    few = ("SCAN CONSTANT ROW", "SCAN given VIRTUAL TABLE", "SCAN ready", "SCAN fresh", "SCAN failed", "SCAN anon_")
    scan = step.startswith("SCAN") and not step.startswith(few)
    return "Seq Scan" in step or (scan and "USING INDEX" not in step)


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_the_repr_of_no_row_shows_an_entry(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    async with engine_of(url) as engine, SQLInbox(engine, table=new_table()) as inbox:
        ask = inbox._store.rows

        async def keep(*args: Any, **kwargs: Any) -> Any:
            rows = await ask(*args, **kwargs)
            shown.extend(f"{row!r}" for row in rows if "entry_json" in row._fields)
            return rows

        monkeypatch.setattr(inbox._store, "rows", keep)
        await each_call(inbox)
        await inbox.handled_at("m")
    assert len(shown) == 5
    assert "{" not in "".join(shown), "it is JSON"
