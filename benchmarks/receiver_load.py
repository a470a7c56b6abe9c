"""How much of a bare aiohttp handler's rate is left with a receiver in it, and how long do the slowest wait?

Two server processes with the same handler of 2 ms, 64 connections, and 50 more that trickle one byte a second into
the server that is measured. Rounds are interleaved; medians. The processor time of the server is what other programs on
the machine disturb least.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import uuid

from benchmarks._receiver_load import load, percentile, processor_time, request, resident, server, trickling


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, help="3,000, or 300 that are --busy.")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--trickling", type=int, default=50)
    parser.add_argument("--busy", action="store_true", help="The handler computes for its 2 ms, instead of waiting.")
    options = parser.parse_args()
    how = ["--busy"] if options.busy else []
    options.requests = options.requests or (300 if options.busy else 3_000)
    rates: dict[str, list[float]] = {"bare": [], "receiver": []}
    costs: dict[str, list[float]] = {"bare": [], "receiver": []}
    slowest: dict[str, list[float]] = {"bare": [], "receiver": []}
    memory: list[float] = []
    with server("bare", *how) as bare, server("receiver", *how) as receiver:
        processes = {"bare": bare, "receiver": receiver}
        for number in range(options.rounds + 1):
            for kind in sorted(processes, reverse=bool(number % 2)):
                process, port = processes[kind]
                run = uuid.uuid4().hex
                requests = [request(f"{run}-{each}") for each in range(options.requests)]
                async with trickling(port, options.trickling):
                    before = processor_time(process.pid)
                    seconds, statuses, latencies = await load(port, requests, options.connections)
                    cost = (processor_time(process.pid) - before) / options.requests * 1e6
                assert statuses == [204] * options.requests, set(statuses)
                if number:  # the first round warms up
                    costs[kind].append(cost)
                    rates[kind].append(options.requests / seconds)
                    slowest[kind].append(percentile(latencies, 0.99) * 1000)
            memory.append(resident(receiver[0].pid))
    for kind, found in rates.items():
        print(
            f"{kind:10} {statistics.median(found):7.0f} deliveries/s ({min(found):.0f} to {max(found):.0f}), "
            f"p99 {statistics.median(slowest[kind]):.1f} ms, "
            f"processor {statistics.median(costs[kind]):.0f} us a delivery"
        )
    costly = [bare / ours for ours, bare in zip(costs["receiver"], costs["bare"], strict=True)]
    ratios = [ours / bare for ours, bare in zip(rates["receiver"], rates["bare"], strict=True)]
    print(f"receiver / bare: {statistics.median(ratios):.2f} by rate   (at least 0.90)")
    print(f"receiver / bare: {statistics.median(costly):.2f} by processor time")
    print(f"memory of the receiver after each round: {', '.join(f'{each:.1f}' for each in memory)} MB")


if __name__ == "__main__":
    asyncio.run(main())
