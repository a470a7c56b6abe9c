"""One rate for the whole fleet: exact over any window, and nothing is made up for."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import pytest

from basiq_async.distributed._job_store import JobStore  # private: the limiter draws from it
from basiq_async.distributed._rate_limiter import (  # private: a store's clock that is set back
    SegmentRate,
    SharedRateLimiter,
)
from basiq_async.distributed._record_types import RateSlots  # private: what it draws
from basiq_async.errors import RecordError
from tests.support import virtual
from tests.support.fleets import crew
from tests.support.real_time import PATIENCE, until

RATE = 300.0


def most_within(moments: Sequence[float], window: float) -> int:
    """The most of them in any window of that length."""
    ordered = sorted(moments)
    return max(index - bisect_left(ordered, moment - window) + 1 for index, moment in enumerate(ordered))


class Store:
    """RateSlots as a store gives them, by a clock that is ``ahead`` of the loop's."""

    def __init__(self, rate: float, *, ahead: float = 1_000.0, on_the_way: float = 0.0) -> None:
        self.interval, self.ahead, self.on_the_way = 1 / rate, ahead, on_the_way
        self.due = float("-inf")
        self.late = False
        self.drawn = self.requests = 0
        self.error: Exception | None = None

    async def rate_slots(self, key: str, count: int) -> RateSlots | None:
        if self.error is not None:
            raise self.error
        now = asyncio.get_running_loop().time() + self.ahead
        first = self.due if self.late else max(self.due, now)
        self.due = first + count * self.interval
        self.drawn += count
        self.requests += 1
        await asyncio.sleep(self.on_the_way)
        return RateSlots(now, first, self.interval)


def limiter_of(store: Store) -> SharedRateLimiter:
    limiter = SharedRateLimiter(cast(JobStore, store), "job")
    limiter.set_rate(1 / store.interval)
    return limiter


@pytest.mark.parametrize("on_the_way", [0.0, 0.004, 0.012])
@virtual.clocked
async def test_no_window_holds_more_than_the_rate_even_after_a_pause(on_the_way: float) -> None:
    moments: list[float] = []
    store = Store(RATE, on_the_way=on_the_way)

    async def use(rate: SegmentRate) -> None:
        while await rate.wait():
            moments.append(virtual.now())

    for _ in range(2):
        rates = [SegmentRate(limiter_of(store)) for _ in range(3)]  # as three processes, each with its own clock
        using = [asyncio.create_task(use(rate)) for rate in rates for _ in range(16)]
        await asyncio.sleep(2.0)
        for rate in rates:
            rate.stop()
        await asyncio.gather(*using)
        await asyncio.sleep(0.3)
    assert len(moments) > 0.8 * 4.0 * RATE
    for window in (0.1, 0.2, 0.5, 1.0):
        assert most_within(moments, window) <= 1.15 * RATE * window + 1


@pytest.mark.parametrize(("on_the_way", "wide"), [(0.0, 0.015), (0.004, 0.011), (0.012, 0.003), (1.0, 0.002)])
@virtual.clocked
async def test_a_slot_is_used_fifteen_milliseconds_late_at_the_most_and_for_two_at_the_least(
    on_the_way: float, wide: float
) -> None:
    """How long a request was on the way is not known of the store's clock, so it is taken off."""
    limiter = limiter_of(Store(RATE, on_the_way=on_the_way))
    await limiter._draw(RATE)
    ((begin, end),) = limiter._slots
    assert end - begin == pytest.approx(wide, abs=1e-6)


@virtual.clocked
async def test_one_request_draws_for_all_that_wait_each_time() -> None:
    store = Store(10_000.0)
    limiter = limiter_of(store)
    limiter._callers = 100
    await limiter._draw(10_000.0)
    begins = [begin for begin, _ in limiter._slots]
    assert len(begins) == 50, "slots of more than five milliseconds are drawn, and lost with a worker that dies"
    assert [later - earlier for earlier, later in pairwise(begins)] == pytest.approx([store.interval] * 49)
    limiter._callers, store.due = 0, float("-inf")
    for _ in range(3):
        limiter._slots.clear()
        requests, drawn = store.requests, store.drawn
        await asyncio.gather(*[limiter.wait() for _ in range(20)])
        assert store.requests - requests <= 2, "those that wait draw one after the other"
        assert store.drawn - drawn == 20, "more slots are drawn than there are callers, and are wasted"


async def test_slots_that_were_not_used_on_time_are_dropped() -> None:
    store = Store(100.0)
    limiter = limiter_of(store)
    rate = SegmentRate(limiter)
    assert await rate.wait()
    store.due = asyncio.get_running_loop().time() + store.ahead - 0.05  # drawn by a process that was stopped then
    store.late = True
    before = store.drawn
    assert await rate.wait()
    assert store.drawn - before > 1


async def test_a_stores_clock_that_is_set_back_or_forward_stalls_no_caller() -> None:
    store = Store(500.0)
    limiter = limiter_of(store)
    rate = SegmentRate(limiter)
    for jump in (0.0, -3_600.0, 7_200.0):
        store.ahead += jump
        store.due = float("-inf")
        async with asyncio.timeout(PATIENCE):
            assert await rate.wait()
            assert await rate.wait()


async def test_a_share_that_is_stopped_sends_its_own_away_and_no_others() -> None:
    limiter = limiter_of(Store(0.5))
    one, two = SegmentRate(limiter), SegmentRate(limiter)
    assert await one.wait()
    waiting = [asyncio.ensure_future(rate.wait()) for rate in (one, two)]
    await asyncio.sleep(0)
    one.stop()
    assert await waiting[0] is False
    assert await one.wait() is False
    assert not waiting[1].done()
    limiter.set_rate(None)
    waiting[1].cancel()
    await asyncio.wait(waiting)


async def test_a_store_that_fails_is_told_to_those_who_wait() -> None:
    store = Store(10.0)
    store.error = RecordError("away")
    limiter = limiter_of(store)
    with pytest.raises(RecordError, match="away"):
        await SegmentRate(limiter).wait()
    store.error = None
    assert await SegmentRate(limiter).wait()


async def test_a_segment_that_is_under_way_waits_as_soon_as_its_job_has_a_rate() -> None:
    limiter = SharedRateLimiter(cast(JobStore, Store(0.001)), "job")
    rate, stopped = SegmentRate(limiter), SegmentRate(limiter)
    assert await rate.wait()
    stopped.stop()
    limiter.set_rate(0.001)
    waiting = [asyncio.create_task(each.wait()) for each in (rate, SegmentRate(limiter))]
    await asyncio.sleep(0.01)
    assert not all(each.done() for each in waiting)
    limiter.set_rate(None)
    assert all(await asyncio.gather(*waiting))
    assert await stopped.wait() is False


async def test_who_waits_for_a_slow_slot_continues_when_the_rate_is_raised_or_taken_away() -> None:
    for raised in (1_000.0, None):
        store = Store(0.001)
        limiter = limiter_of(store)
        rate = SegmentRate(limiter)
        assert await rate.wait()
        waiting = asyncio.ensure_future(rate.wait())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        store.interval, store.due = 1 / (raised or 1.0), float("-inf")
        limiter.set_rate(raised)
        async with asyncio.timeout(PATIENCE):
            assert await waiting


@pytest.mark.parametrize("raised", [5_000.0, None])
async def test_a_rate_that_is_raised_holds_for_the_whole_fleet_at_once(redis_url: str, raised: float | None) -> None:
    async with crew(redis_url, messages=60, workers=3) as fleet:
        await fleet.submit(rate=0.01)
        await until(lambda: fleet.recorder.ids)
        await asyncio.sleep(0.05)
        assert len(fleet.recorder.ids) == 1
        job = await fleet.submit(rate=raised)
        assert (await job.wait(timeout=PATIENCE)).handled == 60
