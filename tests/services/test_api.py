"""What all services share: retries, tokens, and responses that cannot be read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from basiq_async import (
    APIError,
    ConfigurationError,
    RateLimitError,
    Response,
    ResponseDecodeError,
    ServerError,
)
from tests.support import virtual
from tests.support.scripted import Scripted, answer, client, page

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
    assert list(basiq.fake.misuses) == []


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


@pytest.mark.parametrize(("status", "ok"), [(199, False), (200, True), (299, True), (300, False), (301, False)])
@virtual.clocked
async def test_only_2xx_is_a_success(status: int, ok: bool) -> None:
    basiq = client(Scripted(answer({"id": "e"}, status)))
    if ok:
        assert (await basiq.events.get("e")).id == "e"
        return
    with pytest.raises(APIError) as caught:
        await basiq.events.get("e")
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("size", "ok"), [(0, False), (1, True), (500, True), (501, False), (True, False), ("9", False)]
)
async def test_a_page_has_1_to_500_items(size: Any, ok: bool) -> None:
    transport = Scripted(page([]))
    if ok:
        await client(transport).messages.list("w", page_size=size).collect()
        assert transport.urls[0].endswith(f"?limit={size}")
        return
    with pytest.raises(ConfigurationError, match="from 1 to 500"):
        client(transport).messages.list("w", page_size=size)


async def test_basiqs_clock_goes_on_between_its_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    at = 100.0
    monkeypatch.setattr("basiq_async.services.api.time.monotonic", lambda: at)
    basiq = client(Scripted(answer({"id": "e"}, date="Mon, 05 Jan 2026 12:00:00 GMT")))
    before = basiq._api.now()
    assert abs((before - datetime.now(UTC)).total_seconds()) < 60, "before the first response it is this machine's"
    await basiq.events.get("e")
    at = 190.0
    assert basiq._api.now() == datetime(2026, 1, 5, 12, 1, 30, tzinfo=UTC)
    assert basiq._api.clock_lead() == pytest.approx((datetime.now(UTC) - basiq._api.now()).total_seconds(), abs=60)


async def test_the_clock_of_a_mock_leads_by_nothing(basiq: Basiq) -> None:
    await basiq.client.event_types.list().collect()
    assert basiq.client._api.clock_lead() == 0.0


async def test_the_lists_of_webhooks_and_event_types_are_not_read_ahead(basiq: Basiq) -> None:
    basiq.fake._store.page_size = 2
    for number in range(5):
        basiq.fake.add_webhook(f"https://example.com/{number}")
    for items in (basiq.client.webhooks.list(), basiq.client.event_types.list()):
        await basiq.client.event_types.get("user.created")  # the token
        before = len(basiq.fake.requests)
        async for _ in items:
            await asyncio.sleep(0)
            break
        assert len(basiq.fake.requests) == before + 1
