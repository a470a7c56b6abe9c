"""Each test of the services runs twice: in memory, and over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport, RetryPolicy
from basiq_async.testing import FakeBasiq, serve


@attrs.frozen
class Basiq:
    """A client, and the fake that it talks to."""

    client: BasiqClient
    fake: FakeBasiq


@pytest.fixture(params=["in memory", "over HTTP", "behind a proxy's prefix"])
async def basiq(request: pytest.FixtureRequest) -> AsyncIterator[Basiq]:
    fake = FakeBasiq()
    retry = RetryPolicy(base=0.001)
    if request.param == "in memory":
        transport = InMemoryTransport(fake)
        async with BasiqClient(fake.DEFAULT_API_KEY, transport=transport, retry=retry) as client:
            yield Basiq(client, fake)
        return
    prefix = "/basiq" if "prefix" in request.param else ""
    async with (
        serve(fake, prefix=prefix) as base_url,
        BasiqClient(fake.DEFAULT_API_KEY, base_url=base_url, retry=retry) as client,
    ):
        yield Basiq(client, fake)
