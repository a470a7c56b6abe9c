"""The shape of a JSON value: places, types and forms, and nothing of the values."""

from __future__ import annotations

import pytest

from .shape import Shape, describe_link

BASE = "https://api.example/v3"


@pytest.mark.parametrize(
    ("link", "form"),
    [
        (f"{BASE}/notifications/webhooks/9d0e", "link: absolute /notifications/webhooks/{}"),
        (f"{BASE}/events?limit=2&filter=x", "link: absolute /events?filter&limit"),
        ("/events/9d0e", "link: relative /events/{}"),
        ("https://elsewhere.example/v3/events", "link: elsewhere"),
        ("http://api.example/v3/events", "link: elsewhere"),
        ("http://[", "link: not a URL"),
    ],
)
def test_a_link_is_its_path_without_ids_and_the_names_of_its_query(link: str, form: str) -> None:
    assert describe_link(link, BASE) == form


@pytest.mark.parametrize(
    ("value", "types", "forms"),
    [
        ("4f1c2f9e-0000-4000-8000-000000000000", ["string"], ["uuid"]),
        ("2024-04-17T23:57:17Z", ["string"], ["date-time"]),
        ("007", ["string"], ["digits"]),
        ("Jane Doe", ["string"], ["text"]),
        (True, ["boolean"], []),
        (1, ["integer"], []),
        (None, ["null"], []),
    ],
)
def test_a_value_is_its_type_and_form(value: object, types: list[str], forms: list[str]) -> None:
    shape = Shape(BASE)
    shape.add({"name": value})
    assert shape.describe()["$.name"] == {"types": types, "forms": forms, "values": [], "always": True}


def test_only_words_of_the_api_are_kept() -> None:
    shape = Shape(BASE)
    shape.add({"status": "active", "code": "Jane Doe, 1 High St"})
    assert (shape.fields["$.status"].values, shape.fields["$.code"].values) == ({"active"}, {"(other)"})


def test_a_field_that_was_left_out_once_is_not_always_there() -> None:
    shape = Shape(BASE)
    shape.add({"data": [{"id": "1", "name": "n"}, {"id": "2"}]})
    assert (shape.fields["$.data[].id"].always, shape.fields["$.data[].name"].always) == (True, False)


def test_nothing_below_a_closed_place_is_recorded() -> None:
    shape = Shape(BASE, frozenset({"$.data"}))
    shape.add({"data": {"owner": "Jane Doe"}})
    assert set(shape.fields) == {"$", "$.data"}
