"""A replay has a span a message, linked to its first delivery, and metrics of its progress."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport, Message
from basiq_async.otel import instrument
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import JSONLinesTarget, Progress, Replay, recover
from tests.otel.conftest import Recorded
from tests.support.deliveries import SECRET, Service, payload, post
from tests.support.histories import Recorder
from tests.support.scripted import Scripted, page


async def replayed(recorded: Recorded, count: int, target: Any, **options: Any) -> tuple[Any, Replay]:
    transport = InMemoryTransport()
    webhook_id = transport.fake.seed_messages(count)
    async with BasiqClient(transport.fake.DEFAULT_API_KEY, transport=transport) as basiq:
        replay = Replay(basiq, webhook_id, target, **{"inbox": MemoryInbox(), **options})
        instrument(replay, **recorded.options)
        seen: list[Progress] = []
        report = await replay.run(seen.append)
        assert seen
        return report, replay


async def test_each_message_is_a_span_and_counts_are_metrics(recorded: Recorded) -> None:
    failing = iter(range(20))

    async def handler(message: Message) -> None:
        if next(failing) == 3:
            raise ValueError("no")

    report, _ = await replayed(recorded, 20, handler)
    assert (report.handled, report.failed) == (19, 1)
    assert len(recorded.spans) == 20
    assert recorded.values("basiq.replay.messages", "basiq.outcome") == {"handled": 19, "failed": 1}
    lag = recorded.points("basiq.replay.lag")[0].value
    assert 0 <= lag < (datetime.now(UTC) - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds()


async def test_an_export_that_is_observed_has_the_messages_that_cannot_be_read(
    recorded: Recorded, tmp_path: Path
) -> None:
    path = tmp_path / "export.jsonl"
    items = [{"id": "a"}, "text", {"id": "b"}]
    async with BasiqClient("a2V5", transport=Scripted(page(items))) as basiq:
        replay = Replay(basiq, "w1", JSONLinesTarget(path))
        instrument(replay, **recorded.options)
        report = await replay.run()
    assert (report.handled, report.failed, len(recorded.spans)) == (3, 0, 3)
    assert len(path.read_text().splitlines()) == 3


async def test_a_replayed_message_links_to_its_first_delivery(recorded: Recorded) -> None:
    receiver = Service().receiver
    instrument(receiver, **recorded.options)
    target = Recorder()
    transport = InMemoryTransport()
    webhook_id = transport.fake.seed_messages(1)
    async with BasiqClient(transport.fake.DEFAULT_API_KEY, transport=transport) as basiq:
        message = await basiq.messages.list(webhook_id).first()
        assert message is not None
        await post(receiver, payload(event_id=message.event_id), message_id=message.id)
        replay = Replay(basiq, webhook_id, target, inbox=MemoryInbox())
        instrument(replay, **recorded.options)
        await replay.run()
        with pytest.raises(ConfigurationError, match="instrumented already"):
            instrument(replay)
    delivery, again = recorded.spans
    assert target.ids == [message.id]
    assert delivery.context is not None
    assert [link.context.span_id for link in again.links] == [delivery.context.span_id]


async def test_a_recovery_takes_the_same_instruments_and_what_failed_is_a_metric_of_each_list(
    recorded: Recorded,
) -> None:
    async def fail(delivery: Delivery) -> None:
        raise ValueError("no")

    receiver = WebhookReceiver(SECRET)
    receiver.on("*")(fail)
    transport = InMemoryTransport()
    webhook_id = transport.fake.seed_messages(10, failed=1.0)
    async with BasiqClient(transport.fake.DEFAULT_API_KEY, transport=transport) as basiq:
        recovering = recover(basiq, webhook_id, receiver, inbox=receiver.inbox)
        instrument(recovering, **recorded.options)
        await recovering
    found = recorded.values("basiq.replay.messages", "basiq.source", "basiq.outcome")
    assert found[("messages", "failed")] == 10
    assert ("events", "failed") not in found
    assert len(recorded.spans) == 10
