"""Does the cost of one message, or of one call, grow with their number?"""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from time import perf_counter

from benchmarks import _contestants as by
from benchmarks._harness import Figure, server
from benchmarks._server import WEBHOOK
from benchmarks.call import at_once


async def _best_per_unit(work: object, units: int, times: int) -> float:
    taken = []
    for _ in range(times):
        began = perf_counter()
        await work()  # type: ignore[operator]
        taken.append((perf_counter() - began) / units)
    return statistics.median(taken)


async def measure(longest: int = 1_000_000) -> list[Figure]:
    per_message: dict[int, float] = {}
    length = 1_000
    while length <= longest:
        with server(length // 500) as url:
            async with by.client(url) as basiq:
                await by.ours(basiq)
                per_message[length] = await _best_per_unit(partial(by.ours, basiq), length, max(1, 100_000 // length))
        length *= 10
    found = [
        Figure(f"growth: cost of a message at {length:,}, to that at 10,000", cost / per_message[10_000], 0, 0)
        for length, cost in per_message.items()
    ]
    large = [cost for length, cost in per_message.items() if length >= 10_000]
    spread = max(large) / min(large)
    found.append(Figure("growth: dearest message to cheapest, from 10,000 on", spread, spread, spread, "<= 1.15"))
    per_call: dict[int, float] = {}
    with server() as url:
        async with by.client(url) as basiq:
            await basiq.webhooks.get(WEBHOOK)
            for width in (1, 10, 100, 500):
                call = partial(at_once, partial(basiq.webhooks.get, WEBHOOK), width)
                await call()
                per_call[width] = await _best_per_unit(call, width, 2_000 // width)
    found += [
        Figure(f"growth: cost of a call, {width} at once, to 100 at once", cost / per_call[100], 0, 0)
        for width, cost in per_call.items()
    ]
    ratio = per_call[500] / per_call[100]
    return [*found, Figure("growth: a call of 500 at once to one of 100 at once", ratio, ratio, ratio, "<= 1.15")]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
