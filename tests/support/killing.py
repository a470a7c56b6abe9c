"""Processes that are killed and frozen while their servers restart, and the effects that they had."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any, Self, TypeVar

import attrs
import psycopg

from basiq_async.receiver import Inbox, SQLInbox
from basiq_async.receiver.protocol import Claim
from tests.support.databases import engine_of
from tests.support.servers import PostgresServer, RedisServer

Kind = TypeVar("Kind", bound=Inbox)
FORK = multiprocessing.get_context("fork")
Work = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""What a process does; it calls what it is given as soon as it is ready to be killed."""


@attrs.frozen
class Worker:
    """A fork of this process, with one thing to do."""

    process: BaseProcess
    ready: Event

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def kill(self) -> int:
        """Kill it. Returns its exit code, which is negative if it had not come to its end before."""
        self.process.kill()
        return self.join()

    def join(self) -> int:
        self.process.join()
        code = self.process.exitcode
        assert code is not None
        return code


def start(work: Work) -> Worker:
    ready = FORK.Event()
    worker = Worker(FORK.Process(target=_run, args=(work, ready)), ready)
    worker.process.start()
    return worker


def _run(work: Work, ready: Event) -> None:
    logging.disable(logging.CRITICAL)  # what a kill or a restart breaks is logged
    asyncio.run(work(ready.set))


class Crew:
    """Processes that are started again whenever they end, and killed at the end of the block."""

    def __init__(self, rng: random.Random, works: Sequence[Work], *, may_end: Collection[int] = ()) -> None:
        self._rng, self._works, self._may_end = rng, works, may_end
        self._running: list[Worker] = []
        self.calm = FORK.Event()
        """Set when no more happens to them."""
        self.happened = Counter[str]()
        self.killed: set[int] = set()
        self.frozen: set[int] = set()

    def __enter__(self) -> Self:
        self._running = [start(work) for work in self._works]
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._running:
            each.kill()

    def live(
        self,
        over: Callable[[], object],
        *,
        kills: int,
        pause: float,
        freeze: float = 0,
        most: float = 600,
        **more: Callable[[], object],
    ) -> float:
        """Let as much happen as there are ``kills``, each way at least once. Then be calm until it is over.

        pause: seconds between two of them, at most. freeze: for so many seconds one is frozen now and then. most: so
        many seconds it may be calm. Returns how many it was.
        """
        ways: dict[str, Callable[[], object]] = {"killed": self._kill, **more}
        if freeze:
            ways["frozen"] = partial(self._freeze, freeze)
        weights = [8, *[1] * (len(ways) - 1)]
        names = [*ways, *self._rng.choices([*ways], weights, k=max(0, kills - len(ways)))]
        self._rng.shuffle(names)
        calm = time.monotonic()
        while not over():
            assert time.monotonic() < calm + most, "it does not end"
            time.sleep(self._rng.random() * pause)
            for slot, each in enumerate(self._running):
                if not each.process.is_alive():
                    assert each.join() in self._may_end, f"a process ended with exit code {each.join()}"
                    self.killed.add(each.pid)
                    self._running[slot] = start(self._works[slot])
            if names:
                self.happened[names[-1]] += 1
                ways[names.pop()]()
                calm = time.monotonic()
            else:
                self.calm.set()
        return time.monotonic() - calm

    def _kill(self) -> None:
        slot = self._rng.randrange(len(self._running))
        worker = self._running[slot]
        if self._rng.random() < 0.9:
            worker.ready.wait(10)  # however slow the machine is, there is something to kill
        time.sleep(self._rng.random() * 0.02)
        worker.kill()
        self.killed.add(worker.pid)
        self._running[slot] = start(self._works[slot])

    def _freeze(self, seconds: float) -> None:
        pid = self._rng.choice(self._running).pid
        self.frozen.add(pid)
        os.kill(pid, signal.SIGSTOP)  # one that has ended is joined later
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def judge(self, ids: Collection[str], effects: Sequence[tuple[str, int]], *, most: float) -> str:
        """Hold the effects, with their processes and in their order, against the ids of what has to have one.

        None is lost, and only what a process did that was killed or frozen happened again: at most so much of each.
        """
        processes: dict[str, list[int]] = {}
        for id, pid in effects:
            processes.setdefault(id, []).append(pid)
        lost, unknown = set(ids) - set(processes), set(processes) - set(ids)
        assert not lost, f"{len(lost)} of {len(ids)} are lost: {sorted(lost)[:3]}"
        assert not unknown, f"effects of what never was: {sorted(unknown)[:3]}"
        again = Counter[int]()
        for id, pids in processes.items():
            for number, pid in enumerate(pids[:-1], 1):
                if not self.frozen & set(pids[number:]):  # a frozen one goes on later
                    assert pid in self.killed | self.frozen, f"{id} had its effect twice, though {pid} was not killed"
                    again[pid] += 1
        assert max(again.values(), default=0) <= most, f"repeated of each process: {again}"
        what = ", ".join(f"{how} {count}" for how, count in sorted(self.happened.items()))
        return f"{len(ids)} events, {what}: none lost, {again.total()} twice"


def restart(server: PostgresServer | RedisServer) -> None:
    """Kill a server, and start it a moment later."""
    server.kill()
    time.sleep(random.random() / 2)
    server.start()


def make_tables(database: PostgresServer) -> None:
    """Make those of an inbox, and one of effects. It has no constraint: an effect that happens twice is to be seen."""

    async def make() -> None:
        async with engine_of(database.url()) as engine, SQLInbox(engine):
            pass

    asyncio.run(make())
    with psycopg.connect(database.plain_url) as connection:
        connection.execute("CREATE TABLE effects (id text, number bigserial)")


def committed_effects(database: PostgresServer) -> list[tuple[str, int]]:
    """The ids of the effects, in their order, when each COMMIT that a killed process has sent is over."""
    with psycopg.connect(database.plain_url, autocommit=True) as connection:
        while connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone() != (0,):
            time.sleep(0.005)
        return [(each, 0) for (each,) in connection.execute("SELECT id FROM effects ORDER BY number")]


def hasten(inbox: Kind, longest: float) -> Kind:
    """Let the claims of a killed process end sooner than after its 30 s or so: the next one waits for them."""
    claim: Any = inbox.claim

    async def claim_briefly(key: str, token: str, *, lease: float, **how: bool) -> Claim:
        # A claim by a transaction ends with its connection.
        lease = lease if how.get("transaction") else min(lease, longest)
        found: Claim = await claim(key, token, lease=lease, **how)
        return found

    vars(inbox)["claim"] = claim_briefly
    return inbox
