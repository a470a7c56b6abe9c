"""A receiving service of two processes that are killed with SIGKILL at random instants, again and again.

The fake delivers events to it over HTTP, and sends again on its schedule, on a fast clock. At the end each event must
have had its effect, in PostgreSQL exactly once:

    python -m tests.crash --mode receiver --scenario postgres --events 5000 --kills 200

Scenarios: ``postgres``; ``restart``, with the server ended at once and started again, three times; ``replay``, with
replays of the same history into the same inbox that are killed too; ``redis``, with effects in a file, where an event
may have its effect twice if its process was killed between the effect and the record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web
from redis.asyncio import Redis
from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy import select as select_rows
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from basiq_async import BasiqClient, InMemoryTransport, Message, Webhook
from basiq_async.receiver import Delivery, RedisInbox, SQLInbox, WebhookReceiver
from basiq_async.replay import Replay, SQLiteCheckpoint
from basiq_async.testing import FakeBasiq, SystemClock, serve
from tests.support.environment import free_port
from tests.support.servers import PostgresServer, RedisServer, postgres_server, redis_server

SCENARIOS = ("postgres", "restart", "replay", "redis")
_SPEED = 1_000.0
"""Basiq gives up after eight attempts, which takes 100 seconds then: longer than the kills."""
_PROCESSES = 2
_MOST_PENDING = 100
# Without a constraint: an effect that happens twice is to be seen.
_EFFECTS = Table("effects", MetaData(), Column("n", Integer, primary_key=True), Column("event_id", String, index=True))


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

    @property
    def effects(self) -> Path:
        return self.folder / "effects"


# --- the processes that are killed ---


Work = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""What a process does; it calls what it is given as soon as it is ready."""


async def service(job: Job, ready: Callable[[], None]) -> None:
    """One of the processes that receive."""
    rng = random.Random(os.getpid())
    if job.redis is not None:
        inbox: Any = RedisInbox(Redis.from_url(job.redis), timeout=2)
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
    )

    async def in_database(delivery: Delivery, session: AsyncSession) -> None:
        await asyncio.sleep(rng.random() * 0.003)
        await session.execute(insert(_EFFECTS).values(event_id=delivery.event_id))
        await asyncio.sleep(rng.random() * 0.003)

    log = os.open(job.effects, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    async def in_file(delivery: Delivery) -> None:
        await asyncio.sleep(rng.random() * 0.003)
        os.write(log, f"{delivery.event_id} {os.getpid()}\n".encode())
        await asyncio.sleep(rng.random() * 0.003)

    receiver.on("*")(in_file if job.redis is not None else in_database)
    app = web.Application()
    app.router.add_post("/basiq", receiver.aiohttp_handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", job.port, reuse_port=True).start()
    ready()
    await asyncio.Event().wait()


async def replays(job: Job, ready: Callable[[], None]) -> None:
    """The process that replays: one job after another, each from the beginning unless it was killed."""
    engine = create_async_engine(job.database or "", pool_size=20)
    inbox = SQLInbox(engine, create_tables=False, timeout=2)

    async def write(message: Message, session: AsyncSession) -> None:
        await session.execute(insert(_EFFECTS).values(event_id=message.event_id))

    ready()
    number = len(list(job.folder.glob("replay-*.db"))) or 1
    async with BasiqClient(FakeBasiq.DEFAULT_API_KEY, base_url=f"http://127.0.0.1:{job.basiq_port}") as client:
        while True:
            checkpoint = SQLiteCheckpoint(job.folder / f"replay-{number:06}.db")
            replay = Replay(client, job.webhook_id, write, checkpoint=checkpoint, inbox=inbox, concurrency=8)
            await replay.run()
            number += 1
            await asyncio.sleep(0.05)


# --- the process that kills ---


def supervise(works: list[Work], kills: int, longest: float, seed: int) -> Killer:
    """Keep processes running, and kill one of them at a time, in a process that does nothing else."""
    reading, writing = os.pipe()
    stop_reading, stop_writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.close(stop_reading)
        return Killer(kills * longest / 2, child, reading, stop_writing)
    os.close(reading)
    os.close(stop_writing)
    rng, killed = random.Random(seed), list[int]()
    running = [_start(work) for work in works]
    while True:
        wait = rng.random() * longest if len(killed) < kills else 0.1
        if select.select([stop_reading], [], [], wait)[0]:
            break
        for slot, process in enumerate(running):
            if os.waitpid(process.pid, os.WNOHANG)[0]:  # it must not end by itself
                os.write(writing, json.dumps({"ended": slot}).encode())
                os._exit(1)
        if len(killed) < kills:
            slot = rng.randrange(len(works))
            process = running[slot]
            # However slow the machine is, there is something to kill.
            select.select([process.ready], [], [], 10)
            time.sleep(rng.random() * 0.02)
            process.kill()
            killed.append(process.pid)
            running[slot] = _start(works[slot])
            if len(killed) == kills:
                os.write(writing, b"\n")
    for process in running:
        process.kill()
    os.write(writing, json.dumps(killed).encode())
    os._exit(0)


@attrs.define
class Killer:
    """The other end of ``supervise``, which takes about ``seconds``."""

    seconds: float
    pid: int
    reading: int
    stop_writing: int

    def is_done(self) -> bool:
        """Whether all the kills were made."""
        return bool(select.select([self.reading], [], [], 0)[0])

    def stop(self) -> list[int]:
        """End the processes; returns the ids of those that were killed before."""
        os.close(self.stop_writing)
        with os.fdopen(self.reading) as report:
            text = report.read()
        os.waitpid(self.pid, 0)
        killed = json.loads(text)
        if isinstance(killed, dict):
            raise SystemExit(f"a process ended by itself: {text}")
        assert isinstance(killed, list)
        return killed


@attrs.frozen
class _Process:
    pid: int
    ready: int
    """A pipe that can be read from as soon as it is ready."""

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.ready)


def _start(work: Work) -> _Process:
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return _Process(child, reading)
    try:
        logging.disable(logging.CRITICAL)  # what a kill or a restart breaks is logged
        asyncio.run(work(lambda: _say_ready(writing)))
    finally:
        sys.stderr.flush()
        os._exit(1)


def _say_ready(writing: int) -> None:
    os.write(writing, b"\n")


# --- the world around them ---


async def emit(fake: FakeBasiq, job: Job, events: int, killer: Killer, server: PostgresServer | None) -> set[str]:
    """Let the events happen while the processes are killed, and wait until all of them are taken; returns their ids."""
    emitted: set[str] = set()
    restarts = {events // 4, events // 2, 3 * events // 4}
    pause = killer.seconds / events
    async with serve(fake, port=job.basiq_port):
        began = time.monotonic()
        for number in range(events):
            emitted.add(fake.emit("user.created").event_id)
            if server is not None and number in restarts:
                await asyncio.to_thread(server.stop, signal.SIGQUIT)
                await asyncio.to_thread(server.start)
            while fake.pending > _MOST_PENDING or time.monotonic() < began + number * pause:
                await asyncio.sleep(0.002)
        async with asyncio.timeout(600):
            while fake.pending or not killer.is_done():
                await asyncio.sleep(0.05)
    return emitted


def crash_receiver(options: argparse.Namespace) -> None:
    """Run one scenario, and hold it to its promise."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-receiver-")))
        fake = FakeBasiq(clock=SystemClock(_SPEED), cool_off=0, delivery_timeout=5.0)
        server: PostgresServer | None = None
        redis: RedisServer | None = None
        if options.scenario == "redis":
            redis = stack.enter_context(redis_server(folder))
        else:
            server = stack.enter_context(postgres_server())
        port = free_port()
        webhook = asyncio.run(_subscribe(fake, f"http://127.0.0.1:{port}/basiq"))
        secret = webhook.secret.reveal() if webhook.secret is not None else ""
        database, url = server.url() if server else None, redis.url if redis else None
        job = Job(folder, port, free_port(), secret, webhook.id, database, url)
        if database is not None:
            asyncio.run(_make_tables(database))
        works: list[Work] = [partial(service, job)] * _PROCESSES
        if options.scenario == "replay":
            works.append(partial(replays, job))
        seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
        killer = supervise(works, options.kills, options.pause, seed)
        began = time.monotonic()
        try:
            restarted = server if options.scenario == "restart" else None
            events = asyncio.run(emit(fake, job, options.events, killer, restarted))
        finally:
            killed = killer.stop()
        attempts = asyncio.run(_count_attempts(fake, webhook.id))
        found = asyncio.run(_in_database(database)) if database else _in_file(job.effects)
        _judge(events, found, killed, exactly=database is not None)
        lost = len(events - set(found))
        twice = sum(len(each) > 1 for each in found.values())
        print(
            f"receiver, {options.scenario}: {len(events)} events in {attempts} attempts, {len(killed)} kills, "
            f"{time.monotonic() - began:.0f} s: {lost} lost, {twice} twice (seed {seed})"
        )


def _judge(events: set[str], found: dict[str, list[int]], killed: list[int], *, exactly: bool) -> None:
    lost, unknown = events - set(found), set(found) - events
    assert not lost, f"{len(lost)} of {len(events)} events had no effect: {sorted(lost)[:3]}"
    assert not unknown, f"effects of events that never were: {sorted(unknown)[:3]}"
    twice = {event: processes for event, processes in found.items() if len(processes) > 1}
    if exactly:
        assert not twice, f"{len(twice)} events had their effect twice: {sorted(twice)[:3]}"
    for event, processes in twice.items():
        survivors = [pid for pid in processes[:-1] if pid not in killed]
        assert not survivors, f"event {event} had its effect twice, though process {survivors} was not killed"


async def _subscribe(fake: FakeBasiq, url: str) -> Webhook:
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
        return await client.webhooks.create(url=url, subscribed_events=["user.created"])


async def _count_attempts(fake: FakeBasiq, webhook_id: str) -> int:
    async with BasiqClient(fake.DEFAULT_API_KEY, transport=InMemoryTransport(fake)) as client:
        webhook = await client.webhooks.get(webhook_id)
        if webhook.status != "active":
            raise SystemExit("a delivery failed eight times, so the endpoint was disabled: make --pause longer")
        return sum([len(message.attempts) async for message in client.messages.list(webhook_id)])


async def _make_tables(database: str) -> None:
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.run_sync(_EFFECTS.metadata.create_all)
    async with SQLInbox(engine):
        pass
    await engine.dispose()


async def _in_database(database: str) -> dict[str, list[int]]:
    """The processes that had each event's effect; of a database nobody knows which."""
    engine = create_async_engine(database)
    async with engine.connect() as connection:
        rows = (await connection.execute(select_rows(_EFFECTS.c.event_id))).scalars().all()
    await engine.dispose()
    return {event: [0] * count for event, count in Counter(rows).items()}


def _in_file(path: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in path.read_text().splitlines():
        event, pid = line.split()
        found.setdefault(event, []).append(int(pid))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this mode."""
    group = parser.add_argument_group("--mode receiver")
    group.add_argument("--scenario", choices=SCENARIOS, default="postgres")
    group.add_argument("--events", type=int, default=5_000)
    group.add_argument("--pause", type=float, default=0.25, help="seconds between two kills, at most")
