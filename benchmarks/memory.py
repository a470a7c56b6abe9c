"""Does memory grow with the length of a history? Each length is measured in a new process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._harness import MEMORY, Figure, server

_SHORT, _LONG = 10_000, 1_000_000
_PEERS = {
    "messages.list": "a loop by hand that streams",
    "Replay into a file": "a loop by hand that continues after a kill",
}
_MARKS = {"messages.list": "<= 2"}


def peak(how: str, messages: int) -> float:
    """Return the peak memory, in MiB, of a process that reads so many messages."""
    with server(messages // 500) as url:
        command = [sys.executable, "-m", "benchmarks.memory", how, url, str(messages)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(long: int = _LONG) -> list[Figure]:
    grown = {how: peak(how, long) - peak(how, _SHORT) for how in _WAYS}
    return [
        Figure(
            f"memory of {how} at {long:,} messages, over that at {_SHORT:,}",
            f"{peer}: {grown[peer]:,.1f} MiB more",
            grown[how],
            grown[how],
            grown[how],
            _MARKS.get(how, ""),
            MEMORY,
        )
        for how, peer in _PEERS.items()
    ]


async def _stream(url: str) -> int:
    from benchmarks import _contestants as by

    async with by.client(url) as basiq:
        return await by.ours(basiq)


async def _replay(url: str) -> int:
    from basiq_async.replay import JSONLinesTarget, Replay
    from benchmarks import _contestants as by

    with tempfile.TemporaryDirectory() as folder:
        async with by.client(url) as basiq:
            return (await Replay(basiq, by.WEBHOOK, JSONLinesTarget(f"{folder}/out")).run()).handled


async def _by_hand(url: str) -> int:
    import aiohttp

    from benchmarks import _contestants as by

    async with aiohttp.ClientSession() as session:
        return await by.count(by.by_aiohttp(session, url))


async def _with_resume(url: str) -> int:
    import aiohttp

    from benchmarks.export import by_hand_with_resume

    with tempfile.TemporaryDirectory() as folder:
        async with aiohttp.ClientSession() as session:
            return await by_hand_with_resume(session, url, Path(folder))


_WAYS = {
    "messages.list": _stream,
    "Replay into a file": _replay,
    "a loop by hand that streams": _by_hand,
    "a loop by hand that continues after a kill": _with_resume,
}


def _high_water() -> float:
    # Not ru_maxrss: a process inherits it from the process that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        assert asyncio.run(_WAYS[sys.argv[1]](sys.argv[2])) == int(sys.argv[3])
        print(_high_water())
    else:
        for line in measure():
            print(line)
