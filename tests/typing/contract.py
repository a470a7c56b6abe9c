"""Checked by mypy and pyright in strict mode: what users type, and the types that they get. Never run.

What one function returns stands in ``tests/api.txt``. Here is what needs more: protocols, overloads, generics, fields.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Literal, assert_type

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from taskiq import AsyncBroker

from basiq_async import (
    AiohttpTransport,
    BasiqClient,
    Event,
    F,
    InMemoryTransport,
    Message,
    Page,
    RateLimitError,
    Request,
    Response,
    RetryPolicy,
    Secret,
    Transport,
)
from basiq_async.distributed import Fleet
from basiq_async.models import JSON, EventTypeId
from basiq_async.receiver import (
    Delivery,
    Inbox,
    MemoryInbox,
    RedisInbox,
    SQLInbox,
    SQLiteInbox,
    WebhookReceiver,
)
from basiq_async.receiver.protocol import TransactionalInbox, WaitingInbox
from basiq_async.replay import (
    HttpTarget,
    Inactivity,
    JSONLinesTarget,
    Replay,
    Target,
    Where,
    failed_only,
    limit,
    recover,
    share,
    since,
)


class MyTransport:
    async def send(self, request: Request, /) -> Response:
        return Response(200, {"content-type": "application/json"}, request.body or b"")

    async def aclose(self) -> None: ...


async def program() -> None:
    transports: list[Transport] = [MyTransport(), AiohttpTransport(), InMemoryTransport()]
    async with BasiqClient("key", transport=transports[0], retry=RetryPolicy(max_retries=2), timeout=5) as basiq:
        webhook = await basiq.webhooks.create(url="https://a.example", subscribed_events=["user.created"])
        assert_type(webhook.subscribed_events, tuple[EventTypeId, ...])
        ensured = await basiq.webhooks.ensure(url="https://a.example", subscribed_events=("x.y",))
        assert_type(ensured.secret, Secret | None)
        assert_type(ensured.action, Literal["created", "updated", "reactivated", "unchanged", "elsewhere"])
        event = await basiq.events.get("e")
        assert_type(event.data, JSON)
        if webhook.status == "active" and event.type == "consent.revoked":
            print(webhook.id)
        diagnosis = await basiq.webhooks.diagnose(webhook.id)
        assert_type(diagnosis.problems[0].about, tuple[str, ...] | int | Inactivity | datetime | None)
        messages = basiq.messages.list(webhook.id, filter=F("message.status").eq("Failed"), page_size=100, prefetch=0)
        async for message in messages:
            assert_type(message, Message)
            for attempt in message.attempts:
                assert_type(attempt.status_code, int | None)
                assert_type(attempt.timestamp, datetime | None)
        async for page in messages.pages():
            assert_type(page, Page[Message])
        assert_type(await messages.collect(max_items=5), list[Message])
        assert_type(await messages.first(), Message | None)
        try:
            await basiq.events.get("e")
        except RateLimitError as error:
            assert_type(error.retry_after, float | None)


class MyTarget:
    async def deliver(self, message: Message) -> str | None:
        return None

    async def flush(self) -> None: ...


async def handler(message: Message) -> None: ...


def chosen(message: Message) -> bool | None:
    return message.delivered


async def replays(basiq: BasiqClient, receiver: WebhookReceiver) -> None:
    inbox: Inbox = SQLiteInbox("job.db")
    mine: Target = MyTarget()
    where: Where = since(timedelta(days=2)) & failed_only() & limit(100) & chosen
    async with HttpTarget("https://a.example", "whsec_") as http, JSONLinesTarget("export.jsonl") as export:
        for target in (handler, receiver, http, export, mine):
            replay = Replay(basiq, "w", target, inbox=inbox, where=where, rate=200, on_error="skip")
            assert_type((await replay.run(lambda progress: print(progress.rate))).skipped, Mapping[str, int])


async def shared_replays(replay: Replay, broker: AsyncBroker) -> None:
    async def send(page: str) -> None: ...

    await share(replay, send, lambda progress: print(progress.pages_left))
    fleet = Fleet(broker)

    @fleet.job("refill")
    @asynccontextmanager
    async def refill(webhook_id: str) -> AsyncGenerator[Replay]:
        yield replay


async def saved(message: Message, session: AsyncSession) -> None: ...


async def replays_in_transactions(basiq: BasiqClient, inbox: SQLInbox) -> None:
    Replay(basiq, "w", saved, inbox=inbox)
    await recover(basiq, "w", saved, inbox=inbox)


async def keeps(receiver: WebhookReceiver, engine: AsyncEngine, redis: Redis) -> None:
    inboxes: list[Inbox] = [MemoryInbox(), SQLiteInbox("inbox.db"), SQLInbox(engine), RedisInbox(redis)]
    transactional: TransactionalInbox = SQLInbox(engine, table="seen")
    waiting: list[WaitingInbox] = [MemoryInbox(), SQLiteInbox("inbox.db"), SQLInbox(engine)]
    print(inboxes, transactional, waiting)

    @receiver.on("consent.*")
    async def plain(delivery: Delivery) -> None: ...

    @receiver.on("user.*")
    async def transacted(delivery: Delivery, session: AsyncSession) -> None: ...

    @receiver.on("*")
    async def rest(delivery: Delivery) -> int:
        return 1


async def receiving(receiver: WebhookReceiver) -> None:
    @receiver.on("user.created", "consent.*", "of.tomorrow")
    async def handle(delivery: Delivery) -> None: ...

    async def fetch(delivery: Delivery) -> Event:
        raise NotImplementedError

    @receiver.on("account.*", prepare=fetch)
    async def prepared_handler(delivery: Delivery, prepared: Event) -> None: ...

    @receiver.on("transactions.*", prepare=fetch)
    async def prepared_in_transaction(delivery: Delivery, session: AsyncSession, prepared: Event) -> None: ...

    @receiver.on("connection.*", prepare=fetch)
    async def by_name(delivery: Delivery, *, session: AsyncSession, prepared: Event) -> None: ...

    @receiver.on("*", prepare=fetch)  # type: ignore[call-overload]  # it prepares something else
    async def of_another_type(delivery: Delivery, prepared: str) -> None: ...  # pyright: ignore
