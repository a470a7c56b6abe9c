"""One event has one key in an inbox, whoever handles it: a receiver that knows its webhook or does not, or a replay."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import Delivery, Inbox, MemoryInbox, Result, WebhookReceiver
from basiq_async.replay import MemoryCheckpoint, Replay
from basiq_async.testing import FakeBasiq

SECRETS = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_dGhlLXNlY3JldC1vZi15b3VyLXdlYmhvb2s="


class World:
    """A webhook with three messages, a second one with the same events, and what was handled for each."""

    def __init__(self, client: BasiqClient, fake: FakeBasiq) -> None:
        self.client = client
        self.fake = fake
        self.inbox: Inbox = MemoryInbox()
        self.one, self.two = (fake.add_webhook(f"https://{name}.example/basiq") for name in ("one", "two"))
        self.got: list[str] = []

    def receiver(self, webhook_id: str | None = None, *, secret: str = SECRETS[0]) -> WebhookReceiver:
        receiver = WebhookReceiver(secret, inbox=self.inbox, webhook_id=webhook_id)

        @receiver.on("*")
        async def handler(delivery: Delivery) -> None:
            self.got.append(delivery.event_id)

        return receiver

    async def receive(self, receiver: WebhookReceiver, webhook_id: str) -> set[Result]:
        """Have a receiver take each message of a webhook."""
        messages = await self.client.messages.list(webhook_id).collect()
        return {(await receiver.dispatch(Delivery.from_message(each))).result for each in messages}

    async def replay(self, webhook_id: str) -> int:
        """Have a function handle each message of a webhook; return how many reached it."""

        async def handle(message: object) -> None:
            self.got.append(message.event_id)  # type: ignore[attr-defined]  # a Message

        report = await Replay(self.client, webhook_id, handle, checkpoint=MemoryCheckpoint(), inbox=self.inbox).run()
        return report.handled


@pytest.fixture
async def world() -> AsyncIterator[World]:
    fake = FakeBasiq()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        made = World(client, fake)
        for _ in range(3):
            await fake.emit("user.created")
        yield made


HANDLED, DUPLICATE = {Result.HANDLED}, {Result.DUPLICATE}


async def test_what_a_replay_of_a_function_handled_is_known_to_a_receiver_without_a_webhook_id(world: World) -> None:
    assert await world.replay(world.one) == 3
    assert await world.receive(world.receiver(), world.one) == DUPLICATE
    assert await world.replay(world.one) == 0


async def test_what_a_receiver_without_a_webhook_id_handled_is_known_to_a_replay(world: World) -> None:
    assert await world.receive(world.receiver(), world.one) == HANDLED
    assert await world.replay(world.one) == 0


async def test_a_receiver_that_is_told_its_webhook_id_later_knows_what_it_handled_before(world: World) -> None:
    assert await world.receive(world.receiver(), world.one) == HANDLED
    assert await world.receive(world.receiver(world.one), world.one) == DUPLICATE
    assert await world.replay(world.one) == 0
    assert await world.receive(world.receiver(), world.one) == DUPLICATE  # and when the id is taken away again


async def test_a_second_webhook_then_gets_every_event_of_its_own(world: World) -> None:
    await world.receive(world.receiver(), world.one)
    await world.receive(world.receiver(world.one), world.one)
    assert await world.receive(world.receiver(world.two, secret=SECRETS[1]), world.two) == HANDLED
    assert await world.replay(world.two) == 0
    assert len(world.got) == 6


@pytest.mark.parametrize("first", ["receiver", "replay"])
async def test_two_webhooks_on_one_inbox_do_not_hide_each_others_events(world: World, first: str) -> None:
    if first == "replay":
        assert await world.replay(world.two) == 3
    assert await world.receive(world.receiver(world.one), world.one) == HANDLED
    two = world.receiver(world.two, secret=SECRETS[1])
    assert await world.receive(two, world.two) == (DUPLICATE if first == "replay" else HANDLED)
    assert [await world.replay(each) for each in (world.one, world.two)] == [0, 0]
    assert await world.receive(world.receiver(world.one), world.one) == DUPLICATE
    assert len(world.got) == 6


async def test_a_webhook_that_was_made_again_is_the_same_to_a_receiver_that_knows_no_id(world: World) -> None:
    assert await world.replay(world.one) == 3  # by the old webhook's id
    assert await world.receive(world.receiver(), world.two) == DUPLICATE  # the same events, of the new one
    assert await world.replay(world.two) == 0


async def test_a_plan_and_a_reconciliation_look_under_the_same_keys_and_write_nothing(world: World) -> None:
    async def handle(message: object) -> None: ...

    inbox = world.inbox
    replay = Replay(world.client, world.one, handle, checkpoint=MemoryCheckpoint(), inbox=inbox)
    assert (await replay.plan()).total == 3
    assert vars(inbox)["_pinned"] == {}
    await world.receive(world.receiver(), world.one)
    assert (await replay.plan()).total == 0
    assert (await replay.reconcile(inbox)).missing == 0


async def test_a_replay_waits_for_what_a_receiver_without_a_webhook_id_is_handling(world: World) -> None:
    import asyncio

    receiver, gate = WebhookReceiver(SECRETS[0], inbox=world.inbox), asyncio.Event()

    @receiver.on("*")
    async def slow(delivery: Delivery) -> None:
        await gate.wait()
        world.got.append(delivery.event_id)

    message = await world.client.messages.list(world.one).first()
    assert message is not None
    receiving = asyncio.create_task(receiver.dispatch(Delivery.from_message(message)))
    await asyncio.sleep(0)
    replaying = asyncio.create_task(world.replay(world.one))
    await asyncio.sleep(0.03)
    gate.set()
    assert (await receiving).result is Result.HANDLED
    assert await replaying == 2
    assert len(set(world.got)) == len(world.got) == 3
