"""The transport to a fake in the same process: its limits of time, and its end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from basiq_async import (
    ConnectionFailedError,
    InMemoryTransport,
    Request,
    RequestTimeoutError,
)
from basiq_async.testing import FakeBasiq, SystemClock, check_transport
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


async def test_it_keeps_every_promise_of_a_transport() -> None:
    await check_transport(
        InMemoryTransport, in_process=True, make_impatient=lambda fake: InMemoryTransport(fake, timeout=0.01)
    )


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


@virtual.clocked
async def test_at_its_deadline_nothing_is_sent_and_just_before_it_is() -> None:
    fake = made()
    with pytest.raises(RequestTimeoutError, match="before the request was sent") as caught:
        await send(InMemoryTransport(fake), within=0.0)
    assert (caught.value.sent, list(fake.requests)) == (False, [])
    assert await send(InMemoryTransport(fake), within=0.5) == 401  # no token


async def test_what_is_closed_or_dropped_says_so_without_the_query() -> None:
    fake = made()
    fake.fail_next(1, path="*", drop="request")
    transport = InMemoryTransport(fake)
    assert repr(transport).startswith("InMemoryTransport(<FakeBasiq at ")
    with pytest.raises(ConnectionFailedError, match="was dropped") as caught:
        await send(transport, url=f"{URL}?filter=x")
    assert caught.value.path == "/events/types"
    await transport.aclose()
    with pytest.raises(ConnectionFailedError, match="is closed") as caught:
        await send(transport, url=f"{URL}?filter=x")
    assert (caught.value.sent, caught.value.path) == (False, "/events/types")


def test_the_default_fake_of_the_in_memory_transport_is_its_own() -> None:
    first, second = InMemoryTransport(), InMemoryTransport()
    assert first.fake is not second.fake
