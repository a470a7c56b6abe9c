"""All inboxes do what one model does, in any order of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from basiq_async.receiver import Inbox, MemoryInbox, SQLInbox, SQLiteInbox
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.testing.conformance._inbox_model import (  # private: check_inbox walks few steps
    KEYS,
    WAITING_CALLS,
    WALKED,
    WORKERS,
)
from basiq_async.testing.conformance._inbox_workers import Workers  # private: this walks thousands
from tests.support.databases import ByTransaction, engine_of, new_table
from tests.support.inboxes import open_on, opened
from tests.support.servers import PostgresServer, RedisServer


def walks(calls: tuple[str, ...] = WALKED) -> st.SearchStrategy[list[str]]:
    numbers = (str(number) for number in range(KEYS))
    parts = (st.sampled_from(calls), st.sampled_from(WORKERS), st.sampled_from(tuple(numbers)))
    return st.lists(st.tuples(*parts).map(" ".join), min_size=1, max_size=40)


QUICK = tuple(call for call in WALKED if not call.startswith("die"))
"""Without those that wait until a lease has run out."""


@asynccontextmanager
async def two_on(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncGenerator[tuple[Inbox, Inbox]]:
    """Two inboxes on one storage, as two processes have."""
    async with AsyncExitStack() as stack:
        if kind == "memory":
            inbox = MemoryInbox()
            yield inbox, inbox
        elif kind == "sqlite":
            one, other = [await stack.enter_async_context(SQLiteInbox(folder / "inbox.db")) for _ in range(2)]
            yield one, other
        elif kind == "redis":
            server: RedisServer = request.getfixturevalue("redis")
            one, other = [open_on(stack, server.url) for _ in range(2)]
            yield one, other
        else:
            postgres: PostgresServer = request.getfixturevalue("postgres")
            engine, table = await stack.enter_async_context(engine_of(postgres.url())), new_table()
            make = ByTransaction if kind == "transactions" else SQLInbox
            first, second = [await stack.enter_async_context(make(engine, table=table)) for _ in range(2)]
            yield first, second


# In memory, a walk costs nothing. On a database it is slow, so none is shrunk.
@pytest.mark.parametrize(
    ("kind", "examples"), [("memory", 200), ("sqlite", 15), ("redis", 10), ("leases", 5), ("transactions", 5)]
)
def test_two_inboxes_on_one_storage_do_what_the_model_does(
    kind: str, examples: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    calls = tuple(call for call in WALKED if call not in WAITING_CALLS) if kind == "redis" else QUICK

    @given(walks(calls))
    @settings(deadline=None, max_examples=examples, phases=[Phase.explicit, Phase.generate])
    def walk(steps: list[str]) -> None:
        async def main() -> None:
            async with two_on(kind, request, tmp_path) as (inbox, other):
                await Workers(inbox, other, leases=kind != "transactions").follow("; ".join(steps))

        asyncio.run(main())

    walk()


async def test_a_delivery_that_is_dropped_while_the_quarantine_is_listed_hides_no_other(redis: RedisServer) -> None:
    async with Redis.from_url(redis.url) as client, opened(redis.url, prefix="dropping") as inbox:
        workers = Workers(inbox, inbox)
        names = [f"{workers.key}-{number}" for number in range(6)]
        for name in names:
            await workers.follow("quarantine a", name=name)
        for name in names[:3]:  # the delivery is gone, and its place in the order not yet
            await client.delete(f"{{dropping}}:delivery:{name}-0")
        page = await inbox.entries(limit=2)
        assert [entry.key for entry in page] == [f"{name}-0" for name in names[3:5]], "a page is full until the end"
        assert (await inbox.claim(f"{names[5]}-0", "t", lease=60)).status is ClaimStatus.DONE
