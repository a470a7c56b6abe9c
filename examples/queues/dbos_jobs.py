"""A run that processes of DBOS share. DBOS_DATABASE_URL is the place of its own tables.

python dbos_jobs.py worker
python dbos_jobs.py share
"""

import asyncio
import os
import sys

from dbos import DBOS
from job import opened

from basiq_async.replay import Replay, share

DBOS(config={"name": "basiq", "system_database_url": os.environ["DBOS_DATABASE_URL"]})
replay: Replay


@DBOS.workflow()
async def work(page: str) -> None:
    await replay.work(page)


async def send(page: str) -> None:
    await DBOS.enqueue_workflow_async("basiq", work, page)


async def main(role: str) -> None:
    global replay
    DBOS.listen_queues(["basiq"] if role == "worker" else [])
    async with opened() as replay:
        DBOS.launch()
        await DBOS.register_queue_async("basiq", worker_concurrency=2)
        if role == "worker":
            await asyncio.Event().wait()
        print(await share(replay, send))
        DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
