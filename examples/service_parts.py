"""The parts of service_aiohttp.py and service_fastapi.py, which use PostgreSQL and any number of workers.

DATABASE_URL    such as postgresql+asyncpg://user:password@host/name
PUBLIC_URL      where Basiq reaches the service, such as https://service.example/basiq
BASIQ_API_KEY, and BASIQ_BASE_URL and PORT, which are optional
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from basiq_async import BasiqClient, BasiqError, Secret
from basiq_async.receiver import Delivery, SQLInbox, WebhookReceiver
from basiq_async.replay import recover

NAME = "changes"
"""Of the webhook. It is found by it after the url has changed, and no other service of the account may have it."""
EVENTS = ("consent.revoked", "account.updated")
TABLES = (
    "CREATE TABLE IF NOT EXISTS secret (secret text PRIMARY KEY, number bigserial, ends timestamptz)",
    "CREATE TABLE IF NOT EXISTS change (number bigserial PRIMARY KEY, type text NOT NULL, event_id text NOT NULL)",
)
EVERY, SOON = 1_800.0, 60.0
"""Seconds between recoveries, and after one that failed, or left the events of the last two minutes."""

logger = logging.getLogger("service")


class SecretTable:
    """The webhook's secret for all workers, and replaced ones for 28 hours: ``ensure`` writes, the receivers read."""

    def __init__(self, engine: AsyncEngine, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine, self._now = engine, now

    async def read(self) -> list[str]:
        statement = text("SELECT secret FROM secret WHERE ends IS NULL OR ends > :now ORDER BY number DESC")
        async with self._engine.connect() as connection:
            return list((await connection.execute(statement, {"now": self._now()})).scalars())

    async def write(self, secret: Secret) -> None:
        values = {"secret": secret.reveal(), "end": self._now() + timedelta(hours=28)}
        async with self._engine.begin() as connection:
            await connection.execute(text("LOCK TABLE secret IN SHARE ROW EXCLUSIVE MODE"))  # one writer at a time
            await connection.execute(
                text("UPDATE secret SET ends = :end WHERE ends IS NULL AND secret <> :secret"), values
            )
            await connection.execute(
                text(
                    "INSERT INTO secret (secret) VALUES (:secret) "
                    "ON CONFLICT (secret) DO UPDATE SET ends = NULL, number = DEFAULT"
                ),
                values,
            )


@asynccontextmanager
async def running() -> AsyncGenerator[WebhookReceiver]:
    """Start one worker. At the end, close the recovery first, then the receiver, then the client and the database."""
    async with opened() as (engine, inbox), BasiqClient() as basiq:
        secret = SecretTable(engine)
        webhook = await basiq.webhooks.ensure(
            url=os.environ["PUBLIC_URL"], name=NAME, subscribed_events=EVENTS, secret=secret, inbox=inbox
        )
        async with (
            make_receiver(webhook.id, secret, inbox) as receiver,
            in_background(recover_again_and_again(basiq, webhook.id, receiver)),
        ):
            yield receiver


@asynccontextmanager
async def receiver() -> AsyncGenerator[WebhookReceiver]:
    """Open the receiver for ``basiq-async ... --receiver service_parts:receiver``. Nothing else is started."""
    async with opened() as (engine, inbox), BasiqClient() as basiq:
        async for webhook in basiq.webhooks.list():
            if webhook.name == NAME:
                yield make_receiver(webhook.id, SecretTable(engine), inbox)
                return
        raise LookupError("the service has not run yet: it has no webhook")


@asynccontextmanager
async def opened() -> AsyncGenerator[tuple[AsyncEngine, SQLInbox]]:
    """Open the database, and make the tables that are missing."""
    engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=5, max_overflow=5)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))  # one worker at a time
            for table in TABLES:
                await connection.execute(text(table))
        async with SQLInbox(engine) as inbox:
            yield engine, inbox
    finally:
        await engine.dispose()


def make_receiver(webhook_id: str, secret: SecretTable, inbox: SQLInbox) -> WebhookReceiver:
    receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox, quarantine_after=5)

    @receiver.on("*")
    async def changed(delivery: Delivery, session: AsyncSession) -> None:
        row = {"type": delivery.event_type_id, "event_id": delivery.event_id}
        await session.execute(text("INSERT INTO change (type, event_id) VALUES (:type, :event_id)"), row)

    return receiver


async def recover_again_and_again(basiq: BasiqClient, webhook_id: str, receiver: WebhookReceiver) -> None:
    """Recover missed events at the start and at intervals. Workers that do it at once share the work."""
    while True:
        pause = EVERY
        try:
            recovery = await recover(basiq, webhook_id, receiver, concurrency=8)
            logger.info("recovered %d messages and events", recovery.handled)
            for problem in recovery.problems:
                logger.warning("left after the recovery: %s", problem)
            if recovery.recent:
                pause = SOON
        except BasiqError as error:
            logger.error("the recovery stopped, and goes on later: %s", error)
            pause = SOON
        await asyncio.sleep(pause)


@asynccontextmanager
async def in_background(work: Coroutine[object, object, None]) -> AsyncGenerator[None]:
    """Run ``work`` in the background of the block, and end it before the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the work in the background ended early", exc_info=error)
