"""A run that Temporal's workers share.

python temporal_jobs.py worker
python temporal_jobs.py share
"""

import asyncio
import sys
from hashlib import sha256

from job import opened
from page import Page
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from basiq_async.replay import Replay, share

replay: Replay
client: Client


@activity.defn
async def work(page: str) -> None:
    await replay.work(page)


async def send(page: str) -> None:
    name = sha256(page.encode()).hexdigest()
    await client.start_workflow(Page.run, page, id=f"page/{name}", task_queue="basiq")


async def main(role: str) -> None:
    global client, replay
    client = await Client.connect("127.0.0.1:7233")
    async with opened() as replay:
        if role == "worker":
            await Worker(
                client, task_queue="basiq", workflows=[Page], activities=[work], max_concurrent_activities=2
            ).run()
        else:
            print(await share(replay, send))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
