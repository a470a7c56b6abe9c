"""A client of a fake in this process waits on the fake's clock: at once, in order, and to be asserted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from basiq_async import BasiqClient, InMemoryTransport, RateLimitError, RequestTimeoutError, RetryEvent, ServerError
from basiq_async.testing import FakeBasiq, SystemClock
from tests.support import virtual

from .conftest import ENDPOINT


@asynccontextmanager
async def in_no_time() -> AsyncIterator[None]:
    """The event loop's clock, which jumps where anything waits for it, stands still."""
    before = virtual.now()
    yield
    assert virtual.now() == before


def moved(fake: FakeBasiq, since: Any) -> float:
    return (fake.now() - since).total_seconds()


def test_retries_wait_on_the_fakes_clock() -> None:
    async def main() -> None:
        fake, waits = FakeBasiq(), list[RetryEvent]()
        start = fake.now()
        fake.fail_next(5, status=503)
        async with (
            BasiqClient(fake.api_key, transport=InMemoryTransport(fake), on_retry=waits.append) as basiq,
            in_no_time(),
        ):
            with pytest.raises(ServerError):
                await basiq.event_types.get("user.created")
        assert len(waits) == 4
        assert moved(fake, start) == pytest.approx(sum(event.wait for event in waits), abs=1e-4)

    virtual.run(main())


def test_a_retry_after_is_waited_for_to_the_second() -> None:
    async def main() -> None:
        fake = FakeBasiq()
        start = fake.now()
        fake.fail_next(status=429, retry_after=30)
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq, in_no_time():
            await basiq.event_types.get("user.created")
        assert moved(fake, start) == 30
        assert [record.status for record in fake.request_log][-2:] == [429, 200]

    virtual.run(main())


def test_a_retry_after_beyond_the_ceiling_is_raised_without_a_wait() -> None:
    async def main() -> None:
        fake = FakeBasiq()
        start = fake.now()
        fake.fail_next(status=429, retry_after=31)
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            with pytest.raises(RateLimitError) as caught:
                await basiq.event_types.get("user.created")
        assert caught.value.retry_after == 31
        assert moved(fake, start) == 0

    virtual.run(main())


@pytest.mark.parametrize(("client", "transport", "expected"), [(30, 5, 5), (7, 30, 7)])
def test_a_response_that_is_late_times_out_on_the_fakes_clock(client: float, transport: float, expected: float) -> None:
    async def main() -> None:
        fake = FakeBasiq()
        fake.fail_next(delay=3600, method="POST", path="/notifications/messages/test")
        async with BasiqClient(
            fake.api_key, transport=InMemoryTransport(fake, timeout=transport), timeout=client
        ) as basiq:
            await basiq.event_types.get("user.created")
            start = fake.now()
            async with in_no_time():
                with pytest.raises(RequestTimeoutError):
                    await basiq.messages.send_test("user.created")
        assert moved(fake, start) == pytest.approx(expected, abs=1e-3)

    virtual.run(main())


def test_the_time_for_all_attempts_ends_on_the_fakes_clock() -> None:
    async def main() -> None:
        fake = FakeBasiq()
        fake.fail_next(9, delay=3600)
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            start = fake.now()
            async with in_no_time():
                with pytest.raises(RequestTimeoutError):
                    await basiq.event_types.get("user.created")
        assert 100 < moved(fake, start) <= 120.001

    virtual.run(main())


def test_the_cool_off_is_waited_out_and_deliveries_are_made_meanwhile() -> None:
    async def main() -> None:
        fake = FakeBasiq()
        got: list[bytes] = []

        async def receive(headers: dict[str, str], body: bytes) -> int:
            got.append(body)
            return 200 if len(got) > 2 else 503

        fake.route(ENDPOINT, receive)
        fake.add_webhook(ENDPOINT)
        start = fake.now()
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq, in_no_time():
            made = await basiq.webhooks.create(url="https://example.com/new", subscribed_events=["user.created"])
            fake.emit("user.created")
            active = await basiq.webhooks.wait_until_active(made.id)
        assert active.status == "active"
        assert 900 <= moved(fake, start) < 930
        assert [attempt.ok for attempt in fake.deliveries] == [False, False, True]

    virtual.run(main())


def test_a_webhook_that_does_not_become_active_is_given_up_in_time() -> None:
    async def main() -> None:
        fake = FakeBasiq(cool_off=timedelta(days=1))
        start = fake.now()
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq, in_no_time():
            made = await basiq.webhooks.create(url=ENDPOINT, subscribed_events=["user.created"])
            with pytest.raises(RequestTimeoutError, match="pending-approval"):
                await basiq.webhooks.wait_until_active(made.id, timeout=600)
        assert moved(fake, start) == pytest.approx(600, abs=1)

    virtual.run(main())


def test_waits_at_the_same_time_end_in_order_and_not_one_after_another() -> None:
    async def main() -> None:
        fake, ended = FakeBasiq(), list[tuple[float, float]]()
        start = fake.now()
        waits = fake.waits
        assert waits is not None

        async def wait(seconds: float) -> None:
            await waits.sleep(seconds)
            ended.append((seconds, moved(fake, start)))

        async with asyncio.TaskGroup() as group:
            for seconds in (30, 10, 20, 10.5):
                group.create_task(wait(seconds))
        assert ended == [(10, 10), (10.5, 10.5), (20, 20), (30, 30)]

    virtual.run(main())


def test_who_is_cancelled_while_waiting_holds_nobody_up() -> None:
    async def main() -> None:
        fake = FakeBasiq()
        waits = fake.waits
        assert waits is not None
        first = asyncio.create_task(waits.sleep(10))
        second = asyncio.create_task(waits.sleep(20))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()

    virtual.run(main())


def test_a_test_that_moves_the_clock_ends_a_wait() -> None:
    async def main() -> None:
        fake = FakeBasiq()
        start = fake.now()
        waits = fake.waits
        assert waits is not None
        long = asyncio.create_task(waits.sleep(3600))
        await asyncio.sleep(0)
        await fake.advance(hours=2)
        await long
        assert moved(fake, start) == 7200

    virtual.run(main())


def test_a_token_is_renewed_when_it_expires_on_the_fakes_clock() -> None:
    async def main() -> None:
        fake = FakeBasiq()
        async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
            await basiq.event_types.get("user.created")
            await fake.advance(hours=2)
            await basiq.event_types.get("user.created")
        assert [record.status for record in fake.request_log] == [200, 200, 200, 200]
        fake.assert_no_violations()

    virtual.run(main())


def test_a_clock_that_runs_by_itself_is_not_waited_on() -> None:
    assert InMemoryTransport(FakeBasiq(clock=SystemClock())).waits is None
    assert FakeBasiq(clock=SystemClock()).waits is None


async def test_the_client_of_the_fixture_waits_in_no_time(basiq_client: BasiqClient, fake_basiq: FakeBasiq) -> None:
    start = fake_basiq.now()
    fake_basiq.fail_next(status=503, retry_after=29)
    await basiq_client.event_types.get("user.created")
    assert moved(fake_basiq, start) == 29
