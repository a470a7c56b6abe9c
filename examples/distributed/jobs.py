"""A fleet: the work of its workers, and a program that submits a job and watches it.

Workers, on any number of machines:   basiq-async worker --fleet jobs:fleet --processes 4
The job, once, from anywhere:         python jobs.py
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from basiq_async import BasiqClient
from basiq_async.distributed import Fleet, Work
from basiq_async.replay import HttpTarget, failed_only

fleet = Fleet(os.environ.get("REDIS_URL", "redis://redis:6379/0"), lease=float(os.environ.get("LEASE", "30")))


@fleet.job("refill")
@asynccontextmanager
async def refill() -> AsyncIterator[Work]:
    """Open the work of a worker process: post failed messages to the endpoint again, signed as Basiq signs."""
    url, secret = os.environ["ENDPOINT"], os.environ["BASIQ_WEBHOOK_SECRET"]
    async with BasiqClient() as basiq, HttpTarget(url, secret, connections=64) as target:
        yield Work(basiq, target, where=failed_only(), concurrency=64)


async def main() -> None:
    """Submit the job for all webhooks, or continue it, and watch it to its end."""
    async with BasiqClient() as basiq, fleet:
        webhook_ids = [webhook.id async for webhook in basiq.webhooks.list()]
        job = await fleet.submit("refill", webhook_ids, key="november-outage", rate=2_000)
        async for progress in job.watch():
            print(f"{progress.state}: {progress.handled:,} handled, {progress.rate:,.0f}/s, {progress.workers} workers")
        report = await job.wait()
        print(f"{report.handled:,} handled, {report.failed:,} failed, finished: {report.finished}")


if __name__ == "__main__":
    asyncio.run(main())
