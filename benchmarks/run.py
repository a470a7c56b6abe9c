"""Run the benchmarks: ``make bench`` writes all figures, ``make bench-quick`` compares fewer runs with them.

``python -m benchmarks.run stream call`` measures only the figures of these programs, and keeps the others. With another
version of Python than that of the committed figures, the new figures are written beside them.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from importlib.metadata import version

import attrs

from benchmarks import (
    call,
    event_loops,
    fleet,
    growth,
    imports,
    inboxes,
    memory,
    otel_overhead,
    prefetch,
    receiver_load,
    replay_http,
    replay_latency,
    replay_memory,
    replay_rate,
    signature,
    stream,
    tables,
)
from benchmarks._harness import Figure

_LOSS = 0.25
_NOISE = 0.1
"""The smallest difference that counts as a loss. A quarter of a ratio of 0.15 is within the spread of one run."""
_PACKAGES = ("aiohttp", "attrs", "cattrs", "orjson", "httpx", "pydantic", "svix")


def programs(*, quick: bool) -> dict[str, Callable[[], Awaitable[list[Figure]]]]:
    """Return the programs that measure the figures; with ``quick``, without those that need minutes."""
    fewer = {"runs": 2} if quick else {}
    found: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
        "stream": partial(stream.measure, **fewer),
        "prefetch": partial(prefetch.measure, **fewer),
        "call": partial(call.measure, **fewer),
        "otel_overhead": partial(otel_overhead.measure, **fewer),
        "imports": partial(imports.measure, **fewer),
        "signature": partial(signature.measure, **fewer),
        "receiver_load": partial(receiver_load.measure, **fewer),
        "replay_rate": partial(replay_rate.measure, **fewer, **({"slices": 6} if quick else {})),
        "replay_http": partial(replay_http.measure, **fewer),
    }
    if not quick:
        found |= {
            "memory": partial(asyncio.to_thread, memory.measure),
            "inboxes": inboxes.measure,
            "growth": growth.measure,
            "receiver_busy": partial(receiver_load.measure, slices=5, requests=100, busy=True),
            "replay_latency": replay_latency.measure,
            "replay_memory": partial(asyncio.to_thread, replay_memory.measure),
            "fleet": fleet.measure,
            "event_loops": partial(asyncio.to_thread, event_loops.measure),
        }
    return found


def measure(*, quick: bool = False, only: Collection[str] = ()) -> list[Figure]:
    """Measure the figures of all programs, or of some."""
    found: list[Figure] = []
    for name, program in programs(quick=quick).items():
        if not only or name in only:
            print(f"{name}:", flush=True)
            found += [attrs.evolve(one, program=name) for one in asyncio.run(_awaited(program))]
    return found


async def _awaited(program: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    return await program()


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "packages": {name: version(name) for name in _PACKAGES},
    }


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


def _publish(figures: list[Figure]) -> None:
    """Write the tables: all figures into their own file, and the headlines into the README."""
    tables.TABLE.write_text(tables.table(figures) + tables.on_other_pythons(figures))
    tables.README.write_text(tables.readme(figures))


def main() -> int:
    quick = "--quick" in sys.argv
    only = [name for name in sys.argv[1:] if not name.startswith("-")]
    figures = measure(quick=quick, only=only)
    for found in figures:
        print(found)
    if quick:
        worse = lost(figures, tables.committed())
        for line in worse:
            print(f"LOST more than {_LOSS:.0%}: {line}")
        return 1 if worse else 0
    version = platform.python_version().rpartition(".")[0]
    beside = tables.HERE / f"results-{version}.json" if version != tables.python_of() else None
    path = beside or tables.RESULTS
    if only and path.exists():  # keep the figures of the other programs
        figures = _merged(tables.committed(path), figures)
    path.write_text(json.dumps({**_machine(), "figures": [attrs.asdict(one) for one in figures]}, indent=1) + "\n")
    if beside is not None:
        _publish(tables.committed())
        return 0
    _publish(figures)
    from benchmarks import plots

    plots.draw(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
