"""What does a message of a history cost, as a typed object, with orjson on both sides and with json on both?"""

from __future__ import annotations

import asyncio
from functools import partial

import aiohttp
from svix.api import SvixAsync, SvixOptions

from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, microseconds, ratios, server, without_orjson

_JOB = "reading a history as typed messages"
_PAGES = "reading a history page by page"
_NUMBER = 4
"""Pages in a slice."""


async def times(runs: int, slices: int) -> dict[str, list[float]]:
    """Return the best slice of each contestant in each run, with the decoder that is installed here."""
    with server(_NUMBER) as url:
        async with aiohttp.ClientSession() as session, by.client(url) as basiq:
            svix = SvixAsync("token", SvixOptions(server_url=url))
            contestants = {
                "ours": partial(by.ours, basiq),
                "pages": partial(by.ours_by_page, basiq),
                "aiohttp": lambda: by.count(by.by_aiohttp(session, url)),
                "svix": partial(by.by_svix, svix, _NUMBER),
            }
            for name, contestant in contestants.items():
                assert await contestant() == _NUMBER * 500, name
            return await best_slices(contestants, runs=runs, slices=slices)


async def measure(runs: int = 5, slices: int = 20) -> list[Figure]:
    plain = await asyncio.to_thread(without_orjson, f"stream.times({runs}, {slices})")
    quick = await times(runs, slices)
    count = _NUMBER * 500
    figures = [
        figure(
            _JOB,
            "svix's client, json on both sides",
            ratios(plain["ours"], plain["svix"]),
            "<= 0.6",
            ours=microseconds(plain["ours"], count),
        )
    ]
    for decoder, found in (("orjson", quick), ("json", plain)):
        peer, each = f"aiohttp by hand, {decoder} on both sides", microseconds(found["ours"], count)
        figures.append(figure(_JOB, peer, ratios(found["ours"], found["aiohttp"]), ours=each))
    peer, each = "aiohttp by hand, orjson on both sides", microseconds(quick["pages"], count)
    return [*figures, figure(_PAGES, peer, ratios(quick["pages"], quick["aiohttp"]), ours=each)]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
