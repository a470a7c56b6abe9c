"""A receiving service of two processes that are killed with SIGKILL at random instants, again and again.

The fake delivers events to it over HTTP, and sends again on its schedule, on a fast clock. At the end each event must
have had its effect, in PostgreSQL exactly once:

    python -m tests.crash --mode receiver --scenario replay --events 5000 --kills 200

Scenarios: ``replay``, in which the server is ended at once and started again three times, and replays of the same
history into the same inbox are killed too; ``deferred``, with handlers that work after the response, in the two
processes and in a third that only works, and with the server restarted ten times; ``killer``, which is that with an
event whose handler kills its process, in place of the restarts: it ends three, and is in the quarantine alone;
``redis``, with effects in a file, where an event may have its effect twice if its process was killed between the effect
and the record.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from basiq_async import BasiqClient, InboxError, InMemoryTransport, Message
from basiq_async._work import once
from basiq_async.receiver import (
    Deferred,
    Delivery,
    InboxEntry,
    SQLInbox,
    WebhookReceiver,
    _trying,  # private: no option makes the waits short
)
from basiq_async.replay import Replay
from basiq_async.testing import FakeBasiq, SystemClock, serve
from tests.support.databases import engine_of
from tests.support.environment import free_port
from tests.support.inboxes import open_on
from tests.support.killing import FORK, Work, committed_effects, make_tables, start
from tests.support.servers import PostgresServer, postgres_server, redis_server

SCENARIOS = ("replay", "deferred", "killer", "redis")
_RESTARTS = {"replay": 3, "deferred": 10}
_SPEED = 1_000.0
"""Basiq gives up after eight attempts, which takes 100 seconds then: longer than the kills."""
_PROCESSES = 2
_MOST_PENDING = 100
_INSERT = text("INSERT INTO effects VALUES (:id)")


@attrs.frozen
class Job:
    """What the processes need to know."""

    folder: Path
    port: int
    basiq_port: int
    secret: str
    webhook_id: str
    database: str | None
    redis: str | None
    deferred: bool = False
    has_killer: bool = False

    @property
    def killer(self) -> Path:
        """The file with the id of the event whose handler kills its process."""
        return self.folder / "killer"


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
    if not job.has_killer:  # no event is quarantined because its process is killed at random
        for module in (_trying, once):
            vars(module)["MOST_UNENDED"] = 1_000
    rng = random.Random(os.getpid())
    if job.redis is not None:
        inbox: Any = open_on(AsyncExitStack(), job.redis, timeout=2)  # until the process is killed
    else:
        inbox = SQLInbox(create_async_engine(job.database or "", pool_size=20), create_tables=False, timeout=2)
    receiver = WebhookReceiver(
        job.secret,
        inbox=inbox,
        webhook_id=job.webhook_id,
        tolerance=timedelta(days=3650),  # the fake's clock runs ahead
        handler_timeout=3.0,
        inbox_timeout=2.5,
        lease=4.0,
        deferred=Deferred(timeout=3.0) if job.deferred else False,
    )

    async def in_database(delivery: Delivery, session: AsyncSession) -> None:
        await asyncio.sleep(rng.random() * 0.003)
        await session.execute(_INSERT, {"id": delivery.event_id})
        await asyncio.sleep(rng.random() * 0.003)
        if job.has_killer and job.killer.read_text() == delivery.event_id:
            os.kill(os.getpid(), signal.SIGKILL)

    log = os.open(job.folder / "effects", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    async def in_file(delivery: Delivery) -> None:
        await asyncio.sleep(rng.random() * 0.003)
        os.write(log, f"{delivery.event_id} {os.getpid()}\n".encode())
        await asyncio.sleep(rng.random() * 0.003)

    receiver.on("*")(in_file if job.redis is not None else in_database)
    return receiver


async def replays(job: Job, ready: Callable[[], None]) -> None:
    """The process that replays: one run after another over the same history."""
    engine = create_async_engine(job.database or "", pool_size=20)
    inbox = SQLInbox(engine, create_tables=False, timeout=2)

    async def write(message: Message, session: AsyncSession) -> None:
        await session.execute(_INSERT, {"id": message.event_id})

    ready()
    async with BasiqClient(FakeBasiq.DEFAULT_API_KEY, base_url=f"http://127.0.0.1:{job.basiq_port}") as client:
        while True:
            with suppress(InboxError):  # the server restarts
                await Replay(client, job.webhook_id, write, inbox=inbox, concurrency=8).run()
            await asyncio.sleep(0.05)


# --- the process that kills ---


def supervise(
    works: list[Work],
    kills: int,
    longest: float,
    rng: random.Random,
    stop: Event,
    channel: Connection,
    may_end: bool,
) -> None:
    """Keep processes running, and kill one of them at a time, in a process that does nothing else.

    ``may_end``: whether they may kill themselves. Tells True when all kills were made, and at the end the ids of those
    that were killed.
    """
    killed: list[int] = []
    running = [start(work) for work in works]
    try:
        while not stop.wait(rng.random() * longest if len(killed) < kills else 0.1):
            ended = [slot for slot, worker in enumerate(running) if not worker.process.is_alive()]
            if may_end:
                for slot in ended:
                    assert running[slot].join() == -signal.SIGKILL
                    running[slot] = start(works[slot])
            elif ended:
                channel.send(f"a process ended by itself, with exit code {running[ended[0]].process.exitcode}")
                break
            if len(killed) == kills:
                continue
            slot = rng.randrange(len(works))
            running[slot].ready.wait(10)  # however slow the machine is, there is something to kill
            time.sleep(rng.random() * 0.02)
            running[slot].kill()
            killed.append(running[slot].process.pid or 0)
            running[slot] = start(works[slot])
            if len(killed) == kills:
                channel.send(True)
    finally:
        for worker in running:
            worker.kill()
        channel.send(killed)


# --- the world around them ---


async def emit(
    fake: FakeBasiq, job: Job, options: argparse.Namespace, done: Connection, server: PostgresServer | None
) -> set[str]:
    """Let the events happen while the processes are killed, and wait until all of them are taken; returns their ids."""
    events, emitted = options.events, set[str]()
    count = _RESTARTS.get(options.scenario, 0)
    restarts = {events * number // (count + 1) for number in range(1, count + 1)}
    pause = options.kills * options.pause / 2 / events
    async with serve(fake, port=job.basiq_port):
        began = time.monotonic()
        for number in range(events):
            emitted.add(event_id := fake.emit("user.created").event_id)
            if number == 0:
                job.killer.write_text(event_id)
            if server is not None and number in restarts:
                await asyncio.to_thread(server.stop, signal.SIGQUIT)
                await asyncio.to_thread(server.start)
            while len(fake.upcoming()) > _MOST_PENDING or time.monotonic() < began + number * pause:
                await asyncio.sleep(0.002)
        async with asyncio.timeout(600):
            while fake.upcoming() or not done.poll():
                await asyncio.sleep(0.05)
            while job.deferred and (await look(job))[0]:
                await asyncio.sleep(0.5)
    return emitted


async def look(job: Job) -> tuple[int, Sequence[InboxEntry]]:
    """Return how many deliveries were acknowledged and wait to be handled, and what is in the quarantine."""
    async with engine_of(job.database or "") as engine:
        inbox = SQLInbox(engine, create_tables=False)
        return (await inbox.waiting()).count, await inbox.entries()


def crash_receiver(options: argparse.Namespace, rng: random.Random, folder: Path) -> str:
    """Run one scenario, and hold it to its promise."""
    fake = FakeBasiq(clock=SystemClock(_SPEED), cool_off=0, delivery_timeout=5.0)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder)) if options.scenario == "redis" else None
        server = stack.enter_context(postgres_server()) if redis is None else None
        if server is not None:
            make_tables(server)
        port = free_port()
        webhook_id = fake.add_webhook(f"http://127.0.0.1:{port}/basiq", ["user.created"])
        database, url = server.url() if server else None, redis.url if redis else None
        has_killer = options.scenario == "killer"
        deferred = has_killer or options.scenario == "deferred"
        job = Job(folder, port, free_port(), fake.secret(webhook_id), webhook_id, database, url, deferred, has_killer)
        works: list[Work] = [partial(service, job)] * _PROCESSES
        if options.scenario == "replay":
            works.append(partial(replays, job))
        if deferred:
            works.append(partial(work, job))
        stop, (done, channel) = FORK.Event(), FORK.Pipe(duplex=False)
        more = (options.kills, options.pause, rng, stop, channel, has_killer)
        killer = FORK.Process(target=supervise, args=(works, *more))
        killer.start()
        try:
            events = asyncio.run(emit(fake, job, options, done, server))
        finally:
            stop.set()
            reports = [done.recv()]
            while not isinstance(reports[-1], list):
                reports.append(done.recv())
            killer.join()
        if reports[0] is not True:
            raise SystemExit(str(reports[0]))
        attempts = asyncio.run(count_attempts(fake, webhook_id))
        if has_killer:
            _, (entry,) = asyncio.run(look(job))
            assert (entry.event_id, entry.unended) == (job.killer.read_text(), 3)
            events.discard(entry.event_id)
        if server is not None:  # it is unknown which process had an effect in the database
            effects = [(event, 0) for event in committed_effects(server)]
        else:
            lines = [line.split() for line in (folder / "effects").read_text().splitlines()]
            effects = [(event, int(pid)) for event, pid in lines]
    twice = judge(events, effects, reports[-1], exactly=server is not None)
    return (
        f"{options.scenario}, {len(events)} events in {attempts} attempts, {options.kills} kills: 0 lost, {twice} twice"
    )


def judge(events: set[str], effects: list[tuple[str, int]], killed: list[int], *, exactly: bool) -> int:
    """Hold the effects against the events. Returns how many events had theirs twice."""
    found: dict[str, list[int]] = {}
    for event, process in effects:
        found.setdefault(event, []).append(process)
    lost, unknown = events - set(found), set(found) - events
    assert not lost, f"{len(lost)} of {len(events)} events had no effect: {sorted(lost)[:3]}"
    assert not unknown, f"effects of events that never were: {sorted(unknown)[:3]}"
    twice = {event: processes for event, processes in found.items() if len(processes) > 1}
    if exactly:
        assert not twice, f"{len(twice)} events had their effect twice: {sorted(twice)[:3]}"
    for event, processes in twice.items():
        survivors = [pid for pid in processes[:-1] if pid not in killed]
        assert not survivors, f"event {event} had its effect twice, though process {survivors} was not killed"
    return len(twice)


async def count_attempts(fake: FakeBasiq, webhook_id: str) -> int:
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
        webhook = await client.webhooks.get(webhook_id)
        if webhook.status != "active":
            raise SystemExit("a delivery failed eight times, so the endpoint was disabled: make --pause longer")
        return sum([len(message.attempts) async for message in client.messages.list(webhook_id)])


def add_receiver(group: argparse._ArgumentGroup) -> None:
    """The options of this mode."""
    group.add_argument("--scenario", choices=SCENARIOS, default="replay")
    group.add_argument("--events", type=int, default=5_000)
    group.add_argument("--pause", type=float, default=0.25, help="seconds between two kills, at most")
