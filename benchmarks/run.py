"""Run the benchmarks: ``make bench`` writes all figures, ``make bench-quick`` compares fewer runs with them.

``python -m benchmarks.run stream service`` measures only the figures of these programs, and keeps the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import attrs

from benchmarks import (
    deferred,
    export,
    fleet,
    growth,
    memory,
    prefetch,
    receiver_load,
    replay_sql,
    service,
    signature,
    stream,
    tables,
)
from benchmarks._harness import Figure

_LOSS = 0.25
_NOISE = 0.1
"""The smallest difference that counts as a loss. A quarter of a ratio of 0.15 is within the spread of one run."""
_PACKAGES = ("aiohttp", "asyncpg", "dbos", "dlt", "fastapi", "httpx", "orjson", "procrastinate", "sqlalchemy", "svix")


def programs(*, quick: bool) -> dict[str, Callable[[], Awaitable[list[Figure]]]]:
    """Return the programs that measure the figures; with ``quick``, without those that need minutes."""
    fewer = {"runs": 2} if quick else {}
    found: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
        "service": partial(service.alone, **fewer) if quick else service.measure,
        "receiver_load": partial(receiver_load.measure, **fewer),
        "signature": partial(signature.measure, **fewer),
        "stream": partial(stream.measure, **fewer),
        "export": partial(export.in_process, 2, 4) if quick else export.measure,
        "prefetch": partial(prefetch.measure, **fewer),
    }
    if not quick:
        found |= {
            "deferred": deferred.measure,
            "replay_sql": replay_sql.measure,
            "memory": partial(asyncio.to_thread, memory.measure),
            "growth": growth.measure,
            "fleet": fleet.measure,
        }
    return found


def measure(*, quick: bool = False, only: Collection[str] = ()) -> list[Figure]:
    """Measure the figures of all programs, or of some."""
    found: list[Figure] = []
    for name, program in programs(quick=quick).items():
        if not only or name in only:
            began = time.monotonic()
            print(f"{name}:", flush=True)
            for one in asyncio.run(_awaited(program)):
                print(one, flush=True)
                found.append(attrs.evolve(one, program=name))
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return found


async def _awaited(program: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    return await program()


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """Return the name of the processor (Linux)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def lost(figures: Iterable[Figure], known: Iterable[Figure]) -> list[str]:
    """Return the marked figures that are worse than the committed ones by more than a quarter."""
    before = {found.name: found for found in known}
    worse = []
    for found in figures:
        earlier = before.get(found.name)
        if earlier is None or not found.mark:
            continue
        ratio = found.value / earlier.value if found.mark.startswith(">=") else earlier.value / found.value
        if ratio < 1 - _LOSS and abs(found.value - earlier.value) > _NOISE:
            worse.append(f"{found.name}: {found.value:.3f}, was {earlier.value:.3f}")
    return worse


def _merged(known: list[Figure], new: list[Figure]) -> list[Figure]:
    """Replace the figures of some programs in the known ones, and keep the order of the programs."""
    again = {one.program for one in new}
    order = list(programs(quick=False))
    both = [one for one in known if one.program in order and one.program not in again] + new
    return sorted(both, key=lambda one: order.index(one.program))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="all by default")
    parser.add_argument("--quick", action="store_true", help="in under a minute, held against the committed figures")
    options = parser.parse_args()
    quick, only = options.quick, options.programs
    if unknown := set(only) - set(programs(quick=quick)):
        parser.error(f"no program of the name {', '.join(sorted(unknown))}")
    machine = _machine()  # before: the benchmarks are a load themselves
    figures = measure(quick=quick, only=only)
    if quick:
        worse = lost(figures, tables.committed().figures)
        for line in worse:
            print(f"LOST more than {_LOSS:.0%}: {line}")
        return 1 if worse else 0
    if only:  # keep the figures of the other programs
        before = tables.committed()
        figures = _merged(before.figures, figures)
        machine["load"] = max(before.machine["load"], machine["load"])
    tables.RESULTS.write_text(
        json.dumps({**machine, "figures": [attrs.asdict(one) for one in figures]}, indent=1) + "\n"
    )
    tables.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
