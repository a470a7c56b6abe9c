"""How much faster are more worker processes, what does a message cost, and how long does a takeover last?

``python -m benchmarks.fleet`` needs redis-server. The names of the figures have the page latency, the target's wait
and the concurrency.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

from basiq_async import BasiqClient, Message
from basiq_async.distributed import Fleet, Job
from basiq_async.replay import Replay, SQLiteCheckpoint
from benchmarks._contestants import KEY
from benchmarks._harness import Figure, figure, server
from benchmarks._server import PAGE, WEBHOOK
from tests.support.servers import RedisServer

_TICK = os.sysconf("SC_CLK_TCK")


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


Crew = tuple[Fleet, list[subprocess.Popen[bytes]]]


@asynccontextmanager
async def crew(count: int, segments: int, *, warm: bool = True, **settings: Any) -> AsyncIterator[Crew]:
    """Start workers on a new Redis, and wait until they have opened their job functions."""
    with redis() as store:
        settings["redis"] = store.url
        fleet = Fleet(store.url, lease=settings.get("lease", 30))
        fleet.job("bench")(nullcontext)  # type: ignore[arg-type]
        workers = [start(settings, segments) for _ in range(count)]
        try:
            async with fleet:
                if warm:
                    await warmed(fleet, count)
                yield fleet, workers
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


async def warmed(fleet: Fleet, count: int) -> None:
    """Wait until each worker runs: submit lists with a filter for which the server has one message."""
    deadline = time.monotonic() + 60
    for number in range(1_000):
        job = await fleet.submit(
            "bench", WEBHOOK, key=f"warm-up {number}", filters=[f"none {each}" for each in range(8 * count)]
        )
        await job.wait(timeout=60)
        if (await job.progress()).workers == count:
            return
        assert time.monotonic() < deadline, "the workers do not come up"


async def timed(fleet: Fleet, **arguments: Any) -> tuple[float, Job]:
    began = time.perf_counter()
    job = await fleet.submit("bench", WEBHOOK, key=uuid4().hex, **arguments)
    report = await job.wait(timeout=600)
    took = time.perf_counter() - began
    assert report.finished
    return report.handled / took, job


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def scaling(rounds: int, pages: int = 112) -> list[Figure]:
    """Measure the rate of 2 and 4 processes, divided by that of one. Most of the time is waiting."""
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    with server(pages, 0.02) as url:
        for _ in range(rounds):
            for count in rates:
                async with crew(count, 2, basiq=url, wait=0.005, concurrency=8) as (fleet, _workers):
                    rates[count].append((await timed(fleet))[0])
    for count, found in rates.items():
        print(f"  {count} processes: {', '.join(f'{each:,.0f}' for each in found)} messages a second", flush=True)
    return [
        figure(
            f"fleet: {count} processes to one, target waits 5 ms, page 20 ms",
            [many / one for many, one in zip(rates[count], rates[1], strict=True)],
            mark,
        )
        for count, mark in ((2, ">= 1.9"), (4, ">= 3.6"))
    ]


async def processor(rounds: int, pages: int = 60, width: int = 256) -> list[Figure]:
    """Measure the processor time of a message, divided by that of a replay in one process with SQLite."""
    found = []
    with server(pages) as url, tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            async with crew(1, 2, basiq=url, concurrency=width // 2) as (fleet, (worker,)):
                await timed(fleet)
                before = cpu_of(worker)
                await timed(fleet)
                spent = cpu_of(worker) - before
            async with BasiqClient(KEY, base_url=url) as basiq:

                async def handler(message: Message) -> None:
                    pass

                for _ in range(2):
                    checkpoint = SQLiteCheckpoint(f"{folder}/{uuid4()}.db")
                    began = time.process_time()
                    await Replay(basiq, WEBHOOK, handler, checkpoint=checkpoint, concurrency=width).run()
                    alone = time.process_time() - began
            messages = pages * PAGE
            print(f"  a message: {spent / messages * 1e6:.1f} µs in a fleet, {alone / messages * 1e6:.1f} µs alone")
            found.append(spent / alone)
    return [figure(f"fleet: processor time of a message to one process's, width {width}", found, "<= 1.5")]


async def takeover(rounds: int, lease: float = 3.0) -> list[Figure]:
    """Measure the seconds from a kill to the takeover of the worker's segments, divided by lease + 1."""
    found = []
    with server(200) as url:
        for _ in range(rounds):
            settings = {"basiq": url, "wait": 0.1, "concurrency": 64, "lease": lease}
            async with crew(3, 2, warm=False, **settings) as (fleet, (doomed, *_others)):
                job = await fleet.submit("bench", WEBHOOK, key="takeover")
                while (await job.progress()).held < 4:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(1.0)
                doomed.send_signal(signal.SIGKILL)
                began = time.perf_counter()
                while not (await job.progress()).takeovers:
                    await asyncio.sleep(0.02)
                found.append(time.perf_counter() - began)
                print(f"  {found[-1]:.2f} s", flush=True)
    print(f"  takeovers at a lease of {lease:g} s: {', '.join(f'{each:.2f}' for each in sorted(found))} s")
    return [figure("fleet: takeover to lease + 1 s", [each / (lease + 1) for each in found], "<= 1")]


async def lists(rounds: int, pages: int = 40, size: int = 50) -> list[Figure]:
    """Measure the rate of 8 lists, divided by that of one. Pages are small, so that the processor is not the limit."""
    found = []
    with server(pages, 0.05, size) as url:
        for _ in range(rounds):
            async with crew(1, 16, basiq=url, concurrency=256) as (fleet, _workers):
                one, _ = await timed(fleet)
                eight, _ = await timed(fleet, filters=[f"eventTypeId.eq('{number}')" for number in range(8)])
                print(f"  one list: {one:,.0f}, eight: {eight:,.0f} messages a second", flush=True)
                found.append(eight / one)
    return [figure(f"fleet: 8 lists to one, in one process, page of {size} at 50 ms", found, ">= 6")]


async def memory(sizes: tuple[int, int] = (10_000, 1_000_000)) -> list[Figure]:
    """Measure the peak of Redis' memory with the longer history, divided by that with the shorter one."""
    peaks = []
    for messages in sizes:
        with server(messages // PAGE) as url:
            async with crew(2, 2, basiq=url, concurrency=256) as (fleet, _workers):
                client = fleet._record._redis  # type: ignore[attr-defined]
                began = time.perf_counter()
                job = await fleet.submit("bench", WEBHOOK, key="memory")
                peak = 0
                while not (await job.progress()).ended:
                    peak = max(peak, (await client.info("memory"))["used_memory"])
                    await asyncio.sleep(0.02)
                assert (await job.report()).handled == messages
                took = time.perf_counter() - began
                peaks.append(peak)
                print(
                    f"  {messages:,} messages in {took:.0f} s: Redis took {peak / 2**20:.2f} MB at its most", flush=True
                )
    return [figure(f"fleet: Redis memory, {sizes[1]:,} messages to {sizes[0]:,}", [peaks[1] / peaks[0]], "<= 1.2")]


async def measure(rounds: int = 3) -> list[Figure]:
    """Measure all figures. Three rounds last less than five minutes."""
    found = await processor(rounds)
    found += await takeover(rounds + 1)
    found += await lists(rounds)
    found += await memory()
    found += await scaling(rounds)
    return found


if __name__ == "__main__":
    for name in sys.argv[1:] or ["processor", "takeover", "lists", "memory", "scaling"]:
        arguments: dict[str, tuple[int, ...]] = {"takeover": (4,), "memory": ()}
        for line in asyncio.run(globals()[name](*arguments.get(name, (3,)))):
            print(line, flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")
