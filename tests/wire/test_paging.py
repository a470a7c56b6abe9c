"""The ids by which a place in a list is found again."""

from __future__ import annotations

from typing import Any

import pytest

from basiq_async._wire.broken_items import BrokenItem
from basiq_async._wire.paging import id_at, raw_id


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ({"id": "a"}, "a"),
        ({"id": 7}, "7"),
        ({"id": None}, None),
        ({"id": ""}, ""),
        ({}, None),
        ([], None),
        ("a", None),
        (BrokenItem("{", "why", "b"), "b"),
        (BrokenItem("{", "why"), None),
    ],
    ids=repr,
)
def test_an_item_is_known_by_its_id(item: Any, found: str | None) -> None:
    assert raw_id(item) == found


def test_there_is_no_id_outside_of_a_page() -> None:
    items = [{"id": "a"}, {"id": "b"}]
    assert [id_at(items, index) for index in (-1, 0, 1, 2)] == [None, "a", "b", None]


def test_a_long_id_is_held_as_a_digest() -> None:
    found = raw_id({"id": "x" * 201})
    assert found is not None
    assert (len(found), found[0], raw_id({"id": "x" * 200})) == (33, "#", "x" * 200)
