"""What does each inbox cost a delivery, and does a handler in a transaction keep up with one written by hand?

Server processes with the same handler, which waits 2 ms, and 64 connections: without an inbox (the signature checked by
hand), and with a receiver on each inbox. Then PostgreSQL: a handler whose effect commits with the inbox's entry, beside
a hand-written one that does ``INSERT ... ON CONFLICT`` and its effect in one transaction of SQLAlchemy. The database
does not sync to the disk: the disk's time would hide the difference.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path

from benchmarks._harness import Figure, figure, ratios
from benchmarks._receiver_load import load, request, server
from tests.support.postgres import PROGRAMS, postgres_server
from tests.support.redis import PROGRAM, redis_server

_CONNECTIONS = 64


async def _rate(port: int, count: int) -> float:
    run = uuid.uuid4().hex
    requests = [request(f"{run}-{each}") for each in range(count)]
    seconds, statuses, _ = await load(port, requests, _CONNECTIONS)
    assert statuses == [204] * count, set(statuses)
    return count / seconds


async def measure(count: int = 7, requests: int = 2_000) -> list[Figure]:
    """The rate with each inbox to that without one, and in a transaction to that by hand."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = {"none": "", "memory": "", "sqlite": str(folder / "inbox.db")}
        if PROGRAM is not None:
            places["redis"] = stack.enter_context(redis_server(folder)).url
        if PROGRAMS is not None:
            url = stack.enter_context(postgres_server()).url()
            places |= {"sql": url, "sql-session": url, "sql-by-hand": url}
        ports = {
            kind: stack.enter_context(server(kind, "--at", place, program="_inbox_server.py"))[1]
            for kind, place in places.items()
        }
        found: dict[str, list[float]] = {kind: [] for kind in ports}
        for number in range(count + 1):
            for kind in ports if number % 2 else reversed(ports):
                rate = await _rate(ports[kind], requests)
                if number:  # the first round warms up
                    found[kind].append(rate)
    figures = [
        figure(f"receiving, inbox {kind}: deliveries a second to none", ratios(found[kind], found["none"]))
        for kind in ("memory", "sqlite", "redis", "sql")
        if kind in found
    ]
    if "sql-session" in found:
        name = "receiving, in one transaction: deliveries a second to by hand"
        figures.append(figure(name, ratios(found["sql-session"], found["sql-by-hand"]), ">= 0.8"))
    return figures


async def main() -> None:
    for line in await measure():
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
