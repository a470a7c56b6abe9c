"""A small example service, which keeps a list of the users whose consent was revoked or has expired."""

from __future__ import annotations

from pathlib import Path

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, WebhookReceiver

EVENTS = ["consent.revoked", "consent.expired"]


class ConsentWatch:
    """Subscribes to events of consents, and lists the users whose consent was revoked or has expired."""

    def __init__(self, basiq: BasiqClient, url: str, secret_file: Path) -> None:
        self.basiq = basiq
        self.url = url
        self.secret_file = secret_file
        self.without_consent: list[str] = []
        self.receiver: WebhookReceiver | None = None

    async def start(self) -> None:
        """Subscribe, and verify deliveries with the webhook's secret, which Basiq returns only if something changed."""
        webhook = await self.basiq.webhooks.ensure(url=self.url, name="consent-watch", subscribed_events=EVENTS)
        if webhook.secret is not None:
            self.secret_file.touch(mode=0o600)
            self.secret_file.write_text(webhook.secret.reveal())
        self.receiver = WebhookReceiver(self.secret_file.read_text(), webhook_id=webhook.id)
        self.receiver.on("consent.*")(self.consent_gone)

    async def consent_gone(self, delivery: Delivery) -> None:
        event = await self.basiq.events.fetch(delivery)
        if event.user_id is not None:
            self.without_consent.append(event.user_id)
