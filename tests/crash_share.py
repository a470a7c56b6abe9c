"""``--mode share``: processes share a run through a queue in Redis, while all of these are killed at random.

Workers and the coordinator are killed, and frozen for longer than their claims; the queue's server is killed, and
flushed; the record's server is killed; pages are dropped and doubled. In the end nothing is lost, a kill repeats at
most ``concurrency`` messages, and the coordinator's report is right.

Every 40th message fails, and is quarantined.

    python -m tests.crash --mode share --messages 20000 --kills 60 --record redis
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from basiq_async import BasiqClient, BasiqError, InMemoryTransport, Message, Request, Response
from basiq_async.replay import Replay, Report, _share, share  # private: a flushed queue is noticed sooner
from basiq_async.testing import FakeBasiq
from tests.support.inboxes import open_on
from tests.support.killing import Crew, hasten, restart
from tests.support.servers import postgres_server, redis_server

from .crash_receiver import leave, read_effects

RECORDS = ("sqlite", "redis", "postgres")
_WORKERS = 3
_EVERY = 40
_QUEUE = "pages"


def crash_share(options: argparse.Namespace, rng: random.Random, folder: Path, stack: ExitStack) -> str:
    """Have a run shared, and compare its effects with the history, and the report with both."""
    fake = FakeBasiq(seed="share", page_size=max(20, options.messages // 40))
    webhook_id = fake.seed_messages(options.messages)
    ids = [each.id for each in fake.messages(webhook_id)]
    bad = set(ids[::_EVERY])
    told, place, troubles = folder / "report", str(folder / "inbox.db"), dict[str, Callable[[], object]]()
    for name in ("queue", "record"):
        (folder / name).mkdir()
    queues = stack.enter_context(redis_server(folder / "queue"))
    if options.record == "redis":
        record = stack.enter_context(redis_server(folder / "record"))
        place, troubles["record restarted"] = record.url, partial(restart, record)
    elif options.record == "postgres":
        database = stack.enter_context(postgres_server())
        place, troubles["record restarted"] = database.url(), partial(restart, database)

    class Held(InMemoryTransport):
        """Shows the pages slowly, and the last one when all has happened: so much is left to do."""

        async def send(self, request: Request, /) -> Response:
            await asyncio.sleep(random.random() * options.kills / 100)
            response = await super().send(request)
            while b'"next"' not in response.body and "/messages" in request.url and not crew.calm.is_set():
                await asyncio.sleep(0.02)
            return response

    async def handle(message: Message) -> None:
        await asyncio.sleep(random.random() * 0.01)
        if message.id in bad:
            raise ValueError("poisoned")
        leave(folder, message.id)

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Replay, Redis]]:
        transport = Held(fake)
        async with AsyncExitStack() as inner:
            client = await inner.enter_async_context(BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=transport))
            inbox = hasten(open_on(inner, place), options.lease)
            queue = await inner.enter_async_context(Redis.from_url(queues.url))
            yield Replay(client, webhook_id, handle, inbox=inbox, concurrency=options.concurrency), queue

    async def work(ready: Callable[[], None]) -> None:
        """A worker, which has two pages at a time."""

        async def serve() -> None:
            while True:
                with suppress(RedisError, BasiqError):  # the queue is away, or does not try a page again
                    found = await queue.blpop([_QUEUE], timeout=1)
                    if found is not None:
                        ready()
                        await replay.work(found[1].decode())
                        continue
                await asyncio.sleep(0.05)

        async with opened() as (replay, queue), asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(serve())

    async def coordinate(ready: Callable[[], None]) -> None:
        """The coordinator, whose queue drops and doubles pages. It tells the report once."""
        _share._QUIET = 2.0

        async def send(page: str) -> None:
            chance, drop = random.random(), options.drop
            for _ in range(0 if chance < drop else 2 if chance < 2 * drop else 1):
                await queue.rpush(_QUEUE, page)

        async with opened() as (replay, queue):
            ready()
            try:
                report: Report | None = await share(replay, send)
            except BasiqError as exc:
                report = getattr(exc, "report", None)
                if report is None:
                    raise SystemExit(1) from None  # the queue or the inbox was away when it began
        assert report is not None
        found = {"handled": report.handled, "failed": report.failed, "quarantined": report.quarantined}
        told.with_suffix(".new").write_text(json.dumps({**found, "finished": report.finished}))
        told.with_suffix(".new").rename(told)
        await asyncio.Event().wait()

    def flush() -> None:
        async def flushed() -> None:
            async with Redis.from_url(queues.url) as queue:
                await queue.flushall()

        asyncio.run(flushed())

    troubles |= {"queue restarted": partial(restart, queues), "queue flushed": flush}
    crew = Crew(rng, [work] * _WORKERS + [coordinate], may_end=[1])
    with crew:
        most = 600 + options.messages * 0.1
        crew.live(told.exists, kills=options.kills, pause=0.3, freeze=options.lease * 1.5, most=most, **troubles)
    assert crew.calm.is_set(), "the run was done before the last kill"
    report = json.loads(told.read_text())
    assert (report["finished"], report["quarantined"]) == (True, len(bad)), report
    said = crew.judge(set(ids) - bad, read_effects(folder), most=options.concurrency)
    return f"record {options.record}, {said}, {report}"


def add_share(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--record", choices=RECORDS, default="sqlite", help="where the inbox is")
    group.add_argument("--drop", type=float, default=0.15, help="the share of pages that are dropped, and doubled")
