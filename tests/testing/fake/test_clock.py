"""The clocks that the fake runs on."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from basiq_async import testing
from basiq_async.testing import ManualClock, SystemClock


def test_a_manual_clock_stands_still_and_never_goes_back() -> None:
    clock = ManualClock(datetime(2026, 1, 1, 10, tzinfo=timezone(timedelta(hours=10))))
    assert clock() == datetime(2026, 1, 1, tzinfo=UTC)
    clock.advance(timedelta(days=1), seconds=1)
    clock.move_to(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock() == datetime(2026, 1, 2, 0, 0, 1, tzinfo=UTC)
    assert repr(clock) == "ManualClock(2026-01-02T00:00:01+00:00)"


def test_a_manual_clock_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2026, 1, 1))


def test_a_system_clock_goes_as_fast_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 101.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    clock = SystemClock(speed=60)
    began = datetime.now(UTC)
    assert timedelta(seconds=59) < clock() - began < timedelta(seconds=61)
    assert repr(clock) == "SystemClock(speed=60)"


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_system_clock_does_not_stand_still(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        SystemClock(speed)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = testing.Nothing
    assert set(testing.__all__) <= set(dir(testing))
