"""The transport to a fake in the same process: its limits of time, and its end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from basiq_async import (
    BasiqClient,
    ConnectionFailedError,
    Event,
    InMemoryTransport,
    NotFoundError,
    Request,
    RequestTimeoutError,
)
from basiq_async.testing import FakeBasiq, SystemClock
from tests.support import virtual

URL = "https://au-api.basiq.io/events/types"


async def send(transport: InMemoryTransport, *, within: float | None = None, url: str = URL) -> int:
    deadline = None if within is None else asyncio.get_running_loop().time() + within
    return (await transport.send(Request("GET", url, deadline=deadline))).status


def made(delay: float = 0.0) -> FakeBasiq:
    fake = FakeBasiq(clock=SystemClock())  # a fake with another clock waits on that
    if delay:
        fake.fail_next(100, path="*", delay=delay)
    return fake


@pytest.mark.parametrize(
    ("delay", "timeout", "within", "took"),
    [
        (0.0, 30.0, None, None),
        (5.0, 30.0, None, None),
        (5.0, 5.0, None, None),
        (5.0, 4.0, None, 4.0),
        (5.0, 30.0, 3.0, 3.0),
        (5.0, 2.0, 3.0, 2.0),
        (5.0, 30.0, 6.0, None),
    ],
)
@virtual.clocked
async def test_a_delay_counts_against_the_earlier_of_both_limits(
    delay: float, timeout: float, within: float | None, took: float | None
) -> None:
    transport = InMemoryTransport(made(delay), timeout=timedelta(seconds=timeout))
    began = virtual.now()
    if took is None:
        assert await send(transport, within=within) == 401  # no token
        assert virtual.now() - began == delay
        return
    with pytest.raises(RequestTimeoutError, match=f"no response within {took:g} s"):
        await send(transport, within=within)
    assert virtual.now() - began == took


@pytest.mark.parametrize("within", [0.0, -1.0])
@virtual.clocked
async def test_after_its_deadline_nothing_is_sent(within: float) -> None:
    fake = made()
    with pytest.raises(RequestTimeoutError, match="before the request was sent") as caught:
        await send(InMemoryTransport(fake), within=within)
    assert (caught.value.sent, list(fake.requests)) == (False, [])


@virtual.clocked
async def test_up_to_its_deadline_a_request_is_sent() -> None:
    assert await send(InMemoryTransport(made()), within=0.5) == 401  # no token


@virtual.clocked
async def test_what_is_closed_sends_nothing_and_a_dropped_connection_is_an_error() -> None:
    fake = made()
    fake.fail_next(1, path="*", drop=True)
    transport = InMemoryTransport(fake)
    with pytest.raises(ConnectionFailedError, match="was dropped"):
        await send(transport)
    await transport.aclose()
    await transport.aclose()
    asked = len(fake.requests)
    with pytest.raises(ConnectionFailedError, match="is closed") as caught:
        await send(transport)
    assert (caught.value.sent, len(fake.requests)) == (False, asked)


async def test_the_default_fake_of_the_in_memory_transport_is_its_own() -> None:
    first, second = InMemoryTransport(), InMemoryTransport()
    assert first.fake is not second.fake
    async with BasiqClient(first.fake.DEFAULT_API_KEY, transport=first) as basiq:
        with pytest.raises(NotFoundError):
            await basiq.events.get("nothing")
    assert isinstance(Event("e"), Event)
