"""Waits on the fake's clock take no time and end in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

import pytest

from basiq_async import (
    BasiqClient,
    BasiqError,
    InMemoryTransport,
    RateLimitError,
    RequestEvent,
    RequestTimeoutError,
    ServerError,
)
from basiq_async.testing import FakeBasiq, SystemClock
from tests.support import virtual

from ..conftest import ENDPOINT, Endpoint, arranged


@asynccontextmanager
async def in_no_time() -> AsyncIterator[None]:
    """The event loop's clock, which jumps where anything waits for it, stands still."""
    before = virtual.now()
    yield
    assert virtual.now() == before


def moved(fake: FakeBasiq, since: Any) -> float:
    return (fake.now() - since).total_seconds()


FOUR = [503] * 4
EVENT_TYPE, TEST_MESSAGE = "/events/types/*", "/notifications/messages/test"


@pytest.mark.parametrize(
    ("fault", "error", "waits", "statuses"),
    [
        ({"times": 5, "status": 503}, ServerError, [None] * 4, [*FOUR, 503]),
        ({"times": 4, "status": 503}, None, [None] * 4, [*FOUR, 200]),
        ({"status": 429, "retry_after": 30}, None, [30], [429, 200]),
        ({"status": 429, "retry_after": 31}, RateLimitError, [], [429]),
    ],
    ids=["retries", "the last retry", "a Retry-After", "a Retry-After above the maximum"],
)
@virtual.clocked
async def test_retries_wait_on_the_fakes_clock(
    fault: Any, error: type[BasiqError] | None, waits: list[float | None], statuses: list[int]
) -> None:
    fake, retries = FakeBasiq(), list[RequestEvent]()
    start = fake.now()
    fake.fail_next(path=EVENT_TYPE, **fault)
    async with (
        BasiqClient(fake.api_key, transport=InMemoryTransport(fake), on_retry=retries.append) as basiq,
        in_no_time(),
    ):
        with nullcontext() if error is None else pytest.raises(error) as caught:
            await basiq.event_types.get("user.created")
    assert [record.status for record in fake.request_log] == [200, *statuses]
    assert len(retries) == len(waits)
    assert all(waited in (None, retry.wait) for waited, retry in zip(waits, retries, strict=True))
    assert moved(fake, start) == pytest.approx(sum(retry.wait for retry in retries), abs=1e-4)
    if error is RateLimitError:
        assert caught.value.retry_after == 31


@pytest.mark.parametrize(
    ("client", "transport", "path", "least", "most"),
    [(30, 5, TEST_MESSAGE, 5, 5), (7, 30, TEST_MESSAGE, 7, 7), (30, 30, EVENT_TYPE, 100, 120)],
    ids=["the transport's", "the client's", "all attempts together"],
)
@virtual.clocked
async def test_a_time_limit_is_one_of_the_fakes_clock(
    client: float, transport: float, path: str, least: float, most: float
) -> None:
    fake = FakeBasiq()
    fake.fail_next(9, delay=3600, path=path)
    start = fake.now()
    async with (
        BasiqClient(fake.api_key, transport=InMemoryTransport(fake, timeout=transport), timeout=client) as basiq,
        in_no_time(),
    ):
        with pytest.raises(RequestTimeoutError):
            # A read is sent again, a test message is not.
            await (basiq.event_types.get if path == EVENT_TYPE else basiq.messages.send_test)("user.created")
    assert least - 0.001 < moved(fake, start) < most + 0.001


@virtual.clocked
async def test_the_cool_off_is_waited_out_and_deliveries_are_made_meanwhile() -> None:
    fake, _ = arranged(Endpoint(503, 503, 200))
    start = fake.now()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq, in_no_time():
        made = await basiq.webhooks.create(url="https://example.com/new", subscribed_events=["user.created"])
        fake.emit("user.created")
        active = await basiq.webhooks.wait_until_active(made.id)
    assert active.status == "active"
    assert 900 <= moved(fake, start) < 930
    assert [attempt.ok for attempt in fake.deliveries] == [False, False, True]


@virtual.clocked
async def test_a_webhook_that_does_not_become_active_is_given_up_in_time() -> None:
    fake = FakeBasiq(cool_off=timedelta(days=1))
    start = fake.now()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq, in_no_time():
        made = await basiq.webhooks.create(url=ENDPOINT, subscribed_events=["user.created"])
        with pytest.raises(RequestTimeoutError, match="pending-approval"):
            await basiq.webhooks.wait_until_active(made.id, timeout=600)
    assert moved(fake, start) == pytest.approx(600, abs=1)


@virtual.clocked
async def test_waits_at_the_same_time_end_in_order_and_not_one_after_another() -> None:
    fake, ended = FakeBasiq(), list[tuple[float, float]]()
    start = fake.now()
    waits = fake._waits
    assert waits is not None

    async def wait(seconds: float) -> None:
        await waits.sleep(seconds)
        ended.append((seconds, moved(fake, start)))

    async with asyncio.TaskGroup() as group:
        for seconds in (30, 10, 20, 10.5):
            group.create_task(wait(seconds))
    assert ended == [(10, 10), (10.5, 10.5), (20, 20), (30, 30)]


@virtual.clocked
async def test_a_wait_of_no_time_or_less_moves_no_clock() -> None:
    fake = FakeBasiq()
    start = fake.now()
    assert fake._waits is not None
    for seconds in (0, -5):
        await fake._waits.sleep(seconds)
    assert fake.now() == start


@virtual.clocked
async def test_a_task_that_is_cancelled_while_waiting_holds_no_other_up() -> None:
    fake = FakeBasiq()
    waits = fake._waits
    assert waits is not None
    first = asyncio.create_task(waits.sleep(10))
    second = asyncio.create_task(waits.sleep(20))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()


@virtual.clocked
async def test_a_test_that_moves_the_clock_ends_a_wait() -> None:
    fake = FakeBasiq()
    start = fake.now()
    waits = fake._waits
    assert waits is not None
    long = asyncio.create_task(waits.sleep(3600))
    await asyncio.sleep(0)
    await fake.advance(hours=2)
    await long
    assert moved(fake, start) == 7200


def test_a_clock_that_runs_by_itself_is_not_waited_on() -> None:
    assert InMemoryTransport(FakeBasiq(clock=SystemClock())).waits is None
    assert FakeBasiq(clock=SystemClock())._waits is None


async def test_a_change_that_comes_with_the_end_of_a_wait_is_one() -> None:
    timeline = FakeBasiq()._timeline  # private: the two seldom come in one turn of the loop
    waiting = asyncio.create_task(timeline._changed(within=0))
    await asyncio.sleep(0)
    timeline._notify()
    assert await waiting
