"""A transport on httpx, as an example of your own implementation. ``check_transport`` checks all its promises."""

from __future__ import annotations

import httpx

from basiq_async import ConnectionFailedError, Request, RequestTimeoutError, Response


class HttpxTransport:
    """Sends requests with ``httpx.AsyncClient``; ``timeout`` is in seconds."""

    def __init__(self, *, timeout: float = 30.0) -> None:
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False)

    async def send(self, request: Request, /) -> Response:
        if self._client.is_closed:
            raise ConnectionFailedError("the transport is closed", sent=False)
        url = httpx.URL(request.url)
        # httpx decodes some percent-encoded characters, so path and query are set unchanged.
        exact = {"target": b"/" + request.url.partition("://")[2].partition("/")[2].encode()}
        self._client.cookies.clear()
        try:
            answer = await self._client.request(
                request.method, url, headers=dict(request.headers), content=request.body, extensions=exact
            )
        except httpx.ConnectError as exc:
            raise ConnectionFailedError(f"no connection to {url.host}", method=request.method, sent=False) from exc
        except httpx.TimeoutException as exc:
            raise RequestTimeoutError("no whole answer in time", method=request.method) from exc
        except httpx.HTTPError as exc:
            raise ConnectionFailedError(f"the connection broke: {type(exc).__name__}", method=request.method) from exc
        return Response(answer.status_code, dict(answer.headers), answer.content)

    async def aclose(self) -> None:
        await self._client.aclose()
