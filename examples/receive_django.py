"""A whole service with Django: receives webhooks, and shuts down cleanly.

    basiq-async webhooks ensure --url URL --name consents --event consent.revoked --secret-file basiq.secret

shows the webhook's id, and stores its secret. That file and inbox.db must survive a deploy.

BASIQ_WEBHOOK_ID    the id of the webhook
BASIQ_API_KEY       to look up the full events
BASIQ_BASE_URL, PORT    both optional
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import django
import uvicorn
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SecretFile, SQLiteInbox, WebhookReceiver

settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__)


async def alive(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [path("healthz", alive)]

Event = MutableMapping[str, Any]


def make_app() -> Callable[..., Awaitable[None]]:
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

    django.setup()
    handler = ASGIHandler()

    async def app(
        scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
    ) -> None:
        # Django has no lifespan, so client, inbox and receiver are opened and closed here, the receiver first.
        if scope["type"] == "lifespan":
            async with basiq, inbox:
                await receiver.asgi(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == "/basiq":
            # In front of Django, which writes a body of any length to a file before it calls a view.
            await receiver.asgi(scope, receive, send)
        else:
            await handler(scope, receive, send)

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
