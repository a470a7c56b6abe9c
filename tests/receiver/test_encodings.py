"""Several ``Content-Encoding`` headers: no server or framework decompresses a body that the receiver then accepts."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI

from tests.support.deliveries import Service, payload, signed

BODY = payload()
PACKED = gzip.compress(BODY)
ENCODINGS = (("gzip",), ("identity", "gzip"), ("", "gzip"), ("gzip", "identity"), ("identity", "x", "deflate"))


@asynccontextmanager
async def posting_to(app: web.Application) -> AsyncGenerator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/basiq"
    finally:
        await runner.cleanup()


def with_encodings(headers: Mapping[str, str], encodings: tuple[str, ...]) -> list[tuple[str, str]]:
    return [*headers.items(), *(("Content-Encoding", each) for each in encodings)]


async def post(url: str, body: bytes, headers: list[tuple[str, str]]) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers, skip_auto_headers=["Content-Type"]) as answer,
    ):
        return answer.status


@pytest.mark.parametrize("encodings", ENCODINGS, ids="+".join)
async def test_under_aiohttp(encodings: tuple[str, ...]) -> None:
    service = Service()
    app = web.Application()
    app.router.add_post("/basiq", service.receiver.aiohttp_handler)
    body = gzip.compress(b"") if "deflate" in encodings else PACKED
    async with posting_to(app) as url:
        assert await post(url, body, with_encodings(signed(BODY), encodings)) in (400, 415)
        assert service.handled == []
        assert await post(url, BODY, with_encodings(signed(BODY), ("identity",))) == 204
    assert len(service.handled) == 1


async def test_aiohttp_obeys_the_second_of_two_headers() -> None:
    seen: list[tuple[str | None, bytes]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Content-Encoding"), await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/basiq", handle)
    async with posting_to(app) as url:
        await post(url, PACKED, with_encodings({}, ("identity", "gzip")))
    assert seen == [("identity", BODY)]


@pytest.mark.parametrize("encodings", ENCODINGS, ids="+".join)
@pytest.mark.parametrize("kind", ["asgi", "fastapi"])
async def test_under_asgi_and_fastapi(kind: str, encodings: tuple[str, ...]) -> None:
    service = Service()
    app = FastAPI()
    app.include_router(service.receiver.fastapi_router("/basiq"))
    transport = httpx.ASGITransport(app if kind == "fastapi" else service.receiver.asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for body in (BODY, PACKED):
            found = await client.post("/basiq", content=body, headers=with_encodings(signed(BODY), encodings))
            assert found.status_code == 415
        assert service.handled == []
        found = await client.post("/basiq", content=BODY, headers=with_encodings(signed(BODY), ("identity",)))
        assert found.status_code == 204
