"""Does the cost of one message, or of one call, grow with their number?

Three loops over a long history are at its 10,000th, 100,000th and 1,000,000th message. In turns, each reads two more
pages. Calls are also measured in turns: one after another, and many at once. The cost is the processor time of the
client's process. It would grow if the cost of a message depended on its position.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from basiq_async import BasiqClient, Message
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server
from benchmarks._server import PAGE, WEBHOOK
from benchmarks.call import at_once

_PLACES = (10_000, 100_000, 1_000_000)
_AT_ONCE = 2 * PAGE
_WIDTHS = (1, 10, 100, 500)
_CALLS = 500
"""The calls in each slice, of which one or many are made at once."""


async def _loop(basiq: BasiqClient, place: int) -> AsyncIterator[Message]:
    """Open a loop at a message. It requests no page early, so that each slice includes only its own pages."""
    loop = aiter(basiq.messages.list(WEBHOOK, prefetch=0))
    await _read(loop, place)
    return loop


async def _read(messages: AsyncIterator[Message], count: int) -> None:
    """Read the next messages of a loop."""
    for _ in range(count):
        await anext(messages)


async def _calls(basiq: BasiqClient, width: int) -> None:
    for _ in range(_CALLS // width):
        await at_once(partial(basiq.webhooks.get, WEBHOOK), width)


async def measure(places: tuple[int, ...] = _PLACES, runs: int = 5, slices: int = 20) -> list[Figure]:
    messages: dict[int, list[float]] = {place: [] for place in places}
    ahead = 3 * slices * _AT_ONCE  # of the messages of a run
    with server((places[-1] + (runs + 1) * ahead) // PAGE) as url:
        async with by.client(url) as basiq:
            furthest = await _loop(basiq, places[-1])
            for _ in range(runs):
                loops = {place: await _loop(basiq, place) for place in places[:-1]} | {places[-1]: furthest}
                reading = {str(place): partial(_read, loop, _AT_ONCE) for place, loop in loops.items()}
                found = await best_slices(reading, runs=1, slices=3 * slices)
                for place in places:
                    messages[place] += found[str(place)]
    with server() as url:
        async with by.client(url) as basiq:
            contestants: dict[str, Callable[[], Awaitable[None]]] = {
                str(width): partial(_calls, basiq, width) for width in _WIDTHS
            }
            calls = await best_slices(contestants, runs=runs, slices=slices)
    figures = [
        figure(
            f"growth: cost of a message at {place:,}, to that at {places[0]:,}",
            ratios(messages[place], messages[places[0]]),
        )
        for place in places[1:]
    ]
    best = [min(messages[place]) for place in places]
    spread = max(best) / min(best)
    figures.append(Figure("growth: dearest message to cheapest, by length", spread, spread, spread, "<= 1.15"))
    figures += [
        figure(f"growth: cost of a call, {width} at once, to 1 at once", ratios(calls[str(width)], calls["1"]))
        for width in _WIDTHS[1:]
    ]
    dearer = max(min(calls[str(width)]) for width in _WIDTHS[1:]) / min(calls["1"])
    return [*figures, Figure("growth: dearest call to one alone", dearer, dearer, dearer, "<= 1.15")]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
