"""A history to replay, and what became of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.replay import MemoryCheckpoint, Replay
from basiq_async.testing import FakeBasiq

SECRET = "whsec_c2VjcmV0LW9mLXRoZS1yZXBsYXktdGVzdHM="


class History:
    """A webhook with ``count`` messages; ``handled`` counts what a handler was given, by id."""

    def __init__(self, count: int, **seeding: Any) -> None:
        self.fake = FakeBasiq()
        self.webhook_id = self.fake.seed_messages(count, **seeding)
        self.client = BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake))
        self.checkpoint = MemoryCheckpoint()
        self.handled: Counter[str] = Counter()

    async def handler(self, message: Message) -> None:
        self.handled[message.id] += 1

    def replay(self, target: Any = None, **options: Any) -> Replay:
        options.setdefault("checkpoint", self.checkpoint)
        return Replay(self.client, self.webhook_id, target or self.handler, **options)

    async def ids(self) -> list[str]:
        return [message.id async for message in self.client.messages.list(self.webhook_id)]
