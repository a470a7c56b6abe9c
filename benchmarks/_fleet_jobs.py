"""The job that the fleet's benchmarks run. Its settings come from the environment."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from basiq_async import BasiqClient, Message
from basiq_async.distributed import Fleet, Work
from benchmarks._contestants import KEY

SETTINGS = json.loads(os.environ.get("FLEET_BENCH", "{}"))
fleet = Fleet(SETTINGS.get("redis", "redis://127.0.0.1:1/0"))


@fleet.job("bench")
@asynccontextmanager
async def bench() -> AsyncIterator[Work]:
    wait = SETTINGS.get("wait", 0.0)

    async def handler(message: Message) -> None:
        if wait:
            await asyncio.sleep(wait)

    async with BasiqClient(KEY, base_url=SETTINGS["basiq"]) as basiq:
        yield Work(basiq, handler, concurrency=SETTINGS["concurrency"])
