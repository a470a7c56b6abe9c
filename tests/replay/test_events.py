"""The event list as a source, and recovering from an outage in which the webhook was not active."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from basiq_async import BasiqClient, CheckpointError, ConfigurationError, InMemoryTransport, NotFoundError
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import JSONLinesTarget, MemoryCheckpoint, Replay, event_types, recover, since
from basiq_async.testing import FakeBasiq
from tests.support.histories import Recorder, history
from tests.support.scripted import Scripted, answer, page

pytestmark = pytest.mark.usefixtures("both_orders")

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cw=="
WEBHOOK = {"id": "w1", "url": "https://a.example", "subscribedEvents": ["user.created"], "status": "active"}


def a_receiver(inbox: MemoryInbox, *patterns: Any) -> tuple[WebhookReceiver, list[str]]:
    receiver, got = WebhookReceiver(SECRET, inbox=inbox), []

    @receiver.on(*(patterns or ("*",)))
    async def handle(delivery: Delivery) -> None:
        got.append(delivery.event_id)

    return receiver, got


async def test_the_event_list_has_what_an_inbox_does_not_know() -> None:
    inbox = MemoryInbox()
    receiver, got = a_receiver(inbox)
    async with history(40, page_size=15) as h:
        events = [event async for event in h.client.events.list()]
        assert len(events) == 40
        first = h.replay(receiver, filter=None)
        await first.run()
        assert sorted(got) == sorted(event.id for event in events)
        replay = h.replay(receiver, source="events")
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
        assert plan.reach is not None
        assert report.reach is not None
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
        receiver, got = a_receiver(MemoryInbox(), types[0])
        replay = h.replay(receiver, source="events")
        await replay.run()
        assert sorted(got) == sorted(event.id for event in events if event.type == types[0])
        await h.client.webhooks.update(h.webhook_id, url="https://example.com/basiq", subscribed_events=[types[1]])
        target = Recorder()
        subscribed = h.replay(target, source="events")
        assert (await subscribed.run()).handled == sum(event.type == types[1] for event in events)


async def test_a_replay_of_events_is_stopped_and_continues() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(100, page_size=9) as h:
        target = Recorder()

        async def behave(message: Any) -> None:
            if len(target.ids) == 37:
                replay.stop()

        target._behave = behave
        replay = h.replay(target, checkpoint=checkpoint, source="events", concurrency=4)
        assert not (await replay.run()).finished
        assert (await replay.run()).handled_in_all == 100
        assert len(set(target.ids)) == 100


async def test_a_checkpoint_is_of_one_source() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(3) as h:
        await h.replay(Recorder(), checkpoint=checkpoint).run()
        with pytest.raises(CheckpointError, match=r"not of events of webhook"):
            await h.replay(Recorder(), checkpoint=checkpoint, source="events").run()
        with pytest.raises(ConfigurationError, match="source must be"):
            h.replay(Recorder(), checkpoint=checkpoint, source="both")  # type: ignore[arg-type]


async def test_an_event_that_cannot_be_read_is_a_dead_letter_and_where_counts_by_its_creation() -> None:
    event = {"id": "e1", "entity": "user", "eventType": "created", "createdDate": "2026-01-05T00:00:00Z"}
    odd = {**event, "id": "é.3"}
    script = Scripted(answer(WEBHOOK), page([event, {"id": "e2", "createdDate": "never"}, "text", odd]))
    target = Recorder()
    async with BasiqClient("a2V5", transport=script) as client:
        replay = Replay(client, "w1", target, checkpoint=MemoryCheckpoint(), source="events")
        report = await replay.run()
        assert (report.handled, report.failed) == (2, 2)
        assert target.ids[0] == "event-e1"
        assert target.ids[1].isascii()
        dead_letters = {dead_letter.id: dead_letter for dead_letter in await replay.dead_letters()}
        assert "data[1]" in dead_letters["event-e2"].error
    script = Scripted(answer(WEBHOOK), page([event]))
    async with BasiqClient("a2V5", transport=script) as client:
        replay = Replay(
            client, "w1", target, checkpoint=MemoryCheckpoint(), source="events", where=since(timedelta(days=1))
        )
        assert (await replay.plan()).skipped == {"where": 1}


async def test_events_of_a_webhook_that_is_not_there_are_an_error() -> None:
    async with history(3) as h:
        with pytest.raises(NotFoundError):
            unknown = "4b1e0b9e-0000-4000-8000-000000000000"
            await Replay(h.client, unknown, Recorder(), checkpoint=MemoryCheckpoint(), source="events").run()


async def test_events_are_exported_as_messages(tmp_path: Any) -> None:
    path = tmp_path / "events.jsonl"
    async with history(12) as h:
        replay = h.replay(JSONLinesTarget(path), source="events")
        assert (await replay.run()).handled == 12
    assert len(path.read_text().splitlines()) == 12


# --- recover ---


async def test_after_an_outage_with_a_disabled_webhook_every_event_is_recovered_once() -> None:
    fake = FakeBasiq(page_size=4)
    inbox = MemoryInbox()
    receiver, got = a_receiver(inbox)
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
        webhook = await client.webhooks.create(url="https://down.example/basiq", subscribed_events=["user.created"])
        await fake.advance(timedelta(minutes=20))
        made = [(await fake.emit("user.created")).event_id for _ in range(5)]
        await fake.advance(timedelta(hours=29))  # eight attempts fail, and Basiq disables the webhook
        assert (await client.webhooks.get(webhook.id)).status != "active"
        silent = [(await fake.emit("user.created")).event_id for _ in range(6)]
        await fake.emit("consent.revoked")
        await client.webhooks.update(webhook.id, url="https://down.example/basiq", subscribed_events=["user.created"])
        await fake.advance(timedelta(minutes=20))
        late = [(await fake.emit("user.created")).event_id for _ in range(2)]
        recovery = await recover(
            client,
            webhook.id,
            receiver,
            checkpoint=(first := MemoryCheckpoint()),
            events_checkpoint=(second := MemoryCheckpoint()),
            clock=lambda: fake.clock(),
        )
        assert len(got) == len(set(got))
        assert set(made) | set(silent) | set(late) <= set(got)
        assert recovery.messages.handled == 7
        assert recovery.finished
        (period,) = recovery.messages.inactive
        assert period.until is not None
        assert "recover() finds" in str(period)
        assert recovery.out_of_reach == ()
        # Nothing more is to do; and a week later the time is out of reach, and named.
        again = await recover(
            client,
            webhook.id,
            receiver,
            checkpoint=first,
            events_checkpoint=second,
            clock=lambda: fake.clock() + timedelta(days=9),
        )
        assert (again.messages.handled, again.events.handled) == (0, 0)
        late_recovery = await recover(
            client,
            webhook.id,
            receiver,
            checkpoint=MemoryCheckpoint(),
            events_checkpoint=MemoryCheckpoint(),
            clock=lambda: fake.clock() + timedelta(days=9),
        )
        assert late_recovery.out_of_reach == (period,)
        assert not late_recovery.finished
        plan = await Replay(client, webhook.id, receiver, checkpoint=MemoryCheckpoint()).plan()
        assert plan.inactive == (period,)


async def test_recover_needs_an_inbox_for_a_function_and_two_checkpoints() -> None:
    checkpoint = MemoryCheckpoint()
    async with history(3) as h:
        with pytest.raises(ConfigurationError, match="recover needs an inbox"):
            await recover(
                h.client, h.webhook_id, Recorder(), checkpoint=checkpoint, events_checkpoint=MemoryCheckpoint()
            )
        with pytest.raises(ConfigurationError, match="must be different"):
            await recover(
                h.client,
                h.webhook_id,
                a_receiver(MemoryInbox())[0],
                checkpoint=checkpoint,
                events_checkpoint=checkpoint,
            )


async def test_recover_handles_the_messages_first_and_the_events_once() -> None:
    inbox, target = MemoryInbox(), Recorder()
    async with history(25, page_size=10) as h:
        ids = await h.ids()
        recovery = await recover(
            h.client,
            h.webhook_id,
            target,
            checkpoint=MemoryCheckpoint(),
            events_checkpoint=MemoryCheckpoint(),
            inbox=inbox,
            where=event_types("*"),
            everything=True,
        )
        assert target.ids == ids
        assert recovery.events.skipped == {"handled-before": 25}
