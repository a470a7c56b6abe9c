"""A fake with a webhook and a history, and a service that recovers what it missed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from basiq_async import BasiqClient, InMemoryTransport, Message, Transport
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import Recovery, Replay, recover
from basiq_async.replay._recovery import RecoveryRun  # private: what recover returns
from basiq_async.testing import FakeBasiq, ManualClock, Quirks

URL = "https://service.example/basiq"
TYPE = "user.created"


@attrs.define
class World:
    """A fake with a webhook, whose endpoint responds with ``status``, and the inbox of a service.

    Once there is a receiver that is ``serving``, it gets what the endpoint would acknowledge. All handlers keep what
    they got, and fail for the events in ``poisoned``, or for each one while it ``fails``.
    """

    fake: FakeBasiq
    basiq: BasiqClient
    webhook_id: str
    got: list[str] = attrs.Factory(list[str])
    """The events that were handled."""
    given: list[Any] = attrs.Factory(list[Any])
    """The same as the deliveries or messages that handlers got."""
    poisoned: set[str] = attrs.Factory(set[str])
    fails: bool = False
    inbox: Any = attrs.Factory(MemoryInbox)
    status: int = 204
    serving: Any = None
    webhook_ids: Sequence[str] = ()
    """Those of the service, newest first; by default the only one."""
    options: Mapping[str, Any] = attrs.Factory(dict[str, Any])
    """Of each receiver."""

    def add_webhook(self, url: str = URL, types: Collection[str] = (TYPE,)) -> str:
        self.fake.route(url, self.receive)
        return self.fake.add_webhook(url, types)

    async def receive(self, headers: Any, body: bytes) -> int:
        if self.serving is None or self.status != 204:
            return self.status
        return int((await self.serving.handle(headers, body)).status)

    async def emit(self, count: int, *, status: int = 204, of: str = TYPE) -> list[str]:
        self.status = status
        return [(await self.fake.emit(of)).event_id for _ in range(count)]

    async def miss(self, count: int, *, of: str = TYPE) -> list[str]:
        """Events of an outage of ten minutes, whose attempts all fail."""
        made = await self.emit(count, status=500, of=of)
        await self.fake.advance(minutes=10)
        self.status = 204
        return made

    def receiver(self, *patterns: str, **options: Any) -> WebhookReceiver:
        ids = self.webhook_ids or self.webhook_id
        secrets = [self.fake.secret(each.id) for each in self.fake.webhooks()]
        receiver = WebhookReceiver(secrets, **{"inbox": self.inbox, "webhook_id": ids, **self.options, **options})
        receiver.on(*(patterns or ("*",)))(self.handle)
        return receiver

    async def handle(self, given: Delivery | Message) -> None:
        event_id = given.event_id or ""
        if self.fails or event_id in self.poisoned:
            raise ValueError("poisoned")
        self.got.append(event_id)
        self.given.append(given)

    async def start(self, *webhook_ids: str) -> WebhookReceiver:
        """Deploy the service with these webhooks, newest first."""
        self.webhook_ids = webhook_ids
        self.serving = receiver = await self.receiver().__aenter__()
        return receiver

    def replay(self, target: Any = None, *, webhook_id: str | None = None, **options: Any) -> Replay:
        target = self.receiver() if target is None else target
        return Replay(self.basiq, webhook_id or self.webhook_id, target, **{"inbox": self.inbox, **options})

    def recovery(self, target: Any = None, *, webhook_id: str | None = None, **options: Any) -> RecoveryRun:
        target = self.receiver() if target is None else target
        if isinstance(target, WebhookReceiver):
            options = {"inbox": target.inbox, **options}
        return recover(self.basiq, webhook_id or self.webhook_id, target, **options)

    async def recover(self, target: Any = None, **options: Any) -> Recovery:
        return await self.recovery(target, **options)

    async def disable(self) -> list[str]:
        made = await self.emit(1, status=500)
        await self.fake.advance(hours=30)
        return made

    async def reactivate(self) -> None:
        await self.basiq.webhooks.reactivate(self.webhook_id)
        await self.fake.advance(minutes=20)


@asynccontextmanager
async def a_world(
    age: timedelta = timedelta(),
    *,
    quirks: Quirks | None = None,
    seeded: int = 0,
    url: str = URL,
    types: Collection[str] = (TYPE,),
    transport: Callable[[FakeBasiq], Transport] = InMemoryTransport,
) -> AsyncIterator[World]:
    """A world whose fake began so long ago, with so many messages, one a minute."""
    fake = FakeBasiq(quirks=quirks, clock=ManualClock(datetime.now(UTC) - age))
    async with BasiqClient(fake.api_key, transport=transport(fake)) as basiq:
        made = World(fake, basiq, "")
        made.webhook_id = made.add_webhook(url, types)
        fake.seed_messages(seeded, made.webhook_id, every=60)
        yield made
