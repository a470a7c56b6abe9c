"""What all services share: retries, tokens, and responses that cannot be read."""

from __future__ import annotations

import asyncio

import pytest

from basiq_async import (
    RateLimitError,
    Response,
    ResponseDecodeError,
    ServerError,
)
from tests.support import virtual
from tests.support.scripted import Scripted, answer, client

from .conftest import URL, Basiq, create
from .test_events import EVENT, Source


async def test_passing_failures_are_retried(basiq: Basiq) -> None:
    webhook = await create(basiq)
    basiq.fake.fail_next(2, status=503)
    assert (await basiq.client.webhooks.get(webhook.id)).id == webhook.id
    basiq.fake.fail_next(2, drop="request")
    assert (await basiq.client.webhooks.get(webhook.id)).id == webhook.id
    basiq.fake.fail_next(1, status=429, retry_after=0, method="POST")
    await basiq.client.webhooks.update(webhook.id, url=URL)
    basiq.fake.fail_next(1, status=503, method="POST")
    with pytest.raises(ServerError, match="503 service-unavailable"):
        await basiq.client.webhooks.update(webhook.id, url=URL)
    basiq.fake.fail_next(1, status=429, retry_after=900)
    with pytest.raises(RateLimitError) as caught:
        await basiq.client.webhooks.get(webhook.id)
    assert caught.value.retry_after == 900


async def test_a_token_that_expired_is_renewed(basiq: Basiq) -> None:
    webhook = await create(basiq)
    basiq.fake.expire_tokens()
    results = await asyncio.gather(*(basiq.client.webhooks.get(webhook.id) for _ in range(20)))
    assert len(results) == 20
    assert sum(request.url.endswith("/token") for request in basiq.fake.requests) == 2


async def test_the_client_misuses_nothing(basiq: Basiq) -> None:
    webhook_id = basiq.fake.seed_messages(1200)
    await basiq.client.messages.list(webhook_id).collect()
    await basiq.client.event_types.list().collect()
    assert list(basiq.fake.violations) == []


@virtual.clocked
async def test_an_answer_that_cannot_be_read_says_which_request_it_was_to() -> None:
    basiq = client(Scripted(answer({"no": "id"})))
    for call in (basiq.events.get("e"), basiq.event_types.get("e"), basiq.messages.get("w", "m")):
        with pytest.raises(Exception, match=r"^\$\.id: .*\(GET /"):
            await call
    with pytest.raises(Exception, match=r"^\$: the response's body is empty \(GET /users/u\)"):
        await client(Scripted(answer())).events.fetch_entity(Source(eventEntity="/users/u"))


@pytest.mark.parametrize("status", [200, 201, 202])
@virtual.clocked
async def test_a_page_of_a_proxy_does_not_pass_for_an_empty_answer(status: int) -> None:
    basiq = client(Scripted(Response(status, {}, b"<html>Sign in to the network</html>")))
    for call in (basiq.webhooks.delete("w"), basiq.messages.send_test("user.created")):
        with pytest.raises(ResponseDecodeError, match="is not JSON"):
            await call
    for body in (b"", b" ", b"{}"):
        basiq = client(Scripted(Response(status, {}, body)))
        await basiq.webhooks.delete("w")
        await basiq.messages.send_test("user.created")
    await client(Scripted(Response(204, {}, b"<html>"))).webhooks.delete("w")


@virtual.clocked
async def test_a_closed_client_says_so() -> None:
    transport = Scripted(EVENT)
    async with client(transport) as basiq:
        await basiq.events.get("e")
    with pytest.raises(Exception, match=r"the client is closed \(GET /events/e\)"):
        await basiq.events.get("e")
    await basiq.aclose()
    assert transport.closed == 0
