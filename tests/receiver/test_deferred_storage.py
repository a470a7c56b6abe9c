"""Deferred deliveries in each inbox that keeps them on disk: exactly once with a session, put off, quarantined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async.receiver import Delivery, Result, SQLInbox, SQLiteInbox
from tests.support.databases import engine_of, new_table, run, scalar, url_of
from tests.support.deferring import all_handled, deferring, look_often, post_event
from tests.support.deliveries import payload, signed
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)
    monkeypatch.setattr("basiq_async.receiver._trying._LEAST_FAILURES", 2)


async def test_a_file_passes_each_tries_again_and_quarantines(tmp_path: Path) -> None:
    calls: list[str] = []

    async def handle(delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        if delivery.event_id == "e-bad" or (calls.count("e-once") == 1 and delivery.event_id == "e-once"):
            raise ValueError("no")

    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        stored = deferring(inbox, handle, keep_trying=0)
        done = await asyncio.gather(*(post_event(stored, event_id) for event_id in ("e-1", "e-bad", "e-once", "e-1")))
        assert sorted(each.result for each in done) == [Result.DEFERRED] * 3 + [Result.DUPLICATE]
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:  # the next process
        receiver = deferring(inbox, handle, keep_trying=0)
        async with receiver:
            await all_handled(receiver)
            [entry] = await receiver.quarantined()
            assert (entry.event_id, entry.failures) == ("e-bad", 2)
            assert (await post_event(receiver, "e-1")).result is Result.DUPLICATE
    assert sorted(calls) == ["e-1", "e-bad", "e-bad", "e-once", "e-once"]


@pytest.fixture(params=["asyncpg", "aiosqlite"])
async def stored(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[Any, str]]:
    table = new_table()
    async with engine_of(url_of(request, tmp_path)) as engine:
        await run(engine, f"CREATE TABLE {table}_rows (event_id TEXT)")
        yield engine, table


def writing(table: str, fails: Callable[[str], bool]) -> Any:
    async def handle(delivery: Delivery, session: Any) -> None:
        await session.execute(text(f"INSERT INTO {table}_rows VALUES (:id)"), {"id": delivery.event_id})
        if fails(delivery.event_id):
            raise ValueError("no")

    return handle


async def test_with_a_session_each_effect_happens_exactly_once(stored: tuple[Any, str]) -> None:
    engine, table = stored
    failed: set[str] = set()

    def fails(event_id: str) -> bool:
        again = event_id in failed
        failed.add(event_id)
        return event_id == "e-bad" or (event_id == "e-1" and not again)

    async with SQLInbox(engine, table=table) as inbox:
        receiver = deferring(inbox, writing(table, fails), keep_trying=0, concurrency=3)
        async with receiver:
            for _ in range(2):
                done = await asyncio.gather(
                    *(post_event(receiver, event_id) for event_id in ("e-1", "e-2", "e-3", "e-bad"))
                )
                assert {each.status for each in done} <= {200, 202}
            await all_handled(receiver)
            [entry] = await receiver.quarantined()
            assert (entry.event_id, entry.failures, entry.error) == ("e-bad", 2, "ValueError: no")
    for event_id, rows in (("e-1", 1), ("e-2", 1), ("e-3", 1), ("e-bad", 0)):
        assert await scalar(engine, f"SELECT count(*) FROM {table}_rows WHERE event_id = '{event_id}'") == rows


async def test_slow_deferred_handlers_with_sessions_leave_connections_for_live_ones(postgres: PostgresServer) -> None:
    engine = create_async_engine(postgres.url("asyncpg"), pool_size=5, max_overflow=0)
    ended = asyncio.Event()
    running, most = 0, 0

    async def slow(delivery: Delivery, session: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await ended.wait()
        running -= 1

    async def live(delivery: Delivery, session: Any) -> None:
        await session.execute(text("SELECT 1"))

    try:
        async with SQLInbox(engine, table=new_table(), timeout=2) as inbox:
            receiver = deferring(inbox, slow, concurrency=8)
            receiver.on("consent.*", deferred=False)(live)
            async with receiver:
                for number in range(10):
                    assert (await post_event(receiver, f"e-{number}")).status == 202
                async with asyncio.timeout(PATIENCE):
                    while running < 2:
                        await asyncio.sleep(0.01)
                bodies = [payload("consent.revoked", f"live-{number}") for number in range(40)]
                done = await asyncio.gather(
                    *(receiver.handle(signed(body, message_id=f"m-{each}"), body) for each, body in enumerate(bodies))
                )
                assert {each.status for each in done} == {204}
                ended.set()
                await all_handled(receiver)
            assert most == 2, "of the four sessions of a pool of five"
    finally:
        await engine.dispose()
