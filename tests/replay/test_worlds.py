"""Worlds of random changes to a service's webhooks: nothing is handled twice, and no verdict is false.

``make fuzz`` runs thousands of them.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, Diagnosis, InMemoryTransport, Request, Response, RetryPolicy
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import Recovery, recover
from basiq_async.replay._recovery import RecoveryRun  # private: what recover returns
from basiq_async.testing import FakeBasiq, ManualClock, Quirks, handle_waiting

WORLDS = int(os.environ.get("BASIQ_FUZZ_WORLDS", "25"))
FIRST = int(os.environ.get("BASIQ_FUZZ_FIRST", "0"))
STEPS = 14
TYPES = ("user.created", "consent.revoked")
AGES = timedelta(days=900)
"""The fake signs with the real time."""
LISTED = timedelta(days=7)
MISSED = {"undelivered", "never-sent", "unrecorded"}
LEFT = {*MISSED, "unknown", "unknown-activity", "quarantined", "waiting", "unrecoverable"}


class DurableInbox(MemoryInbox):
    may_lose = None  # type: ignore[assignment]  # a backup of it is restored


class Dying(InMemoryTransport):
    """A transport at whose nth request the task that recovers is killed."""

    dies_at: int | None = None
    victim: asyncio.Task[Any] | None = None

    async def send(self, request: Request) -> Response:
        if self.dies_at is not None:
            self.dies_at -= 1
            if self.dies_at == -1 and self.victim is not None:
                self.victim.cancel()
                await asyncio.sleep(0)
        return await super().send(request)


@attrs.define
class World:
    """A service, its webhooks, newest first, and what happened."""

    choices: random.Random
    fake: FakeBasiq
    basiq: BasiqClient
    transport: Dying
    inbox: MemoryInbox
    deferred: bool
    ids: list[str] = attrs.Factory(list[str])
    alive: dict[str, str] = attrs.Factory(dict[str, str])
    """The url of each webhook that Basiq has."""
    up: bool = True
    receiver: WebhookReceiver | None = None
    handled: Counter[str] = attrs.Factory(Counter[str])
    keys: dict[str, str] = attrs.Factory(dict[str, str])
    events: dict[str, tuple[datetime, str]] = attrs.Factory(dict[str, tuple[datetime, str]])
    backups: list[Any] = attrs.Factory(list[Any])
    excused: set[str] = attrs.Factory(set[str])
    """Events that a recovery has named as unrecoverable."""
    acts: list[str] = attrs.Factory(list[str])
    number: int = 0

    async def deploy(self) -> None:
        """Start the service with its webhooks."""
        if self.receiver is not None:
            await self.receiver.aclose()
        secrets = [self.fake.secret(each) for each in self.alive]
        options: dict[str, Any] = {"inbox": self.inbox, "clock": self.fake.clock, "tolerance": AGES}
        self.receiver = WebhookReceiver(secrets, webhook_id=self.ids, deferred=self.deferred, **options)
        self.receiver.on("*")(self.handle)
        await self.receiver._gate.ask(live=True)  # as its start does, which would also handle what waits
        await self.fake.advance(minutes=6)  # two clocks may differ by so much: what is lost at first is unknown
        self.backups.clear()

    async def handle(self, delivery: Delivery) -> None:
        self.handled[delivery.event_id] += 1
        assert self.handled[delivery.event_id] == 1, f"handled twice: {delivery}"
        assert self.keys.setdefault(delivery.event_id, delivery.key) == delivery.key
        assert delivery.webhook_id == self.ids[-1]

    async def receive(self, headers: Any, body: bytes) -> int:
        if not self.up or self.receiver is None:
            return 500
        return (await self.receiver.handle(headers, body)).status

    def url(self) -> str:
        self.number += 1
        url = f"https://service.example/{self.number}"
        self.fake.route(url, self.receive)
        return url

    def add_webhook(self, *, active: bool = True) -> str:
        url = self.url()
        types = TYPES if self.choices.random() < 0.8 else TYPES[:1]
        found = self.fake.add_webhook(url, types, active=active)
        self.alive[found] = url
        self.ids.insert(0, found)
        return found

    # --- what happens ---

    async def emit(self) -> None:
        for _ in range(self.choices.randint(1, 4)):
            event_type = self.choices.choice(TYPES)
            made = await self.fake.emit(event_type)
            self.events[made.event_id] = (self.fake.clock(), event_type)
            await self.fake.advance(seconds=self.choices.randint(1, 90))

    async def outage(self) -> None:
        self.up = False
        await self.emit()
        await self.fake.advance(hours=self.choices.choice((0.2, 3, 30)))
        if self.choices.random() < 0.5:
            await self.emit()
        self.up = True

    async def pass_time(self) -> None:
        await self.fake.advance(hours=self.choices.choice((1, 20, 80, 200)))

    async def reactivate(self) -> None:
        for each in self.alive:
            await self.basiq.webhooks.reactivate(each)
        await self.fake.advance(minutes=self.choices.choice((1, 20)))

    async def make_again(self) -> None:
        newest = next(each for each in self.ids if each in self.alive)
        await self.basiq.webhooks.delete(newest)
        del self.alive[newest]
        await self.emit()
        self.add_webhook(active=self.choices.random() < 0.7)
        await self.deploy()

    async def add_second(self) -> None:
        self.add_webhook(active=self.choices.random() < 0.7)
        await self.deploy()

    async def delete_old(self) -> None:
        for each in [each for each in self.alive if each != self.ids[0]]:
            await self.basiq.webhooks.delete(each)
            del self.alive[each]

    async def change_url(self) -> None:
        moved, new = self.choices.choice(list(self.alive.items())), self.url()
        found = await self.basiq.webhooks.ensure(url=new, move_from=moved[1], subscribed_events=TYPES)
        assert found.id == moved[0]
        self.alive[found.id] = new

    async def backup(self) -> None:
        kept = {name: dict(value) for name, value in vars(self.inbox).items() if isinstance(value, dict)}
        self.backups.append((kept, self.handled.copy()))

    async def restore(self) -> None:
        if self.backups:
            kept, self.handled = self.backups.pop()
            for name, value in kept.items():
                getattr(self.inbox, name).clear()
                getattr(self.inbox, name).update(value)
            self.handled = self.handled.copy()

    async def killed(self) -> None:
        self.transport.dies_at = self.choices.randint(0, 9)
        try:
            webhook_id = self.choices.choice(list(self.alive))
            self.transport.victim = asyncio.create_task(self.recover(webhook_id).run())
            with suppress(asyncio.CancelledError):
                await self.transport.victim
        finally:
            self.transport.dies_at = None

    async def work(self) -> None:
        if self.deferred and self.receiver is not None:
            await handle_waiting(self.receiver, self.fake)

    async def look(self) -> None:
        """Compare what doctor says with what a recovery does, and what that says with what happened."""
        await self.fake.advance(minutes=5)  # what happened just now is for the next recovery
        for webhook_id in list(self.alive):
            await self.check(webhook_id)

    # --- what must hold ---

    def recover(self, webhook_id: str, **more: Any) -> RecoveryRun:
        return recover(self.basiq, webhook_id, self.receiver, inbox=self.inbox, **more)  # type: ignore[arg-type]

    async def diagnose(self, webhook_id: str) -> tuple[Diagnosis, set[str]]:
        found = await self.basiq.webhooks.diagnose(webhook_id, receiver=self.receiver, max_items=None)
        return found, {each.code for each in found.problems}

    async def check(self, webhook_id: str) -> None:
        _, before = await self.diagnose(webhook_id)
        found = await self.recover(webhook_id)
        if not before & MISSED:
            assert found.handled == 0, f"doctor saw nothing to recover, and {found.handled} were"
        if found.unrecoverable or found.unknown_reach is not None:
            self.excuse(found)
            found = await self.recover(webhook_id, acknowledged=self.fake.clock())
        webhook, after = await self.diagnose(webhook_id)
        if not found.finished:
            return
        assert not after & LEFT, f"finished, and doctor names {after & LEFT}"
        now = self.fake.clock()
        for event_id, (created, event_type) in self.events.items():
            wanted = event_type in webhook.webhook.subscribed_events and created < now - timedelta(minutes=3)
            if wanted and created > now - LISTED + timedelta(hours=1):
                assert self.handled[event_id] or event_id in self.excused, f"false finished: {event_id} of {created}"

    def excuse(self, found: Recovery) -> None:
        for period in found.unrecoverable:
            for event_id, (created, _) in self.events.items():
                until = period.until or self.fake.clock()
                if period.since - timedelta(minutes=5) <= created <= until + timedelta(minutes=5):
                    self.excused.add(event_id)


ACTIONS: list[tuple[int, Callable[[World], Awaitable[None]]]] = [
    (5, World.emit),
    (4, World.outage),
    (3, World.pass_time),
    (3, World.reactivate),
    (2, World.make_again),
    (2, World.add_second),
    (2, World.delete_old),
    (2, World.change_url),
    (2, World.backup),
    (1, World.restore),
    (3, World.killed),
    (2, World.work),
    (5, World.look),
]


async def live(seed: int) -> World:
    choices = random.Random(seed)
    order: Any = choices.choice(("newest-first", "oldest-first"))
    listed: Any = choices.choice(("objects", "strings", "absent"))
    alone: Any = choices.choice(("objects", "objects", "objects", "strings", "absent"))
    quirks = Quirks(message_order=order, event_order=order, attempts=listed, attempts_by_id=alone)
    fake = FakeBasiq(quirks=quirks, clock=ManualClock(datetime.now(UTC) - timedelta(days=200)), page_size=5)
    transport = Dying(fake)
    retry = RetryPolicy(max_retries=0)
    async with BasiqClient(fake.api_key, transport=transport, retry=retry) as basiq:
        inbox = DurableInbox(clock=fake.clock, remember=None, max_entries=100_000)
        world = World(choices, fake, basiq, transport, inbox, deferred=choices.random() < 0.3)
        world.add_webhook()
        await world.deploy()
        await world.recover(world.ids[0])
        weights = [weight for weight, _ in ACTIONS]
        for _ in range(STEPS):
            ((_, act),) = choices.choices(ACTIONS, weights)
            world.acts.append(act.__name__)
            try:
                await act(world)
            except Exception as exc:
                exc.add_note(f"world {seed}: {', '.join(world.acts)}")
                raise
        await world.reactivate()
        await fake.advance(minutes=20)
        await world.work()
        await world.look()
        if world.receiver is not None:
            await world.receiver.aclose()
    return world


@pytest.mark.parametrize("seed", range(FIRST, FIRST + WORLDS))
async def test_in_any_world_nothing_is_handled_twice_and_no_verdict_is_false(seed: int) -> None:
    world = await live(seed)
    assert set(world.keys) >= set(world.handled)
