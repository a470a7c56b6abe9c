"""Measure ratios: start a server process, time the contestants in turns, and compare their best slices."""

from __future__ import annotations

import gc
import math
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from time import process_time
from typing import Any

import attrs

Measured = Callable[[], Awaitable[Any]]
Clock = Callable[[], float]


@attrs.frozen
class Figure:
    """A ratio: the median, the lowest and the highest of the runs, and its mark.

    ``program`` is the benchmark that measured it.
    """

    name: str
    value: float
    low: float
    high: float
    mark: str = ""
    program: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the mark is reached; None for a figure without a mark."""
        if not self.mark:
            return None
        sign, limit = self.mark.split()
        return self.value >= float(limit) if sign == ">=" else self.value <= float(limit)

    @property
    def spread(self) -> float:
        """The difference between the highest and the lowest run, as a share of the figure."""
        return (self.high - self.low) / self.value if self.value else 0.0

    def __str__(self) -> str:
        verdict = {True: "reached", False: "NOT reached", None: ""}[self.reached]
        return f"{self.name:<75} {self.value:7.3f}  ±{self.spread / 2:5.1%}  {self.mark:>8}  {verdict}"


def figure(name: str, ratios: list[float], mark: str = "") -> Figure:
    """Make a figure from the ratios of all runs."""
    return Figure(name, statistics.median(ratios), min(ratios), max(ratios), mark)


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
