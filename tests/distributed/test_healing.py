"""A job that is there is found, whatever was lost on the way: a notification, a response, or the worker that had it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import pytest

from basiq_async.distributed import Fleet, Worker
from basiq_async.distributed._record_types import LeaseLostError  # private: a record's callers
from tests.support.fleets import Crew, JobStore, crew
from tests.support.real_time import PATIENCE

SHORT = 0.2
"""Seconds of a lease that a worker which died leaves behind."""


class Doomed:
    """A record as a worker sees it that dies at its nth call: before it reaches the store, or before it hears of it.

    What the worker does after that reaches no store.
    """

    def __init__(self, record: JobStore, nth: int, *, before: bool) -> None:
        self._store = record
        self._left = nth
        self._before = before

    @property
    def died(self) -> bool:
        return self._left <= 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        async def attempt(*arguments: Any, **more: Any) -> Any:
            self._left -= 1
            if self._left > 0:
                return await call(*arguments, **more)
            if self._left == 0 and not self._before:
                await call(*arguments, **more)
            raise LeaseLostError("this worker is dead")

        return attempt


async def run_until_it_dies(fleet: Crew, url: str, key: str, segment: str, nth: int, *, before: bool) -> bool:
    """Have a worker look at a job until it dies at its nth call; returns whether it came so far."""
    record = JobStore(url)
    doomed = Doomed(record, nth, before=before)
    waiting = [segment]

    async def notify(key: str, following: Sequence[str]) -> None:
        if not doomed.died:
            waiting.extend(following)

    worker = Worker(cast(JobStore, doomed), fleet.fleet._functions, notify, lease=SHORT)
    while waiting and not doomed.died:
        await worker.process_segment(key, waiting.pop(0))
    await worker.__aexit__()
    await record.connection.aclose()
    return doomed.died


@pytest.mark.parametrize("before", [True, False], ids=["before the call", "after the call"])
@pytest.mark.parametrize("lost", [False, True], ids=["notifications arrive twice", "first notifications are lost"])
async def test_a_worker_that_is_lost_between_any_two_calls_leaves_a_job_that_others_finish(
    redis_url: str, *, before: bool, lost: bool
) -> None:
    async with crew(redis_url, messages=8, page_size=4, workers=0, concurrency=1) as fleet:
        fleet.fleet.lease = SHORT
        fleet.lost = lambda number: 0
        jobs = []
        came_so_far = True
        while came_so_far:
            nth = len(jobs) + 1
            job = await fleet.submit(key=f"job-{nth}")
            came_so_far = await run_until_it_dies(fleet, redis_url, job.key, "0.0", nth, before=before)
            jobs.append(job)
        assert len(jobs) > 8  # it went through all calls of two pages
        fleet.lost = lambda number: 2 if not lost else fleet.notifications.count(fleet.notifications[-1]) > 1
        await fleet.start(2)
        ids = sorted(await fleet.ids())
        for job in jobs:
            report = await job.wait(timeout=PATIENCE)
            assert (report.finished, report.read, report.handled) == (True, 8, 8)
        assert all(fleet.recorder.ids.count(each) >= len(jobs) for each in ids)
        # Concurrency is 1: at most one message of each that died.
        assert len(fleet.recorder.ids) <= len(jobs) * (8 + 1)


async def test_notifications_by_a_broker_that_is_away_are_not_waited_for_one_by_one(redis_url: str) -> None:
    sent = 0

    async def notify(key: str, segment: str) -> None:
        nonlocal sent
        sent += 1
        raise OSError("the broker is away")

    fleet = Fleet(redis_url, notify=notify)
    fleet.job("work")(contextlib.nullcontext)  # type: ignore[arg-type]
    async with fleet:
        job = await fleet.submit("work", [f"w{number}" for number in range(50)], key="job")
        assert sent == 1
        await job.pause()
        await job.resume()
        assert sent == 2
