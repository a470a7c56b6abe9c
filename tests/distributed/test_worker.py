"""A worker looks at what a broker and Redis hand to it: others may write to both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from redis.asyncio import Redis

from basiq_async import RateLimitError
from basiq_async.distributed import JobState, Work, Worker, _worker  # private: its paces
from basiq_async.distributed._record_types import (  # private: what a record exchanges with its callers
    Heartbeat,
    LeaseLostError,
    RecordUnavailableError,
    shorten,
)
from basiq_async.distributed._segment import ActiveJob, Lease, clock  # private: what a worker holds
from basiq_async.errors import ConnectionFailedError, InboxError, RecordError
from tests.support.fleets import Holding, crew, progress_when
from tests.support.histories import Recorder
from tests.support.job_stores import make_spec
from tests.support.real_time import PATIENCE, until

FORGED = "0.0\n2026-11-27 12:00:00 INFO basiq_async.distributed the job 'job' is finished"


@pytest.mark.parametrize(
    ("key", "segment"),
    [("job", FORGED), ("job", "0." + "1" * 1_000), ("k" * 100_000, "0.0"), ("job", ""), (5, "0.0"), ("job", None)],
    ids=["newline", "long segment", "long key", "no segment", "a number", "nothing"],
)
async def test_a_notification_that_is_none_is_ignored_in_one_short_line(
    caplog: pytest.LogCaptureFixture, key: Any, segment: Any
) -> None:
    await worker_on(record := Scripted()).process_segment(key, segment)
    assert [each.getMessage() for each in caplog.records] == ["a notification that is not one of a fleet is ignored"]
    assert record.calls == []


async def test_a_segment_or_a_job_that_another_program_wrote_is_left_out_and_logged_nowhere(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with crew(redis_url, messages=20) as fleet, Redis.from_url(redis_url) as redis:
        await redis.sadd("basiq:active", "k" * 10_000, b"\xff\n")
        await redis.zadd("basiq:{job}:due", {FORGED: 1})
        job = await fleet.submit()
        assert not (await progress_when(job, lambda progress: progress.handled == 20)).reason
        await redis.zrem("basiq:{job}:due", FORGED)
    assert all("\n" not in record.getMessage() and len(record.getMessage()) < 2_000 for record in caplog.records)


async def test_an_error_is_one_printable_line_of_limited_length_in_the_log_and_in_the_reason(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def behave(message: object) -> None:
        raise ValueError("no\n" + "x" * 100_000)

    async with crew(redis_url, behave, messages=20, on_error="stop") as fleet:
        progress = await progress_when(await fleet.submit(), lambda progress: progress.ended)
    assert progress.state == "failed"
    assert shorten("x" * 1_001) == "x" * 1_000 + "…"
    for text in (progress.reason, *(record.getMessage() for record in caplog.records)):
        assert "\n" not in text
        assert len(text) < 2_000


DAMAGES: list[dict[str, str]] = [
    {"rate": "fast"},
    {"lists": "[[1, 2, 3]]"},
    {"lists": "[" * 100_000},
    {"submitted_at": "yesterday"},
    {"id": "", "name": ""},
    {"name": "\x00" * 1_200_000},
]


async def test_a_job_that_another_program_damaged_holds_up_no_other(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew(redis_url, workers=0) as fleet, Redis.from_url(redis_url) as redis:
        fleet.lost = lambda number: 0  # the workers have to find the jobs
        for number, damage in enumerate(DAMAGES):
            await fleet.submit(key=f"damaged {number}")
            await redis.hdel(base := f"basiq:{{damaged {number}}}", *damage)
            for name in filter(damage.get, damage):
                await redis.hset(base, name, damage[name])
        job = await fleet.submit()
        fleet.lost = lambda number: 1
        await fleet.start(1)
        assert (await job.wait(timeout=PATIENCE)).handled == 60
        for number in range(len(DAMAGES)):
            with pytest.raises(RecordError, match=f"another program changed the job 'damaged {number}' in Redis"):
                await fleet.fleet.get(f"damaged {number}")
            assert f"another program changed the job 'damaged {number}'" in caplog.text
    assert all(len(record.getMessage()) < 2_000 for record in caplog.records)
    assert "Traceback" not in caplog.text


async def test_a_job_whose_key_is_of_another_type_holds_up_no_other(redis_url: str) -> None:
    async with crew(redis_url, target := Holding(), messages=20, workers=1, lease=1.0) as fleet:
        jobs = [await fleet.submit(key=key) for key in ("a", "b")]
        async with Redis.from_url(redis_url) as redis, asyncio.timeout(PATIENCE):
            await until(lambda: {segment.job.spec.key for segment in fleet.segments} == {"a", "b"})
            await redis.set("basiq:{a}", "no job")
            before = await redis.zscore("basiq:{b}:due", "0.0")
            while await redis.zscore("basiq:{b}:due", "0.0") == before:  # until a heartbeat prolonged the lease
                await asyncio.sleep(0.01)
            target.free.set()
            assert (await jobs[1].wait()).handled == 20


class Scripted:
    """A record that answers a call with what a test put there under its name, and keeps the arguments."""

    def __init__(self, **answers: Any) -> None:
        self.connection = self
        self.answers = answers
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            self.calls.append((name, *arguments, *more.values()))
            return self.answers.get(name)

        return call


async def nothing(key: str, segments: Sequence[str]) -> None: ...


def worker_on(record: Any, *, lease: float = 10.0, notify: Any = nothing) -> Worker:
    worker = Worker(record, {"work": None}, notify, lease=lease)  # type: ignore[dict-item]  # never opened
    worker.name = "me"
    return worker


@pytest.mark.parametrize(("lease", "heal", "beat"), [(60.0, 1.0, 0.25), (1.2, 0.2, 0.2)])
async def test_a_worker_looks_for_segments_and_renews_leases_again_and_again(
    monkeypatch: pytest.MonkeyPatch, lease: float, heal: float, beat: float
) -> None:
    """A lease is renewed several times before it ends, and a new rate holds within half a second."""
    paces: dict[str, float] = {}

    async def repeat(worker: Worker, step: Any, every: float) -> None:
        paces[step.__name__] = every

    monkeypatch.setattr(Worker, "_repeat", repeat)
    worker = worker_on(record := Scripted(check=()), lease=lease)
    async with worker:
        await asyncio.sleep(0)
    assert paces == {"_heal": pytest.approx(heal), "_heartbeat": pytest.approx(beat)}
    await worker.process_segment("job", "0.0")
    assert record.calls == [("check",)], "a closed worker begins a segment"


@pytest.mark.parametrize(("lease", "grace"), [(1.0, 1.0), (10.0, 5.0)], ids=["a short lease", "a long one"])
async def test_segments_without_a_worker_are_told_of_once_in_half_a_lease(lease: float, grace: float) -> None:
    found: list[str] = []

    async def notify(key: str, segments: Sequence[str]) -> None:
        found.extend(segments)

    record = Scripted(keys=["job"], spec=make_spec("job"), reclaim_expired=["0.1", "0.2"])
    await worker_on(record, lease=lease, notify=notify)._heal()
    assert record.calls == [("keys", True), ("spec", "job"), ("reclaim_expired", "job", "me", grace)]
    assert found == ["0.1", "0.2"]


async def test_a_job_function_that_a_worker_does_not_have_is_logged_once_and_its_jobs_are_left_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = Scripted(keys=["a", "b"], spec=make_spec("a", name="other"))
    worker = worker_on(record)
    await worker._heal()
    await worker.process_segment("a", "0.0")
    assert {name for name, *_ in record.calls} == {"keys", "spec"}
    assert len(caplog.records) == 1
    assert "it has no job function 'other', but ['work']" in caplog.text


@attrs.define
class EndingSegment:
    """A segment that ends in a way that a test chose, and not before ``until``."""

    how: Exception | bool
    job: ActiveJob
    name: str = "0.0"
    lease: Lease = attrs.field(factory=lambda: Lease(10.0, "token"))
    until: asyncio.Event | None = None
    stopping: bool = False
    pauses: list[float] = attrs.field(factory=list)
    owner: tuple[str, ...] = ("job", "0.0", "token")
    claim: Any = attrs.field(factory=lambda: SimpleNamespace(rate=4.0))

    async def run(self) -> bool:
        assert self.job.segments[self.lease.token] is self
        if self.until is not None:
            await self.until.wait()
        if isinstance(self.how, Exception):
            raise self.how
        return self.how

    def stop(self) -> None:
        self.stopping = True

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


HELD = "other workers hold messages of segment 0.0, and did not end"
PASSING: Sequence[Exception] = (
    ConnectionFailedError("away", sent=False),
    InboxError("away"),
    RecordUnavailableError("away"),
)


@pytest.mark.parametrize(
    ("how", "released"),
    [
        (True, None),
        (False, (2.0, HELD)),
        ("stopped", (0.0, "")),
        (LeaseLostError("it ran out"), (0.0, "")),
        *((each, (1.5, "away")) for each in PASSING),
        (RateLimitError("slow down", status=429, retry_after=7.0), (7.0, "429: slow down (retry after 7 s)")),
        (ValueError("no"), (0.0, "ValueError: no")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_how_a_segment_ends_decides_when_it_is_tried_again_and_whether_its_job_stops(
    monkeypatch: pytest.MonkeyPatch, how: Any, released: tuple[float, str] | None
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    record = Scripted()
    worker = worker_on(record)
    job = worker._job(make_spec("job", id="id"))
    if how == "stopped":
        how = False
        worker.stop()
    await worker._run(EndingSegment(how, job))  # type: ignore[arg-type]
    calls: list[tuple[Any, ...]] = []
    if isinstance(how, ValueError):
        calls.append(("set_state", "job", "fail", "segment 0.0: ValueError: no", "id"))
    if released is not None:
        calls.append(("release", "job", "0.0", "token", *released))
    assert record.calls == calls
    assert job.limiter.rate == 4.0
    assert worker._active == {}, "a worker grows with the number of its jobs"


@pytest.mark.parametrize("state", ["running", "paused"])
async def test_a_heartbeat_renews_each_lease_but_the_lost_ones_and_applies_the_state_of_the_job(
    state: JobState,
) -> None:
    record = Scripted(heartbeat=Heartbeat(state, 30.0, 5.0, ["0.2"]))
    worker = worker_on(record)
    job = worker._job(make_spec("job", id="id"))
    kept, lost = (EndingSegment(True, job, name, Lease(10.0, name, clock() + 1)) for name in ("0.1", "0.2"))
    job.segments.update({each.name: each for each in (kept, lost)})  # type: ignore[misc]
    await worker._heartbeat()
    assert record.calls == [("heartbeat", "job", "me", {"0.1": "0.1", "0.2": "0.2"}, 10.0, "id")]
    assert 9 < kept.lease.until - clock() <= 10
    assert lost.lease.until == float("-inf")
    assert job.limiter.rate == 5.0
    for each in (kept, lost):
        assert (each.stopping, each.pauses) == ((True, []) if state == "paused" else (False, [30.0]))


async def test_a_process_may_claim_a_segment_again_before_its_former_run_of_it_has_ended() -> None:
    worker = worker_on(record := Scripted(heartbeat=Heartbeat("running")))
    job, ended = worker._job(make_spec("job", id="id")), asyncio.Event()
    former, latter = (EndingSegment(True, job, lease=Lease(10.0, token)) for token in ("former", "latter"))
    latter.until = ended
    running = asyncio.create_task(worker._run(latter))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await worker._run(former)  # type: ignore[arg-type]
    await worker._heartbeat()
    assert record.calls == [("heartbeat", "job", "me", {"0.0": "latter"}, 10.0, "id")], "its lease is not prolonged"
    ended.set()
    await running
    assert worker._active == {}


async def test_a_worker_that_waits_for_redis_when_it_starts_ends_when_it_is_stopped() -> None:
    class Away(Scripted):
        async def check(self) -> None:
            await asyncio.Event().wait()

    worker = worker_on(record := Away())
    starting = asyncio.create_task(worker.__aenter__())
    await asyncio.sleep(0)
    worker.stop()
    assert await starting is worker
    await worker.process_segment("job", "0.0")
    assert (record.calls, worker._owner._tasks) == ([], set())
    starting = asyncio.create_task(worker_on(record).__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_a_job_function_is_opened_once_and_stays_open_until_its_worker_is_closed() -> None:
    seen: list[str] = []
    unused: Any = None

    @asynccontextmanager
    async def function() -> AsyncIterator[Work]:
        seen.append("opened")
        yield Work(unused, Recorder())
        seen.append("closed")

    worker = worker_on(Scripted())
    assert await worker._works.get("work", function) is await worker._works.get("work", function)
    await asyncio.sleep(0.01)
    assert seen == ["opened"]
    await worker.__aexit__()
    assert seen == ["opened", "closed"]


async def test_a_job_function_that_ends_by_itself_stops_its_jobs_and_their_segments_and_no_others() -> None:
    worker = worker_on(record := Scripted())
    segments = [EndingSegment(True, worker._job(make_spec(name, name=name, id=name))) for name in ("work", "other")]
    for segment in segments:
        segment.job.segments["token"] = segment  # type: ignore[assignment]
    worker._fail_jobs_of("work", OSError("it bit"))
    await asyncio.sleep(0)
    assert [segment.stopping for segment in segments] == [True, False]
    reason = "the job function 'work' ended while it was needed: OSError: it bit"
    assert record.calls == [("set_state", "work", "fail", reason, "work")]


async def test_a_worker_that_is_stopped_while_it_asks_for_a_job_opens_no_job_function() -> None:
    class Stopping(Scripted):
        async def spec(self, key: str) -> Any:
            worker.stop()
            return make_spec(key)

    worker = worker_on(record := Stopping())
    await worker.process_segment("job", "0.0")
    await worker.process_segment("job", "0.0")
    assert (record.calls, worker._works._works) == ([], {})


async def test_a_step_that_fails_is_logged_and_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = [RecordError("away"), ValueError("wrong")]
    waits: list[float] = []

    async def step() -> None:
        if not errors:
            raise asyncio.CancelledError
        raise errors.pop(0)

    def sleep(seconds: float) -> Awaitable[None]:
        waits.append(seconds)
        return nothing("", "")

    monkeypatch.setattr(_worker, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr("random.random", lambda: 0.5)
    with pytest.raises(asyncio.CancelledError):
        await worker_on(Scripted())._repeat(step, 8.0)
    assert waits == [8.0, 8.0]
    assert ["away" in record.getMessage() for record in caplog.records] == [True, False]
    assert caplog.records[1].exc_info is not None
