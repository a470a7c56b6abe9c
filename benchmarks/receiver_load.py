"""What does a receiver cost a server beside a bare aiohttp handler, and beside a signature that is checked by hand?

Server processes with the same handler of 2 ms: bare, with a signature that is checked by hand, and with the receiver,
which remembers what it has handled. 64 connections, and 50 more that trickle one byte a second into each server. What
is compared is the processor time of the server for a delivery: its rate is the inverse of that where a core is at its
limit, and the other programs of the machine disturb it less.
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
    """Seconds of the server's processor for a delivery."""
    run = uuid.uuid4().hex
    requests = [request(f"{run}-{each}") for each in range(count)]
    before = processor_time(pid)
    _, statuses, _ = await load(port, requests, _CONNECTIONS)
    assert statuses == [204] * count, set(statuses)
    return (processor_time(pid) - before) / count


async def compare(
    servers: Mapping[str, tuple[int, int]], *, runs: int, slices: int, requests: int
) -> dict[str, list[float]]:
    """The best seconds of each server's processor for a delivery, in each run; by process and port."""
    contestants = {kind: partial(deliver, *where, requests) for kind, where in servers.items()}
    return await best_slices(contestants, runs=runs, slices=slices, clock=None)


async def measure(runs: int = 5, slices: int = 10, requests: int = 500, *, busy: bool = False) -> list[Figure]:
    """With a handler that waits for its 2 ms, as for a database, or is ``busy`` computing."""
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
