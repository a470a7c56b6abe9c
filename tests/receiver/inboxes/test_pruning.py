"""What is old is deleted, and no delivery has to wait for it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from basiq_async import InboxError
from basiq_async._storage import sql  # private: the time of the server
from basiq_async.receiver import SQLInbox, SQLiteInbox
from basiq_async.receiver.inboxes import _pruning  # private: the size of its batches
from basiq_async.receiver.inboxes._pruning import Pace, Pruning  # private: batches and pauses on a virtual clock
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.testing import ManualClock
from tests.support import virtual
from tests.support.databases import engine_of, new_table, pruned, run, scalar, url_of
from tests.support.deliveries import NOW, letter
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer

CLAIMED, DONE = ClaimStatus.CLAIMED, ClaimStatus.DONE
DRIVERS = ["asyncpg", "psycopg", "aiosqlite"]


@pytest.fixture(params=DRIVERS)
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


# --- the batches ---


class Heap:
    """So many old entries; a batch takes ``fixed`` seconds, and ``each`` for every entry."""

    def __init__(self, entries: int, *, fixed: float = 0.0, each: float = 0.0) -> None:
        self.entries = entries
        self.batches: list[tuple[float, int]] = []
        self._fixed, self._each = fixed, each

    async def delete(self, most: int) -> int:
        self.batches.append((virtual.now(), most))
        deleted = min(most, self.entries)
        await asyncio.sleep(self._fixed + self._each * deleted)
        self.entries -= deleted
        return deleted


def prune(heap: Heap, *, seconds: float = 0.02, until: float | None = None) -> None:
    """Prune a heap to its end, or for so long, on a virtual clock."""

    async def main() -> None:
        pruning = Pruning(heap.delete, "a heap", Pace(seconds, 29))
        pruning.start()
        assert pruning._task is not None
        await asyncio.wait((pruning._task,), timeout=until)
        await pruning.aclose()

    virtual.run(main())


def test_batches_follow_one_another_until_nothing_is_left() -> None:
    heap = Heap(10_000, each=0.000_01)
    prune(heap)
    assert heap.entries == 0


def test_the_pause_after_a_batch_is_as_many_times_as_long_as_the_pace_says() -> None:
    heap = Heap(10_000, fixed=0.01)
    prune(heap)
    began = [at for at, _ in heap.batches]
    assert [after - before for before, after in pairwise(began)] == pytest.approx([0.3] * (len(began) - 1))


def test_a_store_that_is_quick_gets_greater_batches_up_to_a_limit() -> None:
    heap = Heap(100_000)
    prune(heap)
    sizes = [most for _, most in heap.batches]
    assert sizes == sorted(sizes)
    assert sizes[0] == 20
    assert sizes[-1] == 1_000


def test_a_batch_takes_about_as_long_as_it_may_and_no_longer() -> None:
    heap = Heap(100_000, each=0.000_1)
    prune(heap, seconds=0.025)
    sizes = [most for _, most in heap.batches]
    assert max(sizes) * 0.000_1 <= 0.025
    assert min(sizes[3:]) * 0.000_1 >= 0.025 / 2


def test_a_store_that_is_slow_gets_small_batches_and_a_second_between_them() -> None:
    heap = Heap(1_000, fixed=3.0)
    prune(heap)
    assert {most for _, most in heap.batches} == {20}
    assert heap.batches[1][0] - heap.batches[0][0] == pytest.approx(4.0)


def test_an_end_waits_for_no_pause_and_nothing_begins_after_it() -> None:
    heap = Heap(1_000_000, fixed=0.1)

    async def main() -> None:
        pruning = Pruning(heap.delete, "a heap", Pace(1.0, 29))
        pruning.start()
        await asyncio.sleep(0.5)
        began = virtual.now()
        await pruning.aclose()
        assert virtual.now() == began
        batches = len(heap.batches)
        pruning.start()
        await pruning.aclose()
        await asyncio.sleep(10)
        assert len(heap.batches) == batches == 1

    virtual.run(main())


def test_there_is_one_pruning_at_a_time() -> None:
    heap = Heap(100, fixed=0.1)

    async def main() -> None:
        pruning = Pruning(heap.delete, "a heap", Pace(1.0, 29))
        for _ in range(3):
            pruning.start()
            await asyncio.sleep(0.05)
        assert len(heap.batches) == 1
        await pruning.aclose()

    virtual.run(main())


def test_an_event_loop_that_was_closed_does_not_hinder_the_next_one() -> None:
    batches: list[int] = []

    async def for_ever(most: int) -> int:
        batches.append(most)
        await asyncio.Event().wait()
        return 0

    pruning = Pruning(for_ever, "a heap", Pace(1.0, 29))

    def begin() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begun())
        assert pruning._task is not None
        pruning._task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    async def begun() -> None:
        pruning.start()
        await asyncio.sleep(0)

    begin()
    begin()
    assert batches == [20, 20]


async def test_what_fails_is_told_and_tried_again_at_the_next_time(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[int | InboxError] = [InboxError("the disk is full"), 3]

    async def delete(most: int) -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, InboxError):
            raise outcome
        return outcome

    pruning = Pruning(delete, "the inbox 'x'", Pace(1.0, 29))
    for _ in range(2):
        pruning.start()
        assert pruning._task is not None
        await pruning._task
    assert [record.message for record in caplog.records] == ["old entries of the inbox 'x' could not be pruned"]
    assert outcomes == []


@pytest.mark.parametrize("times", [1, 2])
async def test_an_inbox_is_closed_even_if_its_end_is_cancelled_while_a_batch_ends(tmp_path: Path, times: int) -> None:
    inbox = SQLiteInbox(tmp_path / "inbox.db")
    await inbox.check()
    ended = asyncio.Event()

    async def slow_to_end(most: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await ended.wait()
        return 0

    inbox._pruning._batch = slow_to_end
    inbox._pruning.start()
    await asyncio.sleep(0)
    closing = asyncio.create_task(inbox.aclose())
    for _ in range(times):
        await asyncio.sleep(0)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(InboxError, match="closed"):
        await inbox.check()
    ended.set()
    await inbox.aclose()


# --- a file ---


async def of_dead_claims(path: Path, clock: ManualClock, count: int) -> SQLiteInbox:
    """An inbox with so many entries that are old, and were not looked at since."""
    inbox = SQLiteInbox(path, clock=clock)
    for number in range(count):
        await inbox.claim(str(number), "dead", lease=1)
    await pruned(inbox)
    for _ in range(4):
        clock.advance(timedelta(hours=12))
        await inbox.seen("any")
    return inbox


async def test_a_file_forgets_a_great_heap_beside_the_deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pruning, "_FEWEST", 10)
    monkeypatch.setattr(_pruning, "_MOST", 10)
    async with await of_dead_claims(tmp_path / "inbox.db", ManualClock(NOW), 25) as inbox:
        await inbox.claim("new", "a", lease=600)
        assert await inbox._store.run(count_entries) >= 16, "the claim has waited for one batch at the most"
        assert await inbox.complete("new", "a")
        await pruned(inbox)
        assert await inbox._store.run(count_entries) == 1
        assert await inbox.seen("new")


def count_entries(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM inbox").fetchone()[0]
    return count


async def test_a_file_that_is_closed_while_it_prunes_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pruning, "_FEWEST", 1)
    monkeypatch.setattr(_pruning, "_MOST", 1)
    clock, path = ManualClock(NOW), tmp_path / "inbox.db"
    async with await of_dead_claims(path, clock, 25) as inbox:
        await inbox.claim("new", "a", lease=600)
    async with SQLiteInbox(path, clock=clock) as inbox:
        assert 1 < await inbox._store.run(count_entries) <= 26
        assert (await inbox.claim("new", "a", lease=600)).status is CLAIMED


async def test_a_file_that_cannot_be_pruned_takes_deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("basiq_async.receiver.inboxes._sqlite._PRUNE", "DELETE FROM nowhere WHERE 1 IN (?, ?)")
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        assert (await inbox.claim("k", "a", lease=60)).status is CLAIMED
        await pruned(inbox)
        assert await inbox.complete("k", "a")
    assert "could not be pruned" in caplog.text


# --- a database ---


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune with every record."""
    monkeypatch.setattr("basiq_async.receiver.inboxes._sql._PRUNE_EVERY", -1.0)


@pytest.mark.usefixtures("due")
async def test_a_claim_that_nobody_ended_is_deleted_some_day(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await inbox.claim("old", "a", lease=60)
        await run(engine, f"UPDATE {table} SET lease_ends = lease_ends - 90000")
        await inbox.claim("new", "a", lease=60)
        await inbox.complete("k", "a")
        await pruned(inbox)
        assert await scalar(engine, f"SELECT count(*) FROM {table}") == 2


@pytest.mark.usefixtures("due")
async def test_a_database_forgets_a_heap_beside_the_deliveries(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pruning, "_FEWEST", 3)
    monkeypatch.setattr(_pruning, "_MOST", 3)
    table = new_table()
    old = f"{datetime.now(UTC) - timedelta(days=31):%Y-%m-%d %H:%M:%S.000000}"
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        await inbox.quarantine("old-quarantined", "a", letter("old-quarantined"))
        for number in range(7):
            await inbox.complete(f"old-{number}", "a")
        await inbox.fail("old-failure", "a")
        await pruned(inbox)
        await run(
            engine, f"UPDATE {table} SET handled_at = '{old}'", f"UPDATE {table}_failures SET failed_at = '{old}'"
        )
        await inbox.fail("new-failure", "a")
        assert await inbox.complete("new", "a")
        await pruned(inbox)
        assert await scalar(engine, f"SELECT count(*) FROM {table}") == 2
        assert await inbox.seen("new")
        assert await inbox.seen("old-quarantined")
        assert not await inbox.seen("old-1")
        assert await inbox.fail("new-failure", "a") == 2
        assert await inbox.fail("old-failure", "a") == 1


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

        monkeypatch.setattr("basiq_async.receiver.inboxes._sql.datetime", Ahead)
    else:
        monkeypatch.setattr(sql, "_NOW", text("SELECT now() + interval '40 days'"))
    await inbox.complete("l", "a")
    await pruned(inbox)
    assert await inbox.seen("k")


@pytest.mark.usefixtures("due")
async def test_a_prune_that_fails_harms_no_delivery(
    inbox: SQLInbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sql, "_NOW", text("SELECT nothing"))
    assert await inbox.complete("k", "a")
    await pruned(inbox)
    assert "could not be pruned" in caplog.text


@pytest.mark.usefixtures("due")
async def test_a_record_does_not_wait_for_the_pruning(inbox: SQLInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()

    async def slow(most: int) -> int:
        await released.wait()
        return 0

    monkeypatch.setattr(inbox._pruning, "_batch", slow)
    async with asyncio.timeout(PATIENCE):
        for key in ("k", "l"):
            assert await inbox.complete(key, "a")
    released.set()
    await pruned(inbox)


# --- indexes ---


async def each_call(inbox: Any) -> None:
    """Have an inbox run every statement that it has about a key, and those that prune."""
    await inbox.claim("k", "a", lease=60)
    await inbox.claim("k", "b", lease=60)
    await inbox.complete("k", "a")
    await inbox.seen("k")
    await inbox.claim("l", "a", lease=60)
    await inbox.fail("l", "a")
    await inbox.release("l", "a")
    await inbox.quarantine("m", "a", letter("m"))
    await inbox.claim_quarantined("m", "a", lease=60)
    await inbox.fail("m", "a")
    await inbox.claim_quarantined("m", "a", lease=60)
    await inbox.complete("m", "a")
    await inbox.quarantine("n", "a", letter("n"))
    await inbox.quarantined(limit=1, after=(await inbox.quarantined(limit=1))[0])
    await inbox.drop_quarantined("n")
    inbox._pruning.start()
    await pruned(inbox)


async def test_no_statement_of_a_file_reads_a_whole_table(tmp_path: Path) -> None:
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
            if statement.startswith(("SELECT", "INSERT", "DELETE", "UPDATE")):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {statement.replace('-Inf', '-9e999')}")
                plans[statement] = [row[3] for row in rows]
    assert sum("inbox" in statement for statement in plans) >= 10
    assert sum("DELETE FROM inbox" in statement for statement in plans) > 1
    scans = {statement: plan for statement, plan in plans.items() if any("SCAN" in step for step in plan)}
    assert all("clock" in statement for statement in scans), scans  # which has one row


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_no_statement_of_a_database_reads_a_whole_table(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine, SQLInbox(engine, table=table) as inbox:
        found: dict[str, Any] = {}

        def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            if table in statement:
                found[statement] = parameters

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        await each_call(inbox)
        for quarantined in (False, True):
            await inbox.claim_transaction("o", "a", lease=60, quarantined=quarantined)
            await inbox.release("o", "a")
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        plans = {statement: await explain(engine, statement, parameters) for statement, parameters in found.items()}
    assert len(plans) > 12
    assert sum(f"DELETE FROM {table}" in statement for statement in plans) >= 3
    scans = {statement: plan for statement, plan in plans.items() if any(reads_all(step) for step in plan)}
    assert scans == {}


def reads_all(step: str) -> bool:
    """A page of the quarantine is read in the order of an index, from its beginning."""
    scan = step.startswith("SCAN") and step != "SCAN CONSTANT ROW"
    return "Seq Scan" in step or (scan and "USING INDEX" not in step)


async def explain(engine: AsyncEngine, statement: str, parameters: Any) -> list[str]:
    """The steps of a statement; PostgreSQL reads a whole table, however small, only where it has no index."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return [row[3] for row in rows]
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        return [row[0] for row in rows]
