"""How much time does requesting the next page early save?"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter

from basiq_async import BasiqClient
from benchmarks import _contestants as by
from benchmarks._harness import SPEED, Figure, best_slices, figure, ratios, server
from benchmarks._server import WEBHOOK

_LATENCY = 0.020


async def _consume(basiq: BasiqClient, prefetch: int) -> None:
    """Read all messages, and wait 20 ms with each page."""
    async for page in basiq.messages.list(WEBHOOK, prefetch=prefetch).pages():
        if page.items:
            await asyncio.sleep(_LATENCY)


async def measure(runs: int = 5, slices: int = 2, pages: int = 20) -> list[Figure]:
    with server(pages, _LATENCY) as url:
        async with by.client(url) as basiq:
            pair = {str(n): partial(_consume, basiq, n) for n in (0, 1)}
            seconds = await best_slices(pair, runs=runs, slices=slices, clock=perf_counter)
    job = "reading pages that take 20 ms, and working 20 ms on each"
    return [
        figure(
            job,
            "one after the other (prefetch=0)",
            ratios(seconds["0"], seconds["1"]),
            ">= 1.85",
            what=SPEED,
            itself=True,
        ),
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
