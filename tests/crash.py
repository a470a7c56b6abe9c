"""A replay that is killed with SIGKILL, again and again, and held to its promise after each kill.

After every kill the effects that the target has had are compared with what the checkpoint has recorded: whatever is
recorded has had its effect (none is lost), and at most ``concurrency`` effects of that run are not recorded (which
are those that the next run repeats).

    python -m tests.crash --messages 10000 --concurrency 16 --kills 200

``--mode sql`` has checkpoint, inbox and effects in one PostgreSQL, through a pool of 5 connections:

    python -m tests.crash --mode sql --messages 10000 --concurrency 16 --kills 200

``--mode cancel`` cancels runs in one process instead, in every way of asyncio and anyio:

    python -m tests.crash --mode cancel --messages 10000 --cancellations 500
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import psycopg
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.receiver import Delivery, Inbox, SQLInbox, WebhookReceiver
from basiq_async.replay import Checkpoint, HttpTarget, JSONLinesTarget, Replay, SQLCheckpoint, SQLiteCheckpoint
from basiq_async.replay.protocol import ReplayJob, State
from basiq_async.testing import FakeBasiq, Quirks
from tests import crash_fleet, crash_receiver
from tests.support.cancelling import storm
from tests.support.databases import engine_of
from tests.support.servers import PostgresServer, postgres_server

Order = Literal["oldest-first", "newest-first"]
SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS1jcmFzaC10ZXN0"

POOL = 5
LEASE = 0.4
"""Seconds after which a run takes over from a killed one."""


def at_most(count: int, work: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Work that stands still after ``count`` messages: a run is killed in the midst, however slow its killer is."""

    @functools.wraps(work)
    async def limited(*arguments: object, **more: object) -> None:
        nonlocal count
        count -= 1
        if count < 0:
            await asyncio.Event().wait()
        await work(*arguments, **more)

    return limited


def make_fake(messages: int, order: Order) -> tuple[FakeBasiq, str]:
    fake = FakeBasiq(seed="crash", quirks=Quirks(message_order=order))
    return fake, fake.seed_messages(messages)


class Crash:
    """One job, its folder, and what has become of it so far."""

    def __init__(
        self, folder: Path, messages: int, concurrency: int, mode: str, order: Order, rng: random.Random
    ) -> None:
        self.folder, self.messages, self.concurrency, self.mode, self.rng = folder, messages, concurrency, mode, rng
        self.checkpoint, self.effects = folder / "replay.db", folder / "effects"
        self.database: PostgresServer | None = None
        self.fake, self.webhook_id = make_fake(messages, order)
        self.url = ""
        self.ids: list[str] = asyncio.run(self._all_ids())
        self.kills = self.hits = self.repeats = self.runs = 0

    async def _all_ids(self) -> list[str]:
        async with self._client() as client:
            return [message.id async for message in client.messages.list(self.webhook_id)]

    def _client(self) -> BasiqClient:
        return BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake))

    async def replay(self, seed: int) -> None:
        """One run, in the process that is going to be killed."""
        rng = random.Random(seed)
        log = os.open(self.effects, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

        async def handler(message: Message) -> None:
            await asyncio.sleep(rng.random() * 0.004)
            os.write(log, f"{message.id}\n".encode())
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.004)

        most = self.messages // 10 if seed else self.messages
        async with self._client() as client:
            checkpoint = SQLiteCheckpoint(self.checkpoint)
            if self.database is not None:
                await self._replay_in_database(client, self.database, rng, most)
            elif self.mode == "http":
                async with HttpTarget(self.url, SECRET) as target:
                    target.deliver = at_most(most, target.deliver)  # type: ignore[method-assign]
                    await self._run(client, target, checkpoint)
            elif self.mode == "export":
                export = self._export()
                export.deliver = at_most(most, export.deliver)  # type: ignore[method-assign]
                await self._run(client, export, checkpoint)
            else:
                await self._run(client, at_most(most, handler), checkpoint)

    async def _replay_in_database(
        self, client: BasiqClient, database: PostgresServer, rng: random.Random, most: int
    ) -> None:
        async def handler(message: Message, session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO effects (id) VALUES (:id)"), {"id": message.id})
            await asyncio.sleep(rng.random() * 0.004)

        async with engine_of(database.url(), pool_size=POOL, max_overflow=0) as engine, SQLInbox(engine) as inbox:
            await self._run(client, at_most(most, handler), SQLCheckpoint(engine, lease=LEASE), inbox=inbox)

    async def _run(
        self, client: BasiqClient, target: object, checkpoint: Checkpoint, *, inbox: Inbox | None = None
    ) -> None:
        replay = Replay(
            client, self.webhook_id, target, checkpoint=checkpoint, concurrency=self.concurrency, inbox=inbox
        )
        report = await replay.run()
        assert report.finished
        assert report.failed == 0

    def _export(self) -> JSONLinesTarget:
        return JSONLinesTarget(self.folder / "export.jsonl")

    def kill_once(self, longest: float) -> bool:
        """Start a run and kill it at a random instant; False where it had come to its end before."""
        self.runs += 1
        before = self._effects()
        child = in_child(lambda: asyncio.run(self.replay(self.runs)))
        if self.rng.random() < 0.9:
            # Most kills have to hit a run at work, however slow the machine is: counted from its first effect.
            size, deadline = self._size(), time.monotonic() + 60
            while self._size() == size and time.monotonic() < deadline and not exited(child):
                time.sleep(0.001 if self.database is None else 0.02)  # each look at a database is a connection
        time.sleep(self.rng.random() * longest)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        if not killed and os.WEXITSTATUS(status):
            raise SystemExit(f"a run failed with exit code {os.WEXITSTATUS(status)}")
        self.kills += killed
        self.hits += killed and len(self._effects()) > len(before)
        if self.rng.random() < 0.5:  # looking recovers the file, which would spare the next run from doing so
            self.check(before)
        return killed

    def finish(self) -> None:
        """A last run, to the end."""
        before = self._effects()
        child = in_child(lambda: asyncio.run(self.replay(0)))
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"the last run failed with status {status}")
        self.check(before)
        effects = self._effects()
        missing = set(self.ids) - set(effects)
        assert not missing, f"{len(missing)} messages are lost"
        self.repeats = len(effects) - len(set(effects))
        assert self.repeats <= self.concurrency * self.kills, f"{self.repeats} repeats after {self.kills} kills"
        if self.mode != "function":
            assert self.repeats == 0, f"{self.repeats} messages reached the target's inbox or file twice"

    def check(self, before: list[str]) -> None:
        """Hold what is recorded against the effects there were."""
        state = asyncio.run(self._peek())
        recorded = set() if state is None else set(self.ids[: state.position]) | state.done
        effects = self._effects()
        lost = recorded - set(effects)
        assert not lost, f"{len(lost)} messages are recorded as done and never were: {sorted(lost)[:3]}"
        unrecorded = [each for each in effects[len(before) :] if each not in recorded]
        assert len(unrecorded) <= self.concurrency, f"{len(unrecorded)} effects of one run are not recorded"

    async def _peek(self) -> State | None:
        if self.database is None:
            return await SQLiteCheckpoint(self.checkpoint).peek(ReplayJob(self.webhook_id))
        async with engine_of(self.database.url()) as engine:
            return await SQLCheckpoint(engine).peek(ReplayJob(self.webhook_id))

    def _size(self) -> int:
        if self.database is not None:
            return len(committed_effects(self.database))
        path = self.folder / "export.jsonl" if self.mode == "export" else self.effects
        return path.stat().st_size if path.exists() else 0

    def _effects(self) -> list[str]:
        if self.database is not None:
            wait_until_alone(self.database)
            return committed_effects(self.database)
        if self.mode == "export":
            path = self.folder / "export.jsonl"
            whole = path.read_bytes() if path.exists() else b""
            return [json.loads(line)["id"] for line in whole[: whole.rfind(b"\n") + 1].splitlines()]
        return self.effects.read_text().split() if self.effects.exists() else []


def committed_effects(database: PostgresServer) -> list[str]:
    with psycopg.connect(database.plain_url) as connection:
        return [each for (each,) in connection.execute("SELECT id FROM effects ORDER BY number")]


def wait_until_alone(database: PostgresServer) -> None:
    """A killed process may have sent a COMMIT that the server is still at."""
    with psycopg.connect(database.plain_url, autocommit=True) as connection:
        while connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone() != (0,):
            time.sleep(0.005)


@contextmanager
def database_of(crash: Crash) -> Iterator[None]:
    """A server that is not killed, with a table of the effects."""
    if crash.mode != "sql":
        yield
        return
    with postgres_server() as crash.database:
        with psycopg.connect(crash.database.plain_url) as connection:
            connection.execute("CREATE TABLE effects (number bigserial, id text)")
        yield


def exited(child: int) -> bool:
    """Whether it has come to its end, without taking its status from whoever waits for it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve_receiver(crash: Crash) -> int:
    """The receiving service: a process of its own that is not killed. Gives its id."""
    reading, writing = os.pipe()

    async def service() -> None:
        log = os.open(crash.effects, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        receiver = WebhookReceiver(SECRET)

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            os.write(log, f"{delivery.id}\n".encode())

        app = web.Application()
        app.router.add_post("/basiq", receiver.aiohttp_handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        os.write(writing, f"http://127.0.0.1:{runner.addresses[0][1]}/basiq\n".encode())
        await asyncio.Event().wait()

    child = in_child(lambda: asyncio.run(service()))
    with os.fdopen(reading) as told:
        crash.url = told.readline().strip()
    return child


def cancel(options: argparse.Namespace, seed: int, rng: random.Random) -> None:
    logging.getLogger("basiq_async").setLevel(logging.ERROR)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        tally = asyncio.run(
            storm(
                SQLiteCheckpoint(Path(folder) / "storm.db"),
                make_fake(options.messages, options.order),
                concurrency=options.concurrency,
                cancellations=options.cancellations,
                rng=rng,
            )
        )
    ways = ", ".join(f"{way} {count}" for way, count in sorted(tally.by_way.items()))
    print(
        f"cancel: {options.messages} messages, {options.order}, concurrency {options.concurrency}, "
        f"{tally.cancellations} cancellations ({ways}), "
        f"{tally.hits} of them in the midst of work, {time.monotonic() - began:.0f} s: none lost, {tally.repeated} "
        f"repeated, {tally.unexplained} of them in a save that a shutdown cut off (seed {seed})"
    )
    if 2 * tally.hits < tally.cancellations:
        raise SystemExit("most cancellations hit a run that had done nothing yet: this proves little")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cancellations", type=int, default=500)
    parser.add_argument(
        "--mode", choices=("function", "http", "export", "sql", "cancel", "fleet", "receiver"), default="function"
    )
    parser.add_argument("--order", choices=get_args(Order), help="of the list; by default either, by chance")
    parser.add_argument("--longest", type=float, default=0.02, help="seconds from its first effect to a kill, at most")
    parser.add_argument("--seed", type=int, default=None)
    crash_fleet.add_arguments(parser)
    crash_receiver.add_arguments(parser)
    options = parser.parse_args()
    if options.mode == "fleet":
        crash_fleet.crash_fleet(options)
        return
    if options.mode == "receiver":
        crash_receiver.crash_receiver(options)
        return
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    rng = random.Random(seed)
    if options.order is None:
        options.order = rng.choice(get_args(Order))
    if options.mode == "cancel":
        cancel(options, seed, rng)
        return
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        crash = Crash(Path(folder), options.messages, options.concurrency, options.mode, options.order, rng)
        service = serve_receiver(crash) if options.mode == "http" else None
        began = time.monotonic()
        try:
            with database_of(crash):
                while crash.kills < options.kills and crash.kill_once(options.longest):
                    pass
                crash.finish()
        finally:
            if service is not None:
                os.kill(service, signal.SIGKILL)
                os.waitpid(service, 0)
        print(
            f"{options.mode}: {options.messages} messages, {options.order}, concurrency {options.concurrency}, "
            f"{crash.kills} kills, "
            f"{crash.hits} of them in the midst of work, "
            f"{time.monotonic() - began:.0f} s: none lost, {crash.repeats} repeated "
            f"({crash.repeats / max(1, crash.kills):.1f} a kill) (seed {seed})"
        )
    if 2 * crash.hits < crash.kills:
        raise SystemExit("most kills hit a run that had done nothing yet: this proves little")
    if crash.kills < options.kills:
        raise SystemExit(f"the job was done after {crash.kills} kills: make --longest shorter, or --messages more")


if __name__ == "__main__":
    main()
