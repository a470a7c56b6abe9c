"""A service that was down catches up: it handles what it missed, as far as Basiq lists it.

    BASIQ_API_KEY=... BASIQ_WEBHOOK_ID=... python -m examples.recover_after_outage https://service.example/basiq

A service needs only ``catch_up``, with its usual receiver, inbox and file of the secret: ``basiq.secret``, which must
survive a deploy, as the inbox must.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SecretFile, SQLiteInbox, WebhookReceiver
from basiq_async.replay import Recovery, recover

EVENTS = ("consent.revoked", "consent.expired", "account.updated")


async def catch_up(
    basiq: BasiqClient, receiver: WebhookReceiver, url: str, secret: SecretFile, events: Sequence[str] = EVENTS
) -> Recovery:
    """Make the webhook active again, then handle missed messages, and missed events without a message."""
    webhook = await basiq.webhooks.ensure(url=url, name="consents", subscribed_events=events, secret=secret)
    return await recover(basiq, webhook.id, receiver)


async def main(url: str) -> None:
    secret, webhook_id = SecretFile("basiq.secret"), os.environ["BASIQ_WEBHOOK_ID"]
    async with (
        SQLiteInbox("inbox.db") as inbox,
        WebhookReceiver(secret, webhook_id=webhook_id, inbox=inbox) as receiver,
        BasiqClient() as basiq,
    ):

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            print("handled", delivery.event_type_id, delivery.event_id)

        found = await catch_up(basiq, receiver, url, secret)
    print(f"{found.handled} messages, and events without a message, were handled")
    for problem in found.problems:
        print("left:", problem)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
