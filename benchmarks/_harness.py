"""Measure ratios: start servers and programs, time the contestants in turns, and compare their best slices."""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import process_time
from typing import Any, Literal

import attrs

Measured = Callable[[], Awaitable[Any]]
Clock = Callable[[], float]

COST, SPEED, MEMORY = "processor time", "times as fast", "MiB more"
"""What a figure compares. Of processor time and memory, less is better."""
Verdict = Literal["reached", "between", "missed"]


@attrs.frozen
class Figure:
    """A ratio of a job of this package to the same job by a peer: the median, the lowest and the highest of the runs.

    ``mark`` is what it is to reach. ``ours`` is what this package took, with its unit. ``program`` measured it.
    ``itself``: the peer is this package too.
    """

    job: str
    peer: str
    value: float
    low: float
    high: float
    mark: str = ""
    what: str = COST
    ours: str = ""
    program: str = ""
    itself: bool = False

    @property
    def name(self) -> str:
        return f"{self.job}, to {self.peer} ({self.what})"

    @property
    def verdict(self) -> Verdict | None:
        """Whether all runs reach the mark, or none, or some; None for a figure without a mark."""
        if not self.mark:
            return None
        sign, limit = self.mark.split()
        reach = [each >= float(limit) if sign == ">=" else each <= float(limit) for each in (self.low, self.high)]
        return "reached" if all(reach) else "between" if any(reach) else "missed"

    @property
    def comparable(self) -> bool:
        """Whether it can be held against a run on another machine: memory, and this package against itself."""
        return self.itself or self.what == MEMORY

    @property
    def text(self) -> str:
        """The lowest and the highest ratio of the runs, as a text."""
        low, high = f"{self.low:.2f}", f"{self.high:.2f}"
        return low if low == high else f"{low} to {high}"

    def __str__(self) -> str:
        return f"{self.name:<105} {self.text:>14}  {self.ours:>12}  {self.mark:>8} {self.verdict or ''}".rstrip()


def figure(
    job: str,
    peer: str,
    ratios: Sequence[float],
    mark: str = "",
    *,
    what: str = COST,
    ours: str = "",
    itself: bool = False,
) -> Figure:
    """Make a figure from the ratios of all runs."""
    value, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return Figure(job, peer, value, low, high, mark, what, ours, itself=itself)


def microseconds(seconds: Sequence[float], count: int = 1) -> str:
    """Return the best of some slices, for each of ``count`` messages or deliveries, as a text."""
    each = min(seconds) / count * 1e6
    return f"{each:,.0f} µs" if each >= 100 else f"{each:.1f} µs"


@contextmanager
def server(pages: int = 20, delay: float = 0.0, size: int = 500) -> Iterator[str]:
    """Run a server process, and yield its base url. It waits ``delay`` seconds, and has ``size`` messages on a page."""
    command = [sys.executable, "-m", "benchmarks._server", str(pages), str(delay), str(size)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


async def best_slices(
    contestants: Mapping[str, Measured], *, runs: int, slices: int, clock: Clock | None = process_time
) -> dict[str, list[float]]:
    """Return the best slice of each contestant in each run, in seconds.

    Contestants take turns in slices of a few milliseconds, and the first one changes each time. Other programs and cold
    caches can only make a slice longer, so the best of many slices shows the cost of the code. ``clock`` is this
    process's processor time with all threads if a server or a disk works beside it, ``perf_counter`` if waiting is
    measured, and None for contestants that return the seconds.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for name in names:
        await contestants[name]()
    gc.collect()
    gc.freeze()
    try:
        for _ in range(runs):
            best = dict.fromkeys(names, math.inf)
            for number in range(slices):
                for name in names if number % 2 else names[::-1]:
                    gc.collect()
                    began = clock() if clock else 0.0
                    result = await contestants[name]()
                    best[name] = min(best[name], clock() - began if clock else result)
            for name in names:
                found[name].append(best[name])
    finally:
        gc.unfreeze()
    return found


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Return the ratio of each run."""
    return [one / other for one, other in zip(above, below, strict=True)]


def without_orjson(call: str) -> Any:
    """Await a call of ``benchmarks`` in a process where orjson is not installed. Return its result, by way of JSON."""
    module = call.partition(".")[0]
    code = f"import asyncio, json; from benchmarks import {module}; print(json.dumps(asyncio.run({call})))"
    environment = {**os.environ, "BENCH_WITHOUT_ORJSON": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def run_program(command: Sequence[str], **environment: str) -> float:
    """Run a program to its end, and return the seconds of the processor that it and its children used."""
    with subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()[-2000:]
    return used.ru_utime + used.ru_stime


def processor_time(pid: int) -> float:
    """Return the processor time that a process has used, in seconds (Linux)."""
    # /proc/PID/stat would be too coarse: it counts in hundredths of a second.
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def children_time(pid: int) -> float:
    """Return the processor time of the living children of a process, such as PostgreSQL's, in seconds (Linux)."""
    found = 0.0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found += processor_time(int(child))
    return found
