"""A test waits until no deferred delivery waits, and the back-offs pass by the clock of the fake."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from basiq_async import BasiqClient, InMemoryTransport, TransportError
from basiq_async.receiver import Deferred, Delivery, MemoryInbox, SQLInbox, SQLiteInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq, ManualClock, handle_waiting

URL = "https://service.example/basiq"


@pytest.fixture
def fake() -> FakeBasiq:
    return FakeBasiq(clock=ManualClock(datetime.now(UTC)))


def make(fake: FakeBasiq, handle: Callable[[Delivery], Awaitable[object]], **options: object) -> WebhookReceiver:
    webhook_id = fake.add_webhook(URL)
    inbox = MemoryInbox(clock=fake.clock)
    receiver = WebhookReceiver(
        fake.secret(webhook_id),
        webhook_id=webhook_id,
        inbox=inbox,
        clock=fake.clock,
        **{"deferred": True, **options},  # type: ignore[arg-type]
    )
    receiver.on("*")(handle)
    fake.route(URL, receiver)
    return receiver


@pytest.fixture
async def basiq(fake: FakeBasiq) -> AsyncIterator[BasiqClient]:
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        yield client


@pytest.mark.parametrize("entered", [False, True])
async def test_what_waits_is_handled_with_its_calls_of_basiq(
    fake: FakeBasiq, basiq: BasiqClient, entered: bool
) -> None:
    users: list[str | None] = []

    async def handle(delivery: Delivery) -> None:
        users.append((await delivery.event(basiq)).user_id)

    receiver = make(fake, handle)
    for number in range(20):
        await fake.emit("transactions.updated", user_id=f"u-{number}")
    assert (await receiver.waiting()).count == 20
    if entered:
        async with receiver:
            await handle_waiting(receiver, fake)
    else:
        await handle_waiting(receiver, fake)
    assert sorted(map(str, users)) == sorted(f"u-{number}" for number in range(20))


async def test_what_fails_is_tried_again_later_by_the_clock_of_the_fake_and_then_quarantined(fake: FakeBasiq) -> None:
    moments: list[datetime] = []

    async def handle(delivery: Delivery) -> None:
        moments.append(fake.now())
        raise ValueError("no")

    receiver = make(fake, handle)
    await fake.emit("transactions.updated")
    began = time.monotonic()
    await handle_waiting(receiver, fake)
    assert time.monotonic() - began < 60
    (entry,) = await receiver.quarantined()
    assert entry.failures == len(moments) > 140
    waits = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(moments)]
    for wait, meant in zip(waits, [5, 30, 300, *[1800] * (len(waits) - 3)], strict=True):
        assert 0.9 * meant <= wait <= 1.1 * meant + 1


async def test_an_outage_ends_by_the_clock_of_the_fake_or_the_limit(fake: FakeBasiq) -> None:
    until = fake.now() + timedelta(hours=2)

    async def handle(delivery: Delivery) -> None:
        if fake.now() < until:
            raise TransportError("Basiq is away")

    receiver = make(fake, handle)
    await fake.emit("transactions.updated")
    with pytest.raises(TimeoutError, match="1 deferred delivery still waits after 3,600 s"):
        await handle_waiting(receiver, fake, within=timedelta(hours=1))
    assert until - fake.now() == timedelta(hours=1)
    await handle_waiting(receiver, fake)
    assert list(await receiver.quarantined()) == []


async def test_nothing_that_waits_takes_no_time(fake: FakeBasiq) -> None:
    async def handle(delivery: Delivery) -> None: ...

    before = fake.now()
    await handle_waiting(make(fake, handle), fake)
    assert fake.now() == before


async def test_a_file_needs_no_clock_of_the_fake_where_nothing_fails(fake: FakeBasiq, tmp_path: object) -> None:
    async with SQLiteInbox(f"{tmp_path}/inbox.db") as inbox:
        webhook_id = fake.add_webhook(URL)
        receiver = WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=inbox, deferred=True)
        seen: list[str] = []

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            seen.append(delivery.event_id)

        fake.route(URL, receiver)
        made = await fake.emit("transactions.updated")
        await handle_waiting(receiver, fake)
        assert seen == [made.event_id]


async def test_a_handler_with_a_session_is_rehearsed_through_failures_on_the_receivers_clock(
    fake: FakeBasiq, tmp_path: Path
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/service.db")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE effects (event_id TEXT)"))
    moments: list[datetime] = []
    async with SQLInbox(engine) as inbox:
        webhook_id = fake.add_webhook(URL)
        receiver = WebhookReceiver(
            fake.secret(webhook_id), webhook_id=webhook_id, inbox=inbox, deferred=True, clock=fake.clock
        )

        @receiver.on("*")
        async def handle(delivery: Delivery, session: AsyncSession) -> None:
            moments.append(fake.now())
            await session.execute(text("INSERT INTO effects VALUES (:id)"), {"id": delivery.event_id})
            if len(moments) < 6:
                raise ValueError("not yet")

        fake.route(URL, receiver)
        made = await fake.emit("transactions.updated")
        await handle_waiting(receiver, fake)
        assert list(await receiver.quarantined()) == []
    async with engine.connect() as connection:
        found = [row[0] for row in await connection.execute(text("SELECT event_id FROM effects"))]
    await engine.dispose()
    assert (found, len(moments)) == ([made.event_id], 6)
    assert moments[-1] - moments[0] > timedelta(hours=0.9)


async def test_eight_failures_are_rehearsed_where_the_receiver_does_not_keep_trying(fake: FakeBasiq) -> None:
    calls: list[str] = []

    async def handle(delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        raise ValueError("no")

    receiver = make(fake, handle, deferred=Deferred(keep_trying=0))
    await fake.emit("transactions.updated")
    began = fake.now()
    await handle_waiting(receiver, fake)
    (entry,) = await receiver.quarantined()
    assert (entry.failures, len(calls)) == (8, 8)
    assert fake.now() - began < timedelta(hours=3)


async def test_a_type_without_a_handler_ends_in_the_quarantine(fake: FakeBasiq) -> None:
    async def handle(delivery: Delivery) -> None: ...

    before = make(fake, handle)
    await fake.emit("transactions.updated")
    after = WebhookReceiver(
        fake.secret(before.webhook_ids[0]),
        webhook_id=before.webhook_ids,
        inbox=before.inbox,
        clock=fake.clock,
    )
    await handle_waiting(after, fake)
    (entry,) = await after.quarantined()
    assert "no handler is registered" in entry.error


async def test_the_clock_of_the_fake_may_be_that_of_the_inbox_alone(fake: FakeBasiq) -> None:
    await fake.advance(3 * 86_400)  # far from the machine's time, by which deliveries are signed
    calls: list[str] = []

    async def handle(delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        if len(calls) < 4:
            raise ValueError("not yet")

    webhook_id = fake.add_webhook(URL)
    inbox = MemoryInbox(clock=fake.clock)
    receiver = WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=inbox, deferred=True)
    receiver.on("*")(handle)
    fake.route(URL, receiver)
    await fake.emit("transactions.updated")
    await handle_waiting(receiver, fake)
    assert len(calls) == 4
