"""What does a message of a history cost, as a typed object?"""

from __future__ import annotations

import asyncio
from functools import partial

import aiohttp
import orjson
from svix.api import SvixAsync, SvixOptions

from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, microseconds, ratios, server

_JOB = "reading a history as typed messages"


async def measure(runs: int = 5, slices: int = 20, pages: int = 4) -> list[Figure]:
    with server(pages) as url:
        async with aiohttp.ClientSession() as session, by.client(url) as basiq:
            svix = SvixAsync("token", SvixOptions(server_url=url))
            contestants = {
                "ours": partial(by.ours, basiq),
                "json": lambda: by.count(by.by_aiohttp(session, url)),
                "orjson": lambda: by.count(by.by_aiohttp(session, url, orjson.loads)),
                "svix": partial(by.by_svix, svix, pages),
            }
            for name, contestant in contestants.items():
                assert await contestant() == pages * 500, name
            seconds = await best_slices(contestants, runs=runs, slices=slices)
    ours = microseconds(seconds["ours"], pages * 500)
    return [
        figure(_JOB, "svix's client", ratios(seconds["ours"], seconds["svix"]), "<= 0.33", ours=ours),
        figure(_JOB, "aiohttp and json by hand", ratios(seconds["ours"], seconds["json"]), "<= 0.80", ours=ours),
        figure(_JOB, "aiohttp and orjson by hand", ratios(seconds["ours"], seconds["orjson"]), ours=ours),
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
