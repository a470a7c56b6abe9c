"""A fleet whose workers are killed and stopped, and whose Redis is killed, held to its promise at the end.

No message is lost; what is recorded is exact; and at most ``concurrency`` messages of each segment under way in a
process that was killed or stopped are handled a second time. With ``--tear`` Redis comes back without the last second
of its file, as after a power cut: then no message is lost, and what was done in that second is repeated. With
``--inbox postgres`` the handler writes within the transaction of a SQL inbox: then no effect is there twice.

    python -m tests.crash --mode fleet --messages 200000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter, deque
from contextlib import nullcontext
from pathlib import Path

from basiq_async.replay import Report
from tests.support.fleet_processes import AnyProcess, Plant, plant
from tests.support.killing import committed_effects, make_tables
from tests.support.servers import PostgresServer, postgres_server

LEASE = 3.0
SEGMENTS = 2
CONCURRENCY = 16


class FleetCrash:
    """One job, its workers and its Redis, and what has happened to them so far."""

    def __init__(self, made: Plant, rng: random.Random, *, tear: bool, database: PostgresServer | None) -> None:
        self.plant, self.rng, self.tear = made, rng, tear
        self.database = database
        """Keeps what was committed; the plant's effects are then the attempts."""
        self.sizes: deque[tuple[float, int]] = deque(maxlen=400)
        self.kills = self.stops = self.redis_kills = 0

    def start_worker(self) -> None:
        self.plant.start_command("--segments", str(SEGMENTS), "--log-level", "WARNING")

    def count(self) -> int:
        """How many effects there were, about: every line is as long."""
        path = self.plant.folder / "effects"
        return path.stat().st_size // 60 if path.exists() else 0

    async def run(self, events: list[str]) -> Report:
        """Make each event happen at its part of the way, and wait for the end of the job."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch_file())
            for number, event in enumerate(events, start=1):
                wanted = self.plant.messages * (number - self.rng.random() * 0.8) / (len(events) + 2)
                while self.count() < wanted:
                    await asyncio.sleep(0.02)
                await self._happen(event, group)
            report = await self.plant.job.wait(timeout=3_600)
            watching.cancel()
        return report

    async def _happen(self, event: str, group: asyncio.TaskGroup) -> None:
        worker = self.rng.choice([each for each in self.plant.processes if each.poll() is None])
        redis = self.plant.redis
        if event == "kill":
            self.kills += 1
            worker.kill()
            worker.wait()
            self.start_worker()
        elif event == "stop":
            self.stops += 1
            worker.send_signal(signal.SIGSTOP)
            group.create_task(self._continue(worker))
        else:
            self.redis_kills += 1
            redis.kill()
            if self.tear:
                log, before = redis.log(), time.monotonic() - 1.0
                kept = max((size for at, size in self.sizes if at <= before), default=0)
                os.truncate(log, min(kept, log.stat().st_size))
            await asyncio.sleep(self.rng.random())
            await asyncio.to_thread(redis.start)

    async def _continue(self, worker: AnyProcess) -> None:
        await asyncio.sleep(LEASE + 0.5 + self.rng.random() * 2)
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(signal.SIGCONT)

    async def _watch_file(self) -> None:
        while True:
            with contextlib.suppress(OSError, IndexError):
                self.sizes.append((time.monotonic(), self.plant.redis.log().stat().st_size))
            await asyncio.sleep(0.05)

    def check(self, report: Report) -> int:
        """Hold the effects against the history; return how many were repeated."""
        attempts, messages = Counter(self.plant.effects()), self.plant.messages
        done = attempts if self.database is None else Counter(committed_effects(self.database))
        lost = set(self.plant.ids) - set(done)
        assert not lost, f"{len(lost)} messages are lost: {sorted(lost)[:3]}"
        assert report.finished
        assert report.failed == 0
        twice = sum(done.values()) - len(done)
        assert twice == 0 or self.database is None, f"{twice} effects are in the database twice"
        repeats = sum(attempts.values()) - len(attempts)
        known = report.skipped.get("handled-before", 0)  # committed, and not recorded when its worker was killed
        if not self.tear:
            assert report.handled + known == messages, f"{report.handled} and {known} recorded of {messages}"
            assert report.read == messages, f"{report.read} read of {messages}"
            most = CONCURRENCY * SEGMENTS * (self.kills + self.stops)
            assert repeats + known <= most, f"{repeats} repeats, {known} known already, and not at most {most}"
        return repeats


def crash_fleet(options: argparse.Namespace, rng: random.Random, folder: Path) -> str:
    """One run with one seed."""
    with postgres_server() if options.inbox else nullcontext() as database:
        if database is not None:
            make_tables(database)
        return asyncio.run(_crash(options, rng, folder, database))


async def _crash(options: argparse.Namespace, rng: random.Random, folder: Path, database: PostgresServer | None) -> str:
    events = ["kill"] * options.worker_kills + ["stop"] * options.stops + ["redis"] * options.redis_kills
    rng.shuffle(events)
    name, url = ("effects", None) if database is None else ("stored", database.url())
    settings = {"page": 500, "concurrency": CONCURRENCY, "wait": 0.004, "order": options.order, "database": url}
    async with plant(folder, name, messages=options.messages, lease=LEASE, **settings) as made:
        crash = FleetCrash(made, rng, tear=options.tear, database=database)
        for _ in range(options.workers):
            crash.start_worker()
        report = await crash.run(events)
        repeats = crash.check(report)
    return (
        f"{options.messages} messages, {options.workers} workers, lease {LEASE:g} s, {crash.kills} SIGKILL, "
        f"{crash.stops} SIGSTOP, {crash.redis_kills} kills of Redis{', each with a second torn off' * crash.tear}: "
        f"none lost, {report.handled} recorded, "
        f"{repeats} {'repeated' if database is None else 'tried again, 0 in PostgreSQL twice'}"
    )


def add_fleet(group: argparse._ArgumentGroup) -> None:
    """The options of this mode."""
    group.add_argument("--workers", type=int, default=4)
    group.add_argument("--worker-kills", type=int, default=12)
    group.add_argument("--stops", type=int, default=6)
    group.add_argument("--redis-kills", type=int, default=2)
    group.add_argument("--tear", action="store_true", help="take the last second off Redis' file at each kill of it")
    group.add_argument("--inbox", choices=("postgres",), help="a handler within the transaction of a SQL inbox")
