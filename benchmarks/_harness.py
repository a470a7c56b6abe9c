"""Measuring: a server in a process of its own, rounds that take turns, and ratios within one round."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import attrs

Measured = Callable[[], Awaitable[Any]]


@attrs.frozen
class Figure:
    """A ratio: its median over the rounds, the lowest and the highest, and what it has to reach."""

    name: str
    median: float
    low: float
    high: float
    mark: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the mark is reached; None where there is none."""
        if not self.mark:
            return None
        sign, limit = self.mark.split()
        return self.median >= float(limit) if sign == ">=" else self.median <= float(limit)

    def __str__(self) -> str:
        verdict = {True: "reached", False: "NOT reached", None: ""}[self.reached]
        return f"{self.name:<62} {self.median:7.3f}  ({self.low:.3f} to {self.high:.3f})  {self.mark:>8}  {verdict}"


def figure(name: str, ratios: list[float], mark: str = "") -> Figure:
    """A figure from the ratio of each round."""
    return Figure(name, statistics.median(ratios), min(ratios), max(ratios), mark)


@contextmanager
def server(pages: int = 20, delay: float = 0.0, size: int = 500) -> Iterator[str]:
    """A server process; gives its base url. ``delay`` is in seconds, for each answer; ``size`` in messages a page."""
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


async def rounds(contestants: Mapping[str, Measured], count: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds for each contestant in each round; they take turns, and turn about in who begins."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(count + warm_up):
        order = names if number % 2 else names[::-1]
        for name in order:
            gc.collect()
            began = perf_counter()
            await contestants[name]()
            took = perf_counter() - began
            if number >= warm_up:
                seconds[name].append(took)
    return seconds


def ratios(above: list[float], below: list[float]) -> list[float]:
    """The ratio of each round."""
    return [one / other for one, other in zip(above, below, strict=True)]
