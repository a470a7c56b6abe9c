"""A whole service with aiohttp: receives webhooks, and shuts down cleanly.

An event is handled again only if a kill interrupted it.

BASIQ_WEBHOOK_SECRET   the secret that Basiq returned when the webhook was created
BASIQ_WEBHOOK_ID       its id, which `basiq-async webhooks list` shows too
BASIQ_API_KEY          to look up the full events
BASIQ_BASE_URL, BASIQ_INBOX (a file), PORT    all three optional
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

from aiohttp import web

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver


def make_app() -> web.Application:
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

    async def resources(app: web.Application) -> AsyncGenerator[None]:
        async with basiq, inbox:
            yield

    app = web.Application()
    app.cleanup_ctx.append(resources)
    receiver.setup(app, "/basiq")
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
