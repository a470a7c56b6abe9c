"""Does every delivery of mixed traffic get the right response, are the counts exact, and is memory constant?

64 connections send, in random order, 70 % good deliveries, 10 % duplicates, 10 % with a bad signature, and 10 % whose
handler fails. Memory is sampled for ten seconds by default (``--seconds``). The MemoryInbox holds 20,000 entries
(``--entries``) and is full after a few seconds; from then on, memory must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import time
import urllib.request
import uuid

from benchmarks._receiver_load import OTHER, load, request, resident, server


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--entries", type=int, default=20_000)
    options = parser.parse_args()
    expected: collections.Counter[str] = collections.Counter()
    answered: collections.Counter[int] = collections.Counter()
    samples: list[tuple[int, float, float]] = []
    with server("counting", "--entries", str(options.entries)) as (process, port):
        began = time.monotonic()
        earlier: list[bytes] = []
        while time.monotonic() - began < options.seconds:
            run = uuid.uuid4().hex
            tenth = options.batch // 10
            good = [request(f"{run}-good-{number}") for number in range(tenth * 7)]
            # Duplicates repeat deliveries that an earlier batch acknowledged, so that the right response is known.
            again = random.sample(earlier, tenth) if earlier else []
            forged = [request(f"{run}-forged-{number}", secret=OTHER) for number in range(tenth)]
            failing = [request(f"{run}-broken-{number}", event_type="user.broken") for number in range(tenth)]
            mixed = [*good, *again, *forged, *failing]
            random.shuffle(mixed)
            _, statuses, _ = await load(port, mixed, 64)
            answered.update(statuses)
            expected.update({"handled": len(good), "duplicate": len(again)})
            expected.update({"rejected": len(forged), "failed": len(failing), "handler ran": len(good)})
            earlier = good
            samples.append((expected["handled"], time.monotonic() - began, resident(process.pid)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts") as answer:
            counted = json.load(answer)
    print("expected", dict(expected))
    print("counted ", counted)
    print("answered", dict(answered))
    assert counted == expected
    assert answered == {
        204: expected["handled"],
        200: expected["duplicate"],
        401: expected["rejected"],
        500: expected["failed"],
    }
    full = [sample for sample in samples if sample[0] >= options.entries] or samples[-1:]
    for share in (0, 0.25, 0.5, 0.75, 1):
        _, seconds, megabytes = full[min(int(len(full) * share), len(full) - 1)]
        print(f"after {seconds:5.1f} s: {megabytes:.1f} MB")
    print(f"counts exact; memory at the end to that of a full inbox: {full[-1][2] / full[0][2]:.3f}")


if __name__ == "__main__":
    asyncio.run(main())
