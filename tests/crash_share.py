"""``--mode share``: processes share a run through a queue in Redis, while all of these are killed at random.

Workers and the coordinator get SIGKILL; workers are frozen for longer than their claims; the queue's server is killed,
and flushed; the record's server is killed; pages are dropped and doubled. In the end nothing is lost, a kill repeats at
most ``concurrency`` messages, and the coordinator's report is right.

    python -m tests.crash --mode share --messages 20000 --kills 60 --record redis

``--bad some`` has every 40th message fail, ``--bad always`` all of them, and ``--bad killer`` has one kill its process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from basiq_async import BasiqClient, BasiqError, InMemoryTransport, Message
from basiq_async.replay import Replay, Report, _share, share  # private: a flushed queue is noticed sooner
from basiq_async.testing import FakeBasiq
from tests.support.inboxes import open_on
from tests.support.killing import Worker, hasten, start
from tests.support.servers import PostgresServer, RedisServer, postgres_server, redis_server

RECORDS, BAD = ("sqlite", "redis", "postgres"), ("none", "some", "always", "killer")
_WORKERS = 3
_EVERY = 40
_QUEUE = "pages"


class SharedRun:
    """One run that processes share, its servers, and what has become of it."""

    def __init__(self, folder: Path, options: argparse.Namespace, rng: random.Random) -> None:
        self.folder, self.options, self.rng = folder, options, rng
        self.effects, self.report = folder / "effects", folder / "report"
        self.fake = FakeBasiq(seed="share", page_size=max(20, options.messages // 40))
        self.webhook_id = self.fake.seed_messages(options.messages)
        self.ids = asyncio.run(self._list())
        bad = {"none": [], "some": self.ids[::_EVERY], "always": self.ids, "killer": [self.ids[len(self.ids) // 3]]}
        self.bad = set(bad[options.bad])
        self.kills: Counter[str] = Counter()
        self.queue: RedisServer
        self.record: RedisServer | PostgresServer | None = None
        self.processes = 0

    # --- the processes ---

    def _client(self) -> BasiqClient:
        return BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake))

    async def _list(self) -> list[str]:
        async with self._client() as client:
            return [each.id async for each in client.messages.list(self.webhook_id)]

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[Replay, Redis]]:
        place: object = self.folder / "inbox.db"
        if self.record is not None:
            place = self.record.url if isinstance(self.record, RedisServer) else self.record.url()
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._client())
            inbox = hasten(open_on(stack, place), self.options.lease)
            queue = await stack.enter_async_context(Redis.from_url(self.queue.url))
            concurrency = self.options.concurrency
            yield Replay(client, self.webhook_id, self._handle, inbox=inbox, concurrency=concurrency), queue

    async def _handle(self, message: Message) -> None:
        await asyncio.sleep(random.random() * 0.01)
        if message.id in self.bad and self.options.bad == "killer":
            self._write("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        if message.id in self.bad:
            raise ValueError("poisoned")
        self._write(message.id)

    def _write(self, line: str) -> None:
        log = os.open(self.effects, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(log, f"{line}\n".encode())
        os.close(log)

    async def work(self, seed: int) -> None:
        """A worker, which has two pages at a time."""
        random.seed(seed)

        async def serve() -> None:
            while True:
                with suppress(RedisError, BasiqError):  # the queue is away, or does not try a page again
                    found = await queue.blpop([_QUEUE], timeout=1)
                    if found is not None:
                        await replay.work(found[1].decode())
                        continue
                await asyncio.sleep(0.05)

        async with self._opened() as (replay, queue), asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(serve())

    async def coordinate(self, seed: int) -> None:
        """The coordinator, whose queue drops and doubles pages."""
        random.seed(seed)
        _share._QUIET = 2.0

        async def send(page: str) -> None:
            chance, drop = random.random(), self.options.drop
            for _ in range(0 if chance < drop else 2 if chance < 2 * drop else 1):
                await queue.rpush(_QUEUE, page)

        async with self._opened() as (replay, queue):
            try:
                report: Report | None = await share(replay, send)
            except BasiqError as exc:
                report = getattr(exc, "report", None)
                if report is None:
                    raise SystemExit(1) from None  # the queue or the inbox was away when it began
        assert report is not None
        found = {"handled": report.handled, "failed": report.failed, "quarantined": report.quarantined}
        self.report.write_text(json.dumps({**found, "finished": report.finished}))

    # --- the process that kills ---

    def run(self) -> None:
        workers = [self._start(self.work) for _ in range(_WORKERS)]
        coordinator = self._start(self.coordinate)
        self.began = time.monotonic()
        try:
            while coordinator.process.is_alive() or not self.report.exists():
                assert time.monotonic() < self.began + self.options.patience, "it does not end"
                if not coordinator.process.is_alive():
                    coordinator = self._start(self.coordinate)
                workers = [each if each.process.is_alive() else self._start(self.work) for each in workers]
                time.sleep(self.rng.random() * 0.3)
                if self.kills.total() < self.options.kills:
                    self._kill_one(workers, coordinator)
        finally:
            for each in (*workers, coordinator):
                each.kill()

    def _start(self, what: Callable[[int], object]) -> Worker:
        self.processes += 1
        return start(partial(_with_seed, what, self.processes))

    def _kill_one(self, workers: list[Worker], coordinator: Worker) -> None:
        worker = self.rng.choice(workers)
        ways: dict[str, Callable[[], object]] = {
            "workers": worker.kill,
            "frozen": partial(self._freeze, worker),
            "coordinator": coordinator.kill,
            "queue": self._restart_queue,
            "flushed": self._flush,
        }
        if self.record is not None:
            ways["record"] = self._restart_record
        how = self.rng.choices([*ways], [8, 3, 2, 2, 1, 1][: len(ways)])[0]
        ways[how]()
        self.kills[how] += 1

    def _freeze(self, worker: Worker) -> None:
        with suppress(ProcessLookupError):
            os.kill(worker.process.pid or 0, signal.SIGSTOP)
            time.sleep(self.options.lease * 1.5)
            os.kill(worker.process.pid or 0, signal.SIGCONT)

    def _restart_queue(self) -> None:
        self.queue.kill()
        time.sleep(self.rng.random() * 0.5)
        self.queue.start()

    def _restart_record(self) -> None:
        assert self.record is not None
        if isinstance(self.record, RedisServer):
            self.record.kill()
        else:
            self.record.stop(signal.SIGQUIT)
        time.sleep(self.rng.random() * 0.5)
        self.record.start()

    def _flush(self) -> None:
        async def flush() -> None:
            async with Redis.from_url(self.queue.url) as queue:
                await queue.flushall()

        asyncio.run(flush())

    def check(self) -> str:
        """Compare the effects with the history, and the report with both."""
        lines = self.effects.read_text().split() if self.effects.exists() else []
        ended, effects = lines.count("killed"), [each for each in lines if each != "killed"]
        report, good = json.loads(self.report.read_text()), set(self.ids) - self.bad
        lost, repeats = good - set(effects), len(effects) - len(set(effects))
        ends = self.kills["workers"] + self.kills["frozen"] + self.kills["coordinator"] + ended
        assert not lost, f"{len(lost)} messages are lost"
        assert repeats <= self.options.concurrency * ends, f"{repeats} repeats after {ends} kills"
        assert report["finished"] is (self.options.bad != "always"), report
        if self.options.bad != "always":
            assert report["quarantined"] == len(self.bad), report
        assert ended <= 10, f"one message killed {ended} processes"
        said = ", ".join(f"{how} {count}" for how, count in sorted(self.kills.items()))
        killer = f", the killer ended {ended} processes" if ended else ""
        return (
            f"{self.options.messages} messages, record {self.options.record}, bad {self.options.bad}, kills: {said}"
            f"{killer}: none lost, {repeats} repeated, the last report: {report}"
        )


async def _with_seed(what: Callable[[int], object], seed: int, ready: Callable[[], None]) -> None:
    ready()
    await what(seed)  # type: ignore[misc]


def crash_share(options: argparse.Namespace, rng: random.Random, folder: Path) -> str:
    with ExitStack() as stack:
        run = SharedRun(folder, options, rng)
        (folder / "queue").mkdir()
        run.queue = stack.enter_context(redis_server(folder / "queue"))
        if options.record == "redis":
            (folder / "record").mkdir()
            run.record = stack.enter_context(redis_server(folder / "record"))
        elif options.record == "postgres":
            run.record = stack.enter_context(postgres_server())
        run.run()
        return run.check()


def add_share(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--record", choices=RECORDS, default="sqlite", help="where the inbox is")
    group.add_argument("--bad", choices=BAD, default="none", help="the messages that fail")
    group.add_argument("--drop", type=float, default=0.15, help="the share of pages that are dropped, and doubled")
    group.add_argument("--patience", type=float, default=600.0, help="seconds until it must have ended")
