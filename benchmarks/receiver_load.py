"""How much of a bare aiohttp handler's rate is left with a receiver in it, and how long do the slowest wait?

Server processes with the same handler of 2 ms: bare, with a signature that is checked by hand, and with the receiver,
which remembers what it has handled. 64 connections, and 50 more that trickle one byte a second into
the server that is measured. Rounds take turns. The processor time of the server is what other programs on the machine
disturb least.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import ExitStack
from subprocess import Popen

import attrs

from benchmarks._harness import Figure, figure, ratios
from benchmarks._receiver_load import load, percentile, processor_time, request, server, trickling

_CONNECTIONS = 64
_TRICKLING = 50


@attrs.frozen
class _Round:
    """Deliveries a second, the 99th percentile of the waits and the processor time of a delivery, both in seconds."""

    rate: float
    p99: float
    processor: float


async def _round(process: Popen[str], port: int, count: int) -> _Round:
    run = uuid.uuid4().hex
    requests = [request(f"{run}-{each}") for each in range(count)]
    async with trickling(port, _TRICKLING):
        before = processor_time(process.pid)
        seconds, statuses, latencies = await load(port, requests, _CONNECTIONS)
        processor = (processor_time(process.pid) - before) / count
    assert statuses == [204] * count, set(statuses)
    return _Round(count / seconds, percentile(latencies, 0.99), processor)


async def measure(count: int = 7, requests: int = 5_000, *, busy: bool = False) -> list[Figure]:
    """With a handler that waits for its 2 ms, as for a database, or is ``busy`` computing."""
    how, handler = (["--busy"], "computes") if busy else ([], "waits")
    kinds = ("bare", "verifying", "receiver")
    found: dict[str, list[_Round]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        processes = {kind: stack.enter_context(server(kind, *how)) for kind in kinds}
        for number in range(count + 1):
            for kind in kinds if number % 2 else kinds[::-1]:
                one = await _round(*processes[kind], requests)
                if number:  # the first round warms up
                    found[kind].append(one)
    name = f"receiving, a handler that {handler} 2 ms"

    def compared(field: str, other: str, mark: str = "") -> Figure:
        ours, theirs = ([getattr(one, field) for one in found[kind]] for kind in ("receiver", other))
        peer = "bare" if other == "bare" else "hand-written, with standardwebhooks"
        return figure(f"{name}: {field} to {peer}", ratios(ours, theirs), mark)

    return [
        compared("rate", "bare", ">= 0.9"),
        compared("p99", "bare"),
        compared("processor", "bare"),
        compared("rate", "verifying"),
        compared("processor", "verifying"),
    ]


async def main() -> None:
    for line in [*await measure(), *await measure(requests=500, busy=True)]:
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
