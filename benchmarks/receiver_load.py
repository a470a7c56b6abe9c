"""What does a receiver cost a server, compared with a bare aiohttp handler and a hand-written signature check?

Three server processes have the same handler of 2 ms: bare, with a hand-written signature check, and with the receiver,
which also remembers handled events. 64 connections send deliveries, and 50 more send one byte a second to each server.
The compared value is the server's processor time for a delivery. On a fully used core, the rate is its inverse, and
other programs on the machine affect it less.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial

from benchmarks._harness import Figure, best_slices, figure, ratios
from benchmarks._receiver_load import load, processor_time, request, server, trickling

_CONNECTIONS = 64
_TRICKLING = 50


async def deliver(pid: int, port: int, count: int) -> float:
    """Return the server's processor time for a delivery, in seconds."""
    run = uuid.uuid4().hex
    requests = [request(f"{run}-{each}") for each in range(count)]
    before = processor_time(pid)
    _, statuses, _ = await load(port, requests, _CONNECTIONS)
    assert statuses == [204] * count, set(statuses)
    return (processor_time(pid) - before) / count


async def compare(
    servers: Mapping[str, tuple[int, int]], *, runs: int, slices: int, requests: int
) -> dict[str, list[float]]:
    """Return the best processor time for a delivery, in seconds, of each server in each run."""
    contestants = {kind: partial(deliver, *where, requests) for kind, where in servers.items()}
    return await best_slices(contestants, runs=runs, slices=slices, clock=None)


async def measure(runs: int = 5, slices: int = 10, requests: int = 500, *, busy: bool = False) -> list[Figure]:
    """Measure with a handler that waits 2 ms, as for a database, or that is ``busy`` computing for 2 ms."""
    how, handler = (["--busy"], "computes") if busy else ([], "waits")
    async with AsyncExitStack() as stack:
        servers = {}
        for kind in ("bare", "verifying", "receiver"):
            process, port = stack.enter_context(server(kind, *how))
            servers[kind] = process.pid, port
            await stack.enter_async_context(trickling(port, _TRICKLING))
        found = await compare(servers, runs=runs, slices=slices, requests=requests)
    took = {kind: f"{min(seconds) * 1e6:.0f} µs" for kind, seconds in found.items()}
    print(f"processor time of a delivery: {took}")
    name = f"receiving, a handler that {handler} 2 ms: processor time of a delivery"
    return [
        figure(f"{name}, to bare", ratios(found["receiver"], found["bare"]), "<= 1.1"),
        figure(f"{name}, to hand-written, with standardwebhooks", ratios(found["receiver"], found["verifying"])),
    ]


async def main() -> None:
    for line in [*await measure(), *await measure(slices=5, requests=100, busy=True)]:
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
