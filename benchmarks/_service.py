"""A service that receives an event and writes a row, each event once, in several ways. It prints its port.

Each way is a FastAPI application on uvicorn, as the documentation of its library shows it. All check signatures, and
write the same effect into the same PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from orjson import loads
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.ext.asyncio.engine import AsyncEngine
from standardwebhooks import Webhook, WebhookVerificationError

from basiq_async.receiver import Deferred, Delivery, SQLInbox, WebhookReceiver

METADATA = MetaData()
EFFECTS = Table("effects", METADATA, Column("n", Integer, primary_key=True), Column("event_id", String))
HANDLED = Table("handled", METADATA, Column("event_id", String, primary_key=True))
DEFERRED = Table(
    "deferred",
    METADATA,
    Column("event_id", String, primary_key=True),
    Column("n", BigInteger, Identity()),
    Column("body", LargeBinary, nullable=False),
    Column("done_at", DateTime(timezone=True)),
)
Index("deferred_order", DEFERRED.c.n, postgresql_where=DEFERRED.c.done_at.is_(None))
AT_ONCE = 16
"""How many events each of those that work after the response handles at once."""
SLOW = 2.0
"""Seconds that a slow handler takes."""
INSERT_EFFECT = "INSERT INTO effects (event_id) VALUES ($1)"


def engine_of(url: str) -> AsyncEngine:
    return create_async_engine(url, pool_size=20)


async def write(delivery: Delivery, session: AsyncSession) -> None:
    """Write the effect: the handler of this package's services."""
    await session.execute(insert(EFFECTS).values(event_id=delivery.event_id))


async def write_by_connection(delivery: Delivery, session: AsyncSession) -> None:
    await (await session.connection()).execute(insert(EFFECTS).values(event_id=delivery.event_id))


async def write_slowly(delivery: Delivery, session: AsyncSession) -> None:
    await asyncio.sleep(SLOW)
    await write(delivery, session)


def receiver_of(secret: str, engine: AsyncEngine, handler: Any = write, **options: Any) -> WebhookReceiver:
    receiver = WebhookReceiver(secret, webhook_id="w-1", inbox=SQLInbox(engine), **options)
    receiver.on("*")(handler)
    return receiver


async def handle_by_session(sessions: async_sessionmaker[AsyncSession], event: dict[str, Any]) -> bool:
    """Handle an event once, by hand: its entry and its effect in one transaction of a session."""
    async with sessions.begin() as session:
        entry = postgresql.insert(HANDLED).values(event_id=event["eventId"]).on_conflict_do_nothing()
        if (await session.execute(entry.returning(HANDLED.c.event_id))).first() is None:
            return False
        await session.execute(insert(EFFECTS).values(event_id=event["eventId"]))
    return True


async def handle_by_connection(engine: AsyncEngine, event: dict[str, Any]) -> bool:
    """Handle an event once, by hand: the same with SQLAlchemy Core."""
    async with engine.begin() as connection:
        entry = postgresql.insert(HANDLED).values(event_id=event["eventId"]).on_conflict_do_nothing()
        if (await connection.execute(entry.returning(HANDLED.c.event_id))).first() is None:
            return False
        await connection.execute(insert(EFFECTS).values(event_id=event["eventId"]))
    return True


class _ByHand:
    """Verifies a request with standardwebhooks, and reads its event."""

    def __init__(self, secret: str) -> None:
        self._verifier = Webhook(secret)

    async def read(self, request: Request) -> dict[str, Any]:
        body = await request.body()
        try:
            self._verifier.verify(body, dict(request.headers), json_parse=False)
        except WebhookVerificationError:
            raise HTTPException(401) from None
        found: dict[str, Any] = loads(body)
        return found


def ours(secret: str, url: str) -> FastAPI:
    """This package's router, and a handler with a session."""
    app = FastAPI()
    app.include_router(receiver_of(secret, engine_of(url)).fastapi_router("/basiq"))
    return app


def ours_by_connection(secret: str, url: str) -> FastAPI:
    """This package's router, and a handler with a connection."""
    app = FastAPI()
    app.include_router(receiver_of(secret, engine_of(url), write_by_connection).fastapi_router("/basiq"))
    return app


def ours_mounted(secret: str, url: str) -> FastAPI:
    """This package's ASGI app as a route."""
    receiver = receiver_of(secret, engine_of(url))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with receiver:
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_route("/basiq", receiver.asgi, methods=["POST"])
    return app


def ours_deferred(secret: str, url: str, handler: Any = write) -> FastAPI:
    """This package's router, and a deferred handler with a session."""
    app = FastAPI()
    receiver = receiver_of(secret, engine_of(url), handler, deferred=Deferred(concurrency=AT_ONCE))
    app.include_router(receiver.fastapi_router("/basiq"))
    return app


def by_table(secret: str, url: str, takes: float = 0.0) -> FastAPI:
    """By hand, with care: a table of what is to be done, loops that take a row for each that was stored, and one that
    looks each second for what was left.
    """
    by_hand, news = _ByHand(secret), asyncio.Semaphore(0)
    sessions = async_sessionmaker(engine_of(url), expire_on_commit=False)
    open_rows = select(DEFERRED.c.event_id, DEFERRED.c.body).where(DEFERRED.c.done_at.is_(None))
    open_rows = open_rows.order_by(DEFERRED.c.n).with_for_update(skip_locked=True)

    async def handle_next() -> None:
        async with sessions.begin() as session:
            row = (await session.execute(open_rows.limit(1))).first()
            if row is None:
                return
            event = loads(row.body)
            await asyncio.sleep(takes)
            await session.execute(insert(EFFECTS).values(event_id=event["eventId"]))
            done = update(DEFERRED).where(DEFERRED.c.event_id == row.event_id).values(done_at=func.now())
            await session.execute(done)

    async def work() -> None:
        while True:
            await news.acquire()
            try:
                await handle_next()
            except Exception:
                logging.exception("an event failed")

    async def sweep() -> None:
        while True:
            await asyncio.sleep(1)
            if news.locked():  # no loop was woken for what is open now
                async with sessions.begin() as session:
                    left = len((await session.execute(open_rows.limit(AT_ONCE))).all())
                for _ in range(left):
                    news.release()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each()) for each in (*[work] * AT_ONCE, sweep)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    app = FastAPI(lifespan=lifespan)

    @app.post("/basiq")
    async def receive(request: Request) -> Response:
        event = await by_hand.read(request)
        async with sessions.begin() as session:
            entry = postgresql.insert(DEFERRED).values(event_id=event["eventId"], body=await request.body())
            await session.execute(entry.on_conflict_do_nothing())
        news.release()
        return Response(status_code=202)

    return app


def by_sqlalchemy(secret: str, url: str) -> FastAPI:
    """By hand: SQLAlchemy's session, and ``INSERT ... ON CONFLICT DO NOTHING``."""
    app, by_hand = FastAPI(), _ByHand(secret)
    sessions = async_sessionmaker(engine_of(url), expire_on_commit=False)

    @app.post("/basiq")
    async def receive(request: Request) -> Response:
        event = await by_hand.read(request)
        return Response(status_code=204 if await handle_by_session(sessions, event) else 200)

    return app


def by_asyncpg(secret: str, url: str) -> FastAPI:
    """By hand: asyncpg without SQLAlchemy."""
    import asyncpg

    by_hand, pools = _ByHand(secret), []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asyncpg.create_pool(_plain(url), min_size=20, max_size=20) as pool:
            pools.append(pool)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/basiq")
    async def receive(request: Request) -> Response:
        event = await by_hand.read(request)
        entry = "INSERT INTO handled (event_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING event_id"
        async with pools[0].acquire() as connection, connection.transaction():
            if await connection.fetchval(entry, event["eventId"]) is None:
                return Response(status_code=200)
            await connection.execute(INSERT_EFFECT, event["eventId"])
        return Response(status_code=204)

    return app


def by_procrastinate(secret: str, url: str) -> FastAPI:
    """A task of procrastinate for each event, by a worker in the same process."""
    import procrastinate

    by_hand, engine = _ByHand(secret), engine_of(url)
    queue = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=_plain(url)))
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @queue.task(name="handle")
    async def handle(event: dict[str, Any]) -> None:
        await handle_by_session(sessions, event)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with queue.open_async():
            if not await queue.check_connection_async():
                await queue.schema_manager.apply_schema_async()
            worker = asyncio.create_task(queue.run_worker_async(concurrency=AT_ONCE, install_signal_handlers=False))
            yield
            worker.cancel()
            await asyncio.wait([worker], timeout=10)

    app = FastAPI(lifespan=lifespan)

    @app.post("/basiq")
    async def receive(request: Request) -> Response:
        await handle.defer_async(event=await by_hand.read(request))
        return Response(status_code=204)

    return app


def by_dbos(secret: str, url: str, *, plain: bool = False) -> FastAPI:
    """A workflow of DBOS for each event, whose id is the event's. The effect is a transaction of its datasource, or,
    ``plain``, a step that has a session of its own: it may write twice where its process is killed.
    """
    from dbos import DBOS, DBOSConfig, SetWorkflowID
    from dbos._datasource_postgres import PostgresAsyncDatasource

    by_hand = _ByHand(secret)
    config: DBOSConfig = {"name": "bench", "system_database_url": _plain(url), "log_level": "ERROR"}
    DBOS(config=config)
    sources: list[Any] = []
    sessions = async_sessionmaker(engine_of(url), expire_on_commit=False)

    async def write_effect(event_id: str) -> None:
        await sources[0].sql_session().execute(insert(EFFECTS).values(event_id=event_id))

    @DBOS.step()
    async def write_in_step(event_id: str) -> None:
        async with sessions.begin() as session:
            await session.execute(insert(EFFECTS).values(event_id=event_id))

    @DBOS.workflow()
    async def handle(event: dict[str, Any]) -> None:
        if plain:
            await write_in_step(event["eventId"])
        else:
            await sources[0].run_tx_step_async({"isolation_level": "READ COMMITTED"}, write_effect, event["eventId"])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not plain:
            sources.append(await PostgresAsyncDatasource.create(_plain(url)))
        DBOS.launch()
        yield
        DBOS.destroy()

    app = FastAPI(lifespan=lifespan)

    @app.post("/basiq")
    async def receive(request: Request) -> Response:
        event = await by_hand.read(request)
        with SetWorkflowID(event["eventId"]):
            await DBOS.start_workflow_async(handle, event)
        return Response(status_code=204)

    return app


def _plain(url: str) -> str:
    return url.replace("postgresql+asyncpg", "postgresql")


WAYS: dict[str, Callable[[str, str], FastAPI]] = {
    "ours": ours,
    "ours-by-connection": ours_by_connection,
    "ours-mounted": ours_mounted,
    "ours-deferred": ours_deferred,
    "ours-slow": partial(ours_deferred, handler=write_slowly),
    "table": by_table,
    "table-slow": partial(by_table, takes=SLOW),
    "sqlalchemy": by_sqlalchemy,
    "asyncpg": by_asyncpg,
    "procrastinate": by_procrastinate,
    "dbos": by_dbos,
    "dbos-step": partial(by_dbos, plain=True),
}


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        print(sockets[0].getsockname()[1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--secret", default="")
    parser.add_argument("--at", default="", help="the URL of the database")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(WAYS[options.way](options.secret, options.at), loop="asyncio", log_level="critical")
    config.access_log = False
    _Server(config).run([listening])


if __name__ == "__main__":
    main()
