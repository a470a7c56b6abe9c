"""In which order a list comes is found from its times; the newest of it are read whichever that is."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from basiq_async import Event, Message
from basiq_async._wire.order import (
    CLOCK_SLACK,
    MOST_ITEMS_PAST_END,
    ListOrder,
    Order,
    is_past,
    item_time,
    raw_time,
    read_newest,
)
from basiq_async.models import DeliveryAttempt

T = TypeVar("T")
START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTES = [START + timedelta(minutes=minute) for minute in range(200)]


def order_of(times: Sequence[datetime | None]) -> tuple[Order, bool]:
    found = ListOrder()
    for time in times:
        found.see(time)
    return found.order, found.sure


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


def shuffled(times: Sequence[T], seed: int) -> list[T]:
    mixed = list(times)
    random.Random(seed).shuffle(mixed)
    return mixed


OVER_DAYS = [START + timedelta(hours=hour) for hour in range(40)]


@pytest.mark.parametrize(
    ("times", "found"),
    [
        (MINUTES, ("oldest-first", True)),
        (MINUTES[::-1], ("newest-first", True)),
        (MINUTES[:2], ("oldest-first", False)),
        (MINUTES[1::-1], ("newest-first", False)),
        ([each for time in MINUTES for each in (None, time)], ("oldest-first", True)),
        *((same, ("unknown", False)) for same in ([], [None, None], [START], [START] * 50, [None, START, None, START])),
        *((shuffled(MINUTES, seed), ("unknown", False)) for seed in range(20)),
        *((shuffled(OVER_DAYS, seed), ("unknown", False)) for seed in range(5)),
    ],
)
def test_a_list_is_ordered_as_its_times_rise_or_fall(times: list[datetime | None], found: tuple[Order, bool]) -> None:
    assert order_of(times) == found


@pytest.mark.parametrize("place", [0, 1, 100, 198, 199])
@pytest.mark.parametrize("late", [timedelta(hours=-30), timedelta(hours=30)])
def test_one_item_far_out_of_place_among_many_does_not_hide_the_order(place: int, late: timedelta) -> None:
    times = [time + (late if index == place else timedelta()) for index, time in enumerate(MINUTES)]
    assert order_of(times) == ("oldest-first", True)
    assert order_of(times[::-1]) == ("newest-first", True)


def test_messages_that_overtake_each_other_by_seconds_do_not_turn_it_round() -> None:
    chance = random.Random(7)
    found = ListOrder()
    for time in MINUTES:
        found.see(time + timedelta(seconds=chance.randrange(-90, 90)))
    assert found.order != "newest-first"


@pytest.mark.parametrize("steps", [[40, 0], [20, 20]])
def test_a_list_that_turns_round_has_its_new_order(steps: list[int]) -> None:
    found = ListOrder(steps)
    for time in MINUTES[:6][::-1]:
        found.see(time)
    assert (found.order, found.sure) == ("newest-first", False)
    assert steps == [0, 5], "what was recorded is of the earlier list"


@pytest.mark.parametrize(
    ("steps", "order", "sure"),
    [
        ([0, 0], "unknown", False),
        ([1, 0], "oldest-first", False),
        ([0, 1], "newest-first", False),
        ([4, 1], "oldest-first", False),
        ([3, 1], "unknown", False),
        ([1, 4], "newest-first", False),
        ([1, 3], "unknown", False),
        ([31, 0], "oldest-first", False),
        ([32, 0], "oldest-first", True),
        ([0, 32], "newest-first", True),
        ([29, 3], "oldest-first", True),
        ([3, 29], "newest-first", True),
        ([28, 4], "oldest-first", False),
        ([36, 4], "oldest-first", True),
        ([16, 16], "unknown", False),
        ([16, 15], "unknown", False),
    ],
)
def test_four_steps_in_five_show_an_order_and_nine_in_ten_of_many_make_it_sure(
    steps: list[int], order: Order, sure: bool
) -> None:
    found = ListOrder(steps)
    assert (found.order, found.sure) == (order, sure)


@pytest.mark.parametrize(("before", "after"), [(3_139, [3_140, 60]), (3_140, [1_570, 30])])
def test_what_was_seen_long_ago_counts_less(before: int, after: list[int]) -> None:
    found = ListOrder([before, 60])
    for time in MINUTES[:2]:
        found.see(time)
    assert found.steps == after


JUST = {"timestamp": START.isoformat()}
LATER = {"timestamp": MINUTES[9].isoformat()}


@pytest.mark.parametrize(
    ("item", "time"),
    [
        ({"attempts": [JUST]}, START),
        ({"attempts": [LATER, JUST, {}, 7]}, START),
        ({"createdDate": START.isoformat()}, START),
        ({"attempts": [{"timestamp": "2026-03-01T00:00:00"}]}, START),
        ({"attempts": []}, None),
        ({"attempts": [{}]}, None),
        ({"attempts": [{"timestamp": "soon"}]}, None),
        ({"attempts": "no", "createdDate": "soon"}, None),
        ({}, None),
        ("no", None),
    ],
    ids=repr,
)
def test_the_time_of_an_items_json_is_that_of_the_item(item: object, time: datetime | None) -> None:
    assert raw_time(item) == time


@pytest.mark.parametrize(
    ("times", "order", "since", "past"),
    [
        ([START], "newest-first", START + CLOCK_SLACK + timedelta(seconds=1), True),
        ([START], "newest-first", START + CLOCK_SLACK, False),
        ([START, MINUTES[100]], "newest-first", START + 2 * CLOCK_SLACK, False),
        ([START], "oldest-first", START + 2 * CLOCK_SLACK, False),
        ([START], "unknown", START + 2 * CLOCK_SLACK, False),
        ([], "newest-first", START + 2 * CLOCK_SLACK, False),
        ([START], "newest-first", None, False),
    ],
)
def test_a_list_that_begins_with_the_newest_is_past_a_time_after_a_page_of_older_items_alone(
    times: list[datetime], order: Order, since: datetime | None, past: bool
) -> None:
    assert is_past([None, *times], order, since) == past


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


@pytest.mark.parametrize("listed", [HISTORY, shuffled(HISTORY, 3)], ids=["oldest first", "in no order"])
async def test_the_newest_of_a_list_that_does_not_begin_with_them_need_all_of_it(listed: list[Message]) -> None:
    found = await read_newest(stream(listed), 10)
    assert [each.id for each in found.items] == NEWEST
    assert (found.read, found.complete) == (200, True)


async def test_a_list_that_begins_with_the_newest_is_left_soon_after_them() -> None:
    read: list[Message] = []
    found = await read_newest(stream(HISTORY[::-1], read), 10)
    assert [each.id for each in found.items] == NEWEST
    assert not found.complete
    assert 10 < found.read == len(read) < 100


async def test_a_list_that_ends_with_the_last_item_that_had_to_be_read_is_complete() -> None:
    left = await read_newest(stream(HISTORY[::-1]), 10)
    most = left.read - 1
    assert most > MOST_ITEMS_PAST_END
    found = await read_newest(stream(HISTORY[: -most - 1 : -1]), 10)
    assert (found.read, found.complete) == (most, True)


@pytest.mark.parametrize("turned", [False, True])
async def test_the_newest_that_are_wanted_are_found_among_others(turned: bool) -> None:
    seen: list[Message] = []
    wanted = {"m3", "m50", "m120", "m180"}
    listed = HISTORY[::-1] if turned else HISTORY
    found = await read_newest(stream(listed), 2, wanted=lambda each: each.id in wanted, on_read=seen.append)
    assert [each.id for each in found.items] == ["m180", "m120"]
    assert found.read == len(seen)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("most", [4, None])
async def test_of_equal_times_the_newer_come_first_as_the_list_is_ordered(turned: bool, most: int | None) -> None:
    same = [message(f"s{number}", MINUTES[number // 3]) for number in range(30)]
    found = await read_newest(stream(same[::-1] if turned else same), most)
    assert [each.id for each in found.items] == [each.id for each in same[::-1]][:most]


async def test_fewer_than_are_asked_for_are_all_there_are() -> None:
    found = await read_newest(stream(HISTORY[:3][::-1]), 10)
    assert [each.id for each in found.items] == ["m2", "m1", "m0"]
    assert found.complete
    assert (await read_newest(stream([]), 10)).items == []
