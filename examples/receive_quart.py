"""A whole service with Quart: receives webhooks, and shuts down cleanly.

An event is handled again only if a kill interrupted it.

BASIQ_WEBHOOK_SECRET   the secret that Basiq returned when the webhook was created
BASIQ_WEBHOOK_ID       its id, which `basiq-async webhooks list` shows too
BASIQ_API_KEY          to look up the full events
BASIQ_BASE_URL, BASIQ_INBOX (a file), PORT    all three optional
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from quart import Quart

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver


def make_app() -> Quart:
    basiq = BasiqClient(base_url=os.environ.get("BASIQ_BASE_URL", "https://au-api.basiq.io"))
    inbox = SQLiteInbox(os.environ.get("BASIQ_INBOX", "inbox.db"))
    secret, webhook_id = os.environ["BASIQ_WEBHOOK_SECRET"], os.environ["BASIQ_WEBHOOK_ID"]
    receiver = WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox)

    @receiver.on("consent.*")
    async def consent_changed(delivery: Delivery) -> None:
        event = await delivery.event(basiq)
        print(f"{event.type} of user {event.user_id}", flush=True)

    @receiver.on("*")
    async def anything_else(delivery: Delivery) -> None:
        print(f"{delivery.event_type_id} {delivery.event_id}", flush=True)

    app = Quart(__name__)
    quart = app.asgi_app

    @app.while_serving
    async def lifespan() -> AsyncGenerator[None]:
        async with basiq, inbox, receiver:
            yield

    async def in_front(scope: Any, receive: Any, send: Any) -> None:
        # Quart would read the whole body before the receiver can look at the signature's headers.
        endpoint: Any = receiver.asgi if scope["type"] == "http" and scope["path"] == "/basiq" else quart
        await endpoint(scope, receive, send)

    app.asgi_app = in_front  # type: ignore[method-assign]
    return app


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
