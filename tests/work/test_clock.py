"""Clocks: which one a time source means, and what the age of an inbox's entries does when its clock jumps."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import pytest

from basiq_async._work.clock import STEADY, LoopClock, RetentionClock, clock_of, in_seconds, lease_clock
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


def test_a_time_is_believed_when_the_clock_has_gone_on_for_two_days() -> None:
    times = Times()
    clock, began = RetentionClock(times), times.seconds
    times.seconds += STEADY - 1
    assert clock.read() == (times.seconds, -math.inf)
    times.seconds += 1
    assert clock.read() == (times.seconds, began)


@pytest.mark.parametrize("every", [DAY / 24, DAY, 7 * DAY])
def test_however_seldom_it_is_read_the_believed_time_follows(every: float) -> None:
    times = Times()
    shown, believed = times.seconds, -math.inf
    for _ in range(round(60 * DAY / every)):
        times.seconds += every
        clock = RetentionClock(times, shown=shown, believed=believed)  # a process each
        clock.read()
        shown, believed = clock.shown, clock.believed
    assert 0 <= times.seconds - believed <= max(every, 2 * STEADY)


@pytest.mark.parametrize("ahead", [40 * DAY, 2 * DAY / 24, -2 * DAY / 24, -40 * DAY])
def test_a_clock_that_is_wrong_for_less_than_two_days_is_not_believed(ahead: float) -> None:
    times = Times()
    clock = RetentionClock(times)
    for _ in range(10):
        clock.read()
        times.seconds += ahead
        clock.read()
        times.seconds += STEADY - 1
        assert clock.read()[1] <= times.seconds - ahead
        times.seconds -= ahead
        assert clock.read()[1] <= times.seconds - STEADY / 2


def test_what_was_believed_stays_so_but_nothing_is_forgotten_ahead_of_the_clock() -> None:
    times = Times()
    clock = RetentionClock(times, shown=times.seconds, believed=times.seconds)
    times.seconds -= DAY
    assert clock.read() == (times.seconds, times.seconds)
    times.seconds += DAY
    assert clock.read() == (times.seconds, times.seconds)
