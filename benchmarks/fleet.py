"""How much faster are more worker processes? It needs redis-server. A page takes 20 ms."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

from basiq_async.distributed import Fleet
from benchmarks._harness import SPEED, Figure, figure, server
from benchmarks._server import WEBHOOK
from tests.support.servers import RedisServer


@contextmanager
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        found = RedisServer(Path(folder))
        found.start()
        try:
            yield found
        finally:
            found.close()


def start(settings: dict[str, Any], segments: int) -> subprocess.Popen[bytes]:
    code = "from benchmarks import _fleet_jobs\nfrom basiq_async.distributed.processes import run_workers\n"
    code += f"run_workers('benchmarks._fleet_jobs:fleet', segments={segments})"
    env = {**os.environ, "FLEET_BENCH": json.dumps(settings)}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.DEVNULL)


@asynccontextmanager
async def crew(count: int, segments: int, **settings: Any) -> AsyncIterator[Fleet]:
    """Start workers on a new Redis, and wait until they have opened their job functions."""
    with redis() as store:
        settings["redis"] = store.url
        fleet = Fleet(store.url)
        fleet.job("bench")(nullcontext)  # type: ignore[arg-type]
        workers = [start(settings, segments) for _ in range(count)]
        try:
            async with fleet:
                await warmed(fleet, count)
                yield fleet
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


async def warmed(fleet: Fleet, count: int) -> None:
    """Wait until each worker runs: submit lists with a filter for which the server has one message."""
    deadline = time.monotonic() + 60
    for number in range(1_000):
        job = await fleet.submit(
            "bench", WEBHOOK, key=f"warm-up {number}", filter=[f"none {each}" for each in range(8 * count)]
        )
        await job.wait(timeout=60)
        if (await job.progress()).workers == count:
            return
        assert time.monotonic() < deadline, "the workers do not come up"


async def timed(fleet: Fleet) -> float:
    """Return the rate of a job, in messages a second."""
    began = time.perf_counter()
    job = await fleet.submit("bench", WEBHOOK, key=uuid4().hex)
    report = await job.wait(timeout=600)
    took = time.perf_counter() - began
    assert report.finished
    return report.handled / took


async def measure(rounds: int = 2, pages: int = 84) -> list[Figure]:
    """Measure the rate of 2 and 4 processes, divided by that of one. Most of the time is waiting."""
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    with server(pages, 0.02) as url:
        for _ in range(rounds):
            for count in rates:
                async with crew(count, 2, basiq=url, wait=0.005, concurrency=8) as fleet:
                    rates[count].append(await timed(fleet))
    for count, found in rates.items():
        print(f"  {count} processes: {', '.join(f'{each:,.0f}' for each in found)} messages a second", flush=True)
    return [
        figure(
            f"a replay by a fleet of {count} processes, with a target of 5 ms",
            "one process",
            [many / one for many, one in zip(rates[count], rates[1], strict=True)],
            mark,
            what=SPEED,
            itself=True,
            ours=f"{statistics.median(rates[count]):,.0f} a second",
        )
        for count, mark in ((2, ">= 1.9"), (4, ">= 3.5"))
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
