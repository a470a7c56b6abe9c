"""A service that was down catches up: it handles what it missed, as far as Basiq lists it.

    BASIQ_API_KEY=... python -m examples.recover_after_outage https://service.example/basiq

A service needs only ``activate`` and ``recover``, with its usual receiver, inbox and file of the secret. That file,
``basiq.secret``, must survive a deploy, as the inbox must.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from basiq_async import BasiqClient, EnsuredWebhook
from basiq_async.receiver import Delivery, Inbox, SecretFile, SQLiteInbox, WebhookReceiver
from basiq_async.replay import recover

EVENTS = ("consent.revoked", "consent.expired", "account.updated")


async def activate(
    basiq: BasiqClient, url: str, secret: SecretFile, inbox: Inbox, events: Sequence[str] = EVENTS
) -> EnsuredWebhook:
    """Make the webhook active again. If Basiq has removed it, it is made again, and joins the inbox."""
    return await basiq.webhooks.ensure(url=url, name="consents", subscribed_events=events, secret=secret, inbox=inbox)


async def main(url: str) -> None:
    secret = SecretFile("basiq.secret")
    async with BasiqClient() as basiq, SQLiteInbox("inbox.db") as inbox:
        webhook = await activate(basiq, url, secret, inbox)
        async with WebhookReceiver(secret, webhook_id=webhook.id, inbox=inbox) as receiver:

            @receiver.on("*")
            async def handle(delivery: Delivery) -> None:
                print("handled", delivery.event_type_id, delivery.event_id)

            found = await recover(basiq, webhook.id, receiver)  # missed messages, then events without a message
    print(f"{found.handled} messages, and events without a message, were handled")
    for problem in found.problems:
        print("left:", problem)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
