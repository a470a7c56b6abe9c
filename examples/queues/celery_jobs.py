"""A run that Celery's workers share: each runs one event loop in a thread, and each task waits for it.

celery --app celery_jobs worker --pool threads --concurrency 2 --prefetch-multiplier 1
python celery_jobs.py
"""

import asyncio
import threading
from contextlib import AsyncExitStack

from celery import Celery
from celery.signals import worker_init, worker_shutdown
from job import opened

from basiq_async.replay import Replay, share

app = Celery("celery_jobs", broker="redis://127.0.0.1:6379/0")
loop, stack = asyncio.new_event_loop(), AsyncExitStack()
replay: Replay


@worker_init.connect
def begin(**_: object) -> None:
    global replay
    threading.Thread(target=loop.run_forever, daemon=True).start()
    replay = asyncio.run_coroutine_threadsafe(stack.enter_async_context(opened()), loop).result()


@worker_shutdown.connect
def end(**_: object) -> None:
    asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()


@app.task(ignore_result=True)
def work(page: str) -> None:
    asyncio.run_coroutine_threadsafe(replay.work(page), loop).result()


async def send(page: str) -> None:
    await asyncio.to_thread(work.delay, page)


async def main() -> None:
    async with opened() as replay:
        print(await share(replay, send))


if __name__ == "__main__":
    asyncio.run(main())
