"""A whole service with aiohttp: receives webhooks, and shuts down cleanly.

    basiq-async webhooks ensure --url URL --name consents --event consent.revoked --secret-file basiq.secret

shows the webhook's id, and stores its secret. That file and inbox.db must survive a deploy.

BASIQ_WEBHOOK_ID    the id of the webhook
BASIQ_API_KEY       to look up the full events
BASIQ_BASE_URL, PORT    both optional
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

from aiohttp import web

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SecretFile, SQLiteInbox, WebhookReceiver


def make_app() -> web.Application:
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

    async def resources(app: web.Application) -> AsyncGenerator[None]:
        async with basiq, inbox:
            yield

    app = web.Application()
    app.cleanup_ctx.append(resources)
    receiver.setup(app, "/basiq")
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
