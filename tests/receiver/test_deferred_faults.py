"""What was acknowledged is not lost when the disk is full, the database goes away, or Basiq is away for hours."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async import InboxError, TransportError
from basiq_async.receiver import Delivery, MemoryInbox, Outcome, Result, SQLInbox, SQLiteInbox, WebhookReceiver
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, signed
from tests.support.inboxes import fail_in
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer, postgres_server

TYPE = "transactions.updated"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks often, its pauses are short, and so is a lease that nobody ends."""
    monkeypatch.setattr("basiq_async.receiver._worker._LOOK_EVERY", 0.02)
    monkeypatch.setattr("basiq_async.receiver._worker.Pause.SHORTEST", 0.02)
    monkeypatch.setattr("basiq_async.receiver._worker.Pause.LONGEST", 0.1)
    monkeypatch.setattr("basiq_async.receiver._settings._LEASE_MARGIN", 0.1)


def make(inbox: Any, handle: Callable[..., Any], **options: Any) -> WebhookReceiver:
    receiver = WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1", deferred=True, **options)
    receiver.on(TYPE)(handle)
    return receiver


async def post(receiver: WebhookReceiver, event_id: str, **more: object) -> Outcome:
    body = payload(TYPE, event_id, **more)
    return await receiver.handle(signed(body, message_id=f"msg_{event_id}"), body)


async def worked_off(receiver: WebhookReceiver) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if not (await receiver.waiting()).count:
                    return
            except InboxError:
                pass
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("quick")
async def test_a_full_disk_refuses_new_ones_and_loses_none_that_was_acknowledged(tmp_path: Path) -> None:
    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    def limit_pages(connection: sqlite3.Connection, most: int) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + most}")

    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        receiver = make(inbox, handle)
        await post(receiver, "e-0")
        await inbox._store.run(lambda connection: limit_pages(connection, 4))
        results = [(await post(receiver, f"e-{number}", more="x" * 5_000)).result for number in range(1, 8)]
        stored = [f"e-{number}" for number, result in enumerate(results, 1) if result is Result.DEFERRED]
        assert set(results) == {Result.DEFERRED, Result.UNAVAILABLE}
        assert (await receiver.waiting()).count == 1 + len(stored)
        await inbox._store.run(lambda connection: limit_pages(connection, 1_000))
        async with receiver:
            await worked_off(receiver)
    assert sorted(handled) == sorted(["e-0", *stored])


@pytest.fixture
def server() -> Any:
    with postgres_server() as running:
        yield running


@pytest.fixture
async def inbox(server: PostgresServer) -> AsyncIterator[SQLInbox]:
    engine = create_async_engine(server.url(), pool_size=10)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE effects (event_id TEXT)"))
    async with SQLInbox(engine, timeout=1) as opened:
        yield opened
    await engine.dispose()


@pytest.mark.usefixtures("quick")
async def test_a_database_that_goes_away_in_the_middle_loses_none_and_repeats_none(
    server: PostgresServer, inbox: SQLInbox
) -> None:
    begun = asyncio.Event()

    async def handle(delivery: Delivery, session: Any) -> None:
        await session.execute(text("INSERT INTO effects VALUES (:id)"), {"id": delivery.event_id})
        begun.set()
        await asyncio.sleep(0.05)

    receiver = make(inbox, handle, deferred_timeout=1, handler_timeout=1, inbox_timeout=1, attempts=1, concurrency=4)
    acknowledged = [f"e-{number}" for number in range(30)]
    for event_id in acknowledged:
        assert (await post(receiver, event_id)).status == 202
    async with receiver:
        await begun.wait()
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        refused = await post(receiver, "e-refused")
        assert (refused.result, refused.status) == (Result.UNAVAILABLE, 503)
        await asyncio.to_thread(server.start)
        await worked_off(receiver)
        assert list(await receiver.quarantined()) == [], "an outage counts for nothing, even with one attempt"
    engine = create_async_engine(server.url())
    async with engine.connect() as connection:
        found = [row[0] for row in await connection.execute(text("SELECT event_id FROM effects"))]
    await engine.dispose()
    assert sorted(found) == sorted(acknowledged)


@virtual.clocked
async def test_basiq_that_is_away_for_longer_than_all_attempts_take_costs_no_event_its_attempts() -> None:
    handled: list[str] = []
    back = virtual.now() + 7 * 3_600

    async def handle(delivery: Delivery) -> None:
        if virtual.now() < back:
            raise TransportError("Basiq is away")
        handled.append(delivery.event_id)

    receiver = make(MemoryInbox(clock=virtual.clock), handle, accept_loss=True, clock=virtual.clock)
    async with receiver:
        for number in range(20):
            body = payload(TYPE, f"e-{number}")
            await receiver.handle(signed(body, message_id=f"m-{number}", at=virtual.clock()), body)
        await asyncio.sleep(7 * 3_600)
        assert ((await receiver.waiting()).fresh, handled) == (20, [])
        await asyncio.sleep(90)
    assert len(handled) == len(set(handled)) == 20


@virtual.clocked
async def test_a_delivery_that_comes_while_a_replay_handles_its_event_is_not_handled_again() -> None:
    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)
        await asyncio.sleep(5)

    receiver = make(MemoryInbox(clock=virtual.clock), handle, accept_loss=True, clock=virtual.clock)
    delivery = Delivery("msg_e-1", TYPE, "e-1", {}, b"{}", {}, virtual.clock(), "w1")
    async with receiver:
        replaying = asyncio.create_task(receiver.dispatch(delivery))
        await asyncio.sleep(1)
        body = payload(TYPE, "e-1")
        done = await receiver.handle(signed(body, message_id="msg_e-1", at=virtual.clock()), body)
        assert done.result is Result.DEFERRED
        assert (await replaying).result is Result.HANDLED
        await asyncio.sleep(10)
        assert ((await receiver.waiting()).count, handled) == (0, ["e-1"])


@virtual.clocked
async def test_an_inbox_that_is_away_at_the_start_is_asked_again_for_what_waits() -> None:
    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    inbox = MemoryInbox(clock=virtual.clock)
    body = payload(TYPE, "e-1")
    before = make(inbox, handle, accept_loss=True, clock=virtual.clock)
    await before.handle(signed(body, message_id="m-1", at=virtual.clock()), body)
    for left in (True, False):
        away = fail_in("claim_due", error=InboxError("away"), inbox=inbox)
        receiver = WebhookReceiver(SECRET, inbox=away, webhook_id="w1", clock=virtual.clock)
        receiver.on(TYPE)(handle)
        async with receiver:
            await asyncio.sleep(150)
            assert handled == ([] if left else ["e-1"])
            del inbox.claim_due
            await asyncio.sleep(61)
            assert handled == ["e-1"]
