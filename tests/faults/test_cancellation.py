"""Cancelled at each turn of each operation: the cancellation comes out, nothing is left, and the client is usable.

``tests/receiver/test_cancellation.py`` and ``tests/replay/test_cancelled.py`` do this with deliveries and replays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from basiq_async import BasiqClient, InMemoryTransport, Request, Response, RetryPolicy
from basiq_async.testing import FakeBasiq
from tests.support.cancelling import at_every_turn, cancel_after, turns
from tests.support.outcomes import client_of
from tests.support.wire import KEY, WEBHOOK, Conn, Wire, error, ok

Operation = Callable[[BasiqClient, str], Awaitable[Any]]


class Turning(InMemoryTransport):
    """The transport to a fake, which takes turns of the event loop before each response."""

    under_way = 0

    async def send(self, request: Request, /) -> Response:
        self.under_way += 1
        try:
            await turns(2)
            return await super().send(request)
        finally:
            self.under_way -= 1


OPERATIONS: dict[str, Operation] = {
    "ensure": lambda client, _: client.webhooks.ensure(url="https://x.example", subscribed_events=["user.created"]),
    "wait_until_active": lambda client, id_: client.webhooks.wait_until_active(id_),
    "list with prefetch": lambda client, id_: client.messages.list(id_).collect(),
    "first": lambda client, id_: client.messages.list(id_).first(),
}
TROUBLES = {"in order": {}, "with retries": {"status": 429, "retry_after": 0}, "with a renewal": {"status": 401}}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
async def test_an_operation_cancelled_at_each_of_its_turns(operation: Operation, trouble: dict[str, Any]) -> None:
    async def attempt(count: int) -> bool:
        fake = FakeBasiq(api_keys=[KEY], page_size=2)
        id_ = fake.seed_messages(5)
        if trouble:
            fake.fail_next(path="/notifications/*", **trouble)
        ended: list[Any] = []

        async def run() -> None:
            ended.append(await operation(client, id_))

        transport = Turning(fake)
        async with BasiqClient(KEY, transport=transport, retry=RetryPolicy(base=0)) as client:
            hit = await cancel_after(count, run(), "once", alone=False)  # a page that is asked for ahead ends later
            assert bool(ended) != hit, "the cancellation was swallowed"
            fake.reset_log()
            assert await client.event_types.list().collect()
        assert transport.under_way == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return hit

    await at_every_turn(attempt, enough=5)


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("pages", [False, True], ids=["items", "pages"])
async def test_an_iteration_cancelled_at_each_of_its_turns_continues_with_the_very_next_item(
    pages: bool, prefetch: int
) -> None:
    fake = FakeBasiq(api_keys=[KEY], page_size=2)
    id_ = fake.seed_messages(7)

    async def attempt(count: int) -> bool:
        async with BasiqClient(KEY, transport=Turning(fake)) as client:
            every = [message.id for message in await client.messages.list(id_).collect()]
            paginator = client.messages.list(id_, prefetch=prefetch)
            walked: Any = paginator.pages() if pages else aiter(paginator)
            ids: list[str] = []

            async def run() -> None:
                async for one in walked:
                    ids.extend(message.id for message in (one.items if pages else [one]))

            hit = await cancel_after(count, run(), "once", alone=False)  # the page that is asked for ahead goes on
            cursor, before = paginator.cursor, list(ids)
            await run()
            assert ids == every
            if not pages:
                resumed = [m.id async for m in client.messages.list(id_, prefetch=prefetch, cursor=cursor)]
                assert before + resumed == every
        return hit

    await at_every_turn(attempt, enough=5)


@pytest.mark.parametrize("cancelled", [0, 1, 9])
async def test_of_callers_at_once_one_is_cancelled_at_each_of_its_turns_and_the_others_get_their_answers(
    cancelled: int,
) -> None:
    fake = FakeBasiq(api_keys=[KEY])
    id_ = fake.add_webhook()

    async def attempt(count: int) -> bool:
        transport = Turning(fake)
        async with BasiqClient(KEY, transport=transport) as client:
            before = [asyncio.create_task(client.webhooks.get(id_)) for _ in range(cancelled)]
            mine = asyncio.create_task(cancel_after(count, client.webhooks.get(id_), "once", alone=False))
            await asyncio.sleep(0)
            others = [*before, *(asyncio.create_task(client.webhooks.get(id_)) for _ in range(9 - cancelled))]
            hit = await mine
            assert {(await one).id for one in others} == {id_}
            assert transport.under_way == 0
        return hit

    await at_every_turn(attempt, enough=3)


async def test_over_http_a_call_cancelled_at_many_moments_leaves_no_connection_to_mislead_the_next() -> None:
    async def slow(conn: Conn) -> None:
        answer = ok({**WEBHOOK, "id": wire.requests[-1].target.rpartition("/")[2]})
        for index in range(0, len(answer), 9):
            await conn.say(answer[index : index + 9])
            await asyncio.sleep(0)

    async with Wire(slow) as wire, client_of(wire, timeout=60) as client:
        await client.webhooks.get("first")
        for count in range(1, 150, 3):
            await cancel_after(count, client.webhooks.get(f"cancelled-{count}"), "once", alone=False)
            assert (await client.webhooks.get(f"next-{count}")).id == f"next-{count}"


async def test_closing_the_client_cancelled_at_each_turn_can_be_done_again() -> None:
    for count in range(1, 12):
        async with Wire(error(500)) as wire, client_of(wire) as client:
            stream = aiter(client.messages.list("w1"))
            wire.script = [ok({"data": [{"id": "m1"}], "links": {"next": "/x?n=1"}}), error(500)]
            await anext(stream)
            await cancel_after(count, client.aclose(), "once", alone=False)
            await client.aclose()
