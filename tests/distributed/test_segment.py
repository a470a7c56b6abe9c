"""One segment: what it does when its lease, its page or the store is not what it was."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any, Literal

import attrs
import pytest
from redis.asyncio import Redis

from basiq_async import InMemoryTransport, Message, Request, Response
from basiq_async.distributed import Work, _segment, _worker  # private: how long they wait for others
from basiq_async.distributed._record_types import Heartbeat, LeaseLostError  # private: what a record says
from basiq_async.distributed._segment import (  # private: a lease ends between two messages
    ActiveJob,
    Lease,
    Segment,
    clock,
)
from basiq_async.errors import RecordError
from basiq_async.receiver import MemoryInbox
from basiq_async.receiver.protocol import Claim, inbox_key
from basiq_async.replay.shared import Finished
from basiq_async.testing import Quirks
from tests.support.fleets import crew, progress_when
from tests.support.histories import Recorder, Refusing, Table
from tests.support.job_stores import make_spec
from tests.support.real_time import PATIENCE


@pytest.mark.parametrize("inbox", [None, MemoryInbox()], ids=["a function", "with an inbox"])
async def test_no_message_is_begun_when_the_lease_may_have_run_out(inbox: MemoryInbox | None) -> None:
    recorder = Recorder()
    lease = Lease(30.0)
    unused: Any = None
    work = Work(unused, recorder, inbox=inbox)
    job = ActiveJob(make_spec("job"), unused, unused)
    target = Segment(unused, job, "0.0", lease, work, unused, unused)
    message = Message("m1", {"id": "m1"})
    lease.prolong(clock())
    await target.deliver(message)
    for asked_at in (float("-inf"), clock() - 30.0):  # the latter was granted, and has run out again
        lease.end()
        lease.prolong(asked_at)
        with pytest.raises(LeaseLostError):
            await target.deliver(message)
    assert recorder.ids == ["m1"]


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has this clock")
def test_a_lease_also_counts_the_time_that_the_machine_is_suspended() -> None:
    assert getattr(clock, "args", None) == (time.CLOCK_BOOTTIME,), "a suspended worker would hold its lease for longer"


def segment_on(*answers: Heartbeat | int) -> tuple[Segment, list[tuple[int, list[str]]]]:
    """A segment whose former owner recorded two messages, and what is saved, each with the number before it."""
    calls: list[tuple[int, list[str]]] = []
    left = list(answers)

    class Store:
        async def save(self, key: str, segment: str, token: str, outcomes: Any, *, before: int, **more: Any) -> Any:
            calls.append((before, [each.id for each in outcomes]))
            return left.pop(0)

    unused: Any = None
    store: Any = Store()
    claim: Any = SimpleNamespace(done=["a", "b"])
    job = ActiveJob(make_spec("job"), unused, unused)
    return Segment(store, job, "0.0", Lease(30.0), Work(unused, Recorder()), claim, unused), calls


FINISHED: list[Any] = [Finished(Message(id, {}), None) for id in ("c", "d")]  # type: ignore[arg-type]
RUNNING = Heartbeat("running")


@pytest.mark.parametrize(
    ("answers", "saved"),
    [
        ([RUNNING], [(2, ["c", "d"])]),
        ([3, RUNNING], [(2, ["c", "d"]), (3, ["d"])]),
        ([2, RUNNING], [(2, ["c", "d"]), (2, ["c", "d"])]),
        ([4], [(2, ["c", "d"])]),
        ([1], None),
        ([5], None),
    ],
    ids=["all is well", "a part was saved", "it was lost", "all was saved", "it lost what was claimed", "it has more"],
)
async def test_what_the_store_has_decides_what_is_saved_again(answers: Any, saved: list[Any] | None) -> None:
    segment, calls = segment_on(*answers)
    if saved is None:
        with pytest.raises(RecordError, match=r"another program changed segment 0\.0"):
            await segment.record(FINISHED)
        return
    await segment.record(FINISHED)
    assert calls == saved
    assert (segment.lease.until > clock()) is (RUNNING in answers)


async def test_a_segment_that_is_stopped_before_it_begins_reads_nothing_and_is_not_finished() -> None:
    segment, calls = segment_on()
    segment.stop()
    assert await segment.run() is False
    assert calls == []


async def test_the_state_of_the_job_that_a_save_returns_holds_at_once() -> None:
    segment, _ = segment_on(Heartbeat("paused"))
    segment.job.segments["token"] = segment
    await segment.record(FINISHED)
    assert segment.stopping


async def test_what_the_store_lost_of_a_segment_is_recorded_again(redis_url: str) -> None:
    seen = 0

    async def behave(message: Message) -> None:
        nonlocal seen
        seen += 1
        if seen == 25:  # as a store does that came back without its last second
            await redis.delete("basiq:{job}:s:0.0:d", "basiq:{job}:s:0.1")
            await redis.hdel("basiq:{job}:s:0.0", "read", "edge", "done")
            await redis.hset("basiq:{job}", "n:handled", 0)
            await redis.zrem("basiq:{job}:due", "0.1")
        await asyncio.sleep(0.002)

    async with (
        crew(
            redis_url, Recorder(behave), messages=60, page_size=40, workers=1, segments=1, concurrency=2, lease=5.0
        ) as fleet,
        Redis.from_url(redis_url) as redis,
    ):
        report = await fleet.run()
        assert sorted(fleet.recorder.ids) == sorted(await fleet.ids())
        assert (report.handled, report.read) == (60, 60)


async def test_a_cursor_that_cannot_be_used_any_more_is_found_by_the_message_before_it(redis_url: str) -> None:
    async def behave(message: Message) -> None:
        if message.id == ids[0]:
            await redis.hset("basiq:{job}:s:0.1", "cursor", "of another key")

    target = Recorder(behave)
    async with crew(redis_url, target, messages=45, workers=1, segments=1) as fleet, Redis.from_url(redis_url) as redis:
        ids = await fleet.ids()
        report = await fleet.run()
        assert sorted(fleet.recorder.ids) == sorted(ids)
        assert report.handled == 45


async def test_a_message_that_cannot_be_read_goes_into_the_quarantine(redis_url: str) -> None:
    broken: list[str] = []

    class Breaking(InMemoryTransport):
        async def send(self, request: Request, /) -> Response:
            response = await super().send(request)
            page = json.loads(response.body)
            for item in page.get("data", ()):
                if item["id"] in broken:
                    item["attempts"] = "neither a list nor an object"
            return attrs.evolve(response, body=json.dumps(page).encode())

    async with crew(
        redis_url, messages=25, workers=1, where=lambda message: message.delivered, transport=Breaking
    ) as fleet:
        ids = await fleet.ids()
        broken.append(ids[12])
        job = await fleet.submit()
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, report.failed) == (24, 1)
        (entry,) = await job.quarantined()
        assert (entry.delivery_id, entry.kind) == (ids[12], "unreadable")


class Watched(MemoryInbox):
    """An inbox that keeps the claims that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[tuple[str, float]] = []

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        self.claims.append((token, lease))
        return await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=transaction)


async def test_claims_in_an_inbox_are_a_messages_own_and_as_long_as_a_segments(redis_url: str) -> None:
    inbox = Watched()
    async with crew(redis_url, Recorder(), messages=30, inbox=inbox, lease=7.0) as fleet:
        report = await fleet.run()
        again = await fleet.run(key="another")
        assert (report.handled, again.handled, dict(again.skipped)) == (30, 0, {"handled-before": 30})
    assert {lease for _, lease in inbox.claims} == {7.0}
    assert len({token for token, _ in inbox.claims}) == 60


NEWEST_FIRST = Quirks(message_order="newest-first")


@pytest.mark.parametrize("paging", ["item", "offset"])
async def test_a_job_on_a_list_that_begins_with_the_newest_reads_what_was_there_whatever_arrives(
    redis_url: str, paging: Literal["item", "offset"]
) -> None:
    async def behave(message: Message) -> None:
        if len(fleet.recorder.ids) % 7 == 3:
            await fleet.fake.advance(minutes=2)
            fleet.fake.seed_messages(1, fleet.webhook_id)
        await asyncio.sleep(0.001)

    async with crew(redis_url, Recorder(behave), quirks=attrs.evolve(NEWEST_FIRST, paging=paging)) as fleet:
        before = await fleet.ids()
        report = await fleet.run()
        assert sorted(fleet.recorder.ids) == sorted(before)
        assert (report.handled, report.finished) == (60, True)


async def test_a_target_that_is_its_own_record_gets_only_what_it_does_not_have(redis_url: str) -> None:
    table = Table()
    async with crew(redis_url, table) as fleet:
        ids = await fleet.ids()
        table.rows += ids[:20]
        report = await fleet.run()
        assert sorted(table.rows) == sorted(ids)
        assert (report.handled, dict(report.skipped)) == (40, {"handled-before": 20})


async def test_a_message_that_a_live_delivery_holds_is_handled_when_that_has_ended(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_segment, "_PATIENCE", 0.05)
    monkeypatch.setattr(_worker, "_DELAY", 0.05)
    inbox, recorder = MemoryInbox(), Recorder()
    async with crew(redis_url, recorder, messages=12, inbox=inbox, workers=1, segments=1) as fleet:
        message = (await fleet.client.messages.list(fleet.webhook_id).collect())[3]
        key = inbox_key(message.event_type_id, message.event_id, message.id, fleet.webhook_id)
        await inbox.claim(key, "a live delivery", lease=600)
        job = await fleet.submit()
        await progress_when(job, lambda progress: progress.handled == 11)
        await inbox.release(key, "a live delivery", failed=True)
        report = await job.wait(timeout=PATIENCE)
        assert sorted(recorder.ids) == sorted(await fleet.ids())
        assert (report.handled, report.failed, report.finished) == (12, 0, True)


async def test_a_segment_that_is_claimed_in_a_pause_begins_no_message_before_its_end(redis_url: str) -> None:
    async with crew(redis_url, messages=5, workers=0) as fleet:
        job = await fleet.submit()
        began = clock()
        await fleet.fleet._store.pause("job", 0.3)
        await fleet.start()
        assert (await job.wait(timeout=PATIENCE)).handled == 5
        assert clock() - began >= 0.29


async def test_what_on_error_skip_gives_up_is_counted_and_the_report_is_not_finished(redis_url: str) -> None:
    async with crew(redis_url, target := Refusing(), on_error="skip") as fleet:
        target.refused.update((await fleet.ids())[3:9])
        job = await fleet.submit()
        report = await job.wait(timeout=PATIENCE)
        progress = await job.progress()
        assert (report.handled, report.failed, report.finished) == (54, 6, False)
        assert (progress.state, progress._given_up, progress.quarantined) == ("finished", 6, 0)
