"""If two processes on one SQLiteInbox both get the same 5,000 deliveries, are 5,000 handled, and how fast?"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks._receiver_load import load, request, server


async def deliver(port: int, requests: list[bytes]) -> int:
    """Send deliveries as Basiq does, again until they are acknowledged. Return the number of rounds."""
    rounds = 0
    left = random.sample(requests, len(requests))
    while left:
        rounds += 1
        again: list[bytes] = []
        # In batches, so that each status belongs to a known request.
        parts = [left[start::32] for start in range(32)]

        async def one(part: list[bytes], again: list[bytes] = again) -> None:
            for sent in part:
                _, [status], _ = await load(port, [sent], 1)
                if status not in (200, 204):
                    again.append(sent)

        await asyncio.gather(*map(one, parts))
        left = again
        if left:
            await asyncio.sleep(0.05)
    return rounds


def counts(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts") as answer:
        found: dict[str, int] = json.load(answer)
        return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=5_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inbox = str(Path(folder) / "inbox.db")
        with server("counting", "--inbox", inbox) as (_, one), server("counting", "--inbox", inbox) as (_, two):
            requests = [request(number) for number in range(options.deliveries)]
            began = time.perf_counter()
            rounds = await asyncio.gather(deliver(one, requests), deliver(two, requests))
            seconds = time.perf_counter() - began
            counted = [counts(one), counts(two)]
    handled = sum(each["handler ran"] for each in counted)
    print(f"{counted[0]}\n{counted[1]}")
    print(f"{handled} of {options.deliveries} handled, in {seconds:.1f} s and {max(rounds)} rounds")
    assert handled == options.deliveries


if __name__ == "__main__":
    asyncio.run(main())
