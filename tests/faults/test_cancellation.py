"""Cancelled at each await of each operation: the cancellation comes out, nothing is left, and the client is usable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient, InMemoryTransport, Request, Response, RetryPolicy
from basiq_async.receiver import SQLiteInbox
from basiq_async.replay import Replay
from basiq_async.testing import FakeBasiq, serve
from tests.support import virtual
from tests.support.outcomes import client_of
from tests.support.wire import KEY, TOKEN, WEBHOOK, Wire, error, ok

over_both = pytest.mark.usefixtures("over_both")

Operation = Callable[[BasiqClient], Awaitable[Any]]


class CancelledAt:
    """Awaits something, and cancels the task at the nth time that it waits."""

    def __init__(self, work: Awaitable[Any], nth: int) -> None:
        self._work = work
        self._nth = nth
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        thrown: BaseException | None = None
        while True:
            try:
                waited_for = inner.send(None) if thrown is None else inner.throw(thrown)
            except StopIteration as stop:
                return stop.value
            self.waits += 1
            if self.waits == self._nth:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waited_for
                thrown = None
            except BaseException as exc:
                thrown = exc


async def cancel_at(nth: int, work: Awaitable[Any]) -> tuple[bool, Any]:
    """Whether it waited that often, and what came out: a result, an error, or None where the cancellation did."""
    cancelled_at = CancelledAt(work, nth)

    async def run() -> Any:
        return await cancelled_at

    task = asyncio.create_task(run())
    await asyncio.wait([task], timeout=3600)
    assert task.done(), "the operation hangs"
    got = None if task.cancelled() else task.exception() or task.result()
    return cancelled_at.waits >= nth, got


class Slow:
    """A transport that waits a few times before each answer; it tells its part from the request alone."""

    def __init__(self) -> None:
        self.under_way = 0
        self.calls = 0
        self.failing = 0
        self.stale = 0

    async def send(self, request: Request, /) -> Response:
        self.under_way += 1
        try:
            for seconds in (0, 0.01, 0):
                await asyncio.sleep(seconds)
            return self._answer(request)
        finally:
            self.under_way -= 1

    def _answer(self, request: Request) -> Response:
        self.calls += 1
        path, _, query = request.url.removeprefix("https://au-api.basiq.io").partition("?")
        if path == "/token":
            return self._json({"access_token": TOKEN, "expires_in": 3600})
        if self.stale:
            self.stale -= 1
            return Response(401)
        if self.failing:
            self.failing -= 1
            return Response(429)
        if path.endswith("/messages"):
            number = int(query.rpartition("=")[2]) if "next" in query else 0
            links = {"next": f"{path}?next={number + 1}"} if number < 3 else {}
            return self._json({"data": [{"id": f"m{number}-{index}"} for index in range(2)], "links": links})
        if path == "/notifications/webhooks" and request.method == "GET":
            return self._json({"data": [{**WEBHOOK, "url": "https://example.com/other"}]})
        if path.startswith("/notifications/webhooks/pending"):
            return self._json({**WEBHOOK, "status": "active" if self.calls > 6 else "pending-approval"})
        return self._json(WEBHOOK)

    @staticmethod
    def _json(value: Any) -> Response:
        return Response(200, {}, json.dumps(value).encode())

    async def aclose(self) -> None: ...


async def _walk_pages(client: BasiqClient) -> int:
    return len([page async for page in client.messages.list("w1").pages()])


OPERATIONS: dict[str, Operation] = {
    "get": lambda client: client.webhooks.get("w1"),
    "create": lambda client: client.webhooks.create(url="https://example.com", subscribed_events=["user.created"]),
    "ensure": lambda client: client.webhooks.ensure(url="https://example.com", subscribed_events=["user.created"]),
    "delete": lambda client: client.webhooks.delete("w1"),
    "wait_until_active": lambda client: client.webhooks.wait_until_active("pending"),
    "list without prefetch": lambda client: client.messages.list("w1", prefetch=0).collect(),
    "list with prefetch": lambda client: client.messages.list("w1").collect(),
    "pages": _walk_pages,
    "first": lambda client: client.messages.list("w1").first(),
    "send_test": lambda client: client.messages.send_test("user.created"),
    "fetch_entity": lambda client: client.events.fetch_entity(_Thin()),
}


class _Thin:
    event_id = "e1"
    links = {"eventEntity": "/users/u1"}  # noqa: RUF012  # a stand-in, of which nothing is changed


TROUBLES: dict[str, dict[str, int]] = {"in order": {}, "with retries": {"failing": 2}, "with a renewal": {"stale": 1}}


async def at_each_await(attempt: Callable[[int], Awaitable[bool]], *, least: int = 3, most: int = 60) -> None:
    """Call ``attempt`` with 1, 2, 3 … awaits, until it returns False: the work had ended before."""
    for nth in range(1, most):
        if not await attempt(nth):
            assert nth > least
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@virtual.clocked
async def test_an_operation_cancelled_at_each_of_its_awaits(operation: Operation, trouble: dict[str, int]) -> None:
    async def attempt(nth: int) -> bool:
        transport = Slow()
        transport.__dict__.update(trouble)
        client = BasiqClient(KEY, transport=transport, retry=RetryPolicy(base=1.0))
        reached, got = await cancel_at(nth, operation(client))
        assert not isinstance(got, BaseException), got
        assert not reached or got is None, "the cancellation was swallowed"
        await asyncio.sleep(0)
        transport.failing = transport.stale = 0
        assert (await client.webhooks.get("w1")).id == "w1"
        await client.aclose()
        assert transport.under_way == 0
        return reached

    await at_each_await(attempt)


EVERY = [f"m{number}-{index}" for number in range(4) for index in range(2)]


@pytest.mark.parametrize("prefetch", [0, 1])
@pytest.mark.parametrize("pages", [False, True], ids=["items", "pages"])
@virtual.clocked
async def test_an_iteration_cancelled_at_each_of_its_awaits_continues_with_the_very_next_item(
    pages: bool, prefetch: int
) -> None:
    async def attempt(nth: int) -> bool:
        client = BasiqClient(KEY, transport=Slow())
        paginator = client.messages.list("w1", prefetch=prefetch)
        walked: Any = paginator.pages() if pages else aiter(paginator)
        ids: list[str] = []

        async def run() -> None:
            async for one in walked:
                ids.extend(message.id for message in (one.items if pages else [one]))

        reached, _ = await cancel_at(nth, run())
        cursor, before = paginator.cursor, list(ids)
        await run()
        assert ids == EVERY, nth
        if not pages:
            resumed = [m.id async for m in client.messages.list("w1", prefetch=prefetch, cursor=cursor)]
            assert before + resumed == EVERY, nth
        await client.aclose()
        return reached

    await at_each_await(attempt)


@pytest.mark.parametrize("cancelled", [0, 1, 25, 49])
@virtual.clocked
async def test_of_fifty_callers_one_is_cancelled_at_each_of_its_awaits_and_the_others_get_their_answers(
    cancelled: int,
) -> None:
    async def attempt(nth: int) -> bool:
        transport = Slow()
        client = BasiqClient(KEY, transport=transport)
        work = [client.webhooks.get("w1") for _ in range(50)]
        mine = asyncio.create_task(cancel_at(nth, work.pop(cancelled)))
        others = [asyncio.create_task(one) for one in work]
        reached, _ = await mine
        assert {(await one).id for one in others} == {"w1"}
        assert transport.under_way == 0
        await client.aclose()
        return reached

    await at_each_await(attempt, least=1)


@over_both
@pytest.mark.parametrize("nth", range(1, 12))
async def test_over_http_a_cancelled_call_leaves_no_connection_in_a_state_to_mislead_the_next(nth: int) -> None:
    fake = FakeBasiq(api_keys=[KEY])
    first, second = fake.add_webhook(), fake.add_webhook(url="https://example.com/2")
    async with serve(fake) as url, client_of(url, timeout=60) as client:
        for _ in range(3):
            await cancel_at(nth, client.webhooks.get(first))
            assert (await client.webhooks.get(second)).id == second


@over_both
async def test_over_http_a_call_cancelled_after_each_of_many_moments() -> None:
    answer = ok(WEBHOOK)

    async def slow(conn: Any) -> None:
        for index in range(0, len(answer), 9):
            await conn.say(answer[index : index + 9])
            await asyncio.sleep(0)

    async with Wire(slow) as wire, client_of(wire, timeout=60) as client:
        await client.webhooks.get("w1")
        for steps in range(1, 150, 3):
            task = asyncio.create_task(client.webhooks.get("w1"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=60)
            assert task.done(), "the cancelled call hangs"
            assert (await client.webhooks.get("w1")).raw == WEBHOOK


@over_both
async def test_closing_the_client_cancelled_at_each_await_can_be_done_again() -> None:
    for nth in range(1, 12):
        async with Wire(error(500)) as wire, client_of(wire) as client:
            stream = aiter(client.messages.list("w1"))
            wire.script = [ok({"data": [{"id": "m1"}], "links": {"next": "/x?n=1"}}), error(500)]
            await anext(stream)
            await cancel_at(nth, client.aclose())
            await client.aclose()


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_a_replay_cancelled_at_an_await_continues_and_loses_nothing(nth: int, tmp_path: Path) -> None:
    fake = FakeBasiq(api_keys=[KEY], page_size=10)
    webhook = fake.seed_messages(40)
    seen: list[str] = []

    async def target(message: Any) -> None:
        await asyncio.sleep(0)
        seen.append(message.id)

    transport = InMemoryTransport(fake)
    async with BasiqClient(KEY, transport=transport) as client:
        before = asyncio.all_tasks()

        async def run() -> None:
            async with SQLiteInbox(tmp_path / "job.db") as inbox:
                await Replay(client, webhook, target, inbox=inbox, exclusive=True, concurrency=4).run()

        await cancel_at(nth, run())
        left = [task for task in asyncio.all_tasks() - before if not task.done()]
        assert not left, left
        await run()
        every = [message.id async for message in client.messages.list(webhook)]
        assert sorted(set(seen)) == sorted(every)
        assert len(seen) <= len(every) + 4
    await transport.aclose()
