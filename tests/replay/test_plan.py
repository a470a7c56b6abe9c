"""Looking without touching: plans."""

from __future__ import annotations

import weakref
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from basiq_async import Message
from basiq_async.receiver import MemoryInbox, WebhookReceiver
from basiq_async.replay import JSONLinesTarget, limit, message_time
from tests.support.histories import Receiving, Recorder, Refusing, history, listed, quarantine_of

SECRET = "whsec_c2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1yZXBsYXk="


@pytest.mark.documented_world("it looks at what a list tells of attempts", "attempts")
async def test_a_plan_counts_by_type_and_day_and_touches_nothing(tmp_path: Path) -> None:
    async with history(100, every=timedelta(hours=3)) as h:
        target = Recorder()
        inbox = MemoryInbox()
        replay = h.replay(target, inbox=inbox)
        plan = await replay.plan()
        messages = await h.messages()
        assert plan.total == 100
        assert plan.by_type == Counter(each.event_type_id for each in messages)
        assert sum(plan.by_day.values()) == 100
        assert 12 <= len(plan.by_day) <= 14
        times = sorted(time for each in messages if (time := message_time(each)) is not None)
        assert (plan.first, plan.last) == (times[0], times[-1])
        assert (plan.quarantined, plan.skipped) == (0, {})
        assert (target.ids, len(inbox), inbox._notes) == ([], 0, {})
        assert (await h.replay(JSONLinesTarget(tmp_path / "export.jsonl")).plan()).total == 100
    assert list(tmp_path.iterdir()) == []


async def test_a_plan_is_for_what_the_record_does_not_know_and_counts_what_is_quarantined() -> None:
    inbox = MemoryInbox()
    async with history(30) as h:
        ids = await h.ids()
        await h.replay(Recorder(), inbox=inbox, where=limit(10)).run()
        await h.replay(Refusing(ids[20]), inbox=inbox, where=lambda message: message.id == ids[20]).run()
        plan = await h.replay(Recorder(), inbox=inbox).plan()
        assert (plan.total, plan.skipped, plan.quarantined) == (19, {"handled-before": 11}, 1)


async def test_a_plan_for_a_file_knows_its_lines(tmp_path: Path) -> None:
    async with history(30) as h:
        replay = h.replay(JSONLinesTarget(tmp_path / "export.jsonl"), where=limit(10))
        await replay.run()
        assert (await replay.plan()).skipped == {"handled-before": 10}
        await replay.run()
        assert (await replay.plan()).skipped == {"handled-before": 20}, "the file is read again"


async def test_a_plan_counts_what_a_receiver_has_no_handler_for() -> None:
    service = Receiving(MemoryInbox(), "user.*")
    async with history(30) as h:
        others = sum(not (each.event_type_id or "").startswith("user.") for each in await h.messages())
        plan = await h.replay(service.receiver).plan()
    assert (plan.total, plan.skipped) == (30 - others, {"no-handler": others})


async def test_messages_without_type_or_time_are_counted_as_such() -> None:
    async with listed([{"id": "a"}], Recorder()) as replay:
        plan = await replay.plan()
    assert (plan.by_type, plan.by_day, plan.first, plan.last) == ({"": 1}, {None: 1}, None, None)


async def test_a_plan_counts_the_message_that_a_run_counts_as_failed() -> None:
    inbox = MemoryInbox()
    async with history(10) as h:
        messages = await h.messages()

        def where(message: Message) -> bool:
            if message.id == messages[4].id:
                raise ValueError("a predicate that fails")
            return False

        receiver = WebhookReceiver(SECRET, inbox=inbox, webhook_id=h.webhook_id)  # without a handler for any type
        replay = h.replay(receiver, where=where)
        plan = await replay.plan()
        report = await replay.run()
        assert set(await quarantine_of(replay)) == {messages[4].id}
    assert (report.failed, dict(report.skipped)) == (1, {"where": 9})
    assert (plan.total, dict(plan.skipped)) == (report.failed, dict(report.skipped)), "plan and run decide differently"


@pytest.mark.parametrize("source", ["messages", "events"])
async def test_a_plan_holds_few_pages_in_memory_however_long_the_list_is(source: Any) -> None:
    async with history(600, page_size=20) as h:
        seen, most = list[weakref.ref[Message]](), 0

        def look(message: Message) -> bool:
            nonlocal most
            seen.append(weakref.ref(message))
            most = max(most, sum(each() is not None for each in seen))
            return True

        inbox = MemoryInbox()
        assert (await h.replay(Recorder(), inbox=inbox, where=look, source=source).plan()).total == 600
        assert most <= 60
