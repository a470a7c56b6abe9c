"""All inboxes do what one model does, in any order of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from basiq_async.receiver import Inbox, MemoryInbox, RedisInbox, SQLInbox, SQLiteInbox
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.testing.conformance._inbox_model import KEYS, WALKED, WORKERS  # private: check_inbox walks few steps
from basiq_async.testing.conformance._inbox_workers import Workers  # private: this walks thousands
from tests.support.databases import ByTransaction, engine_of, new_table
from tests.support.servers import PostgresServer, RedisServer

Two = Callable[[], AbstractAsyncContextManager[tuple[Inbox, Inbox]]]


def walks(calls: tuple[str, ...] = WALKED) -> st.SearchStrategy[list[str]]:
    numbers = (str(number) for number in range(KEYS))
    parts = (st.sampled_from(calls), st.sampled_from(WORKERS), st.sampled_from(tuple(numbers)))
    return st.lists(st.tuples(*parts).map(" ".join), min_size=1, max_size=40)


QUICK = tuple(call for call in WALKED if not call.startswith("die"))
"""Without those that wait until a lease has run out."""
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def walk(two: Two, steps: list[str], *, leases: bool = True) -> None:
    async def main() -> None:
        async with two() as (inbox, other):
            await Workers(inbox, other, leases=leases).follow("; ".join(steps))

    asyncio.run(main())


@given(walks(QUICK))
@settings(relaxed, max_examples=200)
def test_the_inbox_in_memory_does_what_the_model_does(steps: list[str]) -> None:
    @asynccontextmanager
    async def two() -> Iterator[tuple[Inbox, Inbox]]:
        inbox = MemoryInbox()
        yield inbox, inbox

    walk(two, steps)


@given(walks(QUICK))
@settings(relaxed, max_examples=15)
def test_two_inboxes_on_one_file_do_what_the_model_does(tmp_path: Path, steps: list[str]) -> None:
    @asynccontextmanager
    async def two() -> Iterator[tuple[Inbox, Inbox]]:
        async with SQLiteInbox(tmp_path / "inbox.db") as one, SQLiteInbox(tmp_path / "inbox.db") as other:
            yield one, other

    walk(two, steps)


@given(walks())
@settings(relaxed, max_examples=10)
def test_two_inboxes_in_one_redis_do_what_the_model_does(redis: RedisServer, steps: list[str]) -> None:
    @asynccontextmanager
    async def two() -> Iterator[tuple[Inbox, Inbox]]:
        async with Redis.from_url(redis.url) as one, Redis.from_url(redis.url) as other:
            yield RedisInbox(one), RedisInbox(other)

    walk(two, steps)


@pytest.mark.parametrize("kind", [SQLInbox, ByTransaction], ids=["leases", "transactions"])
@given(walks(tuple(call for call in QUICK if call != "drop")))
@settings(relaxed, max_examples=5, phases=[Phase.explicit, Phase.generate])
def test_two_inboxes_in_one_database_do_what_the_model_does(
    kind: type[SQLInbox], postgres: PostgresServer, steps: list[str]
) -> None:
    @asynccontextmanager
    async def two() -> Iterator[tuple[Inbox, Inbox]]:
        async with engine_of(postgres.url()) as engine:
            table = new_table()
            async with kind(engine, table=table) as one, kind(engine, table=table) as other:
                yield one, other

    walk(two, steps, leases=kind is SQLInbox)


async def test_a_delivery_that_is_dropped_while_the_quarantine_is_listed_hides_no_other(redis: RedisServer) -> None:
    async with Redis.from_url(redis.url) as client:
        inbox = RedisInbox(client, prefix="dropping")
        workers = Workers(inbox, inbox)
        names = [f"{workers.key}-{number}" for number in range(6)]
        for name in names:
            await workers.follow("quarantine a", name=name)
        for name in names[:3]:  # the delivery is gone, and its place in the order not yet
            await client.delete(f"{{dropping}}:delivery:{name}-0")
        page = await inbox.quarantined(limit=2)
        assert [entry.key for entry in page] == [f"{name}-0" for name in names[3:5]], "a page is full until the end"
        assert (await inbox.claim(f"{names[5]}-0", "t", lease=60)).status is ClaimStatus.DONE
