"""Replays that several processes share: pages through a queue, each message once, and the verdict of a last run."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import attrs
import pytest

from basiq_async import (
    APIError,
    BasiqClient,
    ConfigurationError,
    InboxError,
    InMemoryTransport,
    Message,
    ReplayError,
    TargetError,
)
from basiq_async.replay import HttpTarget, JSONLinesTarget, Progress, Replay, Report, failed_only, limit, share, since
from basiq_async.testing import Quirks
from tests.support import virtual
from tests.support.deliveries import SECRET
from tests.support.histories import Away, Receiving, Recorder, Refusing, Watching, history, quarantine_of


class Shared(Watching):
    """An inbox that stands for one that several processes reach."""


@attrs.define(eq=False)
class Queue:
    """A queue with workers, each with a replay of its own. It loses and doubles pages by chance."""

    replays: list[Replay]
    lost: float = 0.0
    doubled: float = 0.0
    rng: random.Random = attrs.field(factory=lambda: random.Random(1))
    sent: list[str] = attrs.field(factory=list)
    waiting: deque[str] = attrs.field(factory=deque)

    async def send(self, page: str) -> None:
        self.sent.append(page)
        chance = self.rng.random()
        count = 0 if chance < self.lost else 2 if chance < self.lost + self.doubled else 1
        for _ in range(count):
            self.waiting.insert(self.rng.randrange(len(self.waiting) + 1) if self.doubled else len(self.waiting), page)

    async def serve(self, replay: Replay) -> None:
        while True:
            if self.waiting:
                await replay.work(self.waiting.popleft())
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Queue]:
        workers = [asyncio.create_task(self.serve(each)) for each in self.replays]
        yield self
        for each in workers:
            each.cancel()
        ends = await asyncio.gather(*workers, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ends), ends


def slowly(target: Recorder, seconds: float = 0.05) -> Recorder:
    target._behave = lambda _: asyncio.sleep(seconds)
    return target


@virtual.clocked
async def test_several_processes_handle_each_message_once_and_the_report_counts_what_all_of_them_did() -> None:
    async with history(1_000, page_size=50) as h:
        inbox, targets = Shared(), [slowly(Recorder()) for _ in range(4)]
        coordinator, *workers = [h.replay(each, inbox=inbox, concurrency=8) for each in targets]
        async with Queue(workers).served() as queue:
            report = await share(coordinator, queue.send)
        assert (report.handled, report.failed, report.finished) == (1_000, 0, True)
        assert Counter(id for each in targets for id in each.ids) == Counter(await h.ids())
        assert all(len(each.ids) > 100 for each in targets), "one process did it all"
        assert len(queue.sent) == 20


@pytest.mark.parametrize("listed", ["objects", "strings", "absent"])
@pytest.mark.parametrize("alone", ["objects", "strings", "absent"])
@virtual.clocked
async def test_a_selection_is_shared_in_each_form_of_attempts_or_said_to_be_unknown(listed: Any, alone: Any) -> None:
    async with history(60, page_size=20, failed=0.5, quirks=Quirks(attempts=listed, attempts_by_id=alone)) as h:
        inbox, targets = Shared(), [slowly(Recorder()) for _ in range(3)]
        failed = {each.id for each in h.fake.messages(h.webhook_id) if not any(one.ok for one in each.attempts)}
        coordinator, *workers = [h.replay(each, inbox=inbox, where=failed_only()) for each in targets]
        async with Queue(workers).served() as queue:
            report = await share(coordinator, queue.send)
        handled = [id for each in targets for id in each.ids]
        if listed != "objects" and alone != "objects":
            assert (handled, report.finished, report.skipped["unknown"]) == ([], False, 60)
        else:
            assert (sorted(handled), report.handled, report.finished) == (sorted(failed), len(failed), True)


@pytest.mark.parametrize("seed", range(12))
def test_pages_may_be_lost_doubled_and_reordered(seed: int) -> None:
    async def check() -> None:
        rng = random.Random(seed)
        async with history(400, page_size=20) as h:
            inbox, handled = Shared(), list[str]()

            async def handle(message: Message) -> None:
                await asyncio.sleep(rng.random())
                handled.append(message.id)

            workers = [h.replay(handle, inbox=inbox, concurrency=rng.choice((1, 8))) for _ in range(3)]
            async with Queue(workers, lost=0.3, doubled=0.3, rng=rng).served() as queue:
                report = await share(h.replay(handle, inbox=inbox, concurrency=4), queue.send)
            assert (report.handled, report.failed, report.finished) == (400, 0, True)
            assert Counter(handled) == Counter(await h.ids())

    virtual.run(check())


@virtual.clocked
async def test_a_page_holds_no_message_and_is_sent_only_if_something_is_left_on_it() -> None:
    async with history(100, page_size=20) as h:
        inbox = Shared()
        replay = h.replay(Recorder(), inbox=inbox)
        pages = [page async for page in replay.pages()]
        assert len(pages) == 5
        assert all(len(page) < 400 for page in pages)
        await replay.work(pages[1])
        await replay.work(pages[1])
        assert len([page async for page in replay.pages()]) == 4
        assert (await share(replay, Queue([]).send)).handled == 80
        assert [page async for page in replay.pages()] == []


@virtual.clocked
async def test_after_a_crash_of_the_coordinator_it_is_called_again_and_sends_what_is_left() -> None:
    async with history(400, page_size=20) as h:
        inbox, target, queue = Shared(), slowly(Recorder(), 0.5), Queue([])
        first = asyncio.create_task(share(h.replay(target, inbox=inbox, concurrency=4), queue.send))
        await asyncio.sleep(10)
        first.cancel()
        await asyncio.wait([first])
        assert len(queue.sent) == 20
        assert 0 < len(target.ids) < 200
        done, queue = len(target.ids), Queue([])
        report = await share(h.replay(target, inbox=inbox, concurrency=4), queue.send)
        assert (report.handled, report.finished) == (400 - done, True)
        assert report.skipped == {"handled-before": done}
        assert len(set(queue.sent)) == 16
        assert Counter(target.ids) == Counter(await h.ids())


@virtual.clocked
async def test_what_a_queue_has_lost_is_sent_again_before_the_coordinator_has_done_it_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with history(2_000, page_size=20) as h:
        inbox, alone, target = Shared(), slowly(Recorder(), 1), slowly(Recorder(), 1)
        coordinator, worker = (h.replay(each, inbox=inbox, concurrency=2) for each in (alone, target))
        queue = Queue([worker])
        sharing = asyncio.create_task(share(coordinator, queue.send))
        await asyncio.sleep(20)
        assert len(queue.waiting) == 100
        queue.waiting.clear()  # FLUSHALL
        async with queue.served():
            report = await sharing
        assert "no other process handled a message for 30 s: 96 pages are sent again" in caplog.text
        assert (report.handled, report.finished) == (2_000, True)
        assert min(len(alone.ids), len(target.ids)) > 800
        assert len(queue.sent) < 250, "it is not sent again and again while it is worked on"


@virtual.clocked
async def test_messages_that_always_fail_are_not_recorded_by_workers_and_the_last_run_ends_in_front_of_them() -> None:
    async with history(2_000, page_size=500) as h:
        inbox, tried = Shared(), list[str]()

        async def fail(message: Message) -> None:
            tried.append(message.id)
            raise ValueError("poisoned")

        worker = h.replay(fail, inbox=inbox, concurrency=1)
        pages = [page async for page in worker.pages()]
        await worker.work(pages[0])
        assert len(tried) == 100, "a page is left after so many failures in a row"
        many = await h.ids()
        mixed = Refusing(*many[::2])
        await h.replay(mixed, inbox=Shared(), concurrency=1).work(pages[0])
        assert len(mixed.taken) == 250, "250 failures, none after another"
        coordinator = h.replay(fail, inbox=inbox, concurrency=1)
        async with Queue([worker]).served() as queue:
            with pytest.raises(ReplayError, match="1,000 messages in a row failed") as caught:
                await share(coordinator, queue.send)
        assert caught.value.report is not None
        assert (caught.value.report.handled, caught.value.report.failed) == (0, 1_000)
        assert not caught.value.report.finished
        assert inbox.completed == inbox.quarantined == []


@virtual.clocked
async def test_the_last_run_quarantines_what_failed_and_the_report_has_it_once() -> None:
    async with history(400, page_size=50) as h:
        ids, inbox = await h.ids(), Shared()
        bad = ids[::20]
        targets = [Refusing(*bad) for _ in range(3)]
        coordinator, *workers = [h.replay(each, inbox=inbox) for each in targets]
        async with Queue(workers).served() as queue:
            report = await share(coordinator, queue.send)
        assert (report.handled, report.failed, report.quarantined, report.finished) == (380, 20, 20, True)
        assert set(await quarantine_of(coordinator)) == set(bad)
        again = await share(coordinator, queue.send)
        assert (again.handled, again.failed, again.quarantined, again.finished) == (0, 0, 20, True)


@virtual.clocked
async def test_it_ends_for_a_receiver_that_has_no_handler_for_some_types() -> None:
    async with history(200, page_size=20) as h:
        receiving = Receiving(Shared(), "consent.*", webhook_id=h.webhook_id)
        queue = Queue([])
        report = await share(h.replay(receiving.receiver), queue.send)
        assert report.handled == len(receiving.ids)
        assert report.skipped == {"no-handler": 200 - report.handled}
        assert report.finished
        again = Queue([])
        await share(h.replay(receiving.receiver), again.send)
        assert again.sent == [], "what has no handler is not left"


@virtual.clocked
async def test_a_list_is_read_three_times_and_looking_at_pages_asks_for_samples() -> None:
    async with history(1_000, page_size=50) as h:

        class Asked(Shared):
            most = 0

            async def known(self, keys: Sequence[str]) -> Collection[str]:
                self.most = max(self.most, len(keys))
                return await super().known(keys)

        inbox, sent, alone = Asked(), list[str](), Recorder()
        worker = h.replay(Recorder(), inbox=inbox)
        h.fake.reset_log()

        async def send(page: str) -> None:
            if not sent:
                await asyncio.sleep(0.01)
                assert len(requests()) == 2, "the next page is requested meanwhile"
            sent.append(page)
            await asyncio.sleep(5)
            await worker.work(page)

        def requests() -> list[str]:
            return [each.url for each in h.fake.requests if "/messages" in each.url]

        seen: list[Progress] = []
        report = await share(h.replay(alone, inbox=inbox), send, seen.append)
        assert (report.handled, report.finished, alone.ids) == (1_000, True, [])
        assert seen[0].remaining is None, "how many there are is not known yet"
        assert len(requests()) <= 3 * 20 + 1
        assert inbox.most <= 20 * 16


@virtual.clocked
async def test_a_message_that_fails_at_once_is_no_workers_and_counts_once() -> None:
    async with history(60, page_size=20) as h:
        ids = await h.ids()
        bad = {*ids[:20], ids[30]}  # the whole first page, and one

        def where(message: Message) -> bool:
            if message.id in bad:
                raise KeyError("no such field")
            return True

        queue, target = Queue([]), Recorder()
        report = await share(h.replay(target, inbox=Shared(), where=where), queue.send)
        assert len(queue.sent) == 2
        assert (report.handled, report.failed, report.quarantined, report.finished) == (39, 21, 21, True)


@virtual.clocked
async def test_what_a_receiver_quarantines_itself_is_a_failure_in_the_report() -> None:
    async with history(60, page_size=20) as h:
        receiving = Receiving(Shared(), webhook_id=h.webhook_id, quarantine_after=1)
        receiving.refused = set((await h.ids())[::20])
        report = await share(h.replay(receiving.receiver), Queue([]).send)
        assert (report.handled, report.failed, report.quarantined, report.finished) == (57, 3, 3, True)
        assert report.skipped == {}


@virtual.clocked
async def test_pages_are_sent_again_ever_later_while_nobody_handles_them() -> None:
    async with history(40, page_size=20) as h:
        times: list[float] = []

        async def lose(page: str) -> None:
            times.append(virtual.now())

        alone = slowly(Recorder(), 120)
        assert (await share(h.replay(alone, inbox=Shared(), concurrency=1), lose)).handled == 40
        later = [second - first for first, second in itertools.pairwise(times[1:])]
        assert len(later) > 6
        assert later == pytest.approx([30, 60, 120, 240, *[300] * (len(later) - 4)], abs=8)


# --- who may make a page, and of what ---


async def refused(replay: Replay, page: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await replay.work(page)
    return str(caught.value)


async def test_a_page_of_another_key_replay_or_endpoint_is_refused_before_anything_is_done() -> None:
    async with history(20) as h:
        other = h.fake.add_webhook("https://example.com/other")
        target, inbox = Recorder(), Shared()
        replay = h.replay(target, inbox=inbox)
        (page,) = [page async for page in replay.pages()]
        async with BasiqClient("b3RoZXI=", transport=InMemoryTransport(h.fake)) as client:
            stranger = Replay(client, h.webhook_id, target, inbox=inbox)
            assert await refused(stranger, page) == "the page was sealed with another API key"
        assert "was changed" in await refused(replay, page[:-4] + "AAAA")
        assert "must be a text" in await refused(replay, None)
        others = [
            Replay(h.client, other, target, inbox=inbox),
            h.replay(target, inbox=inbox, source="events"),
            h.replay(target, inbox=inbox, filter="eventTypeId.eq('x')"),
            h.replay(HttpTarget("https://example.com/hook", SECRET), inbox=inbox),
        ]
        for each in others:
            assert "of another replay" in await refused(each, page)
        endpoints = [h.replay(HttpTarget(f"https://{name}.example/hook", SECRET), inbox=inbox) for name in "ab"]
        (posted,) = [page async for page in endpoints[0].pages()]
        assert "of another replay" in await refused(endpoints[1], posted), "a stranger's endpoint"
        assert target.ids == []


async def test_what_cannot_be_shared_is_refused_with_the_reason(tmp_path: Any) -> None:
    async with history(20) as h:
        queue = Queue([])
        inbox = Shared()
        reasons = {
            "its own record": h.replay(JSONLinesTarget(tmp_path / "a.jsonl")),
            "no other process can see a MemoryInbox": h.replay(Recorder()),
            r"limit\(\) counts the messages of one run": h.replay(Recorder(), inbox=inbox, where=limit(3)),
        }
        for reason, replay in reasons.items():
            with pytest.raises(ConfigurationError, match=reason):
                await share(replay, queue.send)
            with pytest.raises(ConfigurationError, match=reason):
                await anext(replay.pages())
        with pytest.raises(ConfigurationError, match="send must be an async function"):
            await share(h.replay(Recorder(), inbox=inbox), queue.sent.append)  # type: ignore[arg-type]
        assert queue.sent == []


@pytest.mark.documented_world("it looks at what a list tells of attempts", "attempts")
async def test_a_length_of_time_counts_back_from_the_moment_of_the_pages_in_each_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with history(30) as h:
        inbox, target = Shared(), Recorder()
        newest = max(each.first_attempt.timestamp for each in await h.messages() if each.first_attempt)  # type: ignore[type-var]
        assert newest is not None
        now = newest + timedelta(hours=1)

        class Clock(type(now)):  # type: ignore[misc]
            @classmethod
            def now(cls, zone: object = None) -> Any:
                return now

        monkeypatch.setattr("basiq_async.replay._where.datetime", Clock)
        monkeypatch.setattr("basiq_async.replay._pages.datetime", Clock)
        pages = [page async for page in h.replay(target, inbox=inbox, where=since(timedelta(hours=2))).pages()]
        now = newest + timedelta(days=3)
        late = h.replay(target, inbox=inbox, where=since(timedelta(hours=2)))
        assert [page async for page in late.pages()] == []
        for page in pages:
            await late.work(page)
        assert target.ids
        assert not any(since(timedelta(hours=2))(each) for each in await h.messages()), "for these pages alone"


# --- one process ---


@virtual.clocked
async def test_the_pages_of_a_process_share_its_places_its_rate_and_its_pause() -> None:
    async with history(200, page_size=50) as h:
        target = slowly(Recorder(), 0.5)
        replay = h.replay(target, inbox=Shared(), concurrency=8, rate=10)
        began = virtual.now()
        async with asyncio.TaskGroup() as group:
            for page in [page async for page in replay.pages()]:
                group.create_task(replay.work(page))
        assert target.most_at_once <= 8
        assert virtual.now() - began == pytest.approx(20, rel=0.05)
    async with history(40, page_size=10) as h:
        times: list[float] = []

        async def ask_for_a_pause(message: Message) -> None:
            times.append(virtual.now())
            if len(times) == 1:
                raise TargetError("later", retry_after=60)

        replay = h.replay(ask_for_a_pause, inbox=Shared(), concurrency=4)
        async with asyncio.TaskGroup() as group:
            for page in [page async for page in replay.pages()]:
                group.create_task(replay.work(page))
        assert [each for each in times if 10 < each - times[0] < 60] == []
        assert len(times) == 41


@virtual.clocked
async def test_an_error_that_ends_a_run_ends_the_work_on_a_page_after_what_is_under_way() -> None:
    async with history(20) as h:
        handled: list[str] = []

        async def handle(message: Message) -> None:
            await asyncio.sleep(1)
            if handled:
                raise ReplayError("the disk is full")
            handled.append(message.id)

        replay = h.replay(handle, inbox=Shared(), concurrency=2)
        (page,) = [page async for page in replay.pages()]
        with pytest.raises(ReplayError, match="the disk is full"):
            await replay.work(page)
        assert len(handled) == 1


@virtual.clocked
async def test_the_inbox_may_be_away_for_a_while() -> None:
    async with history(100, page_size=20) as h:
        for call in ("note", "known", "claim", "complete", "set_note"):
            inbox = Away(call, InboxError("away"), 0)
            target = slowly(Recorder(), 1)
            sharing = asyncio.create_task(share(h.replay(target, inbox=inbox, concurrency=4), Queue([]).send))
            await asyncio.sleep(8)
            inbox.until = virtual.now() + 40
            report = await sharing
            assert (report.handled, report.finished) == (100, True), call
            assert Counter(target.ids) == Counter(await h.ids())
        away = Away("known", InboxError("away"), 0)
        replay = h.replay(Recorder(), inbox=away)
        await share(replay, Queue([]).send)
        away.until, began = virtual.now() + 1_000, virtual.now()
        with pytest.raises(InboxError, match="away"):
            await replay.plan()
        assert virtual.now() - began < 10, "it waits, and nothing is under way"


@virtual.clocked
async def test_a_page_whose_link_has_expired_is_left_to_the_last_run() -> None:
    async with history(100, page_size=20) as h:
        target, queue = slowly(Recorder(), 1), Queue([])
        replay = h.replay(target, inbox=Shared())
        pages = [page async for page in replay.pages()]
        h.fake.fail_next(status=410)
        await replay.work(pages[-1])
        assert target.ids == []

        async def send(page: str) -> None:
            await queue.send(page)
            if len(queue.sent) == 1:  # the second page was requested already
                h.fake.fail_next(status=410)

        seen: list[Progress] = []
        assert (await share(replay, send, seen.append)).handled == 100
        assert len(queue.sent) < 5
        assert [isinstance(each, Report) for each in seen[:-1]] == [False] * (len(seen) - 1)
        assert [each.handled for each in seen] == sorted(each.handled for each in seen)
        in_last_run = [each.handled for each in seen if each.in_flight]
        assert min(in_last_run) >= 20, "it goes on from what was handled before"


@pytest.mark.parametrize(("page", "status"), [(1, 410), (2, 403)])
async def test_a_list_that_cannot_be_read_raises_its_error(page: int, status: int) -> None:
    async with history(100, page_size=20) as h:
        replay = h.replay(Recorder(), inbox=Shared())

        async def send(text: str) -> None: ...

        if page == 1:
            h.fake.fail_next(status=status)
        pages = replay.pages()
        with pytest.raises(APIError) as caught:
            async for _ in pages:
                h.fake.fail_next(status=status)
        assert caught.value.status == status


# --- what people see ---


@virtual.clocked
async def test_progress_is_what_the_inbox_knows_and_not_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with history(1_000, page_size=50) as h:
        inbox, seen = Shared(), list[Progress]()
        coordinator, worker = (h.replay(slowly(Recorder(), 1), inbox=inbox, concurrency=2) for _ in range(2))
        async with Queue([worker]).served() as queue:
            report = await share(coordinator, queue.send, seen.append)
        assert seen[-1] is report
        shown = [each for each in seen if each.remaining]
        assert all(each.handled + (each.remaining or 0) == 1_000 for each in shown)
        assert [each.handled for each in seen] == sorted(each.handled for each in seen)
        (middle,) = [each for each in shown if 100 <= each.duration < 101][:1]
        assert middle.handled == pytest.approx(400, rel=0.1)
        assert middle.rate == pytest.approx(4, rel=0.3)
        assert middle.eta == pytest.approx(150, rel=0.3)
        assert middle.pages_left == pytest.approx(13, abs=2)
        assert report.duration == pytest.approx(250, rel=0.1)
        assert report.rate == pytest.approx(4, rel=0.1)
    async with history(1_000, page_size=50) as h:
        inbox = Shared()
        coordinator, worker = (h.replay(slowly(Recorder(), 1), inbox=inbox, concurrency=2) for _ in range(2))
        with caplog.at_level(logging.INFO, "basiq_async.replay"):
            async with Queue([worker]).served() as queue:
                await share(coordinator, queue.send)
        lines = [each.message for each in caplog.records if "messages handled, " in each.message]
        assert 7 <= len(lines) <= 9, "one every 30 s"
        assert " messages handled, 4 a second, something left on " in lines[2]


@virtual.clocked
async def test_a_queue_that_takes_nothing_ends_it_at_once_and_one_that_fails_later_does_not() -> None:
    async with history(100, page_size=20) as h:
        replay, calls = h.replay(Recorder(), inbox=Shared()), 0

        async def refuse(page: str) -> None:
            raise OSError("no such queue")

        async def hang(page: str) -> None:
            nonlocal calls
            calls += 1
            if calls > 1:
                await asyncio.Event().wait()

        with pytest.raises(ReplayError, match="the first page could not be sent: OSError: no such queue"):
            await share(replay, refuse)
        began = virtual.now()
        assert (await share(replay, hang)).handled == 100
        assert virtual.now() - began == pytest.approx(4 * 30, rel=0.05)
