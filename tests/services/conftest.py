"""Each test of the services runs twice: in memory, and over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, InMemoryTransport, RetryPolicy, Webhook
from basiq_async.testing import FakeBasiq, serve

URL = "https://example.com/basiq"
EVENTS = ["consent.revoked", "account.updated"]
RULES: list[Any] = ["mixed", "replaces", "patches"]
"""What an update may do to what a request leaves out, and to the status."""


@attrs.frozen
class Basiq:
    """A client, and the fake that it talks to."""

    client: BasiqClient
    fake: FakeBasiq


@pytest.fixture(params=["in memory", "over HTTP, behind a proxy's prefix"])
async def basiq(request: pytest.FixtureRequest) -> AsyncIterator[Basiq]:
    fake = FakeBasiq()
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"transport": InMemoryTransport(fake)}
        if request.param != "in memory":
            options = {"base_url": await stack.enter_async_context(serve(fake, prefix="/basiq"))}
        client = BasiqClient(fake.DEFAULT_API_KEY, retry=RetryPolicy(base=0.001), **options)
        yield Basiq(await stack.enter_async_context(client), fake)


def in_memory() -> Basiq:
    fake = FakeBasiq()
    return Basiq(BasiqClient(fake.api_key, transport=InMemoryTransport(fake)), fake)


async def create(basiq: Basiq, url: str = URL) -> Webhook:
    return await basiq.client.webhooks.create(url=url, subscribed_events=EVENTS, name="n", description="d")


async def active(basiq: Basiq, url: str = URL) -> Webhook:
    webhook = await create(basiq, url)
    basiq.fake.route(url, accept)
    await basiq.fake.advance(minutes=15)
    return webhook


async def accept(headers: object, body: bytes) -> int:
    return 204


async def disable(basiq: Basiq) -> None:
    """Let every attempt of a delivery fail, until Basiq gives the endpoint up."""
    basiq.fake.endpoint_down(URL)
    await basiq.fake.emit("consent.revoked")
    await basiq.fake.advance(hours=40)
    basiq.fake.endpoint_up(URL)
