"""The event list as a source."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from basiq_async.receiver import MemoryInbox
from basiq_async.replay import JSONLinesTarget, since
from tests.support.histories import Receiving, Recorder, history, listed, quarantine_of
from tests.support.scripted import answer

pytestmark = pytest.mark.usefixtures("both_orders")

WEBHOOK = {"id": "w1", "url": "https://a.example", "subscribedEvents": ["user.created"], "status": "active"}


async def test_the_event_list_has_what_an_inbox_does_not_know() -> None:
    service = Receiving(MemoryInbox())
    async with history(40, page_size=15) as h:
        events = [event async for event in h.client.events.list()]
        assert len(events) == 40
        await h.replay(service.receiver).run()
        assert sorted(each.event_id for each in service.got) == sorted(event.id for event in events)
        replay = h.replay(service.receiver, source="events")
        assert (await replay.plan()).total == 0
        report = await replay.run()
        assert (report.handled, report.skipped, report.finished) == (0, {"handled-before": 40}, True)


async def test_events_come_as_the_messages_that_they_would_have_made() -> None:
    inbox = MemoryInbox()
    async with history(20, page_size=7) as h:
        events = {event.id: event async for event in h.client.events.list()}
        messages = {message.event_id: message async for message in h.client.messages.list(h.webhook_id)}
        target = Recorder()
        seen: dict[str, Any] = {}

        async def keep(message: Any) -> None:
            seen[message.event_id] = message

        target._behave = keep
        replay = h.replay(target, source="events", inbox=inbox, concurrency=3)
        plan = await replay.plan()
        report = await replay.run()
        assert plan.total == report.handled == 20
        assert plan.first == min(event.created for event in events.values() if event.created is not None)
        for event_id, message in seen.items():
            assert message.payload == messages[event_id].payload
            assert message.event_type_id == events[event_id].type
            assert "." not in message.id
        again = h.replay(Recorder(), inbox=inbox)
        assert (await again.run()).skipped == {"handled-before": 20}


async def test_only_the_types_that_are_wanted_come() -> None:
    async with history(60) as h:
        events = [event async for event in h.client.events.list()]
        types = sorted({event.type for event in events})
        service = Receiving(MemoryInbox(), types[0])
        await h.replay(service.receiver, source="events").run()
        assert sorted(each.event_id for each in service.got) == sorted(
            event.id for event in events if event.type == types[0]
        )
        await h.client.webhooks.update(h.webhook_id, url="https://example.com/basiq", subscribed_events=[types[1]])
        target = Recorder()
        subscribed = h.replay(target, source="events")
        assert (await subscribed.run()).handled == sum(event.type == types[1] for event in events)


async def test_an_event_that_failed_is_tried_again_as_its_message() -> None:
    inbox = MemoryInbox()
    async with history(10) as h:

        async def fail(message: Any) -> None:
            raise ValueError("poisoned")

        await h.replay(fail, inbox=inbox, source="events").run()
        target = Recorder()
        replay = h.replay(target, inbox=inbox)
        entries = await quarantine_of(replay)
        assert {entry.kind for entry in entries.values()} == {"event"}
        assert (await replay.run()).skipped == {"handled-before": 10}
        assert (await replay.retry_quarantined()).handled == 10
        assert set(target.ids) == set(entries)
        assert await quarantine_of(replay) == {}


async def test_an_event_that_cannot_be_read_is_quarantined_and_where_counts_by_its_creation() -> None:
    event = {"id": "e1", "entity": "user", "eventType": "created", "createdDate": "2026-01-05T00:00:00Z"}
    odd = {**event, "id": "é.3"}
    items = [event, {"id": "e2", "createdDate": "never"}, "text", "other text", odd]
    target, before = Recorder(), [answer(WEBHOOK)]
    async with listed(items, target, before=before, source="events") as replay:
        report = await replay.run()
        assert (report.handled, report.failed) == (2, 3)
        assert target.ids[0] == "event-e1"
        assert target.ids[1].isascii()
        entries = await quarantine_of(replay)
        assert len(entries) == 3
        assert "data[1]" in entries["event-e2"].error
        again = await replay.retry_quarantined()
        assert (again.handled, again.failed, len(target.ids)) == (0, 3, 2), "no target gets what is no message"
    async with listed([event], target, before=before, source="events", where=since(timedelta(days=1))) as replay:
        assert (await replay.plan()).skipped == {"where": 1}


async def test_each_event_is_exported_once_as_a_message_also_one_that_cannot_be_read(tmp_path: Any) -> None:
    path = tmp_path / "events.jsonl"
    good = {"id": "e1", "entity": "user", "eventType": "created"}
    items = [{"id": "e2", "createdDate": "never"}, "text", {"no": "id"}, good]
    for handled in (4, 0):
        options = {"before": [answer(WEBHOOK)], "source": "events", "inbox": None}
        async with listed(items, JSONLinesTarget(path), **options) as replay:
            assert (await replay.run()).handled == handled
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("raw") for line in lines] == [items[0], {"raw": "text"}, items[2], None]
    assert lines[3]["payload"]["eventId"] == "e1"
