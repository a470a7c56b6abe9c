"""Run the benchmarks: ``make bench`` writes all figures, ``make bench-quick`` compares fewer runs with them.

``python -m benchmarks.run stream service`` measures only the figures of these programs, and keeps the others. A program
whose server is not installed is skipped, and one that fails costs only its own figures: the committed ones stay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from benchmarks import (
    deferred,
    export,
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
from tests.support.servers import POSTGRES_PROGRAMS

_SERVERS = {"postgresql": POSTGRES_PROGRAMS}
"""The servers that are installed here, by the names of Debian's packages; None for one that is not."""
_NEEDS = {"service": "postgresql", "deferred": "postgresql", "replay_sql": "postgresql"}
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
        }
    return found


def find_missing(names: Iterable[str]) -> dict[str, str]:
    """Return which of these programs cannot run here, and the server that each of them needs."""
    return {name: _NEEDS[name] for name in names if name in _NEEDS and _SERVERS[_NEEDS[name]] is None}


def measure(names: Collection[str], *, quick: bool = False) -> tuple[list[Figure], list[str]]:
    """Measure the figures of some programs. Return them, and the programs that failed."""
    found: list[Figure] = []
    failed: list[str] = []
    for name, program in programs(quick=quick).items():
        if name in names:
            began = time.monotonic()
            print(f"{name}:", flush=True)
            try:
                figures = asyncio.run(_awaited(program))
            except Exception:  # of a peer, or of its server: the figures so far are worth minutes
                traceback.print_exc()
                failed.append(name)
                continue
            for one in figures:
                print(one, flush=True)
                found.append(attrs.evolve(one, program=name))
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return found, failed


async def _awaited(program: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    return await program()


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """Return the name of the processor, and of its kind: the hosts of a cloud give one name to many (Linux)."""
    text = Path("/proc/cpuinfo").read_text()
    parts = [line.partition(":") for line in text.splitlines()]
    found = {name.strip(): value.strip() for name, _, value in parts}
    kinds = (found.get(name) for name in ("cpu family", "model", "stepping"))
    kind = ".".join(each for each in kinds if each is not None)
    return f"{found.get('model name', platform.machine())}{f', kind {kind}' if kind else ''}"


def describe_other_machine(here: dict[str, Any], committed: dict[str, Any]) -> str | None:
    """Return which figures can be held against the committed ones on this machine; None if it is like theirs."""
    if all(here[name] == committed[name] for name in ("python", "processor", "processors")):
        return None
    there = f"CPython {committed['python']}, {committed['processors']} processors ({committed['processor']})"
    return (
        f"the committed figures are of another machine: {there}. Only memory, and this package against itself, are "
        "held against them; compare other rows within this run alone"
    )


def lost(figures: Iterable[Figure], known: Iterable[Figure], *, elsewhere: bool = False) -> list[str]:
    """Return the marked figures that are worse than the committed ones by more than a quarter.

    elsewhere: those are of another machine, with which only some can be compared.
    """
    before = {found.name: found for found in known}
    worse = []
    for found in figures:
        earlier = before.get(found.name)
        if earlier is None or not found.mark or (elsewhere and not found.comparable):
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
    quick, every = options.quick, list(programs(quick=options.quick))
    if unknown := set(options.programs) - set(every):
        parser.error(f"no program of the name {', '.join(sorted(unknown))}")
    chosen = options.programs or every
    missing = find_missing(chosen)
    for name, server in missing.items():
        print(f"{name} is skipped: it needs {server}, which is not installed here")
    machine = _machine()  # before: the benchmarks are a load themselves
    before = tables.committed()
    if (other := describe_other_machine(machine, before.machine)) is not None:
        print(other)
    figures, failed = measure(set(chosen) - set(missing), quick=quick)
    for name in failed:
        print(f"{name} FAILED: its figures are not measured")
    if quick:
        worse = lost(figures, before.figures, elsewhere=other is not None)
        for line in worse:
            print(f"LOST more than {_LOSS:.0%}: {line}")
        return 1 if worse or failed else 0
    if options.programs:
        machine["load"] = max(before.machine["load"], machine["load"])
    earlier = {} if not options.programs else before.machine.get("not_measured", {})
    measured = {one.program for one in figures}
    not_measured = {**earlier, **missing, **dict.fromkeys(failed, "failed")}
    machine["not_measured"] = {name: why for name, why in not_measured.items() if name not in measured}
    figures = _merged(before.figures, figures)
    tables.RESULTS.write_text(
        json.dumps({**machine, "figures": [attrs.asdict(one) for one in figures]}, indent=1) + "\n"
    )
    tables.write()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
