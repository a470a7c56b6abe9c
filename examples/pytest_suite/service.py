"""A small example service, which keeps a list of the users whose consent was revoked or has expired."""

from __future__ import annotations

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, Inbox, SecretFile, WebhookReceiver

EVENTS = ["consent.revoked", "consent.expired"]


class ConsentWatch:
    """Subscribes to events of consents, and lists the users whose consent was revoked or has expired."""

    def __init__(self, basiq: BasiqClient, url: str, secret: SecretFile, inbox: Inbox) -> None:
        self.basiq = basiq
        self.url = url
        self.secret = secret
        self.inbox = inbox
        self.without_consent: list[str] = []
        self.receiver: WebhookReceiver | None = None

    async def start(self) -> None:
        """Subscribe, and verify deliveries with the webhook's secret, which `ensure` stores when Basiq returns it."""
        webhook = await self.basiq.webhooks.ensure(
            url=self.url, name="consent-watch", subscribed_events=EVENTS, secret=self.secret, inbox=self.inbox
        )
        self.receiver = WebhookReceiver(self.secret, webhook_id=webhook.id, inbox=self.inbox)
        self.receiver.on("consent.*")(self.consent_gone)

    async def consent_gone(self, delivery: Delivery) -> None:
        event = await self.basiq.events.fetch(delivery)
        if event.user_id is not None:
            self.without_consent.append(event.user_id)
