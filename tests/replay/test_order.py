"""A history is replayed right in whichever order Basiq lists it, with messages that arrive while it is read."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from basiq_async import BasiqClient, Message, ReplayError, Request, Response
from basiq_async.receiver import MemoryInbox
from basiq_async.replay import MemoryCheckpoint, Progress, Recovery, Replay, limit, recover
from basiq_async.testing import Quirks
from tests.support.histories import History, Recorder, history
from tests.support.scripted import answer, error, page

ORDERS = pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
SOURCES = pytest.mark.parametrize("source", ["messages", "events"])
FORMS = pytest.mark.parametrize(
    "quirks",
    [
        Quirks(),
        Quirks(message_order="newest-first", event_order="newest-first"),
        Quirks(message_order="newest-first", event_order="newest-first", paging="offset"),
    ],
    ids=["oldest-first", "newest-first", "newest-first-by-offset"],
)
NEWEST_FIRST = Quirks(message_order="newest-first", event_order="newest-first")


@asynccontextmanager
async def a_history(count: int, quirks: Quirks | str, *, page_size: int = 5, **seeding: Any) -> AsyncIterator[History]:
    if isinstance(quirks, str):
        quirks = Quirks(message_order=quirks, event_order=quirks)  # type: ignore[arg-type]  # one of its own words
    async with history(count, page_size=page_size, quirks=quirks, **seeding) as h:
        yield h


async def add(h: History, count: int = 1) -> None:
    """Have messages arrive, with their events."""
    await h.fake.advance(minutes=count + 1)
    h.fake.seed_messages(count, h.webhook_id, every=timedelta(minutes=1))


def a_replay(h: History, target: Any, checkpoint: MemoryCheckpoint, **options: Any) -> Replay:
    return h.replay(target, checkpoint=checkpoint, **options)


async def names(h: History, source: str) -> list[str]:
    if source == "events":
        return [f"event-{event.id}" async for event in h.client.events.list()]
    return await h.ids()


@FORMS
@SOURCES
@pytest.mark.parametrize("count", [0, 1, 5, 23])
async def test_each_run_handles_what_came_since_the_last_once(quirks: Quirks, source: Any, count: int) -> None:
    checkpoint, target = MemoryCheckpoint(), Recorder()
    async with a_history(count, quirks) as h:
        for more in (0, 0, 1, 0, 1, 7, 0, 30, 2):
            if more:
                await add(h, more)
            before = len(target.ids)
            report = await a_replay(h, target, checkpoint, source=source).run()
            assert report.finished
            assert report.handled == len(target.ids) - before == (more or (count if not before else 0))
            assert Counter(target.ids) == Counter(await names(h, source))
        assert report.order == quirks.message_order
        assert report.handled_in_all == report.position == len(target.ids)


@FORMS
@SOURCES
async def test_what_arrives_while_the_list_is_read_is_part_of_the_run(quirks: Quirks, source: Any) -> None:
    checkpoint = MemoryCheckpoint()

    async def behave(message: Message) -> None:
        if len(target.ids) in (7, 12, 38):
            await add(h, 3)

    target = Recorder(behave)
    async with a_history(40, quirks) as h:
        report = await a_replay(h, target, checkpoint, source=source, concurrency=1).run()
        assert report.finished
        assert Counter(target.ids) == Counter(await names(h, source))
        assert report.handled == 49


@FORMS
@pytest.mark.parametrize("seed", range(8))
async def test_nothing_is_lost_or_repeated_however_often_a_run_stops(quirks: Quirks, seed: int) -> None:
    chance = random.Random(seed)
    checkpoint = MemoryCheckpoint()
    source: Any = chance.choice(["messages", "events"])

    async def behave(message: Message) -> None:
        if chance.random() < 0.1:
            await add(h, chance.randint(1, 8))

    target = Recorder(behave)
    # Where pages overlap, fewer than a page may arrive between two of them.
    size = 5 if quirks.paging == "item" else 80
    async with a_history(chance.randint(0, 8 * size), quirks, page_size=size) as h:
        for _ in range(8):
            where = limit(chance.randint(1, 15)) if chance.random() < 0.7 else None
            await a_replay(h, target, checkpoint, source=source, where=where, concurrency=chance.randint(1, 4)).run()
        target._behave = None
        report = await a_replay(h, target, checkpoint, source=source).run()
        assert report.finished
        assert Counter(target.ids) == Counter(await names(h, source))


@FORMS
@pytest.mark.parametrize("seed", range(6))
async def test_a_killed_run_continues_downwards_and_then_reads_what_arrived(quirks: Quirks, seed: int) -> None:
    chance = random.Random(seed)
    checkpoint = MemoryCheckpoint()
    concurrency, kills = 3, 0

    async def behave(message: Message) -> None:
        if chance.random() < 0.05:
            await add(h, chance.randint(1, 8))
        if chance.random() < 0.08:
            raise KilledError

    target = Recorder(behave)
    async with a_history(chance.randint(5, 60), quirks) as h:
        for number in range(30):
            if number == 29:
                target._behave = None
            replay = a_replay(h, target, checkpoint, concurrency=concurrency)
            try:
                report = await replay.run()
                break
            except ReplayError:
                kills += 1
        target._behave = None
        report = await a_replay(h, target, checkpoint).run()  # what came after the last page
        assert report.finished
        found = Counter(target.ids)
        assert set(found) == set(await h.ids())
        assert found.total() - len(found) <= kills * concurrency
        assert (await a_replay(h, target, checkpoint).run()).handled == 0


class KilledError(ReplayError):
    """Ends a run in front of a message, with whatever it had recorded."""


@FORMS
async def test_the_order_is_told_by_progress_plan_and_report(quirks: Quirks) -> None:
    seen: list[Progress] = []
    async with a_history(30, quirks) as h:
        replay = a_replay(h, Recorder(), MemoryCheckpoint())
        assert (await replay.plan()).order == quirks.message_order
        report = await replay.run(seen.append)
        assert seen[-1].order == report.order == quirks.message_order


@FORMS
async def test_a_plan_is_what_the_next_run_does(quirks: Quirks) -> None:
    checkpoint, target = MemoryCheckpoint(), Recorder()
    async with a_history(30, quirks) as h:
        await a_replay(h, target, checkpoint, where=limit(12)).run()
        await add(h, 9)
        replay = a_replay(h, target, checkpoint)
        assert (await replay.plan()).total == 27
        assert (await replay.run()).handled == 27
        await add(h, 4)
        assert (await replay.plan()).total == 4
        assert (await replay.run()).handled == 4


async def test_a_list_whose_times_are_all_equal_is_right_in_both_orders() -> None:
    for order in ("oldest-first", "newest-first"):
        checkpoint, target = MemoryCheckpoint(), Recorder()
        async with a_history(12, order, every=timedelta(0)) as h:
            for more in (0, 3, 0, 1, 12):
                if more:
                    h.fake.seed_messages(more, h.webhook_id, every=timedelta(0))
                report = await a_replay(h, target, checkpoint).run()
                assert report.order == "unknown"
                assert Counter(target.ids) == Counter(await h.ids())


async def test_a_list_that_turns_round_between_two_runs_loses_nothing() -> None:
    for first, then in (("oldest-first", "newest-first"), ("newest-first", "oldest-first")):
        checkpoint, inbox, target = MemoryCheckpoint(), MemoryInbox(), Recorder()
        async with a_history(23, first) as h:
            await a_replay(h, target, checkpoint, inbox=inbox).run()
            h.fake.quirks = Quirks(message_order=then)  # type: ignore[arg-type]  # one of its own words
            await add(h, 8)
            for _ in range(2):
                report = await a_replay(h, target, checkpoint, inbox=inbox).run()
            assert report.order == then
            assert Counter(target.ids) == Counter(await h.ids())


@ORDERS
async def test_a_run_with_nothing_new_asks_for_one_page_and_for_two_before_anything_came(order: str) -> None:
    checkpoint = MemoryCheckpoint()
    async with a_history(60, order) as h:
        await a_replay(h, Recorder(), checkpoint).run()
        for more, pages in ((0, 2), (5, None), (0, 1)):
            if more:
                await add(h, more)
            before = len(h.fake.requests)
            assert (await a_replay(h, Recorder(), checkpoint).run()).finished
            asked = [request for request in h.fake.requests[before:] if "/messages" in request.url]
            assert pages is None or len(asked) == pages


@ORDERS
async def test_a_run_stops_reading_where_the_last_one_began(order: str) -> None:
    checkpoint = MemoryCheckpoint()
    async with a_history(200, order) as h:
        await a_replay(h, Recorder(), checkpoint).run()
        await add(h, 12)
        before = len(h.fake.requests)
        assert (await a_replay(h, Recorder(), checkpoint).run()).handled == 12
        assert len([request for request in h.fake.requests[before:] if "/messages" in request.url]) <= 5


# --- what is no longer listed ---


class Listed:
    """A transport with one list of messages that can change in any way; a next link leads to the item after an id."""

    def __init__(self, order: str, *minutes: int, size: int = 4) -> None:
        self.order = order
        self.items = [(f"m{minute}", minute) for minute in minutes]
        self._size = size
        self.pages = 0

    def client(self) -> BasiqClient:
        return BasiqClient("a2V5", transport=self)

    def add(self, *minutes: int) -> None:
        self.items += [(f"m{minute}", minute) for minute in minutes]

    def drop(self, *minutes: int) -> None:
        self.items = [item for item in self.items if item[1] not in minutes]

    async def send(self, request: Request, /) -> Response:
        if request.url.endswith("/token"):
            return answer({"access_token": "t", "expires_in": 3600})
        self.pages += 1
        listed = self.items if self.order != "newest-first" else self.items[::-1]
        names = [name for name, _ in listed]
        after = parse_qs(urlsplit(request.url).query).get("next", [""])[0]
        if after and after not in names:
            return error(410)
        start = names.index(after) + 1 if after else 0
        found = listed[start : start + self._size]
        link = f"{request.url.partition('?')[0]}?next={found[-1][0]}" if listed[start + self._size :] else None
        return page([self._show(*item) for item in found], link)

    def _show(self, name: str, minute: int) -> dict[str, Any]:
        moment = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(minutes=minute)
        return {"id": name, "attempts": [{"status": "Failed", "timestamp": moment.isoformat()}]}

    async def aclose(self) -> None:
        pass


def minutes_of(target: Recorder) -> list[int]:
    return sorted(int(name.removeprefix("m")) for name in target.ids)


@ORDERS
@pytest.mark.parametrize("gone", [1, 8, 15, 19, 20])
async def test_messages_that_are_no_longer_kept_cost_nothing(order: str, gone: int) -> None:
    checkpoint, target, listed = MemoryCheckpoint(), Recorder(), Listed(order, *range(0, 600, 30))
    async with listed.client() as client:
        await Replay(client, "w1", target, checkpoint=checkpoint).run()
        listed.drop(*range(0, 30 * gone, 30))
        listed.add(*range(600, 780, 30))
        report = await Replay(client, "w1", target, checkpoint=checkpoint).run()
        assert (report.handled, report.finished) == (6, True)
        assert minutes_of(target) == list(range(0, 780, 30))
        assert (await Replay(client, "w1", target, checkpoint=checkpoint).run()).handled == 0


@ORDERS
async def test_a_list_that_was_empty_for_a_while_is_read_again(order: str) -> None:
    checkpoint, target, listed = MemoryCheckpoint(), Recorder(), Listed(order, *range(0, 600, 30))
    async with listed.client() as client:
        await Replay(client, "w1", target, checkpoint=checkpoint).run()
        listed.drop(*range(600))
        for _ in range(2):
            assert (await Replay(client, "w1", target, checkpoint=checkpoint).run()).finished
        listed.add(*range(600, 780, 30))
        for _ in range(2):
            assert (await Replay(client, "w1", target, checkpoint=checkpoint).run()).finished
        assert minutes_of(target) == list(range(0, 780, 30))


@pytest.mark.parametrize("gone", [1, 3, 7, 8, 12])
async def test_a_run_stops_at_what_is_older_where_the_newest_of_the_last_run_are_gone(gone: int) -> None:
    checkpoint, target, listed = MemoryCheckpoint(), Recorder(), Listed("newest-first", *range(0, 1200, 30))
    async with listed.client() as client:
        await Replay(client, "w1", target, checkpoint=checkpoint).run()
        listed.drop(*range(1200 - 30 * gone, 1200, 30))
        listed.add(*range(1200, 1500, 30))
        report = await Replay(client, "w1", target, checkpoint=checkpoint).run()
        assert (report.handled, report.finished) == (10, True)
        assert minutes_of(target) == list(range(0, 1500, 30))


async def test_a_killed_pass_whose_place_fell_out_of_the_list_continues_with_what_came_since() -> None:
    checkpoint, target, listed = MemoryCheckpoint(), Recorder(), Listed("newest-first", *range(0, 1200, 30))
    async with listed.client() as client:
        await Replay(client, "w1", target, checkpoint=checkpoint, where=limit(14)).run()
        listed.drop(*range(0, 1000, 30))
        listed.add(*range(1200, 1500, 30))
        for _ in range(2):
            assert (await Replay(client, "w1", target, checkpoint=checkpoint).run()).finished
        assert minutes_of(target) == list(range(780, 1500, 30))


@ORDERS
async def test_a_place_that_left_the_middle_of_the_list_costs_nothing(order: str) -> None:
    checkpoint, target, listed = MemoryCheckpoint(), Recorder(), Listed(order, *range(0, 1200, 30))
    async with listed.client() as client:
        await Replay(client, "w1", target, checkpoint=checkpoint, where=limit(14), concurrency=1).run()
        listed.drop(minutes_of(target)[-1 if order == "oldest-first" else 0])
        report = await Replay(client, "w1", target, checkpoint=checkpoint).run()
        assert (report.handled, report.finished, report.may_repeat) == (26, True, False)
        assert minutes_of(target) == list(range(0, 1200, 30))


async def test_a_list_in_no_order_is_read_whole_each_time_and_the_report_says_so() -> None:
    minutes = list(range(0, 3_000, 30))
    random.Random(1).shuffle(minutes)
    checkpoint, target, listed = MemoryCheckpoint(), Recorder(), Listed("none", *minutes)
    async with listed.client() as client:
        report = await Replay(client, "w1", target, checkpoint=checkpoint).run()
        assert (report.handled, report.order, report.finished) == (100, "unknown", True)
        listed.items[50:50] = [("m9000", 9_000), ("m9001", 9_001)]
        report = await Replay(client, "w1", target, checkpoint=checkpoint).run()
        assert (report.handled, report.order, report.finished) == (2, "unknown", True)
        assert len(target.ids) == len(set(target.ids)) == 102


@ORDERS
async def test_a_scheduled_recovery_survives_a_quiet_week(order: str) -> None:
    checkpoints = MemoryCheckpoint(), MemoryCheckpoint()
    inbox, target = MemoryInbox(), Recorder()
    async with a_history(12, order, every=timedelta(hours=2)) as h:

        async def scheduled() -> Recovery:
            return await recover(
                h.client,
                h.webhook_id,
                target,
                checkpoint=checkpoints[0],
                events_checkpoint=checkpoints[1],
                inbox=inbox,
                everything=True,
                clock=h.fake.now,
            )

        assert (await scheduled()).finished
        for _ in range(9):
            await h.fake.advance(days=1)
            assert (await scheduled()).finished
        assert await h.client.events.list().collect() == []
        await h.fake.advance(days=1)
        (webhook,) = h.fake.webhooks()
        webhook.disabled = True
        silent = [(await h.fake.emit("user.created")).event_id for _ in range(3)]
        webhook.disabled = False
        await add(h, 7)
        for expected in (7 + len(silent), 0):
            recovery = await scheduled()
            assert recovery.messages.handled + recovery.events.handled == expected
            assert recovery.finished
        assert len(target.ids) == 12 + 7 + len(silent)


@ORDERS
async def test_when_a_webhook_was_not_active_is_found_in_either_order(order: str) -> None:
    listed = Listed(order, *range(0, 900, 30))
    transport: Any = listed
    show = listed._show

    def failed_for_good(name: str, minute: int) -> dict[str, Any]:
        item = show(name, minute)
        if minute == 300:  # eight attempts, the last of them at 330 minutes
            later = show(name, 330)["attempts"]
            item["attempts"] = later + item["attempts"] * 7
        return item

    transport._show = failed_for_good
    async with listed.client() as client:
        listed.drop(330, 360, 390)
        for found in (
            (await Replay(client, "w1", Recorder(), checkpoint=MemoryCheckpoint()).plan()).inactive,
            (await Replay(client, "w1", Recorder(), checkpoint=MemoryCheckpoint()).run()).inactive,
        ):
            (period,) = found
            assert period.until is not None
            assert period.until - period.since == timedelta(minutes=90)


@ORDERS
async def test_several_lists_are_each_read_in_their_own_order(order: str) -> None:
    checkpoint, target = MemoryCheckpoint(), Recorder()
    filters = ["status.eq('Failed')", "status.eq('Success')"]
    async with a_history(60, order, failed=0.4) as h:
        for more in (0, 0, 9, 1, 0):
            if more:
                await add(h, more)
            for where in (limit(7), None):
                replay = h.replay(target, checkpoint=checkpoint, filters=filters, where=where)
                report = await replay.run()
            assert report.finished
            assert report.order == order
            assert Counter(target.ids) == Counter(await h.ids())


@FORMS
async def test_reconcile_looks_at_each_message_once_in_either_order(quirks: Quirks) -> None:
    async with a_history(30, quirks) as h:
        found = await a_replay(h, Recorder(), MemoryCheckpoint()).reconcile(MemoryInbox())
        assert (found.checked, found.delivered, found.missing) == (30, 30, 30)
