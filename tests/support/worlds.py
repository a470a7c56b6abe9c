"""A fake with a webhook and a history, and a service that recovers what it missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import Recovery, recover
from basiq_async.testing import FakeBasiq, ManualClock, Quirks

URL = "https://service.example/basiq"


@attrs.define
class World:
    """A fake with a webhook, whose endpoint responds with ``status``, and the inbox of a service."""

    fake: FakeBasiq
    basiq: BasiqClient
    webhook_id: str
    got: list[str] = attrs.Factory(list[str])
    poisoned: set[str] = attrs.Factory(set[str])
    inbox: MemoryInbox = attrs.Factory(MemoryInbox)
    status: int = 204

    async def emit(self, count: int, *, status: int = 204) -> list[str]:
        self.status = status
        return [(await self.fake.emit("user.created")).event_id for _ in range(count)]

    def receiver(self, **options: Any) -> WebhookReceiver:
        options = {"inbox": self.inbox, "webhook_id": self.webhook_id, **options}
        receiver = WebhookReceiver(self.fake.secret(self.webhook_id), **options)

        @receiver.on("*")
        async def handler(delivery: Delivery) -> None:
            self.take(delivery.event_id)

        return receiver

    def take(self, event_id: str) -> None:
        if event_id in self.poisoned:
            raise ValueError("poisoned")
        self.got.append(event_id)

    async def handle(self, message: Message) -> None:
        self.take(message.event_id or "")

    async def recover(self, target: Any, **options: Any) -> Recovery:
        if isinstance(target, WebhookReceiver):
            options = {"inbox": target.inbox, **options}
        return await recover(self.basiq, self.webhook_id, target, **options)

    async def disable(self) -> list[str]:
        made = await self.emit(1, status=500)
        await self.fake.advance(hours=30)
        return made

    async def reactivate(self) -> None:
        await self.basiq.webhooks.reactivate(self.webhook_id)
        await self.fake.advance(minutes=20)


@asynccontextmanager
async def a_world(
    age: timedelta = timedelta(), *, quirks: Quirks | None = None, seeded: int = 0
) -> AsyncIterator[World]:
    """A world whose fake began so long ago, with so many messages, one a minute."""
    fake = FakeBasiq(quirks=quirks, clock=ManualClock(datetime.now(UTC) - age))
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        made = World(fake, basiq, fake.add_webhook(URL, ["user.created"]))
        fake.seed_messages(seeded, made.webhook_id, every=60)

        async def receive(headers: Any, body: bytes) -> int:
            return made.status

        fake.route(URL, receive)
        yield made
