"""A server process for the benchmark of inboxes. It prints its port, which is a free one."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from redis.asyncio import Redis
from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from standardwebhooks import Webhook, WebhookVerificationError

from basiq_async.receiver import Delivery, RedisInbox, SQLInbox, SQLiteInbox, WebhookReceiver

_WORK = 0.002
_METADATA = MetaData()
_EFFECTS = Table("effects", _METADATA, Column("n", Integer, primary_key=True), Column("event_id", String))
_HANDLED = Table("handled", _METADATA, Column("event_id", String, primary_key=True))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def wait(what: object) -> None:
    """Wait 2 ms: a handler without effects."""
    await asyncio.sleep(_WORK)


async def write(delivery: Delivery, session: AsyncSession) -> None:
    """Write a row: a handler with an effect in the database."""
    await session.execute(insert(_EFFECTS).values(event_id=delivery.event_id))


def by_hand(secret: str, engine: AsyncEngine | None) -> Handler:
    """Receive without this package: verify and, with an engine, insert event and effect in one transaction."""
    verifier, sessions = Webhook(secret), async_sessionmaker(engine, expire_on_commit=False)

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            verifier.verify(body, dict(request.headers), json_parse=False)
        except WebhookVerificationError:
            return web.Response(status=401)
        event = json.loads(body)
        if engine is None:
            await wait(event)
            return web.Response(status=204)
        async with sessions.begin() as session:
            row = postgresql.insert(_HANDLED).values(event_id=event["eventId"]).on_conflict_do_nothing()
            if (await session.execute(row.returning(_HANDLED.c.event_id))).first() is None:
                return web.Response(status=200)
            await session.execute(insert(_EFFECTS).values(event_id=event["eventId"]))
        return web.Response(status=204)

    return handle


def receiving(secret: str, inbox: Any, handler: Callable[..., Awaitable[None]]) -> Handler:
    receiver = WebhookReceiver(secret, webhook_id="w-1", inbox=inbox)
    receiver.on("*")(handler)
    return receiver.aiohttp_handler


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["none", "memory", "sqlite", "redis", "sql", "sql-session", "sql-by-hand"])
    parser.add_argument("--secret", default="")
    parser.add_argument("--at", default="", help="the path or the URL of the store")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    engine = create_async_engine(options.at, pool_size=64) if options.kind.startswith("sql-") else None
    if options.kind == "sql":
        engine = create_async_engine(options.at, pool_size=64)
    if engine is not None:
        async with engine.begin() as connection:
            await connection.run_sync(_METADATA.create_all)
    if options.kind == "none":
        handler = by_hand(options.secret, None)
    elif options.kind == "sql-by-hand":
        handler = by_hand(options.secret, engine)
    elif engine is not None:
        handler = receiving(options.secret, SQLInbox(engine), write if options.kind == "sql-session" else wait)
    elif options.kind == "redis":
        handler = receiving(options.secret, RedisInbox(Redis.from_url(options.at)), wait)
    else:
        handler = receiving(options.secret, SQLiteInbox(options.at) if options.kind == "sqlite" else None, wait)
    app = web.Application()
    app.router.add_post("/basiq", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


asyncio.run(main())
