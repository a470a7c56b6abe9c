"""Job functions for the worker processes that tests start and kill. Their settings come from the environment."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.distributed import Fleet, Work, _job_store  # private: a worker that gives up sooner
from basiq_async.testing import FakeBasiq, Quirks

SETTINGS = json.loads(os.environ.get("FLEET_TEST", "{}"))
MESSAGES = int(SETTINGS.get("messages", 1_000))
PAGE = int(SETTINGS.get("page", 500))


def make_fake() -> tuple[FakeBasiq, str]:
    """Return a fake whose history is the same in every process, and its webhook's id."""
    fake = FakeBasiq(seed="fleet", page_size=PAGE, quirks=Quirks(message_order=SETTINGS.get("order", "oldest-first")))
    return fake, fake.seed_messages(MESSAGES)


def line(message: Message) -> bytes:
    """Return a line with a message's id, the process id and the time, of the same length for each message."""
    return f"{message.id} {os.getpid():7d} {time.monotonic():14.4f}\n".encode()


fleet = Fleet(SETTINGS.get("redis", "redis://127.0.0.1:1/0"), lease=SETTINGS.get("lease", 3))
broker = fleet.broker


def die_at(method: str, when: str, nth: int) -> None:
    """Kill this process, as a power cut would, before or after the nth call of a method of the record."""
    inner = getattr(fleet._store, method)
    calls = 0

    async def call(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await inner(*arguments, **more)
        if calls >= nth and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(fleet._store, method, call)


if "die_at" in SETTINGS:
    die_at(*SETTINGS["die_at"])
if "most_tries" in SETTINGS:
    _job_store._MOST_TRIES = SETTINGS["most_tries"]


@fleet.job("effects")
@asynccontextmanager
async def effects() -> AsyncIterator[Work]:
    """Write a line for each handled message, at once."""
    fake, _ = make_fake()
    log = os.open(SETTINGS["effects"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    wait, poison = SETTINGS.get("wait", 0.004), frozenset(SETTINGS.get("poison", ()))
    deadly = frozenset(SETTINGS.get("deadly", ()))
    least, most, go = SETTINGS.get("least", 0.0), SETTINGS.get("most", math.inf), Path(SETTINGS.get("go", ""))
    rng, began = random.Random(), 0

    async def handler(message: Message) -> None:
        nonlocal began
        began += 1
        while began > most and not go.exists():
            await asyncio.sleep(0.005)
        if "begun" in SETTINGS:
            Path(SETTINGS["begun"]).touch()
        await asyncio.sleep(least + rng.random() * wait)
        if message.id in poison:
            raise ValueError("poisoned")
        if message.id in deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, line(message))
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * wait)

    try:
        async with BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
            yield Work(client, handler, concurrency=SETTINGS.get("concurrency", 16))
    finally:
        os.close(log)


@fleet.job("once")
@fleet.job("stored")
@asynccontextmanager
async def stored() -> AsyncIterator[Work]:
    """Write a row for each message, with the inbox's entry, and a line for each attempt, at once."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    from basiq_async.receiver import SQLInbox

    fake, _ = make_fake()
    place = SETTINGS["database"]
    in_file = "://" not in place
    engine = create_async_engine(f"sqlite+aiosqlite:///{place}" if in_file else place, pool_size=40)
    if in_file:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE IF NOT EXISTS effects (id TEXT NOT NULL)"))
    attempts = os.open(SETTINGS["effects"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    wait, rng = SETTINGS.get("wait", 0.004), random.Random()
    insert = text("INSERT INTO effects VALUES (:id)")

    async def handler(message: Message, session: AsyncSession) -> None:
        await session.execute(insert, {"id": message.id})
        os.write(attempts, line(message))
        await asyncio.sleep(rng.random() * wait)

    try:
        async with (
            SQLInbox(engine, create_tables=in_file) as inbox,
            BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client,
        ):
            yield Work(client, handler, inbox=inbox, concurrency=2 if in_file else SETTINGS.get("concurrency", 16))
    finally:
        os.close(attempts)
        await engine.dispose()
