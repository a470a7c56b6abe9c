"""Processes that are killed with SIGKILL, again and again, and held to their promise.

``--mode inbox``, ``http`` and ``sql`` kill a replay: into a function, an endpoint, and a function whose inbox and
effects are in one PostgreSQL, through a pool of 5 connections. In the end each message has had its effect, and is
recorded; at most ``concurrency`` effects of each killed run were repeated, in a transaction or a receiver's inbox none.
The last run does not stall on what the killed ones have claimed.

    python -m tests.crash --mode inbox --messages 10000 --concurrency 16 --kills 200

``--mode receiver`` kills the processes of a service, and ``--mode share`` those that share a run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from basiq_async import BasiqClient, InMemoryTransport, Message
from basiq_async.receiver import Delivery, SQLInbox, SQLiteInbox, WebhookReceiver
from basiq_async.replay import HttpTarget, Replay
from basiq_async.testing import FakeBasiq, Quirks
from tests.support.databases import engine_of
from tests.support.environment import free_port
from tests.support.killing import Crew, committed_effects, hasten, make_tables, start
from tests.support.servers import postgres_server

from .crash_receiver import add_receiver, crash_receiver, leave, read_effects, serve_at
from .crash_share import add_share, crash_share

Order = Literal["oldest-first", "newest-first"]
SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS1jcmFzaC10ZXN0"
SLOWEST_END = 60.0
"""Seconds for the last run, after what it would take without kills: the claims of a killed run end within 30."""


def crash_replay(options: argparse.Namespace, rng: random.Random, folder: Path, stack: ExitStack) -> str:
    fake = FakeBasiq(seed="crash", page_size=500, quirks=Quirks(message_order=options.order))
    webhook_id, port, done = fake.seed_messages(options.messages), free_port(), folder / "done"
    database = stack.enter_context(postgres_server()) if options.mode == "sql" else None
    receiver = WebhookReceiver(SECRET)
    client = BasiqClient(FakeBasiq.DEFAULT_API_KEY, transport=InMemoryTransport(fake))

    @receiver.on("*")
    async def receive(delivery: Delivery) -> None:
        leave(folder, delivery.id)

    async def replay(ready: Callable[[], None]) -> None:
        """A run, in a process that is going to be killed: it stands still after some messages, until all is calm."""
        left = options.messages // (options.kills + 1)

        async def take() -> None:
            nonlocal left
            ready()
            left -= 1
            while left < 0 and not crew.calm.is_set():
                await asyncio.sleep(0.02)
            await asyncio.sleep(random.random() * 0.004)

        async def handle(message: Message) -> None:
            await take()
            leave(folder, message.id)
            if random.random() < 0.3:
                await asyncio.sleep(random.random() * 0.004)

        async def in_database(message: Message, session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO effects VALUES (:id)"), {"id": message.id})
            await take()

        async with client, AsyncExitStack() as opened:
            target: Any = handle
            if database is not None:
                target = in_database
                engine = await opened.enter_async_context(engine_of(database.url(), pool_size=5, max_overflow=0))
                inbox: Any = SQLInbox(engine)
            else:
                inbox = SQLiteInbox(folder / "inbox.db")
            await opened.enter_async_context(hasten(inbox, options.lease))
            if options.mode == "http":
                target = HttpTarget(f"http://127.0.0.1:{port}/basiq", SECRET, name="crash")
                await opened.enter_async_context(target)
                deliver = target.deliver

                async def deliver_later(message: Message) -> None:
                    await take()
                    await deliver(message)

                target.deliver = deliver_later
            for _ in range(2):
                report = await Replay(client, webhook_id, target, inbox=inbox, concurrency=options.concurrency).run()
                assert report.finished
                assert report.failed == 0
            assert report.handled == 0, "not all are recorded"
            done.touch()
            await asyncio.Event().wait()

    if database is not None:
        make_tables(database)
    if options.mode == "http":
        service = start(lambda ready: serve_at(port, receiver, ready))
        stack.callback(service.kill)
        service.ready.wait()
    crew = Crew(rng, [replay])
    with crew:
        most = SLOWEST_END + options.messages * 0.01
        waited = crew.live(done.exists, kills=options.kills, pause=options.longest, most=most)
    assert crew.calm.is_set(), "the job was done before the last kill"
    ids = {each.id for each in fake.messages(webhook_id)}
    effects = read_effects(folder) if database is None else committed_effects(database)
    said = crew.judge(ids, effects, most=options.concurrency if options.mode == "inbox" else 0)
    return f"{options.order}, concurrency {options.concurrency}, {said}, the last run took {waited:.0f} s"


MODES: dict[str, Callable[[argparse.Namespace, random.Random, Path, ExitStack], str]] = {
    **dict.fromkeys(("inbox", "http", "sql"), crash_replay),
    "receiver": crash_receiver,
    "share": crash_share,
}
"""Each does its work in a folder, and returns what is to be said of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, default="inbox")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--kills", type=int, default=200, help="how much happens to the processes and their servers")
    parser.add_argument("--order", choices=get_args(Order), help="of the list; by default either, by chance")
    parser.add_argument("--longest", type=float, default=0.25, help="seconds between two kills, at most")
    parser.add_argument("--lease", type=float, default=30.0, help="seconds of a claim, at most")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    add_receiver(parser.add_argument_group("--mode receiver"))
    add_share(parser.add_argument_group("--mode share"))
    options = parser.parse_args()
    rng, began = random.Random(options.seed), time.monotonic()
    options.order = options.order or rng.choice(get_args(Order))
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    with ExitStack() as stack:
        said = MODES[options.mode](options, rng, folder, stack)
    shutil.rmtree(folder)  # after a failure it stays, with the logs of what was killed
    print(f"{options.mode}: {said}, in {time.monotonic() - began:.0f} s (seed {options.seed})", flush=True)


if __name__ == "__main__":
    main()
