"""A user's service: it stops using an account's data as soon as the consent to it is revoked."""

from __future__ import annotations

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, WebhookReceiver


class Consents:
    def __init__(self, basiq: BasiqClient, secret: str) -> None:
        self.revoked: set[str] = set()
        self.receiver = WebhookReceiver(secret)

        @self.receiver.on("consent.revoked")
        async def revoked(delivery: Delivery) -> None:
            event = await delivery.event(basiq)
            if event.user_id is not None:
                self.revoked.add(event.user_id)
