"""A transport on httpx, as an example of your own implementation. ``check_transport`` checks all its promises."""

from __future__ import annotations

import asyncio

import httpx

from basiq_async import ConnectionFailedError, Request, RequestTimeoutError, Response, TransportError


class HttpxTransport:
    """Sends requests with httpx; ``timeout`` is in seconds, ``max_body_size`` in decompressed bytes."""

    def __init__(self, *, timeout: float = 30.0, max_body_size: int = 64 * 2**20) -> None:
        # ``httpx.AsyncClient`` would keep cookies, and refuse a redirect to a text that is no URL.
        self._pool = httpx.AsyncHTTPTransport(trust_env=False)
        self._timeout = timeout
        self._max_body_size = max_body_size
        self._closed = False

    async def send(self, request: Request, /) -> Response:
        if self._closed:
            raise ConnectionFailedError("the transport is closed", sent=False)
        now = asyncio.get_running_loop().time()
        end = now + self._timeout if request.deadline is None else min(now + self._timeout, request.deadline)
        if end <= now:
            raise RequestTimeoutError("the deadline has passed", method=request.method, sent=False)
        try:
            async with asyncio.timeout_at(end):
                return await self._exchange(request)
        except httpx.ConnectError as exc:
            raise ConnectionFailedError("no connection", method=request.method, sent=False) from exc
        except TimeoutError as exc:
            raise RequestTimeoutError("no whole response in time", method=request.method) from exc
        except httpx.HTTPError as exc:
            raise ConnectionFailedError(f"the connection broke: {type(exc).__name__}", method=request.method) from exc

    async def _exchange(self, request: Request) -> Response:
        # httpx decodes some percent-encoded characters, so path and query are set unchanged.
        exact = {"target": b"/" + request.url.partition("://")[2].partition("/")[2].encode()}
        sent = httpx.Request(
            request.method, request.url, headers=dict(request.headers), content=request.body, extensions=exact
        )
        response = await self._pool.handle_async_request(sent)
        body = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._max_body_size:
                    raise TransportError(f"the body is larger than {self._max_body_size} bytes", method=request.method)
        finally:
            await response.aclose()
        return Response(response.status_code, dict(response.headers), bytes(body))

    async def aclose(self) -> None:
        self._closed = True
        await self._pool.aclose()
