"""A whole service with Starlette: receives webhooks, and shuts down cleanly.

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
from starlette.applications import Starlette
from starlette.routing import Route

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SecretFile, SQLiteInbox, WebhookReceiver


def make_app() -> Starlette:
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
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with basiq, inbox, receiver:
            yield

    # A Route, not a Mount: a Mount redirects /basiq to /basiq/, and Basiq does not follow redirects.
    return Starlette(lifespan=lifespan, routes=[Route("/basiq", receiver.asgi, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
