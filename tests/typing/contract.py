"""Checked by mypy and pyright in strict mode: what users type, and the types that they get. Never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, assert_type

from aiohttp import web
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from taskiq import AsyncBroker

from basiq_async import (
    AiohttpTransport,
    BasiqClient,
    Diagnosis,
    EnsuredWebhook,
    Event,
    EventType,
    F,
    InMemoryTransport,
    Message,
    Page,
    Paginator,
    Problem,
    RateLimitError,
    Request,
    Response,
    RetryPolicy,
    Secret,
    Transport,
    Webhook,
)
from basiq_async.distributed import Fleet
from basiq_async.models import JSON, EventTypeId
from basiq_async.receiver import (
    Delivery,
    Inbox,
    InboxEntry,
    MemoryInbox,
    Outcome,
    RedisInbox,
    SQLInbox,
    SQLiteInbox,
    WebhookReceiver,
)
from basiq_async.receiver.protocol import Claim, ClaimedEntry, TransactionalInbox, WaitingInbox
from basiq_async.replay import (
    HttpTarget,
    Inactivity,
    JSONLinesTarget,
    Plan,
    Recovery,
    Replay,
    Report,
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
        assert_type(basiq, BasiqClient)
        webhook = await basiq.webhooks.create(url="https://a.example", subscribed_events=["user.created"])
        assert_type(webhook, Webhook)
        assert_type(webhook.subscribed_events, tuple[EventTypeId, ...])
        assert_type(webhook.secret, Secret | None)
        ensured = await basiq.webhooks.ensure(url="https://a.example", subscribed_events=("x.y",))
        assert_type(ensured, EnsuredWebhook)
        assert_type(ensured.secret, Secret | None)
        assert_type(ensured.action, Literal["created", "updated", "reactivated", "unchanged", "elsewhere"])
        diagnosis = await basiq.webhooks.diagnose(webhook.id)
        assert_type(diagnosis, Diagnosis)
        assert_type(diagnosis.healthy, bool)
        event = await basiq.events.get("e")
        assert_type(event.data, JSON)
        assert_type(await basiq.events.fetch_entity(event), dict[str, Any])
        if webhook.status == "active" and event.type == "consent.revoked":
            print(webhook.id)
        assert_type(diagnosis.problems, tuple[Problem, ...])
        assert_type(diagnosis.problems[0].about, tuple[str, ...] | int | Inactivity | datetime | None)
        assert_type(await basiq.webhooks.reactivate("w"), Webhook)
        assert_type(basiq.webhooks.list(), Paginator[Webhook])
        assert_type(await basiq.webhooks.delete(webhook.id), None)
        messages = basiq.messages.list(webhook.id, filter=F("message.status").eq("Failed"), page_size=100, prefetch=0)
        assert_type(messages, Paginator[Message])
        async for message in messages:
            assert_type(message, Message)
            assert_type(message.delivered, bool | None)
            for attempt in message.attempts:
                assert_type(attempt.status_code, int | None)
                assert_type(attempt.timestamp, datetime | None)
            assert_type(await basiq.events.fetch(message), Event)
        assert_type(messages.cursor, str | None)
        async for page in messages.pages():
            assert_type(page, Page[Message])
        assert_type(await messages.collect(max_items=5), list[Message])
        assert_type(await messages.first(), Message | None)
        assert_type(await basiq.event_types.get("user.created"), EventType)
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
    assert_type((await recover(basiq, "w", receiver)).finished, bool)
    mine: Target = MyTarget()
    where: Where = since(timedelta(days=2)) & failed_only() & limit(100) & chosen
    async with HttpTarget("https://a.example", "whsec_") as http, JSONLinesTarget("export.jsonl") as export:
        for target in (handler, receiver, http, export, mine):
            replay = Replay(basiq, "w", target, inbox=inbox, where=where, rate=200, on_error="skip")
            assert_type(await replay.plan(), Plan)
            report = await replay.run(lambda progress: print(progress.rate))
            assert_type(report, Report)
            assert_type(report.skipped, Mapping[str, int])
            assert_type(await replay.retry_quarantined(), Report)
            assert_type(await replay.quarantined(limit=5), Sequence[InboxEntry])
            assert_type(await replay.drop_quarantined(["m1"]), int)
            replay.stop()


async def shared_replays(replay: Replay, broker: AsyncBroker) -> None:
    async def send(page: str) -> None: ...

    async for page in replay.pages():
        assert_type(page, str)
        await replay.work(page)
    assert_type(await share(replay, send, lambda progress: print(progress.pages_left)), Report)
    fleet = Fleet(broker)

    @fleet.job("refill")
    @asynccontextmanager
    async def refill(webhook_id: str) -> AsyncGenerator[Replay]:
        yield replay

    assert_type((await fleet.run("refill", "w")).quarantined, int)


async def saved(message: Message, session: AsyncSession) -> None: ...


async def replays_in_transactions(basiq: BasiqClient, inbox: SQLInbox) -> None:
    Replay(basiq, "w", saved, inbox=inbox)
    found = await recover(basiq, "w", saved, inbox=inbox)
    assert_type(found, Recovery)


async def keeps(receiver: WebhookReceiver, engine: AsyncEngine, redis: Redis) -> None:
    inboxes: list[Inbox] = [MemoryInbox(), SQLiteInbox("inbox.db"), SQLInbox(engine), RedisInbox(redis)]
    transactional: TransactionalInbox = SQLInbox(engine, table="seen")
    waiting: list[WaitingInbox] = [MemoryInbox(), SQLiteInbox("inbox.db"), SQLInbox(engine)]
    assert_type(await waiting[0].claim_due("t", limit=5, retries=1, lease=60), Sequence[ClaimedEntry])
    for inbox in [*inboxes, transactional]:
        assert_type(await inbox.claim("k", "t", lease=60), Claim)
        assert_type(await inbox.release("k", "t", failed=True), int)
        assert_type(await inbox.entries(limit=5), Sequence[InboxEntry])

    @receiver.on("consent.*")
    async def plain(delivery: Delivery) -> None: ...

    @receiver.on("user.*")
    async def transacted(delivery: Delivery, session: AsyncSession) -> None: ...

    @receiver.on("*")
    async def rest(delivery: Delivery) -> int:
        return 1


async def receiving(receiver: WebhookReceiver, app: web.Application, delivery: Delivery) -> None:
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

    outcome = await receiver.handle({"webhook-id": "m"}, b"{}")
    assert_type(outcome, Outcome)
    assert_type(outcome.retry_after, float | None)
    assert_type(outcome.headers, dict[str, str])
    assert_type(outcome.attempt, int | None)
    assert_type(await receiver.dispatch(delivery), Outcome)
    assert_type(await receiver.quarantined(), Sequence[InboxEntry])
    assert_type(await receiver.retry_quarantined(["m"]), Sequence[Outcome])
    assert_type(await receiver.drop_quarantined(["m"]), int)
    assert_type(receiver.unhandled, dict[str, int])
    app.router.add_post("/basiq", receiver.aiohttp_handler)
    receiver.setup(app, "/other")
