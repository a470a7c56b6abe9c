"""The fake over real HTTP, delivering over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from ..transports.base import Request
from ._dispatch import dispatching
from .fake._endpoints import over_http
from .fake._fake import FakeBasiq

__all__ = ["serve"]

MAX_BODY = 1_048_576


@asynccontextmanager
async def serve(
    fake: FakeBasiq,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    prefix: str = "",
    deliver_anywhere: bool = False,
) -> AsyncGenerator[str]:
    """Serve a fake over HTTP; gives its base URL.

    port: 0 takes a free one.
    prefix: the path to mount it under, such as ``/basiq``.
    deliver_anywhere: also deliver to endpoints outside this machine.

    While it runs, deliveries are made as they fall due: on a ManualClock those that are due now, on a
    SystemClock as time goes by. Links in them lead to this server.
    """

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return await _handle(fake, request, prefix)

    runner = web.ServerRunner(web.Server(handler, access_log=None, handler_cancellation=True), shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        base_url = f"http://{shown}:{address[1]}{prefix}"
        async with (
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
            ) as session,
            dispatching(fake, over_http(session, anywhere=deliver_anywhere), base_url),
        ):
            yield base_url
    finally:
        await runner.cleanup()


async def _handle(fake: FakeBasiq, request: web.BaseRequest, prefix: str) -> web.StreamResponse:
    body = await _read(request)
    path = request.raw_path
    if not path.startswith("/"):
        path = "/" + path.partition("://")[2].partition("/")[2]
    headers = {name: ", ".join(request.headers.getall(name)) for name in request.headers}
    url = f"{request.scheme}://{request.host}{path}"
    exchange = fake.exchange(Request(request.method, url, headers, body), prefix=prefix)
    if exchange.delay:
        await asyncio.sleep(exchange.delay)
    if exchange.response is None:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError
    answer = exchange.response
    return web.Response(status=answer.status, headers=dict(answer.headers), body=answer.body)


async def _read(request: web.BaseRequest) -> bytes | None:
    """The body; of one that is too large only so much that it is not the JSON that it was."""
    if not request.can_read_body:
        return None
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > MAX_BODY:
            return b""
    return bytes(body)
