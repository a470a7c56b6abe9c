"""What does each inbox cost a delivery, and how fast is a handler in a transaction, compared with a hand-written one?

All server processes have the same handler, which waits 2 ms, and 64 connections. One checks signatures by hand, without
an inbox; the others have a receiver with one of the inboxes. With PostgreSQL, a handler whose effect commits together
with the inbox's entry is compared with a hand-written one: ``INSERT ... ON CONFLICT`` and the effect in one transaction
of SQLAlchemy. The database does not sync to the disk, because the disk's time would hide the difference.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path

from benchmarks._harness import Figure, figure, ratios
from benchmarks._receiver_load import load, request, server
from benchmarks.receiver_load import compare
from tests.support.servers import POSTGRES_PROGRAMS, REDIS_PROGRAM, postgres_server, redis_server


async def measure(runs: int = 5, slices: int = 6, requests: int = 300) -> list[Figure]:
    """Measure the server's processor time: with an inbox to without, and in a transaction to the hand-written one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = {"none": "", "memory": "", "sqlite": str(folder / "inbox.db")}
        if REDIS_PROGRAM is not None:
            places["redis"] = stack.enter_context(redis_server(folder)).url
        if POSTGRES_PROGRAMS is not None:
            url = stack.enter_context(postgres_server()).url()
            places |= {"sql": url, "sql-session": url, "sql-by-hand": url}
        servers = {}
        for kind, place in places.items():
            process, port = stack.enter_context(server(kind, "--at", place, program="_inbox_server.py"))
            servers[kind] = process.pid, port
        # Warm up: opening many database connections at once is slow, and must not count for deliveries.
        for _, port in servers.values():
            for connections in (1, 4, 16, 64):
                await load(port, [request(uuid.uuid4().hex) for _ in range(connections)], connections)
        found = await compare(servers, runs=runs, slices=slices, requests=requests)
    figures = [
        figure(
            f"receiving, inbox {kind}: deliveries for a second of the processor, to none",
            ratios(found["none"], found[kind]),
        )
        for kind in ("memory", "sqlite", "redis", "sql")
        if kind in found
    ]
    if "sql-session" in found:
        name = "receiving, in one transaction: deliveries for a second of the processor, to by hand"
        figures.append(figure(name, ratios(found["sql-by-hand"], found["sql-session"]), ">= 0.8"))
    return figures


async def main() -> None:
    for line in await measure():
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
