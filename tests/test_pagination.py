"""Streaming: nothing lost, nothing twice, nothing left behind, and a cursor that goes on exactly."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basiq_async import (
    APIError,
    BasiqClient,
    BasiqError,
    ConfigurationError,
    ConnectionFailedError,
    Message,
    PaginationError,
    Paginator,
    Request,
    Response,
    ResponseDecodeError,
    ServerError,
    UnreadableItem,
)
from basiq_async._wire.codec import Reader
from basiq_async._wire.cursors import Cursor, CursorSeal
from tests.support import virtual
from tests.support.scripted import API_KEY, Scripted, client, error, page

API = "https://au-api.basiq.io"
PATH = f"{API}/notifications/webhooks/w/messages"


def items(*numbers: int) -> list[dict[str, Any]]:
    return [
        {"id": f"m{number}", "payload": {"eventTypeId": "user.created", "eventId": f"e{number}"}} for number in numbers
    ]


class History:
    """A list that is served in pages and can grow; links are by position, as opaque as you like."""

    def __init__(self, count: int, size: int = 3, delay: float = 0.0) -> None:
        self.rows = items(*range(count))
        self.size = size
        self.delay = delay
        self.asked: list[int] = []

    async def __call__(self, request: Request) -> Response:
        start = int(request.url.partition("next=")[2] or 0)
        self.asked.append(start)
        await asyncio.sleep(self.delay)
        end = start + self.size
        return page(self.rows[start:end], f"{PATH}?next={end}" if end < len(self.rows) else None)


def listing(history: Any, **options: Any) -> Paginator[Message]:
    return client(Scripted(history)).messages.list("w", **options)


async def ids(paginator: Paginator[Message]) -> list[str]:
    return [message.id async for message in paginator]


def expected(*numbers: int) -> list[str]:
    return [f"m{number}" for number in numbers]


@pytest.mark.parametrize("prefetch", [0, 1])
async def test_while_a_page_is_awaited_the_place_is_after_the_last_item(prefetch: int) -> None:
    history = History(7, delay=0.001)
    paginator = listing(history, prefetch=prefetch)
    reading = aiter(paginator)
    for _ in range(3):
        await anext(reading)
    reached = paginator.cursor
    following = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0)
    assert not following.done()
    assert paginator.cursor == reached
    following.cancel()
    await asyncio.wait([following])
    assert paginator.cursor == reached
    assert await ids(listing(history, cursor=reached)) == expected(3, 4, 5, 6)
    assert [message.id async for message in reading] == expected(3, 4, 5, 6)


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
@virtual.clocked
async def test_every_item_comes_once_and_in_order(count: int, prefetch: int) -> None:
    history = History(count)
    assert await ids(listing(history, prefetch=prefetch)) == expected(*range(count))
    assert len(history.asked) == max(1, -(-count // 3))


# tests/wire/test_urls.py has every form of a link.
@pytest.mark.parametrize(
    ("base_url", "link", "called"),
    [
        (API, f"{PATH}?next=a%27b%28c%29%2F..%2f%20+%25", f"{PATH}?next=a%27b%28c%29%2F..%2f%20+%25"),
        ("https://proxy.example/basiq/", f"{API}/a?next=1", "https://proxy.example/basiq/a?next=1"),
        ("http://[::1]:4010", "messages?next=1", "http://[::1]:4010/notifications/webhooks/w/messages?next=1"),
    ],
)
@virtual.clocked
async def test_the_next_link_is_followed_byte_for_byte_through_the_base_url(
    base_url: str, link: str, called: str
) -> None:
    transport = Scripted(page(items(1), link), page(items(2)))
    assert await ids(client(transport, base_url=base_url).messages.list("w")) == expected(1, 2)
    assert transport.urls[1] == called


def listing_of(*script: Any, **options: Any) -> Paginator[Message]:
    return client(Scripted(*script)).messages.list("w", **options)


async def until_error(paginator: Paginator[Message]) -> tuple[list[str], BasiqError]:
    seen: list[str] = []
    with pytest.raises(BasiqError) as caught:
        async for message in paginator:
            seen.append(message.id)
    return seen, caught.value


@pytest.mark.parametrize("link", ["https://evil.example/next", "http://au-api.basiq.io/next", "/a/..;/token"])
@virtual.clocked
async def test_a_next_link_to_another_place_is_not_followed(link: str) -> None:
    transport = Scripted(page(items(1), link))
    seen, exc = await until_error(client(transport).messages.list("w"))
    assert seen == expected(1)
    assert isinstance(exc, PaginationError)
    assert exc.link == link
    assert len(transport.requests) == 1


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("length", [0, 1, 2, 7])
@virtual.clocked
async def test_a_loop_is_an_error_after_the_items_of_its_pages(length: int, prefetch: int) -> None:
    first = f"{PATH}?limit=500" if not length else f"{PATH}?next=0"
    script = [page(items(number), f"{PATH}?next={number}") for number in range(length)]
    transport = Scripted(*script, page(items(length), first))
    seen, exc = await until_error(client(transport).messages.list("w", prefetch=prefetch))
    assert seen == expected(*range(length + 1))
    assert isinstance(exc, PaginationError)
    assert "loops" in str(exc)
    assert (exc.link, len(transport.requests)) == (first, length + 1)


@virtual.clocked
async def test_a_link_of_another_type_is_an_error_after_the_items() -> None:
    seen, exc = await until_error(listing_of(page(items(1), {"href": "/x"})))
    assert isinstance(exc, ResponseDecodeError)
    assert (seen, exc.location) == (expected(1), "$.links.next")


@pytest.mark.parametrize("prefetch", [0, 1])
@virtual.clocked
async def test_empty_pages_are_passed_over_and_an_item_that_comes_twice_is_given_twice(prefetch: int) -> None:
    empty = [page([], f"{PATH}?next={number}") for number in range(200)]
    script = [page(items(1), f"{PATH}?next=again"), *empty, page(items(1, 2))]
    assert await ids(listing_of(*script, prefetch=prefetch)) == expected(1, 1, 2)


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("pages", [False, True], ids=["items", "pages"])
@virtual.clocked
async def test_what_many_tasks_share_comes_once_each(pages: bool, prefetch: int) -> None:
    paginator = listing(History(60, 10, delay=1.0), prefetch=prefetch)
    shared: Any = paginator.pages() if pages else aiter(paginator)
    seen: list[str] = []

    async def work() -> None:
        async for one in shared:
            seen.extend(message.id for message in (one.items if pages else [one]))
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(8)))
    assert sorted(seen) == sorted(expected(*range(60)))


@virtual.clocked
async def test_the_next_page_is_asked_for_while_this_one_is_consumed() -> None:
    async def took(prefetch: int) -> float:
        began = virtual.now()
        async for _ in listing(History(9, delay=3.0), prefetch=prefetch):
            await asyncio.sleep(1.0)
        return virtual.now() - began

    assert await took(1) == pytest.approx(3 + 9)
    assert await took(0) == pytest.approx(3 * 3 + 9)


@virtual.clocked
async def test_no_more_than_one_page_is_asked_for_ahead() -> None:
    history = History(30)
    iterator = aiter(listing(history))
    await anext(iterator)
    await asyncio.sleep(100)
    assert history.asked == [0, 3]


async def leave_by_break(paginator: Paginator[Message]) -> None:
    async for _ in paginator:
        break


async def leave_by_exception(paginator: Paginator[Message]) -> None:
    with pytest.raises(ZeroDivisionError):
        async for _ in paginator:
            raise ZeroDivisionError


async def leave_by_cancellation(paginator: Paginator[Message]) -> None:
    async def consume() -> None:
        async for _ in paginator:
            await asyncio.sleep(3600)

    task = asyncio.create_task(consume())
    await asyncio.sleep(2.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_cancellation_while_waiting_for_a_page(paginator: Paginator[Message]) -> None:
    task = asyncio.create_task(ids(paginator))
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_dropping(paginator: Paginator[Message]) -> None:
    iterator = aiter(paginator)
    await anext(iterator)
    del iterator


async def leave_by_closing_the_iterator(paginator: Paginator[Message]) -> None:
    iterator = aiter(paginator)
    await anext(iterator)
    await iterator.aclose()


async def leave_by_first(paginator: Paginator[Message]) -> None:
    await paginator.first()


async def leave_pages(paginator: Paginator[Message]) -> None:
    async for _ in paginator.pages():
        break


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_exception,
        leave_by_cancellation,
        leave_by_cancellation_while_waiting_for_a_page,
        leave_by_dropping,
        leave_by_closing_the_iterator,
        leave_by_first,
        leave_pages,
    ],
)
@virtual.clocked
async def test_leaving_early_leaves_nothing_behind(leave: Callable[[Paginator[Message]], Awaitable[None]]) -> None:
    history = History(9, delay=1.0)
    paginator = listing(history)
    await leave(paginator)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()


@virtual.clocked
async def test_closing_the_client_ends_the_page_that_was_asked_for_ahead() -> None:
    basiq = client(Scripted(History(9, delay=1.0)))
    iterator = aiter(basiq.messages.list("w"))
    await anext(iterator)
    await basiq.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [(await anext(iterator)).id, (await anext(iterator)).id] == expected(1, 2)
    with pytest.raises(ConnectionFailedError, match="the client is closed"):
        await anext(iterator)


@virtual.clocked
async def test_closing_the_client_while_a_page_is_awaited_is_an_error_and_no_cancellation() -> None:
    basiq = client(Scripted(History(9, delay=5.0)))
    task = asyncio.create_task(ids(basiq.messages.list("w")))
    await asyncio.sleep(7)
    await basiq.aclose()
    with pytest.raises(ConnectionFailedError, match="the client is closed"):
        await task


@pytest.mark.parametrize("prefetch", [0, 1])
@virtual.clocked
async def test_the_failure_of_a_page_comes_behind_the_last_item_before_it(prefetch: int) -> None:
    script = [page(items(1, 2), f"{PATH}?next=1"), page(items(3, 4), f"{PATH}?next=2"), error(500)]
    seen, exc = await until_error(listing_of(*script, prefetch=prefetch))
    assert seen == expected(1, 2, 3, 4)
    assert isinstance(exc, ServerError)


@virtual.clocked
async def test_a_failed_page_that_was_never_reached_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    iterator = aiter(listing_of(page(items(1, 2), f"{PATH}?next=1"), error(500)))
    await anext(iterator)
    await asyncio.sleep(1)
    del iterator
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("prefetch", [0, 1])
@virtual.clocked
async def test_an_iterator_can_go_on_after_a_failed_page(prefetch: int) -> None:
    first, second = page(items(1), f"{PATH}?next=1"), page(items(2))
    transport = Scripted(first, error(500), second, first, second)  # a cursor requests the page of its item again
    paginator = client(transport).messages.list("w", prefetch=prefetch)
    iterator = aiter(paginator)
    assert (await anext(iterator)).id == "m1"
    with pytest.raises(ServerError):
        await anext(iterator)
    cursor = paginator.cursor
    assert (await anext(iterator)).id == "m2"
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    assert await ids(client(transport).messages.list("w", cursor=cursor)) == expected(2)


@virtual.clocked
async def test_an_item_that_cannot_be_read_names_its_index_and_those_before_it_come_first() -> None:
    bad = [*items(0, 1), {"id": "m2", "attempts": [{"timestamp": "x"}]}]
    seen, exc = await until_error(listing_of(page(bad)))
    assert seen == expected(0, 1)
    assert isinstance(exc, ResponseDecodeError)
    assert exc.location == "$.data[2].attempts[0].timestamp"
    assert str(exc).startswith("$.data[2].attempts[0].timestamp: expected a date")
    assert "GET /notifications/webhooks/w/messages" in str(exc)


# --- cursors ---


@given(count=st.integers(1, 12), size=st.integers(1, 5), stop=st.integers(1, 12), prefetch=st.integers(0, 1))
@virtual.clocked
async def test_a_cursor_goes_on_with_exactly_the_next_item(count: int, size: int, stop: int, prefetch: int) -> None:
    stop_at = min(stop, count)
    history = History(count, size)
    paginator = listing(history, prefetch=prefetch)
    seen = [message.id for message in await paginator.collect(stop_at)]
    history.rows += items(100, 101)
    # Another client stands for another process: nothing but the text is handed on.
    resumed = await ids(listing(history, cursor=paginator.cursor, prefetch=prefetch))
    assert seen + resumed == [*expected(*range(count)), "m100", "m101"]


@virtual.clocked
async def test_a_cursor_finds_its_item_again_where_items_were_put_before_it() -> None:
    history = History(9)
    paginator = listing(history)
    await paginator.collect(2)
    for added in (1, 4):
        history.rows = items(*range(200, 200 + added)) + items(*range(9))
        assert await ids(listing(history, cursor=paginator.cursor)) == expected(*range(2, 9))


@virtual.clocked
async def test_a_cursor_whose_item_is_gone_is_an_error_and_no_silent_restart() -> None:
    history = History(9)
    paginator = listing(history)
    await paginator.collect(2)
    history.rows = items(20, 21, 22, 23)
    resumed = listing(history, cursor=paginator.cursor)
    with pytest.raises(PaginationError, match="'m1' is no longer in the list"):
        await resumed.collect()
    assert resumed.cursor == paginator.cursor


@virtual.clocked
async def test_a_page_on_which_an_item_stands_twice_is_resumed_at_the_right_one() -> None:
    history = History(0)
    history.rows = items(1, 1, 2)
    paginator = listing(history)
    await paginator.collect(1)
    assert await ids(listing(history, cursor=paginator.cursor)) == expected(1, 2)


@virtual.clocked
async def test_a_cursor_behind_an_enormous_id_resumes() -> None:
    history = History(0)
    history.rows = [{"id": letter * 10_000} for letter in "abc"]
    paginator = listing(history)
    await paginator.collect(1)
    assert await ids(listing(history, cursor=paginator.cursor)) == ["b" * 10_000, "c" * 10_000]


@virtual.clocked
async def test_the_cursor_is_none_before_the_first_item_and_short_after_it() -> None:
    paginator = listing(History(5))
    assert paginator.cursor is None
    await paginator.collect(1)
    cursor = paginator.cursor
    assert cursor is not None
    assert len(cursor) < 250
    resumed = listing(History(5), cursor=cursor)
    assert resumed.cursor == cursor


@virtual.clocked
async def test_behind_the_last_item_of_a_page_the_cursor_asks_for_that_page_and_looks_for_the_item() -> None:
    history = History(6)
    paginator = listing(history, prefetch=0)
    await paginator.collect(3)
    history.asked.clear()
    assert await ids(listing(history, cursor=paginator.cursor)) == expected(3, 4, 5)
    assert history.asked == [0, 3]


@pytest.mark.parametrize("stop", range(1, 9))
@pytest.mark.parametrize("gone", range(1, 9))
@virtual.clocked
async def test_a_cursor_finds_its_item_again_where_items_before_it_are_gone(stop: int, gone: int) -> None:
    history = History(9)
    paginator = listing(history)
    await paginator.collect(stop)
    del history.rows[: min(gone, stop - 1)]
    assert await ids(listing(history, cursor=paginator.cursor)) == expected(*range(stop, 9))


@virtual.clocked
async def test_a_cursor_does_not_advance_past_an_item_that_could_not_be_read() -> None:
    transport = Scripted(page([*items(0), {"no": "id"}, *items(2)]))
    paginator = client(transport).messages.list("w")
    await until_error(paginator)
    seen, exc = await until_error(client(transport).messages.list("w", cursor=paginator.cursor))
    assert seen == []
    assert "$.data[1].id" in str(exc)


async def some_cursor() -> str:
    paginator = listing(History(9))
    await paginator.collect(2)
    assert paginator.cursor is not None
    return paginator.cursor


@pytest.mark.parametrize(
    "options",
    [{"webhook_id": "other"}, {"webhook_id": "w", "filter": "message.status.eq('Failed')"}],
    ids=["another webhook", "another filter"],
)
@virtual.clocked
async def test_a_cursor_of_another_list_is_refused(options: dict[str, Any]) -> None:
    cursor = await some_cursor()
    with pytest.raises(ConfigurationError, match="belongs to another list"):
        client(Scripted(History(9))).messages.list(**options, cursor=cursor)


@virtual.clocked
async def test_a_cursor_may_be_used_with_pages_of_another_size() -> None:
    assert await ids(listing(History(9), cursor=await some_cursor(), page_size=10)) == expected(*range(2, 9))


NAME = '["/notifications/webhooks/w/messages", null]'


# tests/wire/test_cursors.py and tests/faults/test_fuzz.py have cursors that are damaged or forged.
@pytest.mark.parametrize(
    "page_url",
    ["/notifications/webhooks/other/messages", "/events", "/users/u/accounts", "/notifications/webhooks/w%2Fmessages",
     "/../token", "@evil.example/x", "/x y"],
)  # fmt: skip
def test_a_sealed_cursor_of_this_list_whose_page_is_of_another_is_refused(page_url: str) -> None:
    with pytest.raises(ConfigurationError, match="cursor is damaged"):
        listing(History(9), cursor=CursorSeal(API_KEY).seal(Cursor(page_url, 1, "x"), NAME))


@virtual.clocked
async def test_a_cursor_of_another_api_key_is_an_error_that_says_so() -> None:
    rotated = BasiqClient("a-new-key", transport=Scripted(History(9)))
    with pytest.raises(ConfigurationError, match="another API key"):
        rotated.messages.list("w", cursor=await some_cursor())


# --- finding the place again ---


@virtual.clocked
async def test_the_pages_before_the_item_to_resume_after_are_passed_over() -> None:
    history = History(9)
    paginator = listing(history, prefetch=0)
    await paginator.collect(5)
    history.rows = items(20, 21, 22, *range(9))
    resumed = listing(history, cursor=paginator.cursor, prefetch=0)
    found = [(len(page.items), page.next_cursor) async for page in resumed.pages()]
    assert [count for count, _ in found] == [1, 3]
    assert [cursor is None for _, cursor in found] == [False, True]
    assert await ids(listing(history, cursor=found[0][1])) == expected(6, 7, 8)


class Expiring(History):
    """A list whose links can be invalidated; from the start it can always be read."""

    status = 400
    expired = False

    async def __call__(self, request: Request) -> Response:
        if self.expired and "next=" in request.url:
            self.expired = False
            self.asked.append(-1)
            return error(self.status, "parameter-not-valid")
        return await super().__call__(request)


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("stop", [3, 4, 6, 8])
@pytest.mark.parametrize("status", [400, 404, 410])
@virtual.clocked
async def test_a_cursor_whose_page_has_expired_finds_its_item_from_the_start(
    status: int, stop: int, prefetch: int
) -> None:
    history = Expiring(9)
    paginator = listing(history, prefetch=0)
    await paginator.collect(stop)
    history.expired, history.status = True, status
    history.asked.clear()
    resumed = listing(history, cursor=paginator.cursor, prefetch=prefetch)
    assert await ids(resumed) == expected(*range(stop, 9))
    assert history.asked[:2] == ([0, -1] if stop == 3 else [-1, 0])  # the page that holds the third is the first


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("pages", [False, True], ids=["items", "pages"])
@pytest.mark.parametrize("status", [400, 404, 410])
@virtual.clocked
async def test_a_link_that_expires_on_the_way_is_found_again_by_the_last_item(
    status: int, pages: bool, prefetch: int
) -> None:
    history = Expiring(12)
    history.status = status
    paginator = listing(history, prefetch=prefetch)
    found: list[str] = []

    async def take(items: Any) -> None:
        found.extend(message.id for message in items)
        if items and len(found) in (3, 9):  # twice, at different places
            history.expired = True

    if pages:
        async for page_of_list in paginator.pages():
            await take(page_of_list.items)
    else:
        async for message in paginator:
            await take([message])
    assert found == expected(*range(12))


@virtual.clocked
async def test_behind_an_item_without_an_id_the_one_before_it_finds_the_place() -> None:
    first = page([*items(0, 1), {"no": "id"}], f"{PATH}?next=1")
    met: list[UnreadableItem] = []
    script = [first, error(404), first, page(items(3))]
    assert await ids(listing_of(*script, prefetch=0, on_unreadable=met.append)) == expected(0, 1, 3)
    assert len(met) == 2, "what may not have been read is read again"


@virtual.clocked
async def test_a_link_that_stays_refused_is_an_error_and_the_cursor_stays_at_the_last_item() -> None:
    class Refusing(History):
        refuses = True

        async def __call__(self, request: Request) -> Response:
            if self.refuses and request.url.endswith("next=6"):
                self.asked.append(-1)
                return error(404, "resource-not-found")
            return await super().__call__(request)

    history = Refusing(9)
    paginator = listing(history, prefetch=0)
    found: list[str] = []
    with pytest.raises(APIError):
        async for message in paginator:
            found.append(message.id)
    assert found == expected(*range(6))
    assert history.asked == [0, 3, -1, 0, 3, -1]
    history.refuses = False
    assert await ids(listing(history, cursor=paginator.cursor)) == expected(6, 7, 8)


@virtual.clocked
async def test_a_cursor_whose_page_fails_otherwise_is_no_reason_to_walk_the_list() -> None:
    history = Expiring(9)
    paginator = listing(history)
    await paginator.collect(4)
    history.expired, history.status = True, 403
    with pytest.raises(BasiqError, match="403"):
        await listing(history, cursor=paginator.cursor).collect()


@virtual.clocked
async def test_a_page_on_another_path_is_followed_and_its_cursor_keeps_the_item() -> None:
    """Such a cursor would look like a forged one: it leads to the list's own pages, and the item in them."""
    transport = Scripted(page(items(1), "/somewhere/else?next=1"), page(items(2, 3)))
    paginator = client(transport).messages.list("w", prefetch=0)
    assert [message.id for message in await paginator.collect(2)] == expected(1, 2)
    again = Scripted(page(items(1), "/somewhere/else?next=1"), page(items(2, 3)))
    resumed = client(again).messages.list("w", cursor=paginator.cursor)
    assert await ids(resumed) == expected(3)
    assert again.urls[0] == f"{PATH}?limit=500"


# --- items that cannot be read ---

BAD = [*items(0, 1), {"id": "m2", "attempts": [{"timestamp": "x"}]}, {"no": "id"}, 5, *items(5)]


@pytest.mark.parametrize("pages", [False, True], ids=["items", "pages"])
@virtual.clocked
async def test_an_unreadable_item_can_be_passed_knowing_what_it_was(pages: bool) -> None:
    met: list[UnreadableItem] = []
    paginator = listing_of(page(BAD), on_unreadable=met.append)
    found = [one async for each in paginator.pages() for one in each.items] if pages else await paginator.collect()
    assert [message.id for message in found] == expected(0, 1, 5)
    assert [one.raw for one in met] == BAD[2:5]
    assert [one.id for one in met] == ["m2", None, None]
    assert [one.error.location for one in met] == ["$.data[2].attempts[0].timestamp", "$.data[3].id", "$.data[4]"]
    assert "GET /notifications/webhooks/w/messages" in str(met[0].error)
    assert "m2" not in repr(met[0].raw) or "raw" not in repr(met[0])


@virtual.clocked
async def test_an_unreadable_item_can_be_replaced_in_its_place() -> None:
    paginator = listing_of(page(BAD), on_unreadable=lambda item: Message(item.id or "?", {}))
    assert await ids(paginator) == ["m0", "m1", "m2", "?", "?", "m5"]


@virtual.clocked
async def test_what_is_raised_for_an_unreadable_item_ends_the_loop_in_front_of_it() -> None:
    def refuse(item: UnreadableItem) -> None:
        raise LookupError(item.id)

    paginator = listing_of(page(BAD), on_unreadable=refuse)
    with pytest.raises(LookupError, match="m2"):
        await paginator.collect()
    seen, exc = await until_error(listing_of(page(BAD), cursor=paginator.cursor))
    assert (seen, "$.data[2]" in str(exc)) == ([], True)


@pytest.mark.parametrize("pages", [False, True], ids=["items", "pages"])
@virtual.clocked
async def test_an_item_whose_reading_was_interrupted_is_read_again(pages: bool) -> None:
    """By a Ctrl-C, say, or where memory runs out."""
    basiq = client(Scripted(page(items(0, 1, 2))))
    interruptions = iter([False, True, False, False, False, False])
    reader = basiq.messages._api.codec.reader(Message)

    def read(value: Any, model: type[Message]) -> Message:
        if next(interruptions):
            raise MemoryError
        return reader.hook(value, model)

    basiq.messages._api.codec._readers[Message] = Reader(Message, read)
    paginator = basiq.messages.list("w")
    walked = aiter(paginator.pages() if pages else paginator)
    if not pages:
        assert await anext(walked)
    with pytest.raises(MemoryError):
        await anext(walked)
    assert (paginator.cursor is None) is pages
    found = [one async for one in walked]
    read_now = [message for one in found for message in getattr(one, "items", [one])]
    assert [message.id for message in read_now] == (expected(0, 1, 2) if pages else expected(1, 2))


@virtual.clocked
async def test_a_cursor_behind_an_unreadable_item_goes_on_behind_it() -> None:
    transport = Scripted(page(BAD))
    paginator = client(transport).messages.list("w", on_unreadable=lambda item: Message("?", {}))
    await paginator.collect(4)
    resumed = client(transport).messages.list("w", cursor=paginator.cursor, on_unreadable=lambda item: None)
    assert await ids(resumed) == expected(5)


# --- the other ways to read a list ---


@virtual.clocked
async def test_pages_come_whole_with_a_cursor_behind_each() -> None:
    history = History(8)
    pages = [found async for found in listing(history).pages()]
    assert [[message.id for message in found.items] for found in pages] == [
        expected(0, 1, 2),
        expected(3, 4, 5),
        expected(6, 7),
    ]
    assert pages[-1].next_cursor is None
    assert await ids(listing(history, cursor=pages[0].next_cursor)) == expected(3, 4, 5, 6, 7)


@virtual.clocked
async def test_what_slips_to_a_page_that_was_read_comes_after_its_cursor() -> None:
    history = History(8)
    first = await anext(aiter(listing(history, prefetch=0).pages()))
    assert [message.id for message in first.items] == expected(0, 1, 2)
    del history.rows[0]  # m3 is on the first page now
    assert await ids(listing(history, cursor=first.next_cursor)) == expected(3, 4, 5, 6, 7)


@virtual.clocked
async def test_pages_go_on_in_the_middle_of_one() -> None:
    pages = [found async for found in listing(History(5), cursor=await some_cursor()).pages()]
    assert [[message.id for message in found.items] for found in pages] == [expected(2), expected(3, 4)]


@virtual.clocked
async def test_a_page_with_an_item_that_cannot_be_read_names_its_index() -> None:
    with pytest.raises(ResponseDecodeError, match=r"\$\.data\[1\]\.id"):
        await anext(aiter(listing_of(page([*items(0), {}])).pages()))


@virtual.clocked
async def test_collect_and_first() -> None:
    history = History(8)
    assert [message.id for message in await listing(history).collect()] == expected(*range(8))
    assert [message.id for message in await listing(history).collect(max_items=4)] == expected(0, 1, 2, 3)
    assert await listing(history).collect(max_items=0) == []
    history.asked.clear()
    first = await listing(history).first()
    assert first is not None
    assert first.id == "m0"
    await asyncio.sleep(1)
    assert history.asked == [0]
    assert await listing(History(0)).first() is None


@virtual.clocked
async def test_each_loop_begins_again() -> None:
    paginator = listing(History(4))
    assert await ids(paginator) == await ids(paginator) == expected(0, 1, 2, 3)


def test_a_client_without_a_loop_can_be_made_and_its_lists_too() -> None:
    basiq = BasiqClient(API_KEY, transport=Scripted(History(1)))
    assert isinstance(basiq.messages.list("w"), Paginator)


@pytest.mark.parametrize("use", [iter, list, lambda pages: next(iter(pages))])
async def test_a_for_over_a_list_says_async_for(basiq_client: BasiqClient, use: Any) -> None:
    with pytest.raises(ConfigurationError, match="`async for`"):
        use(basiq_client.event_types.list())
