"""Lists whose pages and links are not what they should be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from basiq_async import PaginationError, ResponseDecodeError, ServerError
from tests.support.outcomes import QUICK, client_of, outcome
from tests.support.wire import Conn, Step, Wire, error, http, ok, page

PATH = "/notifications/webhooks/w1/messages"


def messages(first: int, count: int = 2) -> list[dict[str, Any]]:
    return [{"id": f"m{index}"} for index in range(first, first + count)]


async def stream(client: Any, prefetch: int = 1) -> tuple[list[str], Any]:
    """The ids that came, and how it ended: None or an error."""
    ids: list[str] = []

    async def run() -> None:
        async for message in client.messages.list("w1", prefetch=prefetch):
            ids.append(message.id)

    return ids, await outcome(run(), within=5.0)


@pytest.fixture(params=[0, 1], ids=["prefetch=0", "prefetch=1"])
def prefetch(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
async def test_a_loop_is_an_error_after_the_items_of_its_pages(length: int, prefetch: int) -> None:
    async with Wire() as wire, client_of(wire) as client:
        wire.script = [page(messages(2 * i), f"{PATH}?next={i + 1}") for i in range(length)]
        wire.script += [page(messages(2 * length), f"{PATH}?next=1")]
        ids, end = await stream(client, prefetch)
        assert ids == [f"m{i}" for i in range(2 * length + 2)]
        assert type(end) is PaginationError
        assert "loops" in str(end)
        assert end.link.endswith(f"{PATH}?next=1")
        assert end.link in str(end)
        assert len(wire.requests) == length + 1


async def test_a_link_from_the_first_page_to_itself_is_a_loop(prefetch: int) -> None:
    async with Wire() as wire, client_of(wire) as client:
        wire.script = [page(messages(0), f"{PATH}?limit=500")]
        ids, end = await stream(client, prefetch)
        assert (ids, type(end), len(wire.requests)) == (["m0", "m1"], PaginationError, 1)


FOREIGN = {
    "another host": "https://evil.example/x",
    "another host, http": "http://evil.example/x",
    "another port": "http://127.0.0.1:1/x",
    "the scheme https": "https://127.0.0.1:{port}/x",
    "no scheme": "//evil.example/x",
    "no scheme, own host": "//127.0.0.1:{port}/x",
    "user info": "http://127.0.0.1:{port}@evil.example/x",
    "user info with a password": "http://user:pass@127.0.0.1:{port}/x",
    "the vendor's host as user": "https://au-api.basiq.io@evil.example/x",
    "a host that begins alike": "https://au-api.basiq.io.evil.example/x",
    "a backslash": "http://127.0.0.1:{port}\\@evil.example/x",
    "two backslashes": "\\\\evil.example\\x",
    "a slash and a backslash": "/\\evil.example/x",
    "white space before": " https://evil.example/x",
    "a tab in the scheme": "ht\ttps://evil.example/x",
    "a newline": "/x\r\nHost: evil.example",
    "javascript": "javascript:alert(1)",
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1:{port}/x",
    "data": "data:text/plain,x",
    "a number as host": "http://2130706433:{port}/x",
    "another spelling of the host": "http://localhost:{port}/x",
    "a dot after the host": "http://127.0.0.1.:{port}/x",
    "other letters": "http://ⓔvil.example/x",
    "a port that is none": "http://127.0.0.1:port/x",
    "a port out of range": "http://127.0.0.1:999999/x",
    "an empty host": "http:///x",
    "only a scheme": "http:",
    "a scheme without slashes": "http:evil.example",
    "dots": "/../../x",
    "coded dots": "/%2e%2e/x",
    "text": "see below, please",
    "a NUL": "/x\0",
    "a broken address": "http://[::1/x",
    "a megabyte": "https://evil.example/" + "a" * 1_000_000,
}


@pytest.mark.parametrize("link", FOREIGN.values(), ids=FOREIGN)
async def test_a_link_to_elsewhere_is_not_followed_and_the_token_stays(link: str) -> None:
    async with Wire() as wire, client_of(wire) as client:
        wire.script = [page(messages(0), link.replace("{port}", str(wire.port)))]
        ids, end = await stream(client)
        assert ids == ["m0", "m1"]
        assert type(end) is PaginationError, end
        assert len(str(end)) < 500
        assert len(wire.requests) == 1


FOLLOWED = {
    "absolute": ("http://127.0.0.1:{port}/a/b?next=%2B%20%41", "/a/b?next=%2B%20%41"),
    "absolute, in capitals": ("HTTP://127.0.0.1:{port}/a?x", "/a?x"),
    "the vendor's": ("https://au-api.basiq.io/a?next=x'y", "/a?next=x'y"),
    "the vendor's with its port": ("https://au-api.basiq.io:443/a?x", "/a?x"),
    "by path": ("/a?next=1", "/a?next=1"),
    "by query": ("?next=2", f"{PATH}?next=2"),
    "by name": ("more?next=3", "/notifications/webhooks/w1/more?next=3"),
    "with a fragment": ("/a?next=4#top", "/a?next=4"),
    "with a token-like cursor": ("/a?next=" + "A" * 3000, "/a?next=" + "A" * 3000),
}


@pytest.mark.parametrize(("link", "target"), FOLLOWED.values(), ids=FOLLOWED)
async def test_a_link_of_our_own_is_followed_byte_for_byte(link: str, target: str) -> None:
    async with Wire() as wire, client_of(wire) as client:
        wire.script = [page(messages(0), link.replace("{port}", str(wire.port))), page(messages(2))]
        ids, end = await stream(client)
        assert (ids, end) == (["m0", "m1", "m2", "m3"], None)
        assert wire.requests[1].target == target


NO_LINK = [{}, {"next": None}, {"next": ""}, None, [], [{"next": None}], [{"next": ""}], [{"self": "y"}], "x"]


@pytest.mark.parametrize("links", NO_LINK, ids=repr)
async def test_every_form_of_no_next_link_is_the_end(links: Any) -> None:
    async with Wire() as wire, client_of(wire) as client:
        for more in ({"links": links}, {}):
            wire.script = [ok({"type": "list", "data": messages(0), **more})]
            assert await stream(client) == (["m0", "m1"], None)


@pytest.mark.parametrize("link", [5, 1.5, True, False, [], ["x"], {}, {"href": "/x"}], ids=repr)
async def test_a_link_of_another_type_is_an_error_after_the_items(link: Any, prefetch: int) -> None:
    async with Wire(page(messages(0), link)) as wire, client_of(wire) as client:
        ids, end = await stream(client, prefetch)
        assert (ids, type(end), end.location) == (["m0", "m1"], ResponseDecodeError, "$.links.next")


async def test_empty_pages_in_the_middle_are_passed_over(prefetch: int) -> None:
    script: list[Step] = []
    for index in range(6):
        script.append(page(messages(index, 1) if index % 3 == 0 else [], f"{PATH}?next={index}"))
    async with Wire(*script, page([])) as wire, client_of(wire) as client:
        assert await stream(client, prefetch) == (["m0", "m3"], None)


async def test_two_hundred_empty_pages_are_passed_over(prefetch: int) -> None:
    script = [page([], f"{PATH}?next={index}") for index in range(200)]
    async with Wire(*script, page(messages(0))) as wire, client_of(wire) as client:
        assert await stream(client, prefetch) == (["m0", "m1"], None)
        assert len(wire.requests) == 201


async def test_an_item_that_comes_twice_is_given_twice(prefetch: int) -> None:
    wire = Wire(page([*messages(0), *messages(0)], f"{PATH}?next=1"), page(messages(0)))
    async with wire, client_of(wire) as client:
        assert await stream(client, prefetch) == (["m0", "m1"] * 3, None)


DATA: dict[str, tuple[Any, list[str] | None]] = {
    "null": (None, []),
    "an empty list": ([], []),
    "one object": ({"id": "m7"}, ["m7"]),
    "text": ("text", None),
    "a number": (5, None),
    "true": (True, None),
    "false": (False, None),
    "an empty text": ("", None),
}


@pytest.mark.parametrize(("data", "ids"), DATA.values(), ids=DATA)
async def test_every_type_of_data(data: Any, ids: list[str] | None) -> None:
    async with Wire(ok({"type": "list", "data": data})) as wire, client_of(wire) as client:
        got, end = await stream(client)
        assert got == (ids or [])
        assert end is None if ids is not None else type(end) is ResponseDecodeError
        if ids is None:
            assert end.location == "$.data"


@pytest.mark.parametrize("item", [None, 5, "text", [], {}, {"id": None}, {"id": ""}, {"id": []}], ids=repr)
async def test_a_bad_item_is_an_error_at_its_place_after_the_items_before_it(item: Any, prefetch: int) -> None:
    async with Wire(page([*messages(0), item, *messages(3)])) as wire, client_of(wire) as client:
        ids, end = await stream(client, prefetch)
        assert (ids, type(end)) == (["m0", "m1"], ResponseDecodeError)
        assert end.location.startswith("$.data[2]")


@pytest.mark.parametrize("bad", [error(500), http(200, "<html>"), http(204)], ids=["500", "html", "204"])
async def test_a_failure_of_the_third_page_comes_after_the_second(bad: bytes, prefetch: int) -> None:
    script = [page(messages(0), f"{PATH}?n=1"), page(messages(2), f"{PATH}?n=2"), bad]
    async with Wire(*script) as wire, client_of(wire) as client:
        ids, end = await stream(client, prefetch)
        assert ids == ["m0", "m1", "m2", "m3"]
        assert type(end) in (ServerError, ResponseDecodeError)


async def test_a_stream_can_be_gone_on_with_after_its_failure(prefetch: int) -> None:
    first, second = page(messages(0), f"{PATH}?n=1"), page(messages(2))
    script = [first, error(500), second, first, second]  # a cursor asks for the page of the last item again
    async with Wire(*script) as wire, client_of(wire) as client:
        paginator = client.messages.list("w1", prefetch=prefetch)
        items = aiter(paginator)
        ids = [(await anext(items)).id, (await anext(items)).id]
        assert type(await outcome(anext(items))) is ServerError
        cursor = paginator.cursor
        ids += [(await anext(items)).id, (await anext(items)).id]
        assert ids == ["m0", "m1", "m2", "m3"]
        assert (await client.messages.list("w1", cursor=cursor).first()).id == "m2"


async def test_leaving_early_in_every_way_leaves_nothing(prefetch: int) -> None:
    async def endless(conn: Conn) -> None:
        endless.n += 1
        await conn.say(page(messages(endless.n * 2), f"{PATH}?n={endless.n}"))

    endless.n = 0
    async with Wire(endless) as wire, client_of(wire) as client:
        async for _ in client.messages.list("w1", prefetch=prefetch):
            break
        with pytest.raises(ZeroDivisionError):
            async for _ in client.messages.list("w1", prefetch=prefetch):
                raise ZeroDivisionError
        dropped = aiter(client.messages.list("w1", prefetch=prefetch))
        await anext(dropped)
        del dropped
        await client.messages.list("w1", prefetch=prefetch).first()
        assert len(await client.messages.list("w1", prefetch=prefetch).collect(max_items=3)) == 3
        pages = client.messages.list("w1", prefetch=prefetch).pages()
        await anext(pages)
        kept = aiter(client.messages.list("w1", prefetch=prefetch))
        await anext(kept)


@pytest.mark.parametrize("pages", [False, True], ids=["items", "pages"])
async def test_what_many_tasks_share_comes_once_each(pages: bool, prefetch: int) -> None:
    script = [page(messages(10 * i, 10), f"{PATH}?n={i}") for i in range(5)]
    async with Wire(*script, page(messages(50, 10))) as wire, client_of(wire, retry=QUICK) as client:
        paginator = client.messages.list("w1", prefetch=prefetch)
        shared: Any = paginator.pages() if pages else aiter(paginator)
        ids: list[str] = []

        async def worker() -> None:
            async for one in shared:
                ids.extend(message.id for message in (one.items if pages else [one]))
                await asyncio.sleep(0)

        await asyncio.gather(*(worker() for _ in range(8)))
        assert sorted(ids, key=lambda text: int(text[1:])) == [f"m{i}" for i in range(60)]


@pytest.mark.parametrize("size", [200, 10_000, 100_000])
async def test_a_cursor_after_an_enormous_id_resumes(size: int) -> None:
    items = [{"id": "a" * size}, {"id": "b" * size}, {"id": "c"}]
    async with Wire(page(items)) as wire, client_of(wire) as client:
        paginator = client.messages.list("w1")
        async for _ in paginator:
            break
        assert paginator.cursor is not None
        rest = await client.messages.list("w1", cursor=paginator.cursor).collect()
        assert [message.id for message in rest] == ["b" * size, "c"]
