"""A transport over httpx: ``BasiqClient(transport=HttpxTransport())``. Close it yourself, with ``aclose``."""

from __future__ import annotations

import httpx

from basiq_async import ConnectionFailedError, Request, RequestTimeoutError, Response, TransportError


class HttpxTransport:
    def __init__(self, *, timeout: float = 30.0) -> None:
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False)

    async def send(self, request: Request, /) -> Response:
        method, path = request.method, httpx.URL(request.url).path
        if self._client.is_closed:
            raise ConnectionFailedError("the transport is closed", method=method, path=path, sent=False)
        try:
            url = httpx.URL(request.url)
            sent = self._client.build_request(method, url, headers=dict(request.headers), content=request.body)
            sent.extensions["target"] = request.url.encode().partition(url.netloc)[2]  # byte for byte
            answer = await self._client.send(sent)
        except httpx.TimeoutException:
            raise RequestTimeoutError("no answer in time", method=method, path=path) from None
        except httpx.ConnectError:
            raise ConnectionFailedError("no connection", method=method, path=path, sent=False) from None
        except (httpx.RemoteProtocolError, httpx.NetworkError) as error:
            raise ConnectionFailedError(type(error).__name__, method=method, path=path) from None
        except httpx.HTTPError as error:
            raise TransportError(type(error).__name__, method=method, path=path) from None
        self._client.cookies.clear()
        return Response(answer.status_code, dict(answer.headers), answer.content)

    async def aclose(self) -> None:
        await self._client.aclose()
