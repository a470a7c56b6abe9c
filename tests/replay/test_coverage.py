"""What a checkpoint keeps of a history: when the webhook was not active, and which events were read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from basiq_async import CheckpointError, Message
from basiq_async.replay import Inactivity
from basiq_async.replay._coverage import (  # private: years pass in a moment
    Coverage,
    InactivityTracker,
    UnderWay,
)
from basiq_async.services.diagnosis import find_out_of_reach

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def tried(*hours: float, status: str = "Failed") -> Message:
    attempts = [{"timestamp": at(each).isoformat(), "status": status} for each in hours]
    return Message("m", {"id": "m", "attempts": attempts})


def look(tracker: InactivityTracker, message: Message) -> None:
    tracker.note([each.timestamp for each in message.attempts[:1] if each.timestamp is not None])
    tracker.see(message)


def message(first: float, *, failed: bool) -> Message:
    return tried(*(first + step for step in range(8))) if failed else tried(first, status="Success")


def test_coverage_is_read_as_it_was_written() -> None:
    found = Coverage((Inactivity(at(0), at(3)), Inactivity(at(5))), (UnderWay("m1", at(0)),), (at(1), at(2)), 3, at(9))
    assert Coverage.read(found.write()) == found
    assert Coverage().write() == ""
    assert Coverage.read("") == Coverage()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"inactive": 3}', '{"inactive": [["2026-01-01", null]]}'])
def test_a_damaged_coverage_is_a_checkpoint_error(text: str) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        Coverage.read(text)


def test_messages_whose_attempts_have_not_ended_are_looked_at_again_the_oldest_first() -> None:
    tracker = InactivityTracker()
    for number in range(300):
        message = Message(f"m{number}", tried(number, number + 0.1).raw)
        look(tracker, message)
    assert [each.id for each in tracker.under_way] == [f"m{number}" for number in range(100)]
    assert tracker.unnamed == (at(100), at(299)), "the others are known by their times"
    assert tracker.periods() == ()


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(hours=28, minutes=35, seconds=4), True),
        (timedelta(hours=28, minutes=35, seconds=5), False),
        (timedelta(hours=29), False),
    ],
)
def test_a_message_may_get_attempts_for_an_hour_more_than_the_schedule_takes(age: timedelta, expected: bool) -> None:
    tracker = InactivityTracker(now=at(0) + age)
    look(tracker, tried(0))
    assert bool(tracker.under_way) is expected, "Basiq's last attempt is 27:35:05 after the first, or an hour later"
    assert tracker.changed is expected


@pytest.mark.parametrize(
    ("periods", "covered", "lost"),
    [
        ([(0, 5)], [], [(0, 5)]),
        ([(0, None)], [], [(0, 10)]),
        ([(12, 15)], [], []),
        ([(8, 15)], [], [(8, 10)]),
        ([(0, 5)], [(-1, 6)], []),
        ([(0, 9)], [(2, 4), (3, 6)], [(0, 2), (6, 9)]),
        ([(0, None)], [(4, 20)], [(0, 4)]),
    ],
)
def test_out_of_reach_is_what_was_never_read_and_is_not_listed_any_more(
    periods: list[tuple[float, float | None]], covered: list[tuple[float, float]], lost: list[tuple[float, float]]
) -> None:
    inactive = [(at(since), None if until is None else at(until)) for since, until in periods]
    found = find_out_of_reach(inactive, [(at(begin), at(end)) for begin, end in covered], at(10), None)
    assert found == tuple((at(since), at(until)) for since, until in lost)


def test_what_is_acknowledged_is_not_out_of_reach() -> None:
    period = at(0), at(8)
    assert find_out_of_reach([period], [], at(10), at(5)) == ((at(5), at(8)),)
    assert find_out_of_reach([period], [], at(10), at(8)) == ()


def test_a_thousand_periods_are_held_as_few_and_none_of_their_time_is_forgotten() -> None:
    tracker = InactivityTracker()
    for number in range(1_000):
        look(tracker, message(number * 100, failed=True))
        look(tracker, message(number * 100 + 50, failed=False))
    periods = tracker.periods()
    assert len(periods) <= 200
    for number in range(1_000):
        begin, end = at(number * 100 + 7), at(number * 100 + 50)
        assert any(each.since <= begin and (each.until is None or end <= each.until) for each in periods)


@pytest.mark.parametrize(
    ("known", "acknowledged", "changed"),
    [
        (Coverage(), None, False),
        (Coverage(), at(1), True),
        (Coverage(acknowledged=at(2)), at(1), False),
        (Coverage(under_way=(UnderWay("m", at(0)),)), None, True),
    ],
)
def test_it_is_recorded_again_where_it_may_differ_from_what_was_known(
    known: Coverage, acknowledged: datetime | None, changed: bool
) -> None:
    tracker = InactivityTracker(known, acknowledged=acknowledged)
    assert tracker.changed is (tracker.notes is not None) is changed, "what a run learned is kept for the next one"


def test_a_message_that_is_seen_again_after_a_kill_makes_no_second_period() -> None:
    first = InactivityTracker()
    look(first, message(0, failed=True))
    second = InactivityTracker(Coverage(first.periods()))
    look(second, message(0, failed=True))
    look(second, message(30, failed=False))
    assert second.periods() == (Inactivity(at(7), at(30)),)


def test_periods_that_end_together_are_one_and_the_earliest_counts() -> None:
    tracker = InactivityTracker()
    look(tracker, Message("m", {"id": "m"}))
    look(tracker, tried(0, status="Success"))
    look(tracker, tried(*range(8)))
    look(tracker, tried(*(each + 0.5 for each in range(8))))
    look(tracker, tried(3, 4))  # a retry of what was begun before is no sign of life
    assert tracker.periods() == (Inactivity(at(7)),)
    assert "as far as its history shows" in str(tracker.periods()[0])
    look(tracker, tried(50, status="Success"))
    look(tracker, tried(40, status="Success"))
    assert tracker.periods() == (Inactivity(at(7), at(40)),)
    look(tracker, tried(*range(60, 68)))
    assert len(tracker.periods()) == 2
    backwards = InactivityTracker()
    for hours in ([50], [40], [3], [each + 0.5 for each in range(8)], list(range(8)), [0]):
        look(backwards, tried(*hours))
    assert backwards.periods() == (Inactivity(at(7), at(40)),)
