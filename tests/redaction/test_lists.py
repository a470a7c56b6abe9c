"""No frame of an error of a list shows an item, or a credential that a server sent in a link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from basiq_async import BasiqError, ConfigurationError, InboxError, Paginator, ResponseDecodeError, UnreadableItem
from basiq_async._wire.paging import raw_id
from basiq_async.replay._reading import Reading  # private: a replay drives it
from tests.support.frames import leaks
from tests.support.outcomes import outcome
from tests.support.scripted import Answer, Scripted, answer, client, error, page

PATH = "/notifications/webhooks/w/messages"
Ways = Callable[..., Awaitable[object]]


def item(number: int) -> dict[str, Any]:
    return {"id": f"m{number}", "payload": {"eventId": f"e{number}"}}


ODD = {"id": {"x": 1}, "payload": {"eventId": "e9"}}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""It is removed from what is shown, but not from what is read: no client knows it."""


FAULTS: dict[str, Callable[[], list[Answer]]] = {
    "a page that is refused": lambda: [page([item(1), item(2)], f"{PATH}?next=2"), error(500)],
    "a page whose link holds a secret": lambda: [page([item(1), item(2)], f"{PATH}?next={SECRET}"), error(500)],
    "a page that has expired, as has the list": lambda: [page([item(1)], f"{PATH}?next={SECRET}"), error(404)],
    "a page that is no list": lambda: [page([item(1)], f"{PATH}?next=2"), answer([item(2)])],
    "a link to another place": lambda: [page([item(1)], f"https://example.com/{SECRET}")],
    "a link that loops": lambda: [page([item(1)], f"{PATH}?next=2"), page([item(2)], f"{PATH}?next=2")],
    "a link that is none": lambda: [page([item(1)], {"eventId": "e"})],
}
ODD_ITEMS: dict[str, Callable[[], list[Answer]]] = {
    "an odd item": lambda: [page([item(1), ODD, item(3)])],
    "an odd item on the second page": lambda: [page([item(1)], f"{PATH}?next=2"), page([item(2), ODD])],
}


async def collect(listed: Paginator[Any]) -> object:
    return await listed.collect()


async def stream(listed: Paginator[Any]) -> object:
    return [each async for each in listed]


async def read_pages(listed: Paginator[Any]) -> object:
    return [each async for each in listed.pages()]


def key_of(each: Any) -> str:
    return raw_id(each) or ""


async def read(listed: Paginator[Any], known: Any = None, **options: Any) -> object:
    async def nothing(keys: Sequence[str]) -> Sequence[str]:
        return ()

    reading: Reading[Any] = Reading(listed, known=known or nothing, key_of=key_of, **options)
    found = []
    while (batch := await reading.advance()) is not None:
        found += batch.items
        batch.mark_done(len(batch.items))
    return found


WAYS: dict[str, Ways] = {"collect": collect, "stream": stream, "pages": read_pages, "read": read}
LISTS: dict[str, Callable[..., Paginator[Any]]] = {
    "messages": lambda basiq, **options: basiq.messages.list("w", **options),
    "objects": lambda basiq, **options: basiq._api.listing(dict[str, Any], basiq._api.at_path(PATH), **options),
}


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LISTS)
async def test_no_frame_of_a_list_that_fails_shows_an_item_or_a_secret(
    kind: str, way: str, fault: str, prefetch: int
) -> None:
    async with client(Scripted(*FAULTS[fault]())) as basiq:
        failure = await outcome(WAYS[way](LISTS[kind](basiq, prefetch=prefetch)))
    assert isinstance(failure, BasiqError)
    assert leaks(failure) == []


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("fault", ODD_ITEMS)
@pytest.mark.parametrize("way", WAYS)
async def test_no_frame_shows_an_item_that_cannot_be_read(way: str, fault: str, prefetch: int) -> None:
    async with client(Scripted(*ODD_ITEMS[fault]())) as basiq:
        failure = await outcome(WAYS[way](basiq.messages.list("w", prefetch=prefetch)))
    assert isinstance(failure, ResponseDecodeError)
    assert leaks(failure) == []


@pytest.mark.parametrize("way", WAYS)
async def test_no_frame_shows_an_odd_item_for_which_the_own_function_raises(way: str) -> None:
    def refuse(odd: UnreadableItem) -> None:
        raise ConfigurationError("not this one") from odd.error

    async with client(Scripted(page([item(1), ODD]))) as basiq:
        failure = await outcome(WAYS[way](basiq.messages.list("w", on_unreadable=refuse)))
    assert leaks(failure) == []


async def test_no_frame_of_a_reading_shows_a_page_if_the_record_is_away() -> None:
    async def away(keys: Sequence[str]) -> Sequence[str]:
        raise InboxError("away")

    async with client(Scripted(page([item(1)]))) as basiq:
        failure = await outcome(read(basiq.list(PATH), away))
    assert leaks(failure) == []


async def test_no_frame_of_a_reading_shows_a_secret_in_the_links_of_its_resume_point() -> None:
    async def away(keys: Sequence[str]) -> Sequence[str]:
        raise InboxError("away")

    async def all_of_them(keys: Sequence[str]) -> Sequence[str]:
        return keys

    pages = page([item(1), item(2)], f"{PATH}?next={SECRET}"), page([item(3), item(4)])
    async with client(Scripted(*pages, pages[0])) as basiq:  # at its end it looks at the first page again
        reading: Reading[Any] = Reading(basiq.list(PATH), known=all_of_them, key_of=key_of, selection="all")
        assert await reading.advance() is None
        resume_point = reading.resume_point()
        assert SECRET in str(resume_point)
        failure = await outcome(read(basiq.list(PATH), away, resume_point=resume_point, selection="all"))
    assert isinstance(failure, InboxError)
    assert leaks(failure) == []


async def test_no_frame_of_a_reading_shows_an_item_that_cannot_be_converted() -> None:
    def convert(each: Any) -> None:
        raise ConfigurationError("no")

    async with client(Scripted(page([item(1)]))) as basiq:
        failure = await outcome(read(basiq.list(PATH), convert=convert))
    assert leaks(failure) == []
