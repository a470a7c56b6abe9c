"""Processes that are killed with SIGKILL, and the effects that they had in a database."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Callable, Coroutine
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

import attrs
import psycopg

from basiq_async.receiver import Inbox, SQLInbox
from basiq_async.receiver.protocol import Claim
from tests.support.databases import engine_of
from tests.support.servers import PostgresServer

Kind = TypeVar("Kind", bound=Inbox)
FORK = multiprocessing.get_context("fork")
Work = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""What a process does; it calls what it is given as soon as it is ready."""


@attrs.frozen
class Worker:
    """A fork of this process, with one thing to do."""

    process: BaseProcess
    ready: Event

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


def make_tables(database: PostgresServer) -> None:
    """Make those of an inbox, and one of effects. It has no constraint: an effect that happens twice is to be seen."""

    async def make() -> None:
        async with engine_of(database.url()) as engine, SQLInbox(engine):
            pass

    asyncio.run(make())
    with psycopg.connect(database.plain_url) as connection:
        connection.execute("CREATE TABLE effects (id text, number bigserial)")


def committed_effects(database: PostgresServer, *, alone: bool = False) -> list[str]:
    """The ids of the effects, in their order; ``alone`` waits for a COMMIT that a killed process has sent."""
    with psycopg.connect(database.plain_url, autocommit=True) as connection:
        while alone and connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone() != (0,):
            time.sleep(0.005)
        return [each for (each,) in connection.execute("SELECT id FROM effects ORDER BY number")]


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
