"""What a run selects: predicates describe themselves, and any selection goes with any record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from basiq_async import F
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import Where, event_types, failed_only, limit, message_time, since, until
from tests.support.deliveries import SECRET
from tests.support.histories import Recorder, Table, history

pytestmark = pytest.mark.usefixtures("both_orders")

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("where", "description"),
    [
        (failed_only(), "failed_only()"),
        (since(timedelta(days=2)), "since(2 days, 0:00:00)"),
        (since(NOON), "since(2026-01-05T12:00:00+00:00)"),
        (until(NOON.astimezone(timezone(timedelta(hours=11)))), "until(2026-01-05T12:00:00+00:00)"),
        (event_types("user.*", "consent.revoked"), "event_types('consent.revoked', 'user.*')"),
        (limit(5), ""),
        (limit(5) & failed_only(), "failed_only()"),
        (failed_only() & limit(5), "failed_only()"),
        (failed_only() & since(NOON), "failed_only() & since(2026-01-05T12:00:00+00:00)"),
        (~failed_only() | event_types("a"), "(~(failed_only()) | event_types('a'))"),
    ],
)
def test_a_selection_describes_itself(where: Where, description: str) -> None:
    assert where.description == description


@pytest.mark.documented_world("it looks at what a list tells of attempts", "attempts")
async def test_another_selection_passes_what_the_others_did_not() -> None:
    inbox, target = MemoryInbox(), Recorder()
    async with history(300, failed=0.3, page_size=25) as h:
        messages = await h.messages()
        half = message_time(messages[150])
        assert half is not None
        only = F("eventTypeId").eq("user.created")
        report = await h.replay(target, inbox=inbox, filter=only).run()
        assert report.handled == sum(each.event_type_id == "user.created" for each in messages)
        selections: list[Any] = [failed_only(), since(half), event_types("user.*") & limit(20), lambda m: m.id < "8"]
        for where in (*selections, None, None):
            before = set(target.ids)
            report = await h.replay(target, inbox=inbox, where=where).run()
            if where is not None:
                assert all(where(each) for each in messages if each.id in set(target.ids) - before)
            else:
                assert report.finished
        assert sorted(target.ids) == sorted(await h.ids())


async def test_what_a_function_selects_later_is_passed_whatever_it_is_combined_with() -> None:
    chosen: set[str] = set()
    async with history(200, page_size=20) as h:
        replay = h.replay(Recorder(), where=event_types("*") & (lambda message: message.id in chosen))
        assert (await replay.run()).handled == 0
        chosen.update(await h.ids())
        assert (await replay.run()).handled == 200


@pytest.mark.documented_world("without times a list is read to its end", "attempts")
@pytest.mark.parametrize("where", [event_types("user.created"), since(NOON), limit(500), None], ids=str)
@pytest.mark.parametrize("kind", ["inbox", "receiver", "table"])
async def test_a_run_with_nothing_new_asks_for_few_pages_whatever_was_selected(where: Any, kind: str) -> None:
    receiver = WebhookReceiver(SECRET, inbox=MemoryInbox())

    @receiver.on("user.*")
    async def handle(delivery: Delivery) -> None: ...

    async with history(400, page_size=20) as h:
        target = {"receiver": receiver, "table": Table()}.get(kind) or Recorder()
        replay = h.replay(target, where=where)
        assert (await replay.run()).finished
        asked = len(h.fake.requests)
        again = await replay.run()
        assert (again.handled, again.finished) == (0, True)
        assert len(h.fake.requests) - asked <= 3
