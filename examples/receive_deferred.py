"""A whole service with FastAPI whose handler works after the response: it reads a connection's transactions.

    uvicorn --factory receive_deferred:make_app --port 8080

The service stores each delivery in its inbox, responds 202, and handles it. More processes can take their share: run
any number of these in this folder, with the same environment.

    basiq-async work --receiver receive_deferred:receiver

DATABASE_URL           such as postgresql+asyncpg://...; by default a file of SQLite
BASIQ_WEBHOOK_ID       the webhook's id; its secret is in the file basiq.secret, which `webhooks ensure` writes
BASIQ_API_KEY          to look up the full events and the transactions
BASIQ_BASE_URL, PORT   both optional
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from basiq_async import BasiqClient, F
from basiq_async.receiver import Delivery, SecretFile, SQLInbox, WebhookReceiver


@asynccontextmanager
async def receiver() -> AsyncGenerator[WebhookReceiver]:
    """The receiver of the service, and of the process that works. Both make the tables, if they are not there."""
    engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///service.db"))
    try:
        async with engine.begin() as connection:
            await connection.execute(
                text("CREATE TABLE IF NOT EXISTS bookings (id VARCHAR(200) PRIMARY KEY, account VARCHAR(200))")
            )
        async with BasiqClient() as basiq, SQLInbox(engine) as inbox:
            made = WebhookReceiver(SecretFile("basiq.secret"), webhook_id=os.environ["BASIQ_WEBHOOK_ID"], inbox=inbox)

            async def fetch(delivery: Delivery) -> list[dict[str, Any]]:
                """Read before the transaction begins, so that it is short."""
                event = await delivery.event(basiq)
                assert isinstance(event.data, dict)
                of_one = F("connection.id").eq(str(event.data["connection"]))  # the one whose transactions changed
                return await basiq.list(f"/users/{event.user_id}/transactions", filter=of_one).collect()

            @made.on("transactions.updated", prepare=fetch, deferred=True)
            async def save(delivery: Delivery, session: AsyncSession, prepared: list[dict[str, Any]]) -> None:
                for each in prepared:
                    row = {"id": each["id"], "account": each.get("account")}
                    await session.execute(
                        text("INSERT INTO bookings VALUES (:id, :account) ON CONFLICT (id) DO NOTHING"), row
                    )
                print(f"{len(prepared)} transactions", flush=True)

            yield made
    finally:
        await engine.dispose()


def make_app() -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with receiver() as opened, opened:  # entered: from here on, this process works
            app.state.receiver = opened
            app.include_router(opened.fastapi_router("/basiq"))
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/readyz")
    async def ready() -> Response:
        return Response(status_code=200 if await app.state.receiver.is_ready() else 503)

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
