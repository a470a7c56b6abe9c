"""The pages of one pass: where it ends, and what of a page it leaves out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basiq_async._wire.codec import ListPage
from basiq_async.replay._watch import Before, Place, Top, Watch  # private: pages that no list serves like this

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def page(*minutes: int, more: bool = True) -> ListPage:
    items: list[Any] = [{"id": f"m{each}", "attempts": [{"timestamp": at(each).isoformat()}]} for each in minutes]
    return ListPage(items, "next" if more else None)


def minutes(found: ListPage) -> list[int]:
    return [int(item["id"][1:]) for item in found.items]


def newest_first(**known: Any) -> Watch:
    return Watch(Before(start=Place(), order="newest-first", sure=True, **known))


def test_a_page_that_is_requested_again_is_the_same_page() -> None:
    watch = newest_first(known=Top(("m10",), at(10)))
    for _ in range(3):
        assert minutes(watch("a", page(100, 90))) == [100, 90]
    for _ in range(3):
        assert minutes(watch("b", page(90, 80))) == [80]
    assert watch.pages == 2


def test_without_that_item_a_pass_ends_where_items_are_surely_older() -> None:
    watch = newest_first(known=Top(("gone",), at(70)))
    found = watch("a", page(100, 90, 60, 56, 54, 50))
    assert (minutes(found), found.next_link) == ([100, 90, 60, 56], None)


def test_a_list_that_lost_its_oldest_has_nothing_new_above() -> None:
    known = Top(("gone",), at(0))
    watch = Watch(Before(start=Place(), order="oldest-first", sure=True, known=known, end="m90"))
    found = watch("a", page(50, 60, 70))
    assert (minutes(found), found.next_link, watch.shifted) == ([], None, True)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_page_that_shifted_continues_after_its_place(shift: int) -> None:
    start = Place("cursor", 0, "m70", at(70))
    watch = Watch(Before(start=start, order="newest-first", sure=True))
    assert minutes(watch("b", page(*range(60 + 10 * shift, 20, -10)))) == [60, 50, 40, 30]


def test_pages_that_are_newer_than_the_place_are_passed_over_until_it_comes() -> None:
    start = Place("cursor", 0, "m70", at(70))
    watch = Watch(Before(start=start, order="newest-first", sure=True))
    assert minutes(watch("b", page(130, 120, 110))) == []
    assert minutes(watch("c", page(100, 90, 80))) == []
    assert minutes(watch("d", page(70, 60, 50))) == [60, 50]
    assert minutes(watch("e", page(40, 30))) == [40, 30]
