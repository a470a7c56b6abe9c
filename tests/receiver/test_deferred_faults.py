"""What was acknowledged is not lost when the disk is full, the database goes away, or Basiq is away for hours."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import attrs
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from basiq_async import InboxError
from basiq_async.receiver import Delivery, MemoryInbox, Result, SQLInbox, SQLiteInbox, WebhookReceiver
from tests.support import virtual
from tests.support.deferring import TYPE, all_handled, deferring, look_often, post_event
from tests.support.deliveries import SECRET, quarantined_delivery
from tests.support.inboxes import fail_in
from tests.support.servers import PostgresServer, postgres_server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks often, its pauses are short, and so is a lease that is left to end."""
    look_often(monkeypatch)
    monkeypatch.setattr("basiq_async.receiver._settings._LEASE_MARGIN", 0.1)


@pytest.mark.usefixtures("quick")
async def test_a_full_disk_refuses_new_ones_and_loses_none_that_was_acknowledged(tmp_path: Path) -> None:
    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    def limit_pages(connection: sqlite3.Connection, most: int) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + most}")

    async with SQLiteInbox(tmp_path / "inbox.db") as inbox:
        receiver = deferring(inbox, handle)
        await post_event(receiver, "e-0")
        await inbox._store.run(lambda connection: limit_pages(connection, 4))
        results = [(await post_event(receiver, f"e-{number}", more="x" * 5_000)).result for number in range(1, 8)]
        stored = [f"e-{number}" for number, result in enumerate(results, 1) if result is Result.DEFERRED]
        assert set(results) == {Result.DEFERRED, Result.UNAVAILABLE}
        assert (await receiver.waiting()).count == 1 + len(stored)
        await inbox._store.run(lambda connection: limit_pages(connection, 1_000))
        async with receiver:
            await all_handled(receiver)
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

    receiver = deferring(inbox, handle, timeout=1, concurrency=4, times={"handler_timeout": 1, "inbox_timeout": 1})
    acknowledged = [f"e-{number}" for number in range(30)]
    for event_id in acknowledged:
        assert (await post_event(receiver, event_id)).status == 202
    async with receiver:
        await begun.wait()
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        refused = await post_event(receiver, "e-refused")
        assert (refused.result, refused.status) == (Result.UNAVAILABLE, 503)
        await asyncio.to_thread(server.start)
        await all_handled(receiver)
        assert list(await receiver.quarantined()) == []
    engine = create_async_engine(server.url())
    async with engine.connect() as connection:
        found = [row[0] for row in await connection.execute(text("SELECT event_id FROM effects"))]
    await engine.dispose()
    assert sorted(found) == sorted(acknowledged)


@pytest.mark.usefixtures("quick")
async def test_a_statement_that_always_times_out_counts_as_failures_with_its_error_and_is_quarantined(
    inbox: SQLInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.receiver._trying._LEAST_FAILURES", 3)
    calls: list[str] = []

    async def handle(delivery: Delivery, session: Any) -> None:
        calls.append(delivery.event_id)
        await session.execute(text("INSERT INTO effects VALUES (:id)"), {"id": delivery.event_id})
        if delivery.event_id == "e-bad":
            await session.execute(text("SET LOCAL statement_timeout = 1"))
            await session.execute(text("SELECT pg_sleep(10)"))

    receiver = deferring(inbox, handle, keep_trying=0)
    async with receiver:
        for event_id in ("e-bad", "e-1", "e-2"):
            assert (await post_event(receiver, event_id)).status == 202
        await all_handled(receiver)
        (entry,) = await receiver.quarantined()
    assert (entry.event_id, entry.failures, calls.count("e-bad")) == ("e-bad", 3, 3)
    assert "statement timeout" in entry.error
    async with inbox._store.engine.connect() as connection:
        found = sorted(row[0] for row in await connection.execute(text("SELECT event_id FROM effects")))
    assert found == ["e-1", "e-2"]


@virtual.clocked
async def test_a_delivery_that_comes_while_a_replay_handles_its_event_is_not_handled_again() -> None:
    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)
        await asyncio.sleep(5)

    receiver = deferring(MemoryInbox(clock=virtual.clock), handle, times={"clock": virtual.clock})
    delivery = Delivery("msg_e-1", TYPE, "e-1", {}, b"{}", {}, virtual.clock())
    async with receiver:
        replaying = asyncio.create_task(receiver.dispatch(delivery))
        await asyncio.sleep(1)
        done = await post_event(receiver, "e-1", at=virtual.clock())
        assert done.result is Result.DEFERRED
        assert (await replaying).result is Result.HANDLED
        await asyncio.sleep(10)
        assert ((await receiver.waiting()).count, handled) == (0, ["e-1"])


@pytest.mark.parametrize(
    ("call", "body", "said"),
    [
        ("put_off", b'{"eventTypeId": "of.nobody", "eventId": "e-1"}', "stays claimed until its lease runs out: "),
        ("quarantine", b"[", "could not be put into the quarantine: "),
    ],
)
@virtual.clocked
async def test_a_claim_that_cannot_be_ended_is_named_and_ends_with_its_lease(
    call: str, body: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    await inbox.store(attrs.evolve(quarantined_delivery("k"), body=body, failures=0))
    away = fail_in(call, error=InboxError("away"), inbox=inbox)
    async with deferring(away, AsyncMock(), times={"clock": virtual.clock}):
        await asyncio.sleep(5)
        assert caplog.text.count(f"{said}InboxError: away") == 1
        del inbox.__dict__[call]
        await asyncio.sleep(90)
    assert len([*await inbox.entries(waiting=True), *await inbox.entries()]) == 1


@virtual.clocked
async def test_an_inbox_that_is_away_at_the_start_is_asked_again_for_what_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    inbox = MemoryInbox(clock=virtual.clock)
    before = deferring(inbox, handle, times={"clock": virtual.clock})
    await post_event(before, "e-1", at=virtual.clock())
    for left in (True, False):
        away = fail_in("claim_due", error=InboxError("away"), inbox=inbox)
        receiver = WebhookReceiver(SECRET, inbox=away, webhook_id="w1", clock=virtual.clock)
        receiver.on(TYPE)(handle)
        async with receiver:
            await asyncio.sleep(150)
            assert handled == ([] if left else ["e-1"])
            assert "deliveries that wait could not be claimed: InboxError: away" in caplog.text
            del inbox.claim_due
            await asyncio.sleep(61)
            assert handled == ["e-1"]
