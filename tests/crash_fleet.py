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
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import ExitStack
from pathlib import Path

from basiq_async.distributed import Fleet
from basiq_async.replay import Report
from basiq_async.testing import FakeBasiq
from tests.support.environment import ROOT
from tests.support.killing import committed_effects, ids_of, make_tables
from tests.support.servers import PostgresServer, RedisServer, postgres_server

LEASE = 3.0
SEGMENTS = 2
CONCURRENCY = 16
PLACE = "tests.support.fleet_jobs:fleet"


class FleetCrash:
    """One job, its workers and its Redis."""

    def __init__(
        self, folder: Path, options: argparse.Namespace, rng: random.Random, database: PostgresServer | None
    ) -> None:
        self.folder, self.messages, self.rng, self.tear = folder, options.messages, rng, options.tear
        self.effects = folder / "effects"  # with a database the attempts, of which it keeps what was committed
        self.database = database
        self.redis = RedisServer(folder)
        self.sizes: deque[tuple[float, int]] = deque(maxlen=400)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.kills = self.stops = self.redis_kills = 0
        self.env = {
            **os.environ,
            "FLEET_TEST": json.dumps(
                {
                    "redis": self.redis.url,
                    "messages": self.messages,
                    "effects": str(self.effects),
                    "lease": LEASE,
                    "concurrency": CONCURRENCY,
                    "wait": 0.004,
                    "database": None if database is None else database.url(),
                    "order": options.order,
                }
            ),
        }

    def start_worker(self) -> None:
        command = [sys.executable, "-c", "from basiq_async.cli import main; main()", "worker", "--fleet", PLACE]
        log = (self.folder / f"worker-{len(self.workers) + self.kills}.log").open("wb")
        with log:
            self.workers.append(
                subprocess.Popen(
                    [*command, "--segments", str(SEGMENTS), "--log-level", "WARNING"],
                    env=self.env,
                    cwd=ROOT,
                    stderr=log,
                )
            )

    def count(self) -> int:
        """How many effects there were, about: every line is as long."""
        return self.effects.stat().st_size // 60 if self.effects.exists() else 0

    async def run(self, events: list[str]) -> Report:
        """Submit the job, and make each event happen at its part of the way."""
        _, webhook_id = make_history(self.messages)
        fleet = Fleet(self.redis.url, lease=LEASE)
        name = "effects" if self.database is None else "stored"
        fleet.job(name)(contextlib.nullcontext)  # type: ignore[arg-type]
        async with fleet, asyncio.TaskGroup() as group:
            job = await fleet.submit(name, webhook_id, key="crash")
            watching = group.create_task(self._watch_file())
            for number, event in enumerate(events, start=1):
                wanted = self.messages * (number - self.rng.random() * 0.8) / (len(events) + 2)
                while self.count() < wanted:
                    await asyncio.sleep(0.02)
                await self._happen(event, group)
            report = await job.wait(timeout=3_600)
            watching.cancel()
        return report

    async def _happen(self, event: str, group: asyncio.TaskGroup) -> None:
        running = [worker for worker in self.workers if worker.poll() is None]
        worker = self.rng.choice(running)
        if event == "kill":
            self.kills += 1
            worker.kill()
            worker.wait()
            self.workers.remove(worker)
            self.start_worker()
        elif event == "stop":
            self.stops += 1
            worker.send_signal(signal.SIGSTOP)
            group.create_task(self._continue(worker))
        else:
            self.redis_kills += 1
            self.redis.kill()
            if self.tear:
                log, before = self.redis.log(), time.monotonic() - 1.0
                kept = max((size for at, size in self.sizes if at <= before), default=0)
                os.truncate(log, min(kept, log.stat().st_size))
            await asyncio.sleep(self.rng.random())
            await asyncio.to_thread(self.redis.start)

    async def _continue(self, worker: subprocess.Popen[bytes]) -> None:
        await asyncio.sleep(LEASE + 0.5 + self.rng.random() * 2)
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(signal.SIGCONT)

    async def _watch_file(self) -> None:
        while True:
            with contextlib.suppress(OSError, IndexError):
                self.sizes.append((time.monotonic(), self.redis.log().stat().st_size))
            await asyncio.sleep(0.05)

    def check(self, report: Report) -> int:
        """Hold the effects against the history; return how many were repeated."""
        attempts = Counter(line.split()[0] for line in self.effects.read_text().splitlines())
        done = attempts if self.database is None else Counter(committed_effects(self.database))
        lost = set(ids_of(make_history(self.messages))) - set(done)
        assert not lost, f"{len(lost)} messages are lost: {sorted(lost)[:3]}"
        assert report.finished
        assert report.failed == 0
        twice = sum(done.values()) - len(done)
        assert twice == 0 or self.database is None, f"{twice} effects are in the database twice"
        repeats = sum(attempts.values()) - len(attempts)
        known = report.skipped.get("handled-before", 0)  # committed, and not recorded when its worker was killed
        if not self.tear:
            assert report.handled + known == self.messages, f"{report.handled} and {known} recorded of {self.messages}"
            assert report.read == self.messages, f"{report.read} read of {self.messages}"
            most = CONCURRENCY * SEGMENTS * (self.kills + self.stops)
            assert repeats + known <= most, f"{repeats} repeats, {known} known already, and not at most {most}"
        return repeats

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.redis.close()


def make_history(messages: int) -> tuple[FakeBasiq, str]:
    """The history that every worker sees."""
    fake = FakeBasiq(seed="fleet")
    return fake, fake.seed_messages(messages)


def crash_fleet(options: argparse.Namespace, rng: random.Random, folder: Path) -> str:
    """One run with one seed."""
    events = ["kill"] * options.worker_kills + ["stop"] * options.stops + ["redis"] * options.redis_kills
    rng.shuffle(events)
    with ExitStack() as stack:
        database = stack.enter_context(postgres_server()) if options.inbox else None
        if database is not None:
            make_tables(database)
        crash = FleetCrash(folder, options, rng, database)
        stack.callback(crash.close)
        crash.redis.start()
        for _ in range(options.workers):
            crash.start_worker()
        report = asyncio.run(crash.run(events))
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
