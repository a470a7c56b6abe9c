"""A run that procrastinate's workers share. Its queue is in PostgreSQL: apply its schema once.

python procrastinate_jobs.py worker
python procrastinate_jobs.py share
"""

import asyncio
import os
import sys

from job import opened
from procrastinate import App, JobContext, PsycopgConnector

from basiq_async.replay import share

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))


@app.task(queue="basiq", pass_context=True)
async def work(context: JobContext, page: str) -> None:
    await context.additional_context["replay"].work(page)


async def send(page: str) -> None:
    await work.defer_async(page=page)


async def main(role: str) -> None:
    async with app.open_async(), opened() as replay:
        if role == "worker":
            await app.run_worker_async(queues=["basiq"], concurrency=2, additional_context={"replay": replay})
        else:
            print(await share(replay, send))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
