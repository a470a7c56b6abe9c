"""What holds a job back, by itself: a rate, and a pause that the target asked for."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async.replay import _throttle  # private: a clock whose waits end late
from basiq_async.replay._throttle import CircuitBreaker, RateLimiter  # private: who waits cannot be seen from outside
from tests.support.virtual import clocked, now


@pytest.mark.parametrize("rate", [5, 500, 5_000, 50_000])
async def test_a_rate_is_kept_though_each_wait_of_the_loop_ends_late(
    rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop's waits end a millisecond or two late: without the slots of that time, 5,000 a second were 450."""
    clock = 0.0

    async def wait_until(moment: float, stopped: asyncio.Event) -> bool:
        nonlocal clock
        if moment > clock:
            clock = moment + 0.002
        return True

    monkeypatch.setattr(_throttle, "_now", lambda: clock)
    monkeypatch.setattr(_throttle, "_wait_until", wait_until)
    limiter, count = RateLimiter(rate), 0
    while clock < 10:
        await limiter.wait()
        count += 1
        if count == rate * 5:
            clock = max(clock, 0) + 2  # what was missed for so long is not made up for
    assert count == pytest.approx(rate * 8, rel=0.02, abs=2)


@clocked
async def test_a_pause_ends_at_its_end_and_a_success_lets_one_more_in() -> None:
    breaker = CircuitBreaker(4)
    breaker.open(2)
    breaker.open(1)
    assert breaker.openings == 1
    assert breaker.open_until == now() + 2, "a pause is never shortened"
    await asyncio.sleep(2)
    assert breaker.open_until is None, "a pause is over when its seconds are"
    breaker.open(1)
    assert breaker.openings == 2, "a pause that begins when the one before is over is another one"
    breaker.succeed()
    waiting = [asyncio.create_task(breaker.enter()) for _ in range(3)]
    await asyncio.sleep(1)
    await asyncio.sleep(1)
    assert [each.done() for each in waiting] == [True, False, False], "a success during a pause opens nothing"
    breaker.succeed()
    await asyncio.sleep(1)
    assert [each.done() for each in waiting] == [True, True, False], "each success after it lets in one more"
    breaker.succeed()
    breaker.succeed()
    assert breaker.closed
    assert await waiting[2]
    breaker.open(1)
    late = asyncio.create_task(breaker.enter())
    await asyncio.sleep(0)
    breaker.stop()
    assert not await late


@clocked
async def test_one_who_was_let_in_and_cancelled_at_once_gives_the_place_back() -> None:
    breaker = CircuitBreaker(2)
    breaker.open(1)
    first, second, third = (asyncio.create_task(breaker.enter()) for _ in range(3))
    assert await first
    breaker.leave()  # the second is let in
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await third
