"""A short world in real seconds: real processes on a real PostgreSQL or Redis, which do not live in a jumping clock.

``python -m tests.world --real postgres redis``: processes are killed, frozen and stopped, the server is killed and
starts again, and the service is deferred or not. Then all is calm, a recovery runs, and every event has had its effect:
in PostgreSQL exactly once.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import attrs

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.replay import recover
from basiq_async.testing import FakeBasiq, serve
from tests.crash_receiver import Job, judge, make_receiver, service
from tests.support.environment import free_port
from tests.support.killing import FORK, Worker, committed_effects, make_tables, start
from tests.support.servers import PostgresServer, RedisServer, postgres_server, redis_server

_MOST_PODS = 3
_LEASE = 5.0
"""Seconds after which the claims of a process are over."""


class Pods:
    """The processes of the service, in one that does nothing else. A step is a function of a number from 0 to 1."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.running: list[Worker] = []
        self.doubtful: list[int] = []
        """The processes that were killed, or frozen for longer than a claim lasts."""

    def scale(self, by: float) -> None:
        wanted = 1 + int(by * _MOST_PODS)
        while len(self.running) > wanted:
            self.kill(by)
        while len(self.running) < wanted:
            self.running.append(start(partial(service, self.job)))

    def kill(self, by: float) -> None:
        pod = self.running.pop(int(by * len(self.running)))
        pod.ready.wait(10)
        self.doubtful.append(pod.process.pid or 0)
        pod.kill()

    def freeze(self, by: float) -> None:
        pid = self.running[0].process.pid or 0
        self.doubtful.append(pid)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(by * 2 * _LEASE)
        os.kill(pid, signal.SIGCONT)

    def live(self, chance: random.Random, seconds: float, stop: Event, channel: Connection) -> None:
        """Take steps, tell which processes are doubtful, and serve until the end."""
        ends = time.monotonic() + seconds
        try:
            while time.monotonic() < ends:
                self.scale(chance.random())
                time.sleep(chance.random())
                chance.choice((self.kill, self.kill, self.freeze))(chance.random())
            self.scale(0.5)
            channel.send(self.doubtful)
            stop.wait()
        finally:
            for each in self.running:
                each.kill()


async def live(real: Real, chance: random.Random, seconds: float, channel: Connection) -> None:
    """Let events happen, and the server be killed and start again. Then be calm, and recover until nothing is left."""
    ends, server = time.monotonic() + seconds, real.server
    async with serve(real.fake, port=real.job.basiq_port):
        while time.monotonic() < ends or not channel.poll():
            await asyncio.sleep(chance.random() / 2)
            for _ in range(int(chance.random() * 10) if time.monotonic() < ends else 0):
                real.events.add(real.fake.emit("user.created").event_id)
            if chance.random() < 0.05:
                await asyncio.to_thread(
                    server.kill if isinstance(server, RedisServer) else partial(server.stop, signal.SIGQUIT)
                )
                await asyncio.to_thread(server.start)
        await asyncio.sleep(_LEASE)
        client = BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(real.fake))
        async with client as basiq, make_receiver(real.job) as receiver, asyncio.timeout(120):
            while not (found := await recover(basiq, real.job.webhook_id, receiver)).finished:
                assert {each.code for each in found.problems} <= {"busy", "waiting", "unread"}, found.problems
                await asyncio.sleep(1)
            assert not real.job.deferred or not (await receiver.waiting()).count, (
                "the recovery was finished, and something waits"
            )


@attrs.define(eq=False)
class Real:
    """A service, and what happened."""

    job: Job
    fake: FakeBasiq
    server: PostgresServer | RedisServer
    events: set[str] = attrs.Factory(set[str])


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[PostgresServer | RedisServer]:
    with redis_server(folder, "--appendfsync", "always") if kind == "redis" else postgres_server() as server:
        if isinstance(server, PostgresServer):
            make_tables(server)
        yield server


def live_in_real_seconds(kind: str, seed: int, seconds: float = 20.0) -> str:
    """Live through one world. Return what happened; raises ``AssertionError`` for a broken promise."""
    chance = random.Random(f"{kind} {seed}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="basiq-world-")))
        server = stack.enter_context(_server(kind, folder))
        fake, port = FakeBasiq(cool_off=0, delivery_timeout=5.0), free_port()
        webhook_id = fake.add_webhook(f"http://127.0.0.1:{port}/basiq", ["user.created"])
        database = server.url() if isinstance(server, PostgresServer) else None
        redis = server.url if isinstance(server, RedisServer) else None
        deferred, secret = kind == "postgres" and chance.random() < 0.6, fake.secret(webhook_id)
        job = Job(folder, port, free_port(), secret, webhook_id, database, redis, deferred)
        real, stop, (told, channel) = Real(job, fake, server), FORK.Event(), FORK.Pipe(duplex=False)
        pods = FORK.Process(target=Pods(job).live, args=(random.Random(f"pods {seed}"), seconds, stop, channel))
        pods.start()
        try:
            asyncio.run(live(real, chance, seconds, told))
        finally:
            stop.set()
            pods.join()
        doubtful = told.recv()
        if isinstance(server, PostgresServer):
            time.sleep(1)  # a killed process may have sent its COMMIT
            effects = [(each, 0) for each in committed_effects(server)]
        else:
            lines = [line.split() for line in (folder / "effects").read_text().splitlines()]
            effects = [(event, int(pid)) for event, pid in lines]
        twice = judge(real.events, effects, doubtful, exactly=database is not None)
    how = "deferred" if deferred else "live"
    return f"{kind} {seed}, {how}: {len(real.events)} events, {len(doubtful)} kills and freezes, {twice} twice"
