"""Clocks: which one a time source means, and what the age of an inbox's entries does when its clock jumps."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import pytest

from basiq_async._work.clock import JUMP, LoopClock, RetentionClock, clock_of, in_seconds, lease_clock
from tests.support import virtual

DAY = 86_400.0


class Times:
    """A time source that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


def test_without_a_time_source_leases_count_by_a_clock_that_cannot_be_set() -> None:
    assert in_seconds(None) is time.time
    assert lease_clock(None) is time.monotonic


def test_a_time_source_is_read_in_seconds_since_1970() -> None:
    times = Times()
    assert in_seconds(times)() == lease_clock(times)() == 1_000_000.0


@virtual.clocked
async def test_the_clock_of_the_event_loop_is_the_usual_one() -> None:
    clock = LoopClock()
    began = clock.time()
    await clock.sleep(3)
    assert clock.time() - began == 3
    assert abs((datetime.now(UTC) - clock.now()).total_seconds()) < 60
    assert clock_of(object()) is None


@pytest.mark.parametrize(
    ("ahead", "held"), [(DAY - 1, False), (DAY, True), (30 * DAY, True), (0, False), (-30 * DAY, False)]
)
def test_after_a_jump_of_a_day_nothing_is_forgotten(ahead: float, held: bool) -> None:
    times = Times()
    clock = RetentionClock(times)
    times.seconds += ahead
    assert clock.read() == (times.seconds, -math.inf if held else times.seconds)
    assert JUMP == DAY


def test_a_hold_lasts_two_days_and_no_reading_prolongs_it() -> None:
    times = Times()
    clock = RetentionClock(times)
    times.seconds += 10 * DAY
    until = times.seconds + 2 * DAY
    while times.seconds < until:
        assert clock.read()[1] == -math.inf
        times.seconds += DAY / 2
    assert clock.read() == (until, until)


def test_a_clock_that_jumps_back_holds_for_two_days_of_the_new_time() -> None:
    times = Times()
    clock = RetentionClock(times)
    times.seconds += 100 * DAY
    clock.read()
    times.seconds -= 100 * DAY
    assert clock.read()[1] == -math.inf
    assert clock.hold_until == times.seconds + 2 * DAY


def test_a_hold_of_an_earlier_process_goes_on() -> None:
    times = Times()
    begun = RetentionClock(times, seen_at=times.seconds, hold_until=times.seconds + 10)
    assert begun.read()[1] == -math.inf
    assert RetentionClock(times, seen_at=times.seconds - DAY).read()[1] == -math.inf
    assert RetentionClock(times, seen_at=times.seconds - DAY + 1).read()[1] == times.seconds
