"""A small example service, which keeps a list of the users whose consent was revoked or has expired."""

from __future__ import annotations

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, WebhookReceiver

EVENTS = ["consent.revoked", "consent.expired"]


class ConsentWatch:
    """Subscribes to events of consents, and lists the users whose consent was revoked or has expired."""

    def __init__(self, basiq: BasiqClient, url: str) -> None:
        self.basiq = basiq
        self.url = url
        self.without_consent: list[str] = []
        self.receiver: WebhookReceiver | None = None

    async def start(self) -> None:
        """Subscribe, and verify deliveries with the secret of the new webhook."""
        webhook = await self.basiq.webhooks.create(url=self.url, subscribed_events=EVENTS)
        assert webhook.secret is not None
        self.receiver = WebhookReceiver(webhook.secret)
        self.receiver.on("consent.*")(self.consent_gone)

    async def consent_gone(self, delivery: Delivery) -> None:
        event = await self.basiq.events.fetch(delivery)
        if event.user_id is not None:
            self.without_consent.append(event.user_id)
