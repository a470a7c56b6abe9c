"""What does one call cost, compared with a hand-written one?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

import aiohttp
import httpx

from basiq_async import BasiqClient, Request, Response
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server
from benchmarks._server import WEBHOOK, webhook

_BODY = json.dumps(webhook()).encode()
_PATH = f"/notifications/webhooks/{WEBHOOK}"


class _Prepared:
    """A transport without a network, which returns a prepared response."""

    _token = Response(200, {}, b'{"access_token": "t", "expires_in": 3600}')
    _answer = Response(200, {"content-type": "application/json"}, _BODY)

    async def send(self, request: Request, /) -> Response:
        return self._token if request.url.endswith("/token") else self._answer

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""


async def _ours(basiq: BasiqClient, times: int) -> None:
    for _ in range(times):
        await basiq.webhooks.get(WEBHOOK)


async def _httpx(http: httpx.AsyncClient, base: str, times: int) -> None:
    for _ in range(times):
        by.PydanticWebhook.model_validate_json((await http.get(base + _PATH)).content)


async def _bare(session: aiohttp.ClientSession, base: str, times: int) -> None:
    for _ in range(times):
        async with session.get(base + _PATH) as response:
            json.loads(await response.read())


async def at_once(call: Callable[[], object], times: int) -> None:
    """Make so many calls at once."""
    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            group.create_task(call())


async def measure(runs: int = 5, slices: int = 40) -> list[Figure]:
    found = []
    mock = httpx.MockTransport(lambda request: httpx.Response(200, content=_BODY))
    async with BasiqClient(by.KEY, transport=_Prepared()) as basiq, httpx.AsyncClient(transport=mock) as http:
        pair = {"ours": partial(_ours, basiq, 50), "peer": partial(_httpx, http, by.VENDOR, 50)}
        seconds = await best_slices(pair, runs=runs, slices=slices)
        name = "one call: prepared answer, to httpx.MockTransport with pydantic"
        found.append(figure(name, ratios(seconds["ours"], seconds["peer"]), "<= 0.3"))
    with server() as url:
        async with by.client(url) as basiq, aiohttp.ClientSession() as session:
            pair = {"ours": partial(_ours, basiq, 50), "bare": partial(_bare, session, url, 50)}
            seconds = await best_slices(pair, runs=runs, slices=slices)
            name = "one call: over a socket, to bare aiohttp and json"
            found.append(figure(name, ratios(seconds["ours"], seconds["bare"]), "<= 1.25"))
            pair = {
                "ours": partial(at_once, partial(_ours, basiq, 1), 500),
                "bare": partial(at_once, partial(_bare, session, url, 1), 500),
            }
            seconds = await best_slices(pair, runs=runs, slices=slices // 2)
            found.append(
                figure("one call: 500 at once, to bare aiohttp", ratios(seconds["ours"], seconds["bare"]), "<= 1.3")
            )
    return found


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
