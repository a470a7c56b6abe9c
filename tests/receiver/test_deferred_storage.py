"""Deferred deliveries in each inbox that keeps them on disk: exactly once with a session, put off, set aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from basiq_async.receiver import Delivery, Outcome, Result, SQLInbox, SQLiteInbox, WebhookReceiver
from basiq_async.receiver.protocol import WaitingInbox
from tests.support.databases import engine_of, new_table, run, scalar, url_of
from tests.support.deliveries import SECRET, payload, signed
from tests.support.real_time import PATIENCE

TYPE = "transactions.updated"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is due again at once, and a worker looks often."""
    monkeypatch.setattr("basiq_async.receiver._worker._WAITS", (0.01,))
    monkeypatch.setattr("basiq_async.receiver._worker._LOOK_EVERY", 0.02)


def make(inbox: WaitingInbox, **options: Any) -> WebhookReceiver:
    return WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1", deferred=True, attempts=2, **options)


async def post(receiver: WebhookReceiver, event_id: str) -> Outcome:
    body = payload(TYPE, event_id)
    return await receiver.handle(signed(body, message_id=f"msg_{event_id}"), body)


async def worked_off(receiver: WebhookReceiver) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await receiver.waiting()).count:
            await asyncio.sleep(0.01)


async def test_a_file_hands_each_out_tries_again_and_sets_aside(tmp_path: Path) -> None:
    calls: list[str] = []

    async def handle(delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        if delivery.event_id == "e-bad" or (calls.count("e-once") == 1 and delivery.event_id == "e-once"):
            raise ValueError("no")

    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        stored = make(inbox)
        stored.on(TYPE)(handle)
        done = await asyncio.gather(*(post(stored, event_id) for event_id in ("e-1", "e-bad", "e-once", "e-1")))
        assert sorted(each.result for each in done) == [Result.DEFERRED] * 3 + [Result.DUPLICATE]
    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:  # the next process
        receiver = make(inbox)
        receiver.on(TYPE)(handle)
        async with receiver:
            await worked_off(receiver)
            [entry] = await receiver.quarantined()
            assert (entry.event_id, entry.failures) == ("e-bad", 2)
            assert (await post(receiver, "e-1")).result is Result.DUPLICATE
    assert sorted(calls) == ["e-1", "e-bad", "e-bad", "e-once", "e-once"]


@asynccontextmanager
async def database(request: pytest.FixtureRequest, folder: Path) -> AsyncGenerator[tuple[Any, str]]:
    table = new_table()
    async with engine_of(url_of(request, folder)) as engine:
        await run(engine, f"CREATE TABLE {table}_rows (event_id TEXT)")
        yield engine, table


@pytest.fixture(params=["asyncpg", "aiosqlite"])
async def stored(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[tuple[Any, str]]:
    async with database(request, tmp_path) as found:
        yield found


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
        receiver = make(inbox, concurrency=3)
        receiver.on(TYPE)(writing(table, fails))
        async with receiver:
            for _ in range(2):
                done = await asyncio.gather(*(post(receiver, event_id) for event_id in ("e-1", "e-2", "e-3", "e-bad")))
                assert {each.status for each in done} <= {200, 202}
            await worked_off(receiver)
            [entry] = await receiver.quarantined()
            assert (entry.event_id, entry.failures, entry.error) == ("e-bad", 2, "ValueError: no")
    for event_id, rows in (("e-1", 1), ("e-2", 1), ("e-3", 1), ("e-bad", 0)):
        assert await scalar(engine, f"SELECT count(*) FROM {table}_rows WHERE event_id = '{event_id}'") == rows
