"""How fast is a replay with a checkpoint and a target that does nothing, compared with only reading the messages?

The rate depends on ``concurrency``, because each group of that many messages waits for one write to the disk. The mark
is for the concurrency that suits such a fast target; figures of other values are listed too.
"""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from uuid import uuid4

from basiq_async import BasiqClient, Message
from basiq_async.replay import Replay, SQLiteCheckpoint
from benchmarks import _contestants as by
from benchmarks._harness import Figure, best_slices, figure, ratios, server
from benchmarks._server import PAGE, WEBHOOK

_MARKED = 1_024


async def nothing(message: Message) -> None:
    """Do nothing: the target of the replay."""


async def replayed(basiq: BasiqClient, folder: Path, messages: int, concurrency: int) -> None:
    """Run a whole replay with a new checkpoint."""
    checkpoint = SQLiteCheckpoint(folder / f"{uuid4()}.db")
    report = await Replay(basiq, WEBHOOK, nothing, checkpoint=checkpoint, concurrency=concurrency).run()
    assert report.handled == messages


async def measure(runs: int = 5, slices: int = 24, pages: int = 20) -> list[Figure]:
    widths = (32, 128, 256, _MARKED)
    with tempfile.TemporaryDirectory() as folder, server(pages) as url:
        async with by.client(url) as basiq:
            contestants = {"bare": partial(by.ours, basiq)} | {
                str(width): partial(replayed, basiq, Path(folder), pages * PAGE, width) for width in widths
            }
            seconds = await best_slices(contestants, runs=runs, slices=slices)
    return [
        figure(
            f"replay: messages for a second of the processor, to the bare paginator's, concurrency {width}",
            ratios(seconds["bare"], seconds[str(width)]),
            ">= 0.55" if width == _MARKED else "",
        )
        for width in widths
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
