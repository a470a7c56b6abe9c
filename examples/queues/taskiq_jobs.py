"""A run that taskiq's workers share. ``Fleet`` also seals the arguments of a job.

    taskiq worker taskiq_jobs:broker --workers 2 --max-async-tasks 2 --max-prefetch 0
    python taskiq_jobs.py $BASIQ_WEBHOOK_ID

A worker opens a job at its first page, and closes it after a minute without one. With taskiq's default of 100 tasks at
once, the first worker would get all pages.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from job import handle
from taskiq_redis import ListQueueBroker

from basiq_async import BasiqClient
from basiq_async.distributed import Fleet
from basiq_async.receiver import SQLiteInbox
from basiq_async.replay import Replay

broker = ListQueueBroker("redis://127.0.0.1:6379/0")  # any broker of taskiq
fleet = Fleet(broker)


@fleet.job("refill")
@asynccontextmanager
async def refill(webhook_id: str) -> AsyncGenerator[Replay]:
    async with BasiqClient() as basiq, SQLiteInbox("job.db") as inbox:
        yield Replay(basiq, webhook_id, handle, inbox=inbox)


async def main(webhook_id: str) -> None:
    await broker.startup()
    print(await fleet.run("refill", webhook_id))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
