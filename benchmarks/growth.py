"""Does what a message or a delivery costs grow with what was before it? Figures are ratios to a small case.

The messages of a history: two loops are at its 10,000th and its 1,000,000th message, and each reads two more pages in
turns. The inboxes are those of ``inbox_growth``, which measures up to 10,000,000 entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from basiq_async import BasiqClient, Message
from benchmarks import _contestants as by
from benchmarks import inbox_growth
from benchmarks._entries import stores
from benchmarks._harness import Figure, best_slices, figure, microseconds, ratios, server
from benchmarks._server import PAGE, WEBHOOK

_PLACES = (10_000, 1_000_000)


async def _loop(basiq: BasiqClient, place: int) -> AsyncIterator[Message]:
    """Open a loop at a message. It requests no page early, so that each slice includes only its own pages."""
    loop = aiter(basiq.messages.list(WEBHOOK, prefetch=0))
    await _read(loop, place)
    return loop


async def _read(messages: AsyncIterator[Message], count: int) -> None:
    for _ in range(count):
        await anext(messages)


async def history(runs: int, slices: int = 40) -> list[Figure]:
    near, far = _PLACES
    found: dict[str, list[float]] = {"near": [], "far": []}
    at_once = 2 * PAGE
    with server((far + (runs + 1) * slices * at_once) // PAGE) as url:
        async with by.client(url) as basiq:
            furthest = await _loop(basiq, far)
            for _ in range(runs):
                pair = {"near": partial(_read, await _loop(basiq, near), at_once)}
                pair["far"] = partial(_read, furthest, at_once)
                for name, seconds in (await best_slices(pair, runs=1, slices=slices)).items():
                    found[name] += seconds
    ours = microseconds(found["far"], at_once)
    return [
        figure(
            f"the {far:,}th message of a history",
            f"the {near:,}th",
            ratios(found["far"], found["near"]),
            ours=ours,
            itself=True,
        )
    ]


async def inboxes(runs: int) -> list[Figure]:
    few, many = _PLACES
    figures = []
    for kind, opened in stores().items():
        with opened() as store:
            seconds = await inbox_growth.deliveries(store, (few, many), runs=runs, processor=True)
        figures.append(
            figure(
                f"a delivery with {many:,} events in the inbox, {kind}",
                f"with {few:,}",
                ratios(seconds[many], seconds[few]),
                ours=microseconds(seconds[many]),
                itself=True,
            )
        )
    return figures


async def measure(runs: int = 5) -> list[Figure]:
    return [*await history(runs), *await inboxes(runs)]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
