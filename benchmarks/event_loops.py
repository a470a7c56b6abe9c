"""What does uvloop change for a client, a receiver and a replay, compared with asyncio's own loop?"""

from __future__ import annotations

import asyncio
import gc
import math
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import process_time

import uvloop
from aiohttp import web

from basiq_async.receiver import Delivery, WebhookReceiver
from benchmarks import _contestants as by
from benchmarks import _receiver_load as load
from benchmarks._harness import Figure, figure, ratios, server
from benchmarks._server import PAGE, WEBHOOK
from benchmarks.replay_rate import replayed

Work = Callable[[], Awaitable[float]]


async def _handle(delivery: Delivery) -> None:
    """Do nothing with a delivery."""


async def _receive(deliveries: int) -> float:
    receiver = WebhookReceiver(load.SECRET)
    receiver.on("*")(_handle)
    app = web.Application()
    receiver.setup(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        requests = iter([load.request(number) for number in range(deliveries)])
        statuses: list[int] = []
        port = runner.addresses[0][1]
        began = process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(load.connection(port, requests, statuses, []))
        took = process_time() - began
        assert statuses.count(204) == deliveries
        return took
    finally:
        await runner.cleanup()


async def _call(url: str, times: int) -> float:
    async with by.client(url) as basiq:
        await basiq.webhooks.get(WEBHOOK)
        began = process_time()
        for _ in range(times):
            await basiq.webhooks.get(WEBHOOK)
        return process_time() - began


async def _replay(url: str, folder: Path, pages: int) -> float:
    async with by.client(url) as basiq:
        began = process_time()
        await replayed(basiq, folder, pages * PAGE, 256)
        return process_time() - began


def measure(runs: int = 5, slices: int = 5, *, calls: int = 100, deliveries: int = 500, pages: int = 4) -> list[Figure]:
    """Measure the ratio of the processor time with uvloop to that with asyncio. Less than 1 is faster."""
    found = []
    with tempfile.TemporaryDirectory() as folder, server(pages) as url:
        works: dict[str, Work] = {
            "one call over a socket": lambda: _call(url, calls),
            "a delivery, sender and server on one loop": lambda: _receive(deliveries),
            "a replayed message, into nothing": lambda: _replay(url, Path(folder), pages),
        }
        loops = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
        for name, work in works.items():
            seconds: dict[str, list[float]] = {loop: [] for loop in loops}
            for _ in range(runs):
                best = dict.fromkeys(loops, math.inf)
                for number in range(slices):
                    for loop in list(loops) if number % 2 else list(loops)[::-1]:
                        gc.collect()
                        with asyncio.Runner(loop_factory=loops[loop]) as runner:
                            best[loop] = min(best[loop], runner.run(work()))
                for loop in loops:
                    seconds[loop].append(best[loop])
            found.append(
                figure(f"uvloop to asyncio, processor time: {name}", ratios(seconds["uvloop"], seconds["asyncio"]))
            )
    return found


if __name__ == "__main__":
    for line in measure():
        print(line)
