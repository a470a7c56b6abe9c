"""How many messages are streamed in a second of processor time, compared with a loop of aiohttp and json?"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter

import aiohttp
import httpx
import orjson
from svix.api import SvixAsync, SvixOptions

from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server


async def measure(runs: int = 5, slices: int = 20, pages: int = 4) -> list[Figure]:
    with server(pages) as url:
        async with (
            aiohttp.ClientSession() as session,
            httpx.AsyncClient() as http,
            by.client(url) as fast,
            by.client(url, with_orjson=False) as plain,
        ):
            svix = SvixAsync("token", SvixOptions(server_url=url))
            contestants = {
                "raw": partial(by.raw, session, url),
                "bytes alone": partial(by.only_bytes, session, url, pages),
                "orjson, dictionaries": partial(by.raw, session, url, orjson.loads),
                "basiq_async with orjson": partial(by.ours, fast),
                "basiq_async with orjson, prefetch=0": partial(by.ours, fast, 0),
                "basiq_async with json": partial(by.ours, plain),
                "aiohttp, orjson, cattrs as it comes": partial(by.plain_cattrs, session, url),
                "httpx with pydantic": partial(by.httpx_pydantic, http, url),
                "svix": partial(by.svix_stream, svix, pages),
            }
            for name, contestant in contestants.items():
                assert await contestant() == pages * 500, name
            seconds = await best_slices(contestants, runs=runs, slices=slices)
            pair = {name: contestants[name] for name in ("basiq_async with orjson", "svix")}
            on_the_wall = await best_slices(pair, runs=runs, slices=slices, clock=perf_counter)
    print(f"the raw loop: {min(seconds['raw']) / pages / 500 * 1e6:.2f} µs a message")
    marks = {"basiq_async with orjson": ">= 1.0", "basiq_async with json": ">= 0.8"}
    found = [
        figure(f"streaming: {name}, to the raw loop", ratios(seconds["raw"], taken), marks.get(name, ""))
        for name, taken in seconds.items()
        if name != "raw"
    ]
    processor = ratios(seconds["svix"], seconds["basiq_async with orjson"])
    wall = ratios(on_the_wall["svix"], on_the_wall["basiq_async with orjson"])
    same = ratios(seconds["orjson, dictionaries"], seconds["basiq_async with orjson"])
    return [
        *found,
        figure("streaming: basiq_async with orjson, to a raw loop with orjson", same, ">= 0.85"),
        figure("streaming: messages for a second on the wall, with orjson, to svix", wall, ">= 2.5"),
        figure("streaming: messages for a second of the processor, with orjson, to svix", processor),
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
