"""For how long an inbox remembers: for ever, if that is asked for, and a longer time brings nothing back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from basiq_async import ConfigurationError
from basiq_async.receiver import Inbox, MemoryInbox, SQLInbox, SQLiteInbox
from basiq_async.testing import ManualClock
from tests.support.databases import engine_of, inbox_of, let_time_be_believed, new_table, pruned, run

DAY = timedelta(days=1)


async def advance(clock: ManualClock, inbox: Inbox, days: int) -> None:
    """Let days pass as they do: a clock that jumps is not believed."""
    for _ in range(2 * days):
        clock.advance(DAY / 2)
        await inbox.complete(f"at {clock()}", "a")


async def test_none_is_for_ever(tmp_path: Path) -> None:
    clock = ManualClock()
    began = clock()
    async with SQLiteInbox(tmp_path / "inbox.db", clock=clock, remember=None) as file:
        for inbox in (file, MemoryInbox(clock=clock, remember=None)):
            await inbox.complete("k", "a")
            await advance(clock, inbox, 100)
            assert await inbox.known(["k"])
        assert await file.known_since() == began


async def test_a_longer_memory_in_a_file_brings_nothing_back(tmp_path: Path) -> None:
    clock = ManualClock()
    async with SQLiteInbox(tmp_path / "inbox.db", clock=clock, remember=10 * DAY) as inbox:
        await inbox.complete("early", "a")
        await advance(clock, inbox, 30)
        last = clock()
        known_since = await inbox.known_since()
        assert timedelta() <= last - 10 * DAY - known_since <= 4 * DAY
    for remember in (60 * DAY, None):
        async with SQLiteInbox(tmp_path / "inbox.db", clock=clock, remember=remember) as inbox:
            since = await inbox.known_since()
            assert known_since <= since < known_since + DAY, "what was forgotten stays unknown"
            assert not await inbox.known(["early"])
    async with SQLiteInbox(tmp_path / "inbox.db", clock=clock, remember=None) as inbox:
        await advance(clock, inbox, 40)
        assert last <= await inbox.known_since() <= last + timedelta(minutes=2), (
            "entries from before the change had their own end, and those since then none"
        )
        assert await inbox.known([f"at {last + DAY}"])


async def test_each_length_of_memory_that_was_ever_chosen_is_known_no_longer_than_it_matters(tmp_path: Path) -> None:
    clock = ManualClock()
    for number in range(60):
        async with SQLiteInbox(tmp_path / "inbox.db", clock=clock, remember=10 * DAY + number * DAY / 24) as inbox:
            await advance(clock, inbox, 1)
            rows = await inbox._store.run(lambda connection: connection.execute("SELECT * FROM kept").fetchall())
    assert len(rows) <= 18


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_a_longer_memory_in_a_database_brings_nothing_back(url: str) -> None:
    table = new_table()
    old, older = datetime.now(UTC) - 11 * DAY, datetime.now(UTC) - 90 * DAY
    async with engine_of(url) as engine:
        async with SQLInbox(engine, table=table, remember=10 * DAY) as inbox:
            await inbox.complete("early", "a")
            await pruned(inbox)
            at = f"{old:%Y-%m-%d %H:%M:%S.%f}"
            await run(
                engine,
                f"UPDATE {table} SET handled_at = '{at}'",
                f"UPDATE {table}_version SET began = '{older:%Y-%m-%d %H:%M:%S.%f}'",
            )
            await let_time_be_believed(engine, table)
            inbox._pruning.unpruned = 128  # private: the next record deletes old ones
            await inbox.complete("late", "a")
            await pruned(inbox)
        for remember in (60 * DAY, None):
            async with SQLInbox(engine, table=table, remember=remember) as inbox:
                assert abs(await inbox.known_since() - old) < timedelta(seconds=1)
                assert await inbox.known(["early", "late"]) == {"late"}
        async with inbox_of(url, table, remember=None) as inbox:
            inbox._pruning.unpruned = 128
            await run(engine, f"UPDATE {table} SET handled_at = '{at}'")
            await inbox.complete("new", "a")
            await pruned(inbox)
            assert await inbox.known(["late"]), "for ever"


@pytest.mark.parametrize("remember", [0, -1, float("inf"), float("nan")])
def test_no_other_duration_is_for_ever(remember: float) -> None:
    with pytest.raises(ConfigurationError, match="remember must be a finite number of seconds above 0"):
        MemoryInbox(remember=remember)
