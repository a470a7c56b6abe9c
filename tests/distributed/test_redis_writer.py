"""Someone who can write to Redis, without a key or a secret, can do what SECURITY.md lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from basiq_async.distributed import Fleet, Work
from basiq_async.receiver import RedisInbox, WebhookReceiver
from basiq_async.receiver.protocol import inbox_key
from tests.support.deliveries import Service, payload, signed
from tests.support.fleets import crew
from tests.support.histories import Recorder
from tests.support.real_time import PATIENCE

KEY = inbox_key("consent.revoked", "e-1", None, "webhook")


@asynccontextmanager
async def stranger(redis_url: str) -> AsyncIterator[Fleet]:
    """A fleet of somebody else on this Redis: it has the names of the job functions and nothing else."""
    fleet = Fleet(redis_url)

    @fleet.job("work")
    @asynccontextmanager
    async def work() -> AsyncIterator[Work]:
        raise AssertionError("the workers run their own function")
        yield

    async with fleet:
        yield fleet


async def test_a_job_over_another_webhook_gets_genuine_messages_of_that_webhook(redis_url: str) -> None:
    target = Recorder()
    async with crew(redis_url, target, messages=5) as team, stranger(redis_url) as other:
        another = team.fake.add_webhook("https://other.example/basiq")
        team.fake.seed_messages(7, another)
        other._notify = team.notify  # type: ignore[method-assign]
        job = await other.submit("work", another, key="theirs", rate=1_000)
        report = await job.wait(timeout=PATIENCE)
        genuine = {message.id async for message in team.client.messages.list(another)}
    assert report.handled == 7
    assert set(target.ids) == genuine


async def test_a_job_can_be_stopped_forgotten_and_its_quarantine_read_and_dropped(redis_url: str) -> None:
    async def refuse(message: object) -> None:
        raise RuntimeError("no")

    async with crew(redis_url, refuse, messages=3) as team, stranger(redis_url) as other:
        await team.run()
        theirs = await other.get("job")
        read = await theirs.quarantined()
        assert {entry.delivery_id for entry in read} == set(await team.ids())
        assert await theirs.drop_quarantined([read[0].delivery_id]) == 1
        await theirs.retry_quarantined()
        await theirs.cancel("somebody else")
        progress = await theirs.progress()
        assert (progress.state, progress.reason) == ("cancelled", "somebody else")
        await theirs.forget()
        assert await team.fleet.jobs() == []


@pytest.fixture
async def service(redis_url: str) -> AsyncIterator[tuple[WebhookReceiver, Service, RedisInbox]]:
    """The receiver, its handler, and another program's inbox on the same keys."""
    async with Redis.from_url(redis_url) as ours, Redis.from_url(redis_url) as theirs:
        handler = Service(webhook_id="webhook", inbox=RedisInbox(ours), quarantine_after=1)
        async with handler.receiver as receiver:
            yield receiver, handler, RedisInbox(theirs)


async def test_an_event_that_is_marked_as_handled_is_left_out(
    service: tuple[WebhookReceiver, Service, RedisInbox],
) -> None:
    receiver, handler, theirs = service
    await theirs.claim(KEY, "theirs", lease=60)
    await theirs.complete(KEY, "theirs")
    assert (await receiver.handle(signed(body := payload("consent.revoked", "e-1")), body)).status == 200
    assert handler.handled == []


async def test_an_event_whose_claim_is_held_gets_503(service: tuple[WebhookReceiver, Service, RedisInbox]) -> None:
    receiver, handler, theirs = service
    await theirs.claim(KEY, "theirs", lease=60)
    assert (await receiver.handle(signed(body := payload("consent.revoked", "e-1")), body)).status == 503
    assert handler.handled == []
    await theirs.release(KEY, "theirs")
    assert (await receiver.handle(signed(body := payload("consent.revoked", "e-1")), body)).status == 204


async def test_a_handled_event_whose_entry_is_deleted_is_handled_again(
    service: tuple[WebhookReceiver, Service, RedisInbox], redis_url: str
) -> None:
    receiver, handler, _ = service
    for _ in range(2):
        assert (await receiver.handle(signed(body := payload("consent.revoked", "e-1")), body)).status == 204
        async with Redis.from_url(redis_url) as redis:
            await redis.flushall()
    assert len(handler.handled) == 2


async def test_a_quarantined_delivery_can_be_read_and_dropped(
    service: tuple[WebhookReceiver, Service, RedisInbox],
) -> None:
    receiver, _, theirs = service
    await receiver.handle(signed(body := payload("user.broken", "e-2")), body)
    (found,) = await theirs.quarantined()
    assert b"e-2" in found.body
    assert await theirs.drop_quarantined(found.key)
    assert await receiver.quarantined() == []
