"""``--mode receiver``: a service of two processes, which are killed and frozen while its inbox's server restarts.

Basiq delivers events to it over HTTP. When all is calm, a recovery runs until nothing is left: then each event must
have had its effect, in PostgreSQL exactly once.

    python -m tests.crash --mode receiver --scenario replay --kills 200

Scenarios: ``replay``, in which replays of the same history into the same inbox are killed too; ``deferred``, with
handlers that work after the response, in the two processes and in a third that only works; ``redis``, with effects in
a file, where an event may have its effect twice if its process was killed between the effect and the record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path

import attrs
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from basiq_async import BasiqClient, InboxError, InMemoryTransport, Message
from basiq_async._work import once
from basiq_async.receiver import (
    Deferred,
    Delivery,
    WebhookReceiver,
    _trying,  # private: no option makes the waits short
)
from basiq_async.replay import Replay, recover
from basiq_async.testing import FakeBasiq, serve
from tests.support.environment import free_port
from tests.support.inboxes import open_on, opened
from tests.support.killing import Crew, Work, committed_effects, make_tables, restart, start
from tests.support.servers import PostgresServer, postgres_server, redis_server

SCENARIOS = ("replay", "deferred", "redis")
_PROCESSES = 2
_LEASE = 4.0
_INSERT = text("INSERT INTO effects VALUES (:id)")


@attrs.frozen
class Job:
    """What the processes need to know."""

    folder: Path
    port: int
    fake: FakeBasiq
    webhook_id: str
    place: str
    """The URL of the inbox."""
    deferred: bool = False

    @property
    def client(self) -> BasiqClient:
        return BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake))


def leave(folder: Path, id: str) -> None:
    """Have an effect."""
    log = os.open(folder / "effects", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(log, f"{id} {os.getpid()}\n".encode())
    os.close(log)


def read_effects(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / "effects").read_text().splitlines()
    return [(id, int(pid)) for id, pid in map(str.split, lines)]


# --- the processes that are killed ---


async def serve_at(port: int, receiver: WebhookReceiver, ready: Callable[[], None]) -> None:
    """Serve a receiver until the process is killed. Several processes can serve at one port."""
    app = web.Application()
    receiver.setup(app, "/basiq")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_port=True).start()
    ready()
    await asyncio.Event().wait()


async def service(job: Job, ready: Callable[[], None]) -> None:
    """One of the processes that receive."""
    await serve_at(job.port, make_receiver(job), ready)


async def work(job: Job, ready: Callable[[], None]) -> None:
    """The process that only handles what was deferred."""
    ready()
    await make_receiver(job).work()


def make_receiver(job: Job) -> WebhookReceiver:
    """Return a receiver whose handler leaves an effect for each event. Whatever is killed is tried again soon."""
    vars(_trying)["_WAITS"] = (0.2,)
    for module in (_trying, once):  # no event is quarantined because its process is killed at random
        vars(module)["MOST_UNENDED"] = 1_000
    receiver = WebhookReceiver(
        job.fake.secret(job.webhook_id),
        inbox=open_on(AsyncExitStack(), job.place, timeout=2),  # until the process is killed
        webhook_id=job.webhook_id,
        handler_timeout=3.0,
        inbox_timeout=2.5,
        lease=_LEASE,
        deferred=Deferred(timeout=3.0) if job.deferred else False,
    )

    async def in_database(delivery: Delivery, session: AsyncSession) -> None:
        await asyncio.sleep(random.random() * 0.003)
        await session.execute(_INSERT, {"id": delivery.event_id})
        await asyncio.sleep(random.random() * 0.003)

    async def in_file(delivery: Delivery) -> None:
        await asyncio.sleep(random.random() * 0.003)
        leave(job.folder, delivery.event_id or "")
        await asyncio.sleep(random.random() * 0.003)

    receiver.on("*")(in_file if job.place.startswith("redis") else in_database)
    return receiver


async def replays(job: Job, basiq_port: int, ready: Callable[[], None]) -> None:
    """The process that replays: one run after another over the same history."""

    async def write(message: Message, session: AsyncSession) -> None:
        await session.execute(_INSERT, {"id": message.event_id})

    ready()
    client = BasiqClient(FakeBasiq.DEFAULT_API_KEY, base_url=f"http://127.0.0.1:{basiq_port}")
    async with client, opened(job.place, timeout=2) as inbox:
        while True:
            with suppress(InboxError):  # the server restarts
                await Replay(client, job.webhook_id, write, inbox=inbox, concurrency=8).run()
            await asyncio.sleep(0.05)


# --- the process around them ---


async def be_basiq(job: Job, port: int, crew: Crew, ready: Callable[[], None]) -> None:
    """Let events happen until all is calm, and recover until nothing is left. Write the ids of the events."""
    events: list[str] = []
    async with serve(job.fake, port=port):
        while not crew.calm.is_set():
            for _ in range(random.randrange(5)):
                events.append(job.fake.emit("user.created").event_id)
            await asyncio.sleep(random.random() * 0.1)
        await asyncio.sleep(_LEASE)
        async with job.client as basiq, make_receiver(job) as receiver, asyncio.timeout(300):
            while not (await recover(basiq, job.webhook_id, receiver)).finished:
                await asyncio.sleep(1)
            assert not job.deferred or not (await receiver.waiting()).count, "it was finished, and something waits"
        (job.folder / "events").write_text(json.dumps(events))


def crash_receiver(options: argparse.Namespace, rng: random.Random, folder: Path, stack: ExitStack) -> str:
    """Run one scenario, and hold it to its promise."""
    on_redis = options.scenario == "redis"
    server = stack.enter_context(redis_server(folder, "--appendfsync", "always") if on_redis else postgres_server())
    if isinstance(server, PostgresServer):
        make_tables(server)
    place = server.url() if isinstance(server, PostgresServer) else server.url
    fake, port, basiq_port = FakeBasiq(cool_off=0, delivery_timeout=5.0), free_port(), free_port()
    webhook_id = fake.add_webhook(f"http://127.0.0.1:{port}/basiq", ["user.created"])
    job = Job(folder, port, fake, webhook_id, place, deferred=options.scenario == "deferred")
    works: list[Work] = [partial(service, job)] * _PROCESSES
    if options.scenario == "replay":
        works.append(partial(replays, job, basiq_port))
    if job.deferred:
        works.append(partial(work, job))
    crew = Crew(rng, works)
    basiq = start(partial(be_basiq, job, basiq_port, crew))
    stack.callback(basiq.kill)
    with crew:
        crew.live(
            lambda: not basiq.process.is_alive(),
            kills=options.kills,
            pause=options.longest,
            freeze=_LEASE,
            restarted=partial(restart, server),
        )
    assert basiq.join() == 0, "what failed is shown above"
    events = set(json.loads((folder / "events").read_text()))
    effects = committed_effects(server) if isinstance(server, PostgresServer) else read_effects(folder)
    return f"{options.scenario}, {crew.judge(events, effects, most=1_000)}"


def add_receiver(group: argparse._ArgumentGroup) -> None:
    """The options of this mode."""
    group.add_argument("--scenario", choices=SCENARIOS, default="replay")
