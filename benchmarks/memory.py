"""Does the peak of memory grow with the length of a history? Each length is measured in a new process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from benchmarks._harness import Figure, server

LENGTHS = (10_000, 100_000, 1_000_000)


def peak(messages: int) -> float:
    """Return the peak memory, in MiB, of a process that streams so many messages."""
    with server(messages // 500) as url:
        command = [sys.executable, "-m", "benchmarks.memory", url, str(messages)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(lengths: tuple[int, ...] = LENGTHS) -> list[Figure]:
    peaks = {length: peak(length) for length in lengths}
    found = [Figure(f"memory: peak at {length:,} messages, MiB", mib, mib, mib) for length, mib in peaks.items()]
    grown = peaks[lengths[-1]] - peaks[lengths[0]]
    name = f"memory: what {lengths[-1]:,} messages take more than {lengths[0]:,}, MiB"
    return [*found, Figure(name, grown, grown, grown, "<= 5")]


async def _stream(url: str, messages: int) -> None:
    from benchmarks import _contestants as by

    async with by.client(url) as basiq:
        assert await by.ours(basiq) == messages
    print(_high_water())


def _high_water() -> float:
    # Not ru_maxrss: a process inherits it from the process that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_stream(sys.argv[1], int(sys.argv[2])))
    else:
        for line in measure():
            print(line)
