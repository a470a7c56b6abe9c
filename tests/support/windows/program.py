"""A client, a receiver with a file, replays and an export, over real HTTP. Prints a line for each that works."""

from __future__ import annotations

import asyncio
from pathlib import Path

from basiq_async import BasiqClient, Message
from basiq_async.errors import JobInUseError
from basiq_async.receiver import Delivery, SQLiteInbox, WebhookReceiver
from basiq_async.replay import JSONLinesTarget, Replay
from basiq_async.testing import FakeBasiq, serve

URL = "https://service.example/basiq"


async def main() -> None:
    fake = FakeBasiq(seed="windows")
    webhook_id = fake.add_webhook(URL)
    async with serve(fake) as base_url, BasiqClient(fake.api_key, base_url=base_url) as basiq:
        assert [each.id async for each in basiq.webhooks.list()] == [webhook_id]
        print("client")
        await receive(fake, basiq, webhook_id)
        print("receiver")
        fake.seed_messages(30, webhook_id)
        await replay(basiq, webhook_id)
        print("replay")
        await export(basiq, webhook_id)
        print("export")


async def receive(fake: FakeBasiq, basiq: BasiqClient, webhook_id: str) -> None:
    seen: list[str | None] = []
    async with (
        SQLiteInbox("service.db") as inbox,
        WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=inbox) as receiver,
    ):

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            seen.append(delivery.event_id)

        fake.route(URL, receiver)
        emitted = await fake.emit("user.created")
        report = await Replay(basiq, webhook_id, receiver).run()
        assert (seen, report.handled, report.finished) == ([emitted.event_id], 0, True), report


async def replay(basiq: BasiqClient, webhook_id: str) -> None:
    seen: list[str] = []

    async def keep(message: Message) -> None:
        seen.append(message.id)

    async with SQLiteInbox("job.db") as inbox:
        for _ in range(2):
            await Replay(basiq, webhook_id, keep, inbox=inbox).run()
    assert len(seen) == len(set(seen)) == 31


async def export(basiq: BasiqClient, webhook_id: str) -> None:
    path = Path("history.jsonl")
    async with JSONLinesTarget(path) as first:
        await first.deliver(Message("a", {"id": "a"}))
        await first.flush()
        try:
            await Replay(basiq, webhook_id, JSONLinesTarget(path)).run()
        except JobInUseError:
            pass
        else:
            raise AssertionError("two programs write one file")
    await Replay(basiq, webhook_id, JSONLinesTarget(path)).run()
    assert len(path.read_text().splitlines()) == 32


if __name__ == "__main__":
    asyncio.run(main())
