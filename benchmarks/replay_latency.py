"""What do 20 ms of latency for each page cost a replay whose target is slower than Basiq?"""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from basiq_async import BasiqClient, Message
from basiq_async.replay import Replay, SQLiteCheckpoint
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server
from benchmarks._server import WEBHOOK


async def two_milliseconds(message: Message) -> None:
    """Wait 2 ms: the target of the replay."""
    await asyncio.sleep(0.002)


async def replayed(basiq: BasiqClient, folder: Path) -> None:
    """Run a whole replay with a new checkpoint."""
    checkpoint = SQLiteCheckpoint(folder / f"{uuid4()}.db")
    report = await Replay(basiq, WEBHOOK, two_milliseconds, checkpoint=checkpoint, concurrency=16).run()
    assert report.finished


async def measure(runs: int = 5, slices: int = 2, pages: int = 10) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder, server(pages) as near, server(pages, 0.020) as far:
        async with by.client(near) as at_once, by.client(far) as late:
            contestants = {
                "near": partial(replayed, at_once, Path(folder)),
                "far": partial(replayed, late, Path(folder)),
            }
            seconds = await best_slices(contestants, runs=runs, slices=slices, clock=perf_counter)
    name = "replay: time with 20 ms a page to none, a target of 2 ms, concurrency 16"
    return [figure(name, ratios(seconds["far"], seconds["near"]), "<= 1.05")]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
