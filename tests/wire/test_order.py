"""In which order a list comes is found from its times; the newest of it are read whichever that is."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from basiq_async import Event, Message
from basiq_async._wire.order import Order, OrderDetector, item_time, read_newest
from basiq_async.models import DeliveryAttempt

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTES = [START + timedelta(minutes=minute) for minute in range(200)]


def order_of(times: Sequence[datetime | None]) -> tuple[Order, bool]:
    detector = OrderDetector()
    for time in times:
        detector.see(time)
    return detector.order, detector.sure


def message(name: str, *moments: datetime | None, status: str = "Failed") -> Message:
    attempts = [
        {"id": f"a{number}", "status": status, **({"timestamp": moment.isoformat()} if moment else {})}
        for number, moment in enumerate(moments)
    ]
    return Message(name, {"id": name, "attempts": attempts})


async def stream(items: Sequence[Message], read: list[Message] | None = None) -> AsyncIterator[Message]:
    for item in items:
        if read is not None:
            read.append(item)
        yield item


def test_a_list_is_ordered_as_its_times_rise_or_fall() -> None:
    assert order_of(MINUTES) == ("oldest-first", True)
    assert order_of(MINUTES[::-1]) == ("newest-first", True)


def test_two_times_tell_an_order_that_is_not_sure() -> None:
    assert order_of(MINUTES[:2]) == ("oldest-first", False)
    assert order_of([MINUTES[1], MINUTES[0]]) == ("newest-first", False)


@pytest.mark.parametrize("times", [[], [None, None], [START], [START] * 50, [None, START, None, START]])
def test_equal_and_missing_times_tell_nothing(times: list[datetime | None]) -> None:
    assert order_of(times) == ("unknown", False)


def test_missing_times_between_others_do_not_hide_the_order() -> None:
    assert order_of([each for time in MINUTES for each in (None, time)]) == ("oldest-first", True)


@pytest.mark.parametrize("seed", range(20))
def test_contradictory_times_make_it_unknown(seed: int) -> None:
    times = list(MINUTES)
    random.Random(seed).shuffle(times)
    assert order_of(times) == ("unknown", False)


@pytest.mark.parametrize("seed", range(5))
def test_times_in_no_order_over_days_are_surely_mixed(seed: int) -> None:
    times = [START + timedelta(hours=hour) for hour in range(40)]
    random.Random(seed).shuffle(times)
    detector = OrderDetector()
    for time in times:
        detector.see(time)
    assert detector.mixed
    assert detector.order == "unknown"


@pytest.mark.parametrize("place", [0, 1, 100, 198, 199])
@pytest.mark.parametrize("late", [timedelta(hours=-30), timedelta(hours=30)])
def test_one_item_far_out_of_place_among_many_does_not_hide_the_order(place: int, late: timedelta) -> None:
    times = [time + (late if index == place else timedelta()) for index, time in enumerate(MINUTES)]
    assert order_of(times) == ("oldest-first", True)
    assert order_of(times[::-1]) == ("newest-first", True)


def test_one_item_far_out_of_place_among_few_makes_it_unknown() -> None:
    detector = OrderDetector()
    for time in (*MINUTES[:5], START - timedelta(hours=1), MINUTES[6]):
        detector.see(time)
    assert detector.order == "unknown"
    assert not detector.mixed


def test_messages_that_overtake_each_other_by_seconds_do_not_hide_the_order() -> None:
    chance = random.Random(7)
    times = [time + timedelta(seconds=chance.randrange(-90, 90)) for time in MINUTES]
    assert order_of(times) == ("oldest-first", True)
    assert order_of(times[::-1]) == ("newest-first", True)


def test_the_time_of_a_message_is_its_earliest_attempts_and_of_an_event_its_creation() -> None:
    assert item_time(message("m", MINUTES[9], MINUTES[3], None)) == MINUTES[3]
    assert item_time(message("m")) is None
    assert item_time(Event("e", created=START)) == START


def test_attempts_go_by_their_times_wherever_they_are_listed() -> None:
    newest_first, oldest_first = message("m", MINUTES[2], MINUTES[1]), message("m", MINUTES[1], MINUTES[2])
    for each in (newest_first, oldest_first):
        assert each.first_attempt is not None
        assert each.first_attempt.timestamp == MINUTES[1]
        assert each.last_attempt is not None
        assert each.last_attempt.timestamp == MINUTES[2]
        assert [attempt.timestamp for attempt in each.attempts_by_time] == MINUTES[1:3]


def test_of_two_attempts_in_the_same_second_the_one_that_succeeded_is_the_last() -> None:
    at = START.isoformat()
    attempts = [{"id": "b", "status": "Success", "timestamp": at}, {"id": "a", "status": "Failed", "timestamp": at}]
    for listed in (attempts, attempts[::-1]):
        last = Message("m", {"id": "m", "attempts": listed}).last_attempt
        assert last is not None
        assert last.id == "b"


def test_of_several_attempts_without_a_time_none_is_the_first_or_last() -> None:
    several, one = message("m", None, None), message("m", None)
    assert several.first_attempt is several.last_attempt is None
    assert [attempt.id for attempt in several.attempts_by_time] == ["a0", "a1"]
    assert one.last_attempt == DeliveryAttempt("a0", status="Failed")
    assert one.first_attempt is None


HISTORY = [message(f"m{number}", time) for number, time in enumerate(MINUTES)]
NEWEST = [f"m{number}" for number in range(199, 189, -1)]


async def test_the_newest_of_a_list_that_begins_with_the_oldest_need_all_of_it() -> None:
    found = await read_newest(stream(HISTORY), 10)
    assert [each.id for each in found.items] == NEWEST
    assert (found.read, found.complete, found.newest, found.order) == (200, True, True, "oldest-first")
    assert (found.earliest, found.latest) == (MINUTES[0], MINUTES[-1])


async def test_a_list_that_begins_with_the_newest_is_left_soon_after_them() -> None:
    read: list[Message] = []
    found = await read_newest(stream(HISTORY[::-1], read), 10)
    assert [each.id for each in found.items] == NEWEST
    assert (found.complete, found.newest, found.order) == (False, True, "newest-first")
    assert 10 < found.read == len(read) < 80
    assert found.latest == MINUTES[-1]


async def test_a_list_in_no_order_is_read_whole() -> None:
    shuffled = list(HISTORY)
    random.Random(3).shuffle(shuffled)
    found = await read_newest(stream(shuffled), 10)
    assert [each.id for each in found.items] == NEWEST
    assert (found.read, found.newest, found.order) == (200, True, "unknown")


async def test_what_is_cut_short_at_its_oldest_end_is_not_called_the_newest() -> None:
    found = await read_newest(stream(HISTORY), 10, at_most=50)
    assert (found.read, found.complete, found.newest) == (50, False, False)


@pytest.mark.parametrize("turned", [False, True])
async def test_the_newest_that_are_wanted_are_found_among_others(turned: bool) -> None:
    seen: list[Message] = []
    wanted = {"m3", "m50", "m120", "m180"}
    listed = HISTORY[::-1] if turned else HISTORY
    found = await read_newest(stream(listed), 2, wanted=lambda each: each.id in wanted, on_read=seen.append)
    assert [each.id for each in found.items] == ["m180", "m120"]
    assert found.read == len(seen)
    assert found.newest


@pytest.mark.parametrize("turned", [False, True])
async def test_all_are_returned_newest_first_where_no_number_is_given(turned: bool) -> None:
    same = [message(f"s{number}", MINUTES[number // 3]) for number in range(30)]
    found = await read_newest(stream(same[::-1] if turned else same), 0)
    assert [each.id for each in found.items] == [each.id for each in same[::-1]]


@pytest.mark.parametrize("turned", [False, True])
async def test_of_equal_times_the_newer_are_kept_as_the_list_is_ordered(turned: bool) -> None:
    same = [message(f"s{number}", MINUTES[number // 3]) for number in range(30)]
    found = await read_newest(stream(same[::-1] if turned else same), 4)
    assert [each.id for each in found.items] == ["s29", "s28", "s27", "s26"]


async def test_fewer_than_are_asked_for_are_all_there_are() -> None:
    found = await read_newest(stream(HISTORY[:3][::-1]), 10)
    assert [each.id for each in found.items] == ["m2", "m1", "m0"]
    assert found.complete
    assert found.newest
    assert (await read_newest(stream([]), 10)).items == []
