"""What does a message of a history cost, handled once by a function with a session of PostgreSQL?

A ``Replay`` and a loop by hand write the same row in the same kind of transaction, 16 at once. The time is the
processor's, of this process and of PostgreSQL together.
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from pathlib import Path

import aiohttp
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from basiq_async import BasiqClient, Message
from basiq_async.receiver import SQLInbox
from basiq_async.replay import Replay
from benchmarks import _contestants as by
from benchmarks import _service
from benchmarks._harness import Figure, best_slices, children_time, figure, microseconds, ratios, server
from benchmarks._server import PAGE, WEBHOOK
from tests.support.servers import postgres_server

_PAGES = 1
_AT_ONCE = (16, 32, 256)
_JOB = "a history into PostgreSQL by a Replay and a function with a session"


async def write(message: Message, session: AsyncSession) -> None:
    await session.execute(insert(_service.EFFECTS).values(event_id=message.event_id))


async def by_hand(
    session: aiohttp.ClientSession, url: str, sessions: async_sessionmaker[AsyncSession], at_once: int
) -> None:
    """Write a row of each message, and its entry in the same transaction, so many at once."""
    waiting: asyncio.Queue[by.Message | None] = asyncio.Queue(at_once)

    async def work() -> None:
        while (message := await waiting.get()) is not None:
            assert await _service.handle_by_session(sessions, message["payload"])

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
        async for message in by.by_aiohttp(session, url):
            await waiting.put(message)
        for _ in range(at_once):
            await waiting.put(None)


async def by_replay(basiq: BasiqClient, inbox: SQLInbox, at_once: int) -> None:
    report = await Replay(basiq, WEBHOOK, write, inbox=inbox, concurrency=at_once).run()
    assert report.handled == _PAGES * PAGE, report


def spent(pid: int) -> float:
    """Return the processor time of this process and of a PostgreSQL, in seconds."""
    ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]  # of connections that were closed
    return time.process_time() + children_time(pid) + sum(map(int, ended)) / os.sysconf("SC_CLK_TCK")


async def emptied(engine: AsyncEngine, pid: int, way: partial[object]) -> float:
    """Return the processor time of one way, in seconds, without what was recorded before."""
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE handled, effects, basiq_inbox, basiq_inbox_notes"))
    before = spent(pid)
    await way()
    return spent(pid) - before


async def measure(runs: int = 3, slices: int = 3) -> list[Figure]:
    with postgres_server() as postgres, server(_PAGES) as url:
        engine = _service.engine_of(postgres.url())
        assert postgres._process is not None
        pid = postgres._process.pid
        async with by.client(url) as basiq, aiohttp.ClientSession() as session, SQLInbox(engine) as inbox:
            async with engine.begin() as connection:
                await connection.run_sync(_service.METADATA.create_all)
            sessions = async_sessionmaker(engine, expire_on_commit=False)
            hand = partial(by_hand, session, url, sessions, 16)
            ways = {"by hand": hand} | {str(number): partial(by_replay, basiq, inbox, number) for number in _AT_ONCE}
            contestants = {name: partial(emptied, engine, pid, way) for name, way in ways.items()}
            found = await best_slices(contestants, runs=runs, slices=slices, clock=None)
        await engine.dispose()
    ours = {number: microseconds(found[str(number)], _PAGES * PAGE) for number in _AT_ONCE}
    return [
        figure(
            _JOB,
            "the same transaction in a loop by hand, orjson on both sides",
            ratios(found["16"], found["by hand"]),
            "<= 1.25",
            ours=ours[16],
        ),
        figure(
            f"{_JOB}, concurrency=256",
            "with concurrency=32",
            ratios(found["256"], found["32"]),
            "<= 1.05",
            ours=ours[256],
            itself=True,
        ),
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
