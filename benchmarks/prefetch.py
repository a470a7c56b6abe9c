"""How much time does requesting the next page early save, and what does it cost when it saves none?"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter

from basiq_async import BasiqClient
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server
from benchmarks._server import WEBHOOK

_LATENCY = 0.020


async def _consume(basiq: BasiqClient, prefetch: int, pause: float) -> None:
    """Read all messages, and spend so many seconds on each page."""
    async for page in basiq.messages.list(WEBHOOK, prefetch=prefetch).pages():
        if page.items and pause:
            await asyncio.sleep(pause)


async def measure(runs: int = 5, slices: int = 2, pages: int = 40) -> list[Figure]:
    found = []
    with server(pages, _LATENCY) as url:
        async with by.client(url) as basiq:
            pair = {str(n): partial(_consume, basiq, n, _LATENCY) for n in (0, 1)}
            seconds = await best_slices(pair, runs=runs, slices=slices, clock=perf_counter)
            name = "prefetch: 20 ms a page and a consumer of 20 ms a page, to prefetch=0"
            found.append(figure(name, ratios(seconds["0"], seconds["1"]), ">= 1.8"))
    with server(4) as url:
        async with by.client(url) as basiq:
            pair = {str(n): partial(by.ours, basiq, n) for n in (0, 1)}
            seconds = await best_slices(pair, runs=runs, slices=slices * 10)
            name = "prefetch: no latency, processor time of prefetch=1 to prefetch=0"
            found.append(figure(name, ratios(seconds["1"], seconds["0"]), "<= 1.10"))
    return found


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
