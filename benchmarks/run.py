"""All figures: ``make bench`` measures and writes them, ``make bench-quick`` holds fewer rounds against those."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Iterable
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
"""The least difference that counts: a quarter of a ratio of 0.15 is within what one run scatters."""
_PACKAGES = ("aiohttp", "attrs", "cattrs", "orjson", "httpx", "pydantic", "svix")


def measure(*, quick: bool) -> list[Figure]:
    """Every figure; the quick ones leave out what takes minutes."""
    found = asyncio.run(stream.measure(5 if quick else 21))
    found += asyncio.run(prefetch.measure(3 if quick else 7, 10 if quick else 40))
    found += asyncio.run(call.measure(5 if quick else 21))
    found += asyncio.run(otel_overhead.measure(5 if quick else 21))
    found += imports.measure(15 if quick else 21)
    found += signature.measure(5 if quick else 21)
    found += asyncio.run(receiver_load.measure(3 if quick else 11, 2_000 if quick else 5_000))
    found += asyncio.run(replay_rate.measure(3 if quick else 11, 20 if quick else 60))
    found += asyncio.run(replay_http.measure(3 if quick else 11, 4 if quick else 12))
    if not quick:
        found += memory.measure()
        found += asyncio.run(inboxes.measure())
        found += asyncio.run(growth.measure())
        found += asyncio.run(receiver_load.measure(requests=500, busy=True))
        found += asyncio.run(replay_latency.measure())
        found += replay_memory.measure()
        found += asyncio.run(fleet.measure())
        found += event_loops.measure()
    return found


def _machine() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def lost(figures: Iterable[Figure], known: Iterable[Figure]) -> list[str]:
    """Which marked figures are worse than the committed ones by more than a quarter."""
    before = {found.name: found for found in known}
    worse = []
    for found in figures:
        earlier = before.get(found.name)
        if earlier is None or not found.mark:
            continue
        ratio = found.median / earlier.median if found.mark.startswith(">=") else earlier.median / found.median
        if ratio < 1 - _LOSS and abs(found.median - earlier.median) > _NOISE:
            worse.append(f"{found.name}: {found.median:.3f}, was {earlier.median:.3f}")
    return worse


def _publish(figures: list[Figure]) -> None:
    """The tables: all figures into their own file, the headlines into the README."""
    tables.TABLE.write_text(tables.table(figures))
    tables.README.write_text(tables.readme(figures))


def main() -> int:
    quick = "--quick" in sys.argv
    figures = measure(quick=quick)
    for found in figures:
        print(found)
    if quick:
        worse = lost(figures, tables.committed())
        for line in worse:
            print(f"LOST more than {_LOSS:.0%}: {line}")
        return 1 if worse else 0
    tables.RESULTS.write_text(
        json.dumps({**_machine(), "figures": [attrs.asdict(one) for one in figures]}, indent=1) + "\n"
    )
    _publish(figures)
    from benchmarks import plots

    plots.draw(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
