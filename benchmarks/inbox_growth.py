"""What does a delivery cost an inbox with ten thousand entries, and with ten million? And while old ones are deleted?

Inboxes are filled in bulk, with the rows that they write themselves. A delivery is a claim and its completion, one
after another, for inboxes of all sizes in turns; the processor's time is that of this process and of the server. Then
deliveries come at a steady rate, in turns while the inbox prunes, and while it does not.

``--sizes 10000,100000`` measures other sizes, ``--expired 100000`` fewer old entries, ``--only SQLite`` one kind of
inbox. Without these it takes about ten minutes, and writes the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import subprocess
import time
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path

import attrs

from basiq_async.receiver import Inbox
from basiq_async.receiver.protocol import ClaimStatus
from benchmarks._entries import REDIS_EXPIRES, Store, new_key, stores
from benchmarks._harness import COST, Figure, best_slices, figure, ratios
from benchmarks._receiver_load import percentile
from tests.support.servers import POSTGRES_PROGRAMS, REDIS_PROGRAM

_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_HERE = Path(__file__).parent
_TABLE = _HERE / "inbox_growth.md"
_RESULTS = _HERE / "inbox_growth.json"
_TOKEN = "benchmark:token"
_RATE = 100
"""Deliveries a second while an inbox prunes."""
_WINDOW = 2.0
"""Seconds of it before the other's turn."""


async def deliver(inbox: Inbox, count: int = 1) -> None:
    """What the receiver asks an inbox for, for each of so many deliveries."""
    for _ in range(count):
        key = new_key()
        claim = await inbox.claim(key, _TOKEN, lease=60)
        assert claim.status is ClaimStatus.CLAIMED
        assert await inbox.complete(key, _TOKEN)


async def timed(store: Store, inbox: Inbox, count: int, *, processor: bool) -> float:
    """Seconds of the processor, or on the wall, for a delivery."""

    def now() -> float:
        return time.process_time() + store.processor() if processor else time.perf_counter()

    began = now()
    await deliver(inbox, count)
    return (now() - began) / count


async def fill(store: Store, name: str, live: int, expired: int = 0) -> None:
    """Fill an inbox that is new, and compare what was filled in with what it writes itself."""
    if name in store.filled:
        return
    store.filled.add(name)
    key = new_key()
    async with store.inbox(name) as inbox:
        await inbox.claim(key, _TOKEN, lease=60)
        await inbox.complete(key, _TOKEN)
    began = time.perf_counter()
    await asyncio.to_thread(store.fill, name, live, expired)
    own, filled = store.row(name, key), store.row(name, key, other=True)
    assert own == filled, (own, filled)
    print(f"{store.kind}: {live + expired:,} entries in {time.perf_counter() - began:.0f} s", flush=True)


@attrs.frozen
class Growth:
    """What a delivery costs in an inbox of each size, to what it costs in the smallest."""

    microseconds: float
    processor: list[Figure]
    wall: list[Figure]
    bytes: float


async def deliveries(
    store: Store, sizes: tuple[int, ...], *, processor: bool, runs: int = 5, slices: int = 8, count: int = 25
) -> dict[int, list[float]]:
    """Return the best seconds for a delivery in each run, by the number of entries. Fills the inboxes that are new."""
    for size in sizes:
        await fill(store, f"of_{size}", size)
    async with AsyncExitStack() as stack:
        inboxes = {size: await stack.enter_async_context(store.inbox(f"of_{size}")) for size in sizes}
        contestants = {
            str(size): partial(timed, store, inbox, count, processor=processor) for size, inbox in inboxes.items()
        }
        seconds = await best_slices(contestants, runs=runs, slices=slices, clock=None)
    return {size: seconds[str(size)] for size in sizes}


async def growth(store: Store, sizes: tuple[int, ...]) -> Growth:
    found = {processor: await deliveries(store, sizes, processor=processor) for processor in (True, False)}
    first = sizes[0]
    figures = {
        processor: [
            figure(
                f"{store.kind}: a delivery at {size:,} entries",
                f"at {first:,}",
                ratios(seconds[size], seconds[first]),
                what=COST if processor else "time",
            )
            for size in sizes[1:]
        ]
        for processor, seconds in found.items()
    }
    smallest = min(found[True][first]) * 1e6
    return Growth(smallest, figures[True], figures[False], store.size(f"of_{sizes[-1]}"))


@attrs.frozen
class Pruning:
    """A delivery while the inbox prunes, to one while it does not, and how many entries go in a second."""

    p50: Figure
    p99: Figure
    milliseconds: float
    rate: float


async def pruning(store: Store, live: int, expired: int, *, runs: int = 3, turns: int = 5) -> Pruning:
    await fill(store, "pruned", live, expired)
    await fill(store, "kept", live)
    ratios_of: dict[float, list[float]] = {0.5: [], 0.99: []}
    quiet: list[float] = []
    took = 0.0
    async with store.inbox("pruned") as pruned, store.inbox("kept") as kept:
        for inbox in (pruned, kept):
            await _steady(inbox)
        before = store.entries("pruned")
        for _ in range(runs):
            waits: dict[bool, list[float]] = {True: [], False: []}
            for turn in range(2 * turns):
                prunes = turn % 2 == 1
                if prunes:
                    store.expire("pruned", _WINDOW)
                began = time.perf_counter()
                waits[prunes] += await _steady(pruned if prunes else kept)
                if prunes:
                    took += time.perf_counter() - began
            for share, found in ratios_of.items():
                found.append(percentile(waits[True], share) / percentile(waits[False], share))
            quiet += waits[False]
        added = runs * turns * int(_RATE * _WINDOW)
        deleted = before + added - store.entries("pruned")
    rate = REDIS_EXPIRES if store.kind == "Redis" else deleted / took
    job = f"{store.kind}: a delivery while {expired:,} entries are deleted"
    return Pruning(
        figure(job, "without", ratios_of[0.5], what="p50"),
        figure(job, "without", ratios_of[0.99], "<= 2", what="p99"),
        percentile(quiet, 0.99) * 1000,
        rate,
    )


async def _steady(inbox: Inbox) -> list[float]:
    """Deliveries at a steady rate, whatever became of those before; seconds from when each was due."""
    loop = asyncio.get_running_loop()
    waits: list[float] = []

    async def one(due: float) -> None:
        await deliver(inbox)
        waits.append(loop.time() - due)

    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(int(_RATE * _WINDOW)):
            due = began + number / _RATE
            await asyncio.sleep(due - loop.time())
            group.create_task(one(due))
    return waits


def growth_table(found: dict[str, Growth], sizes: tuple[int, ...]) -> str:
    """What a delivery costs, by the number of entries."""
    head = "".join(f" {size:,} |" for size in sizes)
    rows = [f"| inbox |{head} bytes an entry |", f"| --- |{' ---: |' * len(sizes)} ---: |"]
    for kind, one in found.items():
        for what, figures in (("processor time", one.processor), ("time", one.wall)):
            first = f"1 ({one.microseconds:,.0f} µs)" if figures is one.processor else "1"
            cells = [first, *(f"{each.value:.2f} ±{each.spread / 2:.0%}" for each in figures)]
            size = f"{one.bytes:.0f}" if figures is one.processor else ""
            rows.append(f"| {kind}, {what} | {' | '.join(cells)} | {size} |")
    return "\n".join(rows) + "\n"


def pruning_table(found: dict[str, Pruning]) -> str:
    """What a delivery costs while entries are deleted."""
    rows = ["| inbox | p50 | p99 | p99 without, ms | deleted a second |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind, one in found.items():
        cells = [f"{each.value:.2f} ±{each.spread / 2:.0%}" for each in (one.p50, one.p99)]
        rows.append(f"| {kind} | {' | '.join(cells)} | {one.milliseconds:.1f} | {one.rate:,.0f} |")
    return "\n".join(rows) + "\n"


def machine(load: float) -> str:
    """What it was measured on, and how busy that was before."""
    with closing(sqlite3.connect(":memory:")) as connection:
        sqlite = connection.execute("SELECT sqlite_version()").fetchone()[0]
    parts = [f"CPython {platform.python_version()}", f"SQLite {sqlite}"]
    for program in (POSTGRES_PROGRAMS and POSTGRES_PROGRAMS / "postgres", REDIS_PROGRAM):
        if program is not None:
            said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
            parts.append(
                f"PostgreSQL {said.split()[2]}" if "postgres" in said else f"Redis {said.partition('v=')[2].split()[0]}"
            )
    return f"{', '.join(parts)}, {os.cpu_count()} cores, load average before {load:.1f}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, _SIZES)))
    parser.add_argument("--expired", type=int, default=1_000_000, help="the entries to be pruned, on top of as many")
    parser.add_argument("--only", default=",".join(stores()))
    options = parser.parse_args()
    sizes = tuple(int(size) for size in options.sizes.split(","))
    load = os.getloadavg()[0]
    grown, pruned = {}, {}
    for kind, opened in stores().items():
        if kind in options.only.split(","):
            with opened() as store:
                grown[kind] = await growth(store, sizes)
                for line in (*grown[kind].processor, *grown[kind].wall):
                    print(line, flush=True)
                pruned[kind] = await pruning(store, options.expired, options.expired)
                print(pruned[kind].p50, pruned[kind].p99, f"{pruned[kind].rate:,.0f} a second", sep="\n", flush=True)
    tables = f"{growth_table(grown, sizes)}\n{pruning_table(pruned)}\n{machine(load)}.\n"
    print(tables)
    if options == parser.parse_args([]):
        _TABLE.write_text(tables)
        figures = [each for one in grown.values() for each in (*one.processor, *one.wall)]
        figures += [each for two in pruned.values() for each in (two.p50, two.p99)]
        _RESULTS.write_text(json.dumps([attrs.asdict(each) for each in figures], indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
