"""Two webhooks of one service, its replays, and services side by side, on one storage."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from basiq_async import ConfigurationError
from basiq_async.receiver import (
    Delivery,
    Inbox,
    MemoryInbox,
    Result,
    SQLInbox,
    SQLiteInbox,
    WebhookReceiver,
)
from basiq_async.receiver.protocol import ClaimStatus, Waiting
from tests.support.databases import engine_of, let_time_be_believed, new_table, pruned, run
from tests.support.deliveries import SECRET, quarantined_delivery
from tests.support.real_time import PATIENCE
from tests.support.worlds import World, a_world

HANDLED, DUPLICATE = {Result.HANDLED}, {Result.DUPLICATE}


async def test_a_page_of_the_quarantine_has_the_oldest_hundred_unless_it_is_told_otherwise(any_inbox: Inbox) -> None:
    wanted = [f"key-{number:03}" for number in range(102)]
    for key in wanted:
        assert await any_inbox.quarantine(key, "a", quarantined_delivery(key))
    assert [each.key for each in await any_inbox.entries()] == wanted[:100]
    assert [each.key for each in await any_inbox.entries(limit=101)] == wanted[:101]


async def test_an_inbox_tells_of_events_that_are_not_handled_how_many_attempts_had_no_end(any_inbox: Any) -> None:
    for token in "abcde":
        for key in ("dies", "ends", "handled"):
            await any_inbox.claim(key, token, lease=0.01 if key == "dies" else 60)
        await any_inbox.release("ends", token)
        await any_inbox.complete("handled", token)
        assert await any_inbox.unended(["handled", "ends", "unknown"]) == {}
        await asyncio.sleep(0.03)
        assert await any_inbox.unended(["dies", "ends", "x"]) == {"dies": min(3, "abcde".index(token) + 1)}
    claimed = await any_inbox.claim("dies", "f", lease=60)
    assert (await any_inbox.unended(["dies"]))["dies"] == claimed.unended == 3, "the one under way does not count"
    assert await any_inbox.unended([]) == {}
    await any_inbox.complete("dies", "f")
    assert await any_inbox.unended(["dies"]) == {}


async def test_a_claim_that_no_worker_got_is_taken_back_of_one_event_alone(any_inbox: Any) -> None:
    for token, lease in (("a", 0.01), ("b", 60)):
        for key in ("one", "two"):
            await any_inbox.claim(key, token, lease=lease)
        await asyncio.sleep(0.03)
    await any_inbox.release("one", "a")
    assert await any_inbox.unended(["one", "two"]) == {"two": 1}


async def test_what_is_in_the_quarantine_and_acknowledged_is_replaced_by_its_holder_alone(any_inbox: Inbox) -> None:
    entry = attrs.evolve(quarantined_delivery("k"), acknowledged=True)
    assert await any_inbox.quarantine("k", "a", entry)
    later = attrs.evolve(entry, error="of another")
    assert not await any_inbox.quarantine("k", "b", later)
    assert (await any_inbox.entries())[0].error == entry.error
    assert (await any_inbox.claim("k", "b", lease=60, quarantined=True)).status is ClaimStatus.CLAIMED
    assert await any_inbox.quarantine("k", "b", later)
    assert (await any_inbox.entries())[0].error == later.error


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Two webhooks that get the same three events."""
    async with a_world() as world:
        world.webhook_ids = world.webhook_id, world.add_webhook("https://two.example/basiq")
        await world.emit(3)
        yield world


async def receive(world: World, inbox: Inbox, webhook_id: str) -> set[Result]:
    """Have a new receiver take each message of a webhook."""
    one = world.webhook_ids[0]
    ids = [webhook_id, one] if webhook_id != one else [webhook_id]  # the second one joins the first
    receiver = world.receiver(inbox=inbox, webhook_id=ids)
    messages = await world.basiq.messages.list(webhook_id).collect()
    return {(await receiver.dispatch(Delivery.from_message(each))).result for each in messages}


async def test_an_event_that_two_webhooks_of_a_service_get_is_handled_once(any_inbox: Inbox, world: World) -> None:
    assert await receive(world, any_inbox, world.webhook_ids[0]) == HANDLED
    assert await receive(world, any_inbox, world.webhook_ids[1]) == DUPLICATE
    assert len(world.got) == 3


async def test_a_replay_and_the_receiver_know_what_the_other_handled(any_inbox: Inbox, world: World) -> None:
    assert (await world.replay(world.handle, inbox=any_inbox).run()).handled == 3
    assert await receive(world, any_inbox, world.webhook_ids[0]) == DUPLICATE


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_services_in_one_database_see_nothing_of_each_other(url: str, world: World) -> None:
    table = new_table()
    async with (
        engine_of(url) as engine,
        SQLInbox(engine, table=table, service="one") as one,
        SQLInbox(engine, table=table) as two,
    ):
        began = await one.known_since()
        for inbox, webhook_id in ((one, world.webhook_ids[0]), (two, world.webhook_ids[1])):
            assert await receive(world, inbox, webhook_id) == HANDLED
            assert (await world.replay(world.handle, inbox=inbox, webhook_id=webhook_id).run()).handled == 0
        await one.set_note("n", "of one")
        assert await one.release("k", "a", failed=True) == 1
        assert await one.quarantine("q", "a", quarantined_delivery("q"))
        assert await one.store(attrs.evolve(quarantined_delivery("w"), failures=0))
        assert (await one.claim("c", "a", lease=60)).status is ClaimStatus.CLAIMED
        assert await two.note("n") is None
        assert await two.release("k", "a", failed=True) == 1
        assert await two.known(["q", "w"]) == set()
        assert [await two.entries(), await two.entries(waiting=True)] == [[], []]
        assert (await two.waiting(), await two.claim_due("b", limit=9, retries=9, lease=60)) == (Waiting(), [])
        for key in ("c", "q", "w"):
            assert (await two.claim(key, "b", lease=60)).status is ClaimStatus.CLAIMED
        assert (await one.waiting()).count == 1
        assert [each.entry.key for each in await one.claim_due("d", limit=9, retries=9, lease=60)] == ["w"]
        assert await one.known_since() == began
    assert len(world.got) == 6


@pytest.mark.parametrize("url", ["asyncpg", "aiosqlite"], indirect=True)
async def test_what_a_service_forgets_is_its_own(url: str) -> None:
    table, old = new_table(), f"{datetime.now(UTC) - timedelta(days=100):%Y-%m-%d %H:%M:%S.%f}"
    began = datetime.now(UTC) - timedelta(days=200)
    async with (
        engine_of(url) as engine,
        SQLInbox(engine, table=table, service="one") as one,
        SQLInbox(engine, table=table, service="two", remember=None) as two,
    ):
        for inbox in (one, two):
            await inbox.complete("handled", "a")
            await pruned(inbox)
            await inbox.claim("dead", "a", lease=0.001)
            await inbox.release("failed", "a", failed=True)
        await let_time_be_believed(engine, table)
        await run(
            engine,
            f"UPDATE {table} SET handled_at = '{old}' WHERE handled_at IS NOT NULL",
            f"UPDATE {table} SET claimed_at = '{old}'",
            f"UPDATE {table}_failures SET failed_at = '{old}'",
            f"UPDATE {table}_version SET began = '{began:%Y-%m-%d %H:%M:%S.%f}'",
        )
        one._pruning.unpruned = 128  # private: the next record deletes old ones
        await one.complete("new", "a")
        await pruned(one)
        assert await one.known(["handled", "new"]) == {"new"}
        assert (await one.claim("dead", "b", lease=60)).unended == 0
        assert await one.release("failed", "a", failed=True) == 1
        assert await two.known(["handled"]) == {"handled"}
        assert (await two.claim("dead", "b", lease=60)).unended == 1
        assert await two.release("failed", "a", failed=True) == 2
        assert await two.known_since() == began


@pytest.mark.parametrize("wrong", ["a b", "x" * 101, "é", None, "a:b"])
async def test_what_names_no_service_is_refused(wrong: Any, tmp_path: Path) -> None:
    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/sql.db") as engine:
        with pytest.raises(ConfigurationError, match="service must be a name"):
            SQLInbox(engine, service=wrong)


async def test_a_plan_looks_under_the_same_keys(world: World) -> None:
    inbox = MemoryInbox()
    replay = world.replay(world.handle, inbox=inbox)
    assert (await replay.plan()).total == 3
    assert len(inbox) == 0
    await receive(world, inbox, world.webhook_ids[0])
    assert (await replay.plan()).total == 0


async def test_a_replay_waits_for_the_event_that_a_receiver_is_handling(world: World) -> None:
    inbox, gate = MemoryInbox(), asyncio.Event()
    receiver = WebhookReceiver(SECRET, webhook_id=world.webhook_ids[0], inbox=inbox)

    @receiver.on("*")
    async def slow(delivery: Delivery) -> None:
        await gate.wait()
        world.got.append(delivery.event_id)

    message = await world.basiq.messages.list(world.webhook_ids[0]).first()
    assert message is not None
    receiving = asyncio.create_task(receiver.dispatch(Delivery.from_message(message)))
    await asyncio.sleep(0)
    replaying = asyncio.create_task(world.replay(world.handle, inbox=inbox).run())
    await asyncio.sleep(0.03)
    gate.set()
    assert (await receiving).result is Result.HANDLED
    assert (await replaying).handled == 2
    assert len(set(world.got)) == len(world.got) == 3


def test_an_inbox_that_outlives_the_process_needs_the_webhooks_id(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WebhookReceiver(SECRET, inbox=SQLiteInbox(tmp_path / "inbox.db"))
    for part in ("webhook_id=", "webhooks list", "ensure", "BASIQ_WEBHOOK_ID"):
        assert part in str(caught.value)
    WebhookReceiver(SECRET, inbox=MemoryInbox())


FORKED = """
    import asyncio, os, sys
    from basiq_async import InboxError

    url, name = sys.argv[1:]
    if url.startswith("redis"):
        from contextlib import AsyncExitStack
        from basiq_async._work.inbox_kinds import kind_of

        stack = AsyncExitStack()
        inbox, end = kind_of(url).open(stack, url, prefix=name), stack.aclose
        claim = inbox.claim
    else:
        from functools import partial
        from sqlalchemy.ext.asyncio import create_async_engine
        from basiq_async.receiver import SQLInbox

        engine = create_async_engine(url)
        inbox, end = SQLInbox(engine, table=name), engine.dispose
        claim = partial(inbox.claim, transaction=True)

    def refuses(work):
        try:
            asyncio.run(work)
        except InboxError as error:
            return "after the fork" in str(error)

    with asyncio.Runner() as runner:
        runner.run(claim("k", "a", lease=60))
        child = os.fork()
        if child == 0:
            asyncio.run(inbox.__aexit__())
            calls = inbox.complete("k", "a"), inbox.release("k", "a"), inbox.claim("other", "b", lease=60)
            os._exit(0 if all([refuses(each) for each in calls]) else 1)
        status = os.waitpid(child, 0)[1]
        assert runner.run(inbox.complete("k", "a"))
        assert runner.run(inbox.known(["k"]))
        assert status == 0
        runner.run(end())
"""


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "redis"])
def test_a_forked_child_refuses_its_parents_claims_and_harms_none(driver: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("redis" if driver == "redis" else "postgres")
    url = server.url if driver == "redis" else server.url(driver)
    code = textwrap.dedent(FORKED)
    subprocess.run([sys.executable, "-c", code, url, new_table()], check=True, timeout=PATIENCE)
