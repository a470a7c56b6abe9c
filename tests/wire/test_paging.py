"""The ids by which a place in a list is found again."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from basiq_async import APIError, BasiqError, Event, PaginationError, ResponseDecodeError, TransportError
from basiq_async._wire.broken_items import BrokenItem
from basiq_async._wire.codec import Codec
from basiq_async._wire.cursors import CursorSeal
from basiq_async._wire.paging import Listing, PageSize, id_at, is_lost, raw_id
from basiq_async._wire.urls import BaseURL
from basiq_async._work.tasks import TaskOwner


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


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        *((APIError(status=status, method="GET"), True) for status in (400, 404, 410)),
        *((APIError(status=status, method="GET"), False) for status in (399, 401, 403, 409, 411, 500)),
        (APIError(status=400, method="POST"), False),
        (TransportError("away"), False),
    ],
    ids=repr,
)  # fmt: skip
def test_a_refused_page_may_mean_that_its_link_has_expired_but_a_refused_token_does_not(
    error: Exception, lost: bool
) -> None:
    assert is_lost(error) == lost


BASE = BaseURL.parse("https://au-api.basiq.io")
FIRST = BASE.url("/events")
SECOND = BASE.url("/events?page=2")


def listing() -> Listing[Event]:
    async def fetch(url: str) -> Any:
        raise AssertionError("nothing is requested")

    return Listing("events", FIRST, BASE, fetch, Codec().reader(Event), TaskOwner(), CursorSeal("a key of the tests"))


@pytest.mark.parametrize(
    ("link", "url", "fault"),
    [
        (None, None, None), ("", None, None), (SECOND, SECOND, None), ("/events?page=2", SECOND, None),
        (7, None, ResponseDecodeError), ({}, None, ResponseDecodeError),
        ("https://evil.example/events", None, PaginationError),
    ],
    ids=repr,
)  # fmt: skip
def test_a_next_link_is_the_end_of_the_list_or_a_url_of_it_or_an_error_where_it_would_be_followed(
    link: Any, url: str | None, fault: type[Exception] | None
) -> None:
    found, error = listing().resolve(link, FIRST)
    assert (found, None if error is None else type(error)) == (url, fault)
    if isinstance(error, ResponseDecodeError):
        assert error.location == "$.links.next"


@pytest.mark.parametrize("length", [200, 201])
def test_a_link_is_shown_up_to_200_characters(length: int) -> None:
    link = "//x.example/".ljust(length, "x")
    _, error = listing().resolve(link, FIRST)
    assert isinstance(error, PaginationError)
    assert ("…" in str(error)) == (length > 200)
    assert link[:200] in str(error)
    assert link[:201] + "x" not in str(error)
    assert error.link == link


@pytest.mark.parametrize("link", [SECOND, FIRST])
def test_a_link_to_a_page_that_was_read_before_is_refused(link: str) -> None:
    url, error = listing().resolve(link, FIRST, {hash(SECOND)})
    assert url is None
    assert isinstance(error, PaginationError)
    assert "loops" in str(error)


def test_a_link_that_holds_a_credential_is_requested_unchanged_and_not_shown() -> None:
    hiding = attrs.evolve(listing(), redact=lambda text: text.replace("S3CRET", ""))
    url, error = hiding.resolve("/events?page=S3CRET", FIRST)
    assert (url, error) == (f"{FIRST}?page=S3CRET", None)
    assert "S3CRET" not in repr(url)
    assert "S3CRET" not in repr(hiding.url("/events?page=S3CRET"))
    assert repr(hiding.url("/events")) == repr(FIRST)


@pytest.mark.parametrize(
    ("url", "of_it"), [(SECOND, True), (BASE.url("/jobs"), False), ("https://evil.example/events", False)]
)
def test_only_a_url_of_the_lists_own_path_is_a_page_of_it(url: str, of_it: bool) -> None:
    assert listing().has_page(url) == of_it


def test_the_size_of_pages_is_halved_for_one_that_is_too_large_and_doubled_after_some_that_were_not() -> None:
    size, link = PageSize(500), "https://x/messages?next=abc&limit=500&filter=a"
    too_large = BasiqError("too large")
    too_large._too_large = True
    assert size.url(link) == link
    size.shrink(too_large)
    size.shrink(too_large)
    assert size.url(link) == "https://x/messages?next=abc&filter=a&limit=125"
    assert size.url("https://x/messages") == "https://x/messages?limit=125"
    sizes = []
    for _ in range(12):
        size.grow()
        sizes.append(int(size.url(link).rpartition("=")[2]))
    assert sizes == [125, 125, 125, 250, 250, 250, 250, 500, 500, 500, 500, 500]
    with pytest.raises(BasiqError, match="another"):
        size.shrink(BasiqError("another"))
