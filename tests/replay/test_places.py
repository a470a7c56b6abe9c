"""The place of a job in the history: links that expire, cursors that nobody accepts, and what counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from basiq_async.replay.protocol import ReplayJob

from basiq_async import (
    APIError,
    BadRequestError,
    BasiqClient,
    InMemoryTransport,
    Message,
    Request,
    Response,
)
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.receiver.protocol import inbox_key
from basiq_async.replay import MemoryCheckpoint, Replay, limit
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.histories import Recorder, history
from tests.support.scripted import Scripted, error, page

pytestmark = pytest.mark.usefixtures("both_orders")

HISTORY = "https://au-api.basiq.io/notifications/webhooks/w1/messages"


class Expiring:
    """A transport around another that refuses links to pages that were given out before ``expire``."""

    def __init__(self, fake: FakeBasiq, status: int = 410) -> None:
        self._inner = InMemoryTransport(fake)
        self._status = status
        self._known: set[str] = set()
        self._dead: set[str] = set()
        self.refused = 0

    def expire(self) -> None:
        self._dead |= self._known

    async def send(self, request: Request, /) -> Response:
        if "next=" in request.url:
            if request.url in self._dead:
                self.refused += 1
                return error(self._status)
            self._known.add(request.url)
        elif "/messages" in request.url:
            self._dead.clear()  # the first page gives out links anew; their text is the same
        return await self._inner.send(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("status", [400, 404, 410])
@pytest.mark.parametrize("behind", [20, 25])
async def test_a_page_link_that_has_expired_is_found_again_by_the_last_message(status: int, behind: int) -> None:
    fake = FakeBasiq(page_size=10)
    webhook_id = fake.seed_messages(60)
    transport = Expiring(fake, status)
    checkpoint, target = MemoryCheckpoint(), Recorder()
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=transport) as client:
        ids = [message.id async for message in client.messages.list(webhook_id)]
        first = await Replay(
            client, webhook_id, target, checkpoint=checkpoint, where=limit(behind), concurrency=1
        ).run()
        assert first.handled == behind
        transport.expire()
        report = await Replay(client, webhook_id, target, checkpoint=checkpoint).run()
    assert transport.refused == 1
    assert report.finished
    assert report.handled_in_all == 60
    assert target.ids == ids


async def test_a_link_that_expires_while_the_job_waits_is_found_again() -> None:
    fake = FakeBasiq(page_size=10)
    webhook_id = fake.seed_messages(60)
    transport = Expiring(fake)

    async def behave(message: Message) -> None:
        if len(target.ids) == 5:
            transport._dead |= {each.url for each in fake.requests if "next=" in each.url}
            transport.expire()

    target = Recorder(behave)
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=transport) as client:
        ids = [message.id async for message in client.messages.list(webhook_id)]
        report = await Replay(client, webhook_id, target, checkpoint=MemoryCheckpoint(), concurrency=1).run()
    assert transport.refused >= 1
    assert (report.handled, report.finished) == (60, True)
    assert target.ids == ids


async def test_a_plan_finds_the_place_again_too() -> None:
    fake = FakeBasiq(page_size=10)
    webhook_id = fake.seed_messages(60)
    transport = Expiring(fake)
    checkpoint = MemoryCheckpoint()
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=transport) as client:
        replay = Replay(client, webhook_id, Recorder(), checkpoint=checkpoint, where=limit(20))
        await replay.run()
        transport.expire()
        assert (await Replay(client, webhook_id, Recorder(), checkpoint=checkpoint).plan()).total == 40


async def test_a_refusal_of_the_first_page_is_no_lost_place() -> None:
    async with history(30) as h:
        h.fake.fail_next(1, status=400, path="*/messages")
        with pytest.raises(BadRequestError):
            await h.replay(Recorder()).run()
        with pytest.raises(APIError):
            await Replay(
                h.client, "4b1e0b9e-0000-4000-8000-000000000000", Recorder(), checkpoint=MemoryCheckpoint()
            ).run()


# --- counting ---


@pytest.mark.parametrize("with_receiver", [False, True])
async def test_a_limit_counts_what_reaches_the_handler_and_plan_and_run_agree(with_receiver: bool) -> None:
    inbox = MemoryInbox()
    async with history(60) as h:
        messages = [message async for message in h.client.messages.list(h.webhook_id)]
        for message in messages[:15]:
            key = inbox_key(message.event_type_id, message.event_id, message.id, h.webhook_id)
            await inbox.claim(key, "t", lease=9)
            await inbox.complete(key, "t")
        target: Any = Recorder()
        options: dict[str, Any] = {"inbox": inbox}
        got: list[str] = target.ids
        if with_receiver:
            secret = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cw=="
            target, options = WebhookReceiver(secret, webhook_id=h.webhook_id, inbox=inbox), {}

            @target.on("*")
            async def handle(delivery: Delivery) -> None:
                got.append(delivery.id)

        replay = h.replay(target, where=limit(10), concurrency=4, **options)
        assert (await replay.plan()).total == 10
        report = await replay.run()
        assert (report.handled, report.skipped["handled-before"]) == (10, 15)
        assert sorted(got) == sorted(message.id for message in messages[15:25])
        assert (await replay.plan()).total == 10


async def test_a_limit_that_the_inbox_uses_up_nowhere_reads_to_the_end() -> None:
    inbox = MemoryInbox()
    async with history(20) as h:
        first = h.replay(Recorder(), inbox=inbox)
        assert (await first.run()).handled == 20
        again = h.replay(Recorder(), inbox=inbox, where=limit(3), concurrency=8)
        report = await again.run()
        assert (report.handled, report.skipped, report.finished) == (0, {"handled-before": 20}, True)


async def test_what_a_killed_run_left_is_bounded_though_an_orderly_run_came_between() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(50) as h:
        await checkpoint.open(ReplayJob(h.webhook_id), concurrency=20)
        await checkpoint.aclose()
        short = await h.replay(Recorder(), checkpoint=checkpoint, where=limit(5)).run()
        assert short.repeated == 5
        rest = await h.replay(Recorder(), checkpoint=checkpoint).run()
        assert (rest.handled, rest.repeated) == (45, 15)


async def test_dead_letters_that_are_tried_again_say_nothing_about_what_a_killed_run_left() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(50) as h:
        await checkpoint.open(ReplayJob(h.webhook_id), concurrency=20)
        await checkpoint.aclose()
        await h.replay(Recorder(), checkpoint=checkpoint).retry_dead()
        assert (await h.replay(Recorder(), checkpoint=checkpoint).run()).repeated == 20


# --- one at a time ---


async def test_pages_that_overlap_give_each_message_once_without_an_inbox_too() -> None:
    items = [{"id": f"m{i}", "payload": {"eventTypeId": "user.created", "eventId": f"e{i}"}} for i in range(6)]
    script = Scripted(page(items[:4], f"{HISTORY}?next=2"), page(items[1:4], f"{HISTORY}?next=3"), page(items[3:]))
    target = Recorder()
    async with BasiqClient("a2V5", transport=script) as client:
        await Replay(client, "w1", target, checkpoint=MemoryCheckpoint()).run()
    assert target.ids == [f"m{i}" for i in range(6)]


async def test_the_same_message_twice_in_a_list_is_handled_once_and_never_twice_at_once() -> None:
    items = [{"id": f"m{i}", "payload": {"eventTypeId": "user.created", "eventId": f"e{i}"}} for i in range(6)]
    script = Scripted(page([*items, *items[3:]]))
    running: set[str] = set()

    async def behave(message: Message) -> None:
        assert message.id not in running
        running.add(message.id)
        await asyncio.sleep(0.002)
        running.discard(message.id)

    target = Recorder(behave)
    async with BasiqClient("a2V5", transport=script) as client:
        report = await Replay(client, "w1", target, checkpoint=MemoryCheckpoint(), inbox=MemoryInbox()).run()
    assert (report.handled, report.skipped, report.failed) == (6, {}, 0)
    assert sorted(target.ids) == [f"m{i}" for i in range(6)]


@pytest.mark.parametrize("with_receiver", [False, True])
@virtual.clocked
async def test_the_same_event_in_two_messages_waits_for_its_handler_and_no_longer(with_receiver: bool) -> None:
    items = [{"id": f"m{i}", "payload": {"eventTypeId": "user.created", "eventId": "e"}} for i in range(4)]
    got: list[str] = []
    inbox = MemoryInbox(clock=virtual.clock)

    async def work(message: Any) -> None:
        await asyncio.sleep(0.02)
        got.append(message.id)

    target: Any = Recorder(work)
    options: dict[str, Any] = {"inbox": inbox}
    if with_receiver:
        target, options = WebhookReceiver("whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cw==", inbox=inbox), {}
        target.on("*")(work)
    async with BasiqClient("a2V5", transport=Scripted(page(items))) as client:
        report = await Replay(client, "w1", target, checkpoint=MemoryCheckpoint(), **options).run()
    assert (report.handled, report.skipped) == (1, {"handled-before": 3})
    assert report.duration < 0.1
    assert len(got) == 1


async def test_an_entry_of_the_webhook_is_skipped_and_another_webhooks_is_not() -> None:
    inbox, target = MemoryInbox(), Recorder()
    async with history(2) as h:
        messages = [message async for message in h.client.messages.list(h.webhook_id)]
        keys = [
            inbox_key(messages[0].event_type_id, messages[0].event_id, messages[0].id, h.webhook_id),
            inbox_key(messages[1].event_type_id, messages[1].event_id, messages[1].id, "another-webhook"),
        ]
        for key in keys:
            await inbox.claim(key, "t", lease=9)
            await inbox.complete(key, "t")
        replay = h.replay(target, inbox=inbox)
        assert (await replay.plan()).total == 1
        await replay.run()
    assert target.ids == [messages[1].id]
