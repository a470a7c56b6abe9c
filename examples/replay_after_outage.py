"""A service that was down for an hour catches up: it handles every event that it missed, each once.

    python -m examples.replay_after_outage

The outage happens on the clock of a fake Basiq. With the real Basiq, a service needs only the last part: ``Replay``
with its usual receiver and inbox.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver
from basiq_async.replay import Replay, Report
from basiq_async.testing import FakeBasiq, ManualClock

URL = "https://service.example/basiq"


async def down(headers: Mapping[str, str], body: bytes) -> int:
    """Respond as a proxy does for a service that is down."""
    return 502


async def outage(folder: Path) -> tuple[Counter[str], Report]:
    """Return how often each event was handled, and the report of the replay."""
    fake = FakeBasiq(clock=ManualClock())
    webhook_id = fake.add_webhook(URL)
    handled: Counter[str] = Counter()

    async with (
        SQLiteInbox(folder / "inbox.db") as inbox,
        WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=inbox) as receiver,
    ):

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            handled[delivery.event_id] += 1

        fake.route(URL, receiver)
        for _ in range(100):  # the service works
            fake.emit("user.created")
        await fake.advance(timedelta(minutes=1))

        fake.route(URL, down)
        for _ in range(60):  # the service is down for an hour
            fake.emit("consent.revoked")
            await fake.advance(timedelta(minutes=1))

        fake.route(URL, receiver)  # the service is up again
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            report = await Replay(basiq, webhook_id, receiver).run()
        await fake.advance(timedelta(days=2))  # Basiq's later attempts: the inbox knows these events
    return handled, report


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        handled, report = asyncio.run(outage(Path(folder)))
    print(f"{len(handled)} events, each handled {max(handled.values())} time; the replay handled {report.handled}")


if __name__ == "__main__":
    main()
