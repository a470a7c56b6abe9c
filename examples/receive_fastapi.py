"""A whole service with FastAPI: receives webhooks, and shuts down cleanly.

    basiq-async webhooks ensure --url URL --name consents --event consent.revoked --secret-file basiq.secret

shows the webhook's id, and stores its secret. That file and inbox.db must survive a deploy.

BASIQ_WEBHOOK_ID    the id of the webhook
BASIQ_API_KEY       to look up the full events
BASIQ_BASE_URL, PORT    both optional
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SecretFile, SQLiteInbox, WebhookReceiver


def make_app() -> FastAPI:
    basiq = BasiqClient()
    inbox = SQLiteInbox("inbox.db")
    receiver = WebhookReceiver(SecretFile("basiq.secret"), webhook_id=os.environ["BASIQ_WEBHOOK_ID"], inbox=inbox)

    @receiver.on("consent.*")
    async def consent_changed(delivery: Delivery) -> None:
        event = await delivery.event(basiq)
        print(f"{event.type} of user {event.user_id}", flush=True)

    @receiver.on("*")
    async def anything_else(delivery: Delivery) -> None:
        print(f"{delivery.event_type_id} {delivery.event_id}", flush=True)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with basiq, inbox:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(receiver.fastapi_router("/basiq"))
    return app


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
