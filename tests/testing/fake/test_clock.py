"""The clocks that the fake runs on."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from basiq_async import ConfigurationError, testing
from basiq_async.testing import FakeBasiq, ManualClock, SystemClock
from basiq_async.testing.fake.catalog import SCHEDULE


def test_a_manual_clock_stands_still_and_never_goes_back() -> None:
    clock = ManualClock(datetime(2026, 1, 1, 10, tzinfo=timezone(timedelta(hours=10))))
    assert clock() == datetime(2026, 1, 1, tzinfo=UTC)
    clock.advance(timedelta(days=1), seconds=1)
    clock.move_to(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock() == datetime(2026, 1, 2, 0, 0, 1, tzinfo=UTC)
    assert repr(clock) == "ManualClock(2026-01-02T00:00:01+00:00)"


def test_a_system_clock_goes_as_fast_as_its_argument_says(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 101.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    clock = SystemClock(speed=60)
    began = datetime.now(UTC)
    assert timedelta(seconds=59) < clock() - began < timedelta(seconds=61)
    assert repr(clock) == "SystemClock(speed=60)"
    monkeypatch.undo()
    assert SystemClock().speed == 1


def test_a_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = testing.Nothing
    assert set(testing.__all__) <= set(dir(testing))


async def test_a_manual_clock_that_is_moved_to_a_time_in_sydney_stays_right() -> None:
    clock = ManualClock()
    clock.move_to(datetime(2026, 4, 4, 12, tzinfo=ZoneInfo("Australia/Sydney")))
    began = clock()
    clock.advance(timedelta(hours=30))
    assert clock() - began == timedelta(hours=30)
    assert clock().astimezone(UTC).hour == (began.astimezone(UTC).hour + 30) % 24


async def test_a_clock_of_the_users_in_sydney_is_right_over_the_end_of_summer_time() -> None:
    present = datetime(2026, 4, 4, 12, tzinfo=ZoneInfo("Australia/Sydney"))  # it ends on 5 April 2026 at 03:00
    fake = FakeBasiq(clock=lambda: present)
    began = fake.now()
    fake.add_webhook("https://example.com/basiq")
    fake.emit("consent.revoked")
    await fake.advance(hours=30)
    assert (fake.now().utcoffset(), fake.now() - began) == (timedelta(), timedelta(hours=30))
    waits = [later.at - earlier.at for earlier, later in pairwise(fake.deliveries)]
    assert waits == list(SCHEDULE[1:])
    present = present.astimezone(UTC) + timedelta(hours=1)
    assert fake.now() - began == fake.add_state().now() - began == timedelta(hours=31)


async def test_the_clock_of_a_fake_goes_up_to_the_year_9000() -> None:
    fake, end = FakeBasiq(), datetime(9000, 1, 1, tzinfo=UTC)
    await fake.advance(end - fake.now())
    assert fake.now() == end
    with pytest.raises(ConfigurationError, match="up to the year 9000"):
        await fake.advance(seconds=1)
