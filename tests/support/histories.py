"""Helpers for tests of the replay: a fake with a history, targets, checkpoints, and a transport that waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs

from basiq_async import BasiqClient, InMemoryTransport, Message, Request, Response, RetryPolicy
from basiq_async.replay import Checkpoint, MemoryCheckpoint, Replay, SQLiteCheckpoint
from basiq_async.replay.protocol import Commit
from basiq_async.testing import FakeBasiq, Quirks


@attrs.define
class History:
    """A client, and the fake whose history it reads."""

    client: BasiqClient
    fake: FakeBasiq
    webhook_id: str

    def replay(self, target: Any, *, checkpoint: Checkpoint | None = None, **options: Any) -> Replay:
        """Return a replay of the history, by default with a new ``MemoryCheckpoint``."""
        return Replay(self.client, self.webhook_id, target, checkpoint=checkpoint or MemoryCheckpoint(), **options)

    async def ids(self) -> list[str]:
        return [message.id async for message in self.client.messages.list(self.webhook_id)]


@asynccontextmanager
async def history(
    count: int, *, page_size: int = 500, failed: float = 0.0, quirks: Quirks | None = None, **seeding: Any
) -> AsyncIterator[History]:
    fake = FakeBasiq(page_size=page_size, quirks=quirks)
    webhook_id = fake.seed_messages(count, failed=failed, **seeding)
    retry = RetryPolicy(max_retries=1, base=0.0)
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake), retry=retry) as client:
        yield History(client, fake, webhook_id)


class Recorder:
    """A target that records the ids of accepted messages, and calls ``behave`` for each message."""

    def __init__(self, behave: Callable[[Message], Awaitable[object]] | None = None) -> None:
        self.ids: list[str] = []
        self.at_once = self.most_at_once = 0
        self._behave = behave

    async def __call__(self, message: Message) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self._behave is not None:
                await self._behave(message)
            self.ids.append(message.id)
        finally:
            self.at_once -= 1


class Refusing:
    """A target that raises ``error`` for the messages with these ids."""

    def __init__(self, *ids: str, error: Callable[[], BaseException] = lambda: ValueError("poisoned")) -> None:
        self.refused = set(ids)
        self.taken: list[str] = []
        self._error = error

    async def __call__(self, message: Message) -> None:
        if message.id in self.refused:
            raise self._error()
        self.taken.append(message.id)


class Watching(MemoryCheckpoint):
    """A checkpoint that records its commits, and whose ``save`` takes ``delay`` seconds."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__()
        self.commits: list[Commit] = []
        self.delay = delay

    async def save(self, commit: Commit) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        await super().save(commit)
        self.commits.append(commit)


async def execute(checkpoint: SQLiteCheckpoint, statement: str) -> None:
    """Run an SQL statement on the open connection of a checkpoint."""
    await checkpoint._call(checkpoint._current(), lambda connection: connection.execute(statement), transaction=False)


class Gated:
    """A transport on which each page of messages waits for ``let_through``, except the first ``free`` pages."""

    def __init__(self, fake: FakeBasiq, free: int = 0) -> None:
        self._inner = InMemoryTransport(fake)
        self._free = asyncio.Semaphore(free)
        self.asked = 0

    def let_through(self) -> None:
        self._free.release()

    async def send(self, request: Request, /) -> Response:
        if "/messages" in request.url:
            self.asked += 1
            await self._free.acquire()
        return await self._inner.send(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
