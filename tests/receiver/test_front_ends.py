"""The front ends answer one table of requests alike: aiohttp over sockets, the ASGI app, and the router of FastAPI."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI

from basiq_async.receiver import WebhookReceiver
from tests.support.deliveries import OTHER_SECRET, Service, payload, signed

Headers = list[tuple[str, str]]
Post = Callable[[bytes, Headers], Awaitable[tuple[int, Any, bytes]]]
"""Posts a body, and returns the status, the headers and the body of the answer."""

BODY = payload("user.created", "e-1")
BROKEN = payload("user.broken")


@asynccontextmanager
async def over_aiohttp(receiver: WebhookReceiver) -> AsyncGenerator[Post]:
    app = web.Application()
    app.router.add_post("/basiq", receiver.aiohttp_handler)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:

        async def post(body: bytes, headers: Headers) -> tuple[int, Any, bytes]:
            async with session.post(server.make_url("/basiq"), data=body, headers=headers) as answer:
                return answer.status, answer.headers, await answer.read()

        yield post


@asynccontextmanager
async def over_asgi(app: Any) -> AsyncGenerator[Post]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:

        async def post(body: bytes, headers: Headers) -> tuple[int, Any, bytes]:
            answer = await client.post("/basiq", content=body, headers=headers)
            return answer.status_code, answer.headers, answer.content

        yield post


def over_fastapi(receiver: WebhookReceiver) -> Any:
    app = FastAPI()
    app.include_router(receiver.fastapi_router("/basiq"))
    return over_asgi(app)


FRONT_ENDS: dict[str, Callable[[WebhookReceiver], Any]] = {
    "aiohttp": over_aiohttp,
    "asgi": lambda receiver: over_asgi(receiver.asgi),
    "fastapi": over_fastapi,
}
each_front_end = pytest.mark.parametrize("serve", FRONT_ENDS.values(), ids=FRONT_ENDS)


def headers_of(body: bytes, *more: tuple[str, str], **options: Any) -> Headers:
    return [*signed(body, **options).items(), *more]


@each_front_end
async def test_each_request_gets_the_status_of_its_outcome_and_no_body(serve: Any) -> None:
    service = Service(max_body_size=2_000)
    async with serve(service.receiver) as post:
        for body, headers, status in (
            (BODY, headers_of(BODY), 204),
            (BODY, headers_of(BODY), 200),
            (BODY, headers_of(BODY, secret=OTHER_SECRET), 401),
            (BODY, [], 401),
            (BODY, headers_of(BODY, ("webhook-id", "another")), 401),
            (b"no json", headers_of(b"no json"), 400),
            (BROKEN, headers_of(BROKEN, message_id="m-2"), 500),
            (b"x" * 2_001, headers_of(b"x" * 2_001), 413),
        ):
            found, _, content = await post(body, headers)
            assert (found, content) == (status, b""), headers
        await service.receiver.aclose()
        found, answered, content = await post(BODY, headers_of(BODY))
        assert (found, answered["Retry-After"], content) == (503, "5", b"")
    assert [delivery.body for delivery in service.handled] == [BODY, BROKEN]
    assert [event.reason for event in service.events if event.result == "rejected"] == [
        "no-match",
        "missing-header",
        "duplicate-header",
    ]


@pytest.mark.parametrize(
    "encodings",
    [("gzip",), ("identity", "gzip"), ("", "gzip"), ("gzip", "identity"), ("identity", "x", "deflate")],
    ids="+".join,
)
@each_front_end
async def test_no_body_is_handled_that_a_server_may_have_decompressed(serve: Any, encodings: tuple[str, ...]) -> None:
    service = Service()
    compressed = [("Content-Encoding", each) for each in encodings]
    async with serve(service.receiver) as post:
        for body in (BODY, gzip.compress(BODY)):
            status, _, _ = await post(body, headers_of(BODY, *compressed))
            assert status in ((400, 415) if serve is over_aiohttp else (415,))
        assert service.handled == []
        status, _, _ = await post(BODY, headers_of(BODY, ("Content-Encoding", "identity")))
        assert status == 204


async def test_aiohttp_obeys_the_second_of_two_headers() -> None:
    seen: list[tuple[str | None, bytes]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Content-Encoding"), await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/basiq", handle)
    encodings = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        await session.post(server.make_url("/basiq"), data=gzip.compress(BODY), headers=encodings)
    assert seen == [("identity", BODY)]
