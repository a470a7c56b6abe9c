"""Processes that are killed with SIGKILL, again and again, and held to their promise.

``--mode inbox``, ``http``, ``export`` and ``sql`` kill a replay: into a function, an endpoint, a file, and a function
whose inbox and effects are in one PostgreSQL, through a pool of 5 connections. In the end each message has had its
effect, so none was recorded that had not, and the later runs have repeated at most ``concurrency`` effects of each one:
those that it had not recorded. A file, a transaction and a receiver's inbox repeat none. The last run does not stall on
what the killed ones have claimed.

    python -m tests.crash --mode inbox --messages 10000 --concurrency 16 --kills 200

``--mode receiver`` kills the processes of a service, and ``--mode share`` those that share a run.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async._work.keys import key_of_post, posting_job
from basiq_async.receiver import Delivery, SQLInbox, SQLiteInbox, WebhookReceiver
from basiq_async.receiver.protocol import inbox_key
from basiq_async.replay import HttpTarget, JSONLinesTarget, Replay
from basiq_async.testing import FakeBasiq, Quirks
from tests.support.databases import engine_of
from tests.support.environment import free_port
from tests.support.inboxes import opened
from tests.support.killing import committed_effects, hasten, make_tables, start
from tests.support.servers import PostgresServer, postgres_server

from .crash_receiver import add_receiver, crash_receiver, serve_at
from .crash_share import add_share, crash_share

Order = Literal["oldest-first", "newest-first"]
SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS1jcmFzaC10ZXN0"

JOB = "crash"
POOL = 5
SLOWEST_END = 60.0
"""Seconds for the last run, after what it would take without kills: the claims of a killed run end within 30."""


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


def make_fake(options: argparse.Namespace) -> tuple[FakeBasiq, str]:
    size = 20 if options.mode == "export" else 500
    fake = FakeBasiq(seed="crash", page_size=size, quirks=Quirks(message_order=options.order))
    return fake, fake.seed_messages(options.messages)


class Slowly(JSONLinesTarget):
    """A file whose pages are written one by one, so that a kill comes in the midst of them."""

    def __init__(self, path: Path, rng: random.Random, most: int) -> None:
        super().__init__(path)
        self._rng, self._most = rng, most

    def add(self, messages: Sequence[Message]) -> None:
        super().add(messages)
        self._most -= len(messages)

    async def known(self, keys: Sequence[str]) -> Collection[str]:
        if self._most < 0:
            await asyncio.Event().wait()
        await self.flush()
        await asyncio.sleep(self._rng.random() * 0.004)
        return await super().known(keys)


class Crash:
    """One job, its folder, and what has become of it so far."""

    def __init__(self, folder: Path, options: argparse.Namespace, rng: random.Random) -> None:
        self.mode, self.messages, self.concurrency, self.rng = options.mode, options.messages, options.concurrency, rng
        self.inbox, self.effects, self.export = folder / "inbox.db", folder / "effects", folder / "export.jsonl"
        self.lease: float = options.lease
        self.database: PostgresServer | None = None
        self.fake, self.webhook_id = make_fake(options)
        self.port = free_port()
        self.keys = asyncio.run(self._read_keys())
        self.waited = 0.0
        self.kills = self.hits = self.repeats = self.runs = 0

    async def serve(self, ready: Callable[[], None]) -> None:
        """The receiving service: a process of its own that is not killed."""
        log = os.open(self.effects, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        receiver = WebhookReceiver(SECRET)

        @receiver.on("*")
        async def handle(delivery: Delivery) -> None:
            os.write(log, f"0 {delivery.id}\n".encode())

        await serve_at(self.port, receiver, ready)

    async def replay(self, seed: int) -> None:
        """One run, in the process that is going to be killed."""
        rng = random.Random(seed)
        log = os.open(self.effects, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

        async def handler(message: Message) -> None:
            await asyncio.sleep(rng.random() * 0.004)
            os.write(log, f"{seed} {message.id}\n".encode())
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.004)

        async def in_database(message: Message, session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO effects VALUES (:id)"), {"id": message.id})
            await asyncio.sleep(rng.random() * 0.004)

        most = self.messages // 10 if seed else self.messages
        if self.database is not None:
            async with (
                engine_of(self.database.url(), pool_size=POOL, max_overflow=0) as engine,
                hasten(SQLInbox(engine), self.lease) as inbox,
            ):
                await self._run(at_most(most, in_database), inbox=inbox)
        elif self.mode == "export":
            await self._run(Slowly(self.export, rng, most))
        else:
            async with hasten(SQLiteInbox(self.inbox), self.lease) as inbox:
                if self.mode == "http":
                    async with HttpTarget(f"http://127.0.0.1:{self.port}/basiq", SECRET, name=JOB) as endpoint:
                        endpoint.deliver = at_most(most, endpoint.deliver)  # type: ignore[method-assign]
                        await self._run(endpoint, inbox=inbox)
                else:
                    await self._run(at_most(most, handler), inbox=inbox)

    async def _run(self, target: object, **options: Any) -> None:
        async with BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake)) as client:
            report = await Replay(client, self.webhook_id, target, concurrency=self.concurrency, **options).run()
        assert report.finished
        assert report.failed == 0

    async def _read_keys(self) -> dict[str, str]:
        """Return the key of each message, by its id. What is posted has keys of the job's own."""
        job = posting_job(JOB) if self.mode == "http" else None
        async with BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(self.fake)) as client:
            keys = {each.id: inbox_key(each.event_id, each.id) async for each in client.messages.list(self.webhook_id)}
            return keys if job is None else {id: key_of_post(job, key) for id, key in keys.items()}

    def kill_once(self, longest: float) -> bool:
        """Start a run and kill it at a random instant; False where it had come to its end before."""
        self.runs += 1
        before = len(self._effects())
        worker = start(lambda _: self.replay(self.runs))
        if self.runs % 8 != 3:
            # Most kills have to hit a run at work, however slow the machine is: counted from its first effect.
            size, deadline = self._size(), time.monotonic() + 60
            while self._size() == size and time.monotonic() < deadline and worker.process.is_alive():
                time.sleep(0.001 if self.database is None else 0.02)  # each look at a database is a connection
        time.sleep(self.rng.random() * longest)
        code = worker.kill()
        if code > 0:
            raise SystemExit(f"a run failed with exit code {code}")
        killed = code < 0
        self.kills += killed
        self.hits += killed and len(self._effects()) > before
        return killed

    def finish(self) -> None:
        """A last run, to the end."""
        began = time.monotonic()
        code = start(lambda _: self.replay(0)).join()
        if code:
            raise SystemExit(f"the last run failed with exit code {code}")
        self.waited = time.monotonic() - began
        assert self.waited < SLOWEST_END + self.messages * 0.01, f"the last run took {self.waited:.0f} s"
        effects = self._effects()
        last = {id: number for number, (_, id) in enumerate(effects)}
        lost = set(self.keys) - set(last)
        assert not lost, f"{len(lost)} messages are lost"
        repeated = Counter(run for number, (run, id) in enumerate(effects) if number < last[id])
        most = self.concurrency if self.mode == "inbox" else 0
        assert max(repeated.values(), default=0) <= most, f"repeated of each run by later ones: {repeated}"
        self.repeats = repeated.total()
        if self.mode != "export":  # the file is the record
            unknown = len(self.keys) - len(asyncio.run(self._known()))
            assert not unknown, f"{unknown} messages are not recorded"

    async def _known(self) -> Collection[str]:
        keys = [*self.keys.values()]
        place = self.inbox if self.database is None else self.database.url()
        async with opened(place) as inbox:
            return await inbox.known(keys)

    def _size(self) -> int:
        if self.database is not None:
            return len(committed_effects(self.database))
        path = self.export if self.mode == "export" else self.effects
        return path.stat().st_size if path.exists() else 0

    def _effects(self) -> list[tuple[str, str]]:
        """The run of each effect, where it is known, and the message."""
        if self.database is not None:
            return [("", id) for id in committed_effects(self.database, alone=True)]
        if self.mode == "export":
            whole = self.export.read_bytes() if self.export.exists() else b""
            return [("", json.loads(line)["id"]) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]
        lines = self.effects.read_text().splitlines() if self.effects.exists() else []
        return [(run, id) for run, id in map(str.split, lines)]


def crash_replay(options: argparse.Namespace, rng: random.Random, folder: Path) -> str:
    with ExitStack() as stack:
        crash = Crash(folder, options, rng)
        if options.mode == "http":
            service = start(crash.serve)
            stack.callback(service.kill)
            service.ready.wait()
        if options.mode == "sql":
            crash.database = stack.enter_context(postgres_server())
            make_tables(crash.database)
        while crash.kills < options.kills and crash.kill_once(options.longest):
            pass
        crash.finish()
    if 2 * crash.hits < crash.kills:
        raise SystemExit("most kills hit a run that had done nothing yet: this proves little")
    if crash.kills < options.kills:
        raise SystemExit(f"the job was done after {crash.kills} kills: make --longest shorter, or --messages more")
    return (
        f"{options.messages} messages, {options.order}, concurrency {options.concurrency}, {crash.kills} kills, "
        f"{crash.hits} of them in the midst of work: none lost, {crash.repeats} repeated "
        f"({crash.repeats / max(1, crash.kills):.1f} a kill), the last run took {crash.waited:.0f} s"
    )


MODES: dict[str, Callable[[argparse.Namespace, random.Random, Path], str]] = {
    **dict.fromkeys(("inbox", "http", "export", "sql"), crash_replay),
    "receiver": crash_receiver,
    "share": crash_share,
}
"""Each does its work in a folder, and returns what is to be said of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="inbox")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--order", choices=get_args(Order), help="of the list; by default either, by chance")
    parser.add_argument("--longest", type=float, default=0.02, help="seconds from its first effect to a kill, at most")
    parser.add_argument("--lease", type=float, default=30.0, help="seconds of a claim in a file, at most")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    add_receiver(parser.add_argument_group("--mode receiver"))
    add_share(parser.add_argument_group("--mode share"))
    options = parser.parse_args()
    rng, began = random.Random(options.seed), time.monotonic()
    options.order = options.order or rng.choice(get_args(Order))
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    said = MODES[options.mode](options, rng, folder)
    shutil.rmtree(folder)  # after a failure it stays, with the logs of what was killed
    print(f"{options.mode}: {said}, in {time.monotonic() - began:.0f} s (seed {options.seed})", flush=True)


if __name__ == "__main__":
    main()
