"""What does a delivery cost a server whose handler only waits, compared with handlers by hand?

Three server processes of aiohttp: with a check of the signature by hand, with the same guarantees by hand, and with the
receiver. 64 connections send deliveries. The compared value is the server's processor time.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import ExitStack
from functools import partial

from benchmarks._harness import Figure, best_slices, figure, microseconds, processor_time, ratios
from benchmarks._receiver_load import load, request, server

_CONNECTIONS = 64
_PEERS = {
    "careful": "the same guarantees by hand: a dict of what was handled, a time limit, busy, at most 1,000",
    "verifying": "by hand without them: a signature, no duplicates, no limits",
}


async def deliver(pid: int, port: int, count: int) -> float:
    """Return the server's processor time for a delivery, in seconds."""
    run = uuid.uuid4().hex
    requests = [request(f"{run}-{each}") for each in range(count)]
    before = processor_time(pid)
    _, statuses, _ = await load(port, requests, _CONNECTIONS)
    assert statuses == [204] * count, set(statuses)
    return (processor_time(pid) - before) / count


async def measure(runs: int = 5, slices: int = 10, requests: int = 500) -> list[Figure]:
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(server(kind)) for kind in ("receiver", *_PEERS)}
        contestants = {kind: partial(deliver, process.pid, port, requests) for kind, (process, port) in servers.items()}
        found = await best_slices(contestants, runs=runs, slices=slices, clock=None)
    ours = found["receiver"]
    return [
        figure(
            "a delivery to a handler that waits 2 ms",
            peer,
            ratios(ours, found[kind]),
            "<= 1.25" if kind == "careful" else "",
            ours=microseconds(ours),
        )
        for kind, peer in _PEERS.items()
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
