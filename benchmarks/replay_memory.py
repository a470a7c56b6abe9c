"""Does the peak of memory of a replay grow with the length of the history? Each length is measured in a new process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile

from basiq_async.replay import Replay, SQLiteCheckpoint
from benchmarks._harness import Figure, server
from benchmarks._server import PAGE, WEBHOOK
from benchmarks.memory import _high_water
from benchmarks.replay_rate import nothing

LENGTHS = (20_000, 200_000)


def peak(messages: int) -> float:
    """Return the peak memory, in MiB, of a process that replays so many messages."""
    with server(messages // PAGE) as url, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.replay_memory", url, str(messages), f"{folder}/replay.db"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(lengths: tuple[int, ...] = LENGTHS) -> list[Figure]:
    peaks = {length: peak(length) for length in lengths}
    found = [Figure(f"replay: peak at {length:,} messages, MiB", mib, mib, mib) for length, mib in peaks.items()]
    grown = peaks[lengths[-1]] / peaks[lengths[0]]
    return [
        *found,
        Figure(f"replay: peak at {lengths[-1]:,} messages to {lengths[0]:,}", grown, grown, grown, "<= 1.10"),
    ]


async def _replay(url: str, messages: int, path: str) -> None:
    from benchmarks import _contestants as by

    async with by.client(url) as basiq:
        report = await Replay(basiq, WEBHOOK, nothing, checkpoint=SQLiteCheckpoint(path)).run()
        assert report.handled == messages
    print(_high_water())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_replay(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
    else:
        for line in measure():
            print(line)
