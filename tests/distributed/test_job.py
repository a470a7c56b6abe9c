"""A job as its callers see it, on a clock that jumps: how often Redis is asked, and what a report says."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from basiq_async import ConfigurationError
from basiq_async.distributed import Job, JobProgress
from basiq_async.errors import ReplayError
from tests.support import virtual

RUNNING = JobProgress(
    state="running", reason="", problem="", read=9, handled=5, failed=2, skipped={"where": 1}, quarantined=2,
    waiting=0, at_service=0, given_up=0, rate=1.5, elapsed=7.0, remaining=None, worker_names=["w"], segments=1, held=1,
    takeovers=0, paused=0.0,
)  # fmt: skip


class ScriptedStore:
    """A store that returns how a job went on, and keeps the times of its calls."""

    def __init__(self, *states: dict[str, Any] | None) -> None:
        self.left, self.asked = list(states), list[float]()

    async def set_state(self, key: str, action: str, reason: str) -> tuple[str, Sequence[str]]:
        return "gone", []

    async def retry_quarantined(self, key: str, request: str) -> None: ...

    async def progress(self, key: str) -> JobProgress | None:
        self.asked.append(round(virtual.now() - 1000.0, 3))
        found = self.left.pop(0)
        return None if found is None else attrs.evolve(RUNNING, **found)


async def no_notification(key: str, segments: Sequence[str]) -> None:
    raise AssertionError(f"{key} {segments}")


def job_of(record: Any) -> Job:
    return Job(record, "job", no_notification)


@virtual.clocked
async def test_a_job_is_watched_in_even_steps_to_its_end() -> None:
    record = ScriptedStore({}, {}, {"state": "finished"})
    assert [each.state async for each in job_of(record).watch(every=2)] == ["running", "running", "finished"]
    assert record.asked == [0, 2, 4]


@virtual.clocked
async def test_a_job_that_is_waited_for_is_asked_more_and_more_rarely_and_twice_a_second_at_least() -> None:
    record = ScriptedStore(*[{}] * 7, {"state": "finished"})
    await job_of(record).wait()
    assert record.asked == [0, 0.02, 0.06, 0.14, 0.3, 0.62, 1.12, 1.62]


@virtual.clocked
async def test_a_job_is_waited_for_as_long_as_its_caller_says() -> None:
    with pytest.raises(TimeoutError):
        await job_of(ScriptedStore(*[{}] * 20)).wait(timeout=3)
    assert virtual.now() == 1003.0
    with pytest.raises(TimeoutError):
        await job_of(ScriptedStore(*[{}] * 20)).wait(timeout=0)


@pytest.mark.parametrize(
    ("end", "finished"),
    [
        ({"state": "finished"}, True),
        ({"state": "finished", "given_up": 1}, False),
        ({"state": "cancelled"}, False),
        ({"state": "finished", "waiting": 1}, False),
        ({"state": "finished", "at_service": 1}, False),
    ],
    ids=["the end", "a failure that was skipped", "a cancellation", "what waits", "a failure at the service"],
)
@virtual.clocked
async def test_a_report_is_finished_only_where_nothing_is_left(end: dict[str, Any], finished: bool) -> None:
    report = await job_of(ScriptedStore(end)).wait()
    assert (report.read, report.handled, report.failed, report.rate, report.duration) == (9, 5, 2, 1.5, 7.0)
    assert (report.skipped, report.finished) == ({"where": 1}, finished)


@virtual.clocked
async def test_a_job_that_failed_raises_its_reason_with_its_report() -> None:
    with pytest.raises(ReplayError, match="the job 'job' stopped: no disk") as caught:
        await job_of(ScriptedStore({"state": "failed", "reason": "no disk"})).wait()
    assert caught.value.report is not None
    assert caught.value.report.handled == 5


@virtual.clocked
async def test_what_a_caller_asks_for_is_looked_over() -> None:
    job = job_of(ScriptedStore(None))
    with pytest.raises(ConfigurationError, match="limit must be"):
        await job.quarantined(limit=0)
    for wrong in (0, -1):
        with pytest.raises(ConfigurationError, match="every must be"):
            await anext(aiter(job.watch(every=wrong)))
    for call in (job.pause(), job.retry_quarantined(), job.export_quarantined("never-written")):
        with pytest.raises(ReplayError, match="there is no job 'job'"):
            await call
    assert repr(job) == "Job('job')"
    assert inspect.signature(job.quarantined).parameters["limit"].default == 100


@pytest.mark.parametrize(("remaining", "rate", "eta"), [(None, 1.5, None), (30, 0.0, None), (30, 1.5, 20.0)])
def test_what_is_left_and_how_long_it_lasts_is_known_with_a_plan_and_a_rate(
    remaining: int | None, rate: float, eta: float | None
) -> None:
    progress = attrs.evolve(RUNNING, remaining=remaining, rate=rate)
    assert (progress.eta, progress.lag, progress.workers) == (eta, 1, 1)
    assert attrs.evolve(progress, read=2).lag == 0, "a page that is read again may be shorter"
