"""The job that each program here opens, once in each process: its pages share one rate and one pause."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from basiq_async import BasiqClient, Message
from basiq_async.receiver import SQLiteInbox
from basiq_async.replay import Replay


async def handle(message: Message) -> None: ...


@asynccontextmanager
async def opened() -> AsyncGenerator[Replay]:
    async with BasiqClient() as basiq, SQLiteInbox("job.db") as inbox:  # on several machines: one that all reach
        yield Replay(basiq, os.environ["BASIQ_WEBHOOK_ID"], handle, inbox=inbox)
