"""Helpers for tests of the replay: a fake with a history, targets, inboxes, and a transport that waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from types import EllipsisType
from typing import Any

import attrs

from basiq_async import BasiqClient, InMemoryTransport, Message, Response, RetryPolicy
from basiq_async.receiver import Delivery, Inbox, InboxEntry, MemoryInbox, WebhookReceiver
from basiq_async.receiver.protocol import inbox_key
from basiq_async.replay import BulkTarget, Record, Replay, Target
from basiq_async.replay.targets._adapters import choose_handling  # private: what a replay makes of a target
from basiq_async.testing import FakeBasiq, Quirks
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.scripted import Scripted, page


@attrs.define
class History:
    """A client, and the fake whose history it reads."""

    client: BasiqClient
    fake: FakeBasiq
    webhook_id: str

    def replay(self, target: Any, *, inbox: Inbox | None = None, **options: Any) -> Replay:
        """Return a replay of the history, by default with the target's record or inbox, or a new ``MemoryInbox``."""
        if inbox is None and isinstance(target, WebhookReceiver):
            inbox = target.inbox
        elif inbox is None and not (isinstance(target, BulkTarget) and isinstance(target, Record)):
            inbox = MemoryInbox(max_quarantined=10_000)
        return Replay(self.client, self.webhook_id, target, inbox=inbox, **options)

    async def messages(self) -> list[Message]:
        return [message async for message in self.client.messages.list(self.webhook_id)]

    async def ids(self) -> list[str]:
        return [message.id for message in await self.messages()]

    async def hold(self, inbox: Inbox, messages: Sequence[Message], *, lease: float) -> None:
        """Claim messages in an inbox, as another worker does."""
        for each in messages:
            key = inbox_key(each.event_id, each.id)
            await inbox.claim(key, f"another/{each.id}", lease=lease)


@asynccontextmanager
async def history(
    count: int, *, page_size: int = 500, failed: float = 0.0, quirks: Quirks | None = None, **seeding: Any
) -> AsyncIterator[History]:
    fake = FakeBasiq(page_size=page_size, quirks=quirks)
    webhook_id = fake.seed_messages(count, failed=failed, **seeding)
    retry = RetryPolicy(max_retries=1, base=0.0)
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake), retry=retry) as client:
        yield History(client, fake, webhook_id)


@asynccontextmanager
async def listed(
    items: list[Any], target: Any, *, before: Sequence[Response] = (), **options: Any
) -> AsyncIterator[Replay]:
    """A replay of items as Basiq lists them, by default with a new ``MemoryInbox``. ``before``: earlier responses."""
    async with BasiqClient("a2V5", transport=Scripted(*before, page(items))) as client:
        yield Replay(client, "w1", target, **{"inbox": MemoryInbox(), **options})


class Receiving:
    """A receiver that keeps the deliveries that it handled, and fails for messages with the ids in ``refused``."""

    def __init__(self, inbox: Inbox | None = None, *patterns: Any, **options: Any) -> None:
        self.receiver = WebhookReceiver(SECRET, inbox=inbox, **options)
        self.got: list[Delivery] = []
        self.refused = set[str]()
        self.receiver.on(*(patterns or ("*",)))(self._handle)

    async def _handle(self, delivery: Delivery) -> None:
        if delivery.id in self.refused:
            raise ValueError("poisoned")
        self.got.append(delivery)

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.got]


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


class Watching(MemoryInbox):
    """An inbox that lists what it records, call by call. Each such call takes ``delay`` seconds."""

    def __init__(self, delay: float = 0.0, **options: Any) -> None:
        super().__init__(max_quarantined=10_000, **options)
        self.completed: list[str] = []
        self.quarantined: list[str] = []
        self.delay = delay

    async def complete(self, key: str, token: str) -> bool:
        if self.delay:
            await asyncio.sleep(self.delay)
        self.completed.append(key)
        return await super().complete(key, token)

    async def quarantine(self, key: str, token: str, entry: InboxEntry) -> bool:
        if self.delay:
            await asyncio.sleep(self.delay)
        self.quarantined.append(entry.delivery_id)
        return await super().quarantine(key, token, entry)


class Away(MemoryInbox):
    """An inbox of which one call fails for a while, or hangs if there is no failure."""

    def __init__(self, call: str, failure: Exception | None, seconds: float) -> None:
        super().__init__(clock=virtual.clock)
        self.until = virtual.now() + seconds
        whole = getattr(self, call)

        async def ask(*args: Any, **options: Any) -> Any:
            if virtual.now() < self.until:
                await asyncio.sleep(0 if failure else 1_000)
                raise failure or AssertionError
            return await whole(*args, **options)

        setattr(self, call, ask)


class Collecting:
    """A bulk target without a record: what it got has its effect after a flush."""

    def __init__(self) -> None:
        self.buffer: list[str] = []
        self.kept: list[str] = []
        self.flushes = 0

    async def deliver(self, message: Message) -> str | None:
        self.buffer.append(message.id)
        return None

    async def flush(self) -> None:
        await asyncio.sleep(0)
        self.flushes += 1
        self.kept += self.buffer
        self.buffer.clear()


class Table(Collecting):
    """A target whose table is its own record."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.kept
        self.notes: dict[str, str] = {}

    async def deliver(self, message: Message) -> str | None:
        await asyncio.sleep(0)
        return await super().deliver(message)

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        await asyncio.sleep(0)
        return set(keys) & set(self.rows)

    async def note(self, name: str) -> str | None:
        return self.notes.get(name)

    async def set_note(self, name: str, text: str, *, expected: str | EllipsisType | None = ...) -> bool:
        if expected is not ... and self.notes.get(name) != expected:
            return False
        self.notes[name] = text
        return True


def shared_target(function: Any, inbox: Inbox, *, lease: float = 30.0) -> Target:
    """Return the target of a function that shares an inbox with others."""
    return choose_handling(function, inbox).open(lease=lease)


async def quarantine_of(replay: Replay) -> dict[str, InboxEntry]:
    """Return what is in the quarantine of a replay, by id."""
    return {entry.delivery_id: entry for entry in await replay.quarantined(limit=100_000)}
