"""A service that was down catches up: whatever should have reached it is handled, each event once.

    BASIQ_API_KEY=... BASIQ_WEBHOOK_SECRET=... python -m examples.recover_after_outage https://service.example/basiq

``catch_up`` is all that a service needs: its own receiver, with the inbox that it always had.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from basiq_async import BasiqClient
from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver
from basiq_async.replay import Recovery, SQLiteCheckpoint, recover

EVENTS = ("consent.revoked", "consent.expired", "account.updated")


async def catch_up(
    basiq: BasiqClient, receiver: WebhookReceiver, url: str, folder: Path, events: Sequence[str] = EVENTS
) -> Recovery:
    """Make the webhook active again, then bring what it missed: messages, and events that never became one."""
    webhook = await basiq.webhooks.ensure(url=url, subscribed_events=events)
    if webhook.secret is not None:
        # Returned this once. Where it is another one, a service that does not have it refuses each delivery.
        kept = folder / "webhook-secret"
        kept.touch(mode=0o600)
        kept.write_text(webhook.secret.reveal())
    return await recover(
        basiq,
        webhook.id,
        receiver,
        checkpoint=SQLiteCheckpoint(folder / "messages.db"),
        events_checkpoint=SQLiteCheckpoint(folder / "events.db"),
    )


async def main(url: str) -> None:
    async with (
        SQLiteInbox("inbox.db") as inbox,
        WebhookReceiver(os.environ["BASIQ_WEBHOOK_SECRET"], inbox=inbox) as receiver,
        BasiqClient() as basiq,
    ):

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            print("handled", delivery.event_type_id, delivery.event_id)

        found = await catch_up(basiq, receiver, url, Path())
    print("a secret that Basiq returned is in ./webhook-secret: store it where the service reads it")
    print(f"{found.messages.handled} messages and {found.events.handled} events without a message were handled")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
