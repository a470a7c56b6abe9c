"""Does the cost of one message, or of one call, grow with their number?

The cost is the processor time of the client's process: unlike the time on the wall it does not hold what else the
machine is doing, and a loop that grew with the length would show in it just the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from time import process_time

from benchmarks import _contestants as by
from benchmarks._harness import Figure, figure, server
from benchmarks._server import WEBHOOK
from benchmarks.call import at_once

_LENGTHS = (10_000, 100_000, 1_000_000)
"""From where the pages no longer fit into a processor's cache, whatever is done with them."""
_WIDTHS = (1, 10, 100, 500)
_AT_LEAST = 100_000
"""So many messages are streamed for one measurement, however short the history is."""


async def _cost(work: Callable[[], Awaitable[object]], units: int, times: int) -> float:
    """Seconds of processor time for each unit."""
    began = process_time()
    for _ in range(times):
        await work()
    return (process_time() - began) / (units * times)


def _ratios(costs: dict[int, list[float]], above: int, below: int) -> list[float]:
    return [one / other for one, other in zip(costs[above], costs[below], strict=True)]


def _spread(costs: dict[int, list[float]], sizes: tuple[int, ...]) -> float:
    """The dearest to the cheapest, each by the best of its rounds."""
    best = [min(costs[size]) for size in sizes]
    return max(best) / min(best)


async def measure(lengths: tuple[int, ...] = _LENGTHS, count: int = 3) -> list[Figure]:
    messages: dict[int, list[float]] = {length: [] for length in lengths}
    async with AsyncExitStack() as stack:
        streams = {}
        for length in lengths:
            basiq = await stack.enter_async_context(by.client(stack.enter_context(server(length // 500))))
            streams[length] = partial(by.ours, basiq)
        await streams[lengths[0]]()
        for _ in range(count):
            for length, stream in streams.items():
                messages[length].append(await _cost(stream, length, max(1, _AT_LEAST // length)))
    calls: dict[int, list[float]] = {width: [] for width in _WIDTHS}
    with server() as url:
        async with by.client(url) as basiq:
            await basiq.webhooks.get(WEBHOOK)
            for _ in range(count * 3):
                for width in _WIDTHS:
                    call = partial(at_once, partial(basiq.webhooks.get, WEBHOOK), width)
                    calls[width].append(await _cost(call, width, 1_000 // width))
    found = [
        figure(
            f"growth: cost of a message at {length:,}, to that at {lengths[0]:,}", _ratios(messages, length, lengths[0])
        )
        for length in lengths[1:]
    ]
    spread = _spread(messages, lengths)
    found.append(Figure("growth: dearest message to cheapest, by length", spread, spread, spread, "<= 1.15"))
    found += [
        figure(f"growth: cost of a call, {width} at once, to 1 at once", _ratios(calls, width, 1))
        for width in _WIDTHS[1:]
    ]
    dearer = max(min(calls[width]) for width in _WIDTHS[1:]) / min(calls[1])
    return [*found, Figure("growth: dearest call to one alone", dearer, dearer, dearer, "<= 1.15")]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
