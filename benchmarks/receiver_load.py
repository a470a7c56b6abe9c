"""How much of a bare aiohttp handler's rate is left with a receiver in it, and how long do the slowest wait?

Two server processes with the same handler of 2 ms, 64 connections, and 50 more that trickle one byte a second into
the server that is measured. Rounds are interleaved; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import uuid

from _receiver_load import load, percentile, request, server, trickling


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--trickling", type=int, default=50)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"bare": [], "receiver": []}
    slowest: dict[str, list[float]] = {"bare": [], "receiver": []}
    with server("bare") as (_, bare), server("receiver") as (_, receiver):
        ports = {"bare": bare, "receiver": receiver}
        for number in range(options.rounds + 1):
            for kind in sorted(ports, reverse=bool(number % 2)):
                run = uuid.uuid4().hex
                requests = [request(f"{run}-{each}") for each in range(options.requests)]
                async with trickling(ports[kind], options.trickling):
                    seconds, statuses, latencies = await load(ports[kind], requests, options.connections)
                assert statuses == [204] * options.requests, set(statuses)
                if number:  # the first round warms up
                    rates[kind].append(options.requests / seconds)
                    slowest[kind].append(percentile(latencies, 0.99) * 1000)
    for kind, found in rates.items():
        print(
            f"{kind:10} {statistics.median(found):7.0f} deliveries/s ({min(found):.0f} to {max(found):.0f}), "
            f"p99 {statistics.median(slowest[kind]):.1f} ms"
        )
    ratios = [ours / bare for ours, bare in zip(rates["receiver"], rates["bare"], strict=True)]
    print(f"receiver / bare: {statistics.median(ratios):.2f}   (at least 0.90)")


if __name__ == "__main__":
    asyncio.run(main())
