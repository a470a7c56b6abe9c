"""The parts of service_aiohttp.py and service_fastapi.py, which use PostgreSQL and any number of workers.

DATABASE_URL    such as postgresql+asyncpg://user:password@host/name
PUBLIC_URL      where Basiq reaches the service, such as https://service.example/basiq
BASIQ_API_KEY, and BASIQ_BASE_URL and PORT, which are optional
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from basiq_async import BasiqClient, BasiqError, ServerError, TransportError
from basiq_async.receiver import Delivery, SQLInbox, WebhookReceiver
from basiq_async.replay import recover

EVENTS = ("consent.revoked", "account.updated")
TABLES = (
    "CREATE TABLE IF NOT EXISTS webhook (url text PRIMARY KEY, id text NOT NULL, secret text NOT NULL)",
    "CREATE TABLE IF NOT EXISTS change (number bigserial PRIMARY KEY, type text NOT NULL, event_id text NOT NULL)",
)
EVERY, SOON = 1_800.0, 60.0
"""Seconds between recoveries, and after one that failed, or left the events of the last two minutes."""

logger = logging.getLogger("service")


@asynccontextmanager
async def running() -> AsyncGenerator[WebhookReceiver]:
    """Start one worker. At the end, close the recovery first, then the receiver, then the client and the database."""
    engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=5, max_overflow=5)
    try:
        async with BasiqClient() as basiq, SQLInbox(engine) as inbox:
            webhook_id, secret = await subscribe(basiq, engine, os.environ["PUBLIC_URL"])
            async with (
                make_receiver(webhook_id, secret, inbox) as receiver,
                in_background(recover_again_and_again(basiq, webhook_id, receiver)),
            ):
                yield receiver
    finally:
        await engine.dispose()


@asynccontextmanager
async def receiver() -> AsyncGenerator[WebhookReceiver]:
    """Open the receiver for ``basiq-async ... --receiver service_parts:receiver``. Nothing else is started."""
    engine = create_async_engine(os.environ["DATABASE_URL"])
    try:
        async with engine.connect() as connection:
            stored = await load(connection, os.environ["PUBLIC_URL"])
        if stored is None:
            raise LookupError("the service has not run yet: no webhook is stored")
        async with SQLInbox(engine) as inbox, make_receiver(*stored, inbox) as made:
            yield made
    finally:
        await engine.dispose()


def make_receiver(webhook_id: str, secret: str, inbox: SQLInbox) -> WebhookReceiver:
    receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox, quarantine_after=5)

    @receiver.on("*")
    async def changed(delivery: Delivery, session: AsyncSession) -> None:
        row = {"type": delivery.event_type_id, "event_id": delivery.event_id}
        await session.execute(text("INSERT INTO change (type, event_id) VALUES (:type, :event_id)"), row)

    return receiver


async def subscribe(basiq: BasiqClient, engine: AsyncEngine, url: str) -> tuple[str, str]:
    """Create or update the webhook, and store its secret, which Basiq returns only then."""
    async with engine.begin() as connection:
        # One worker at a time: two workers must not create the webhook, of which only one would store the secret.
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('webhook'))"))
        for table in TABLES:
            await connection.execute(text(table))
        stored = await load(connection, url)
        try:
            webhook = await basiq.webhooks.ensure(url=url, subscribed_events=EVENTS)
            secret = webhook.secret
            if secret is None and stored is None:  # the webhook is older than this table
                secret = (await basiq.webhooks.reactivate(webhook.id)).secret
        except (TransportError, ServerError) as error:
            if stored is None:
                raise
            logger.warning("Basiq is away, the webhook is taken for as it was: %s", error)
            return stored
        if secret is not None:
            row = {"url": url, "id": webhook.id, "secret": secret.reveal()}
            await connection.execute(
                text(
                    "INSERT INTO webhook VALUES (:url, :id, :secret) "
                    "ON CONFLICT (url) DO UPDATE SET id = excluded.id, secret = excluded.secret"
                ),
                row,
            )
            stored = row["id"], row["secret"]
    assert stored is not None
    return stored


async def load(connection: AsyncConnection, url: str) -> tuple[str, str] | None:
    found = (await connection.execute(text("SELECT id, secret FROM webhook WHERE url = :url"), {"url": url})).first()
    return None if found is None else (found.id, found.secret)


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
