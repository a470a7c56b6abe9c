"""Faults of requests on demand, each in one line, in this process and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from basiq_async import (
    BasiqClient,
    ConnectionFailedError,
    InMemoryTransport,
    PaginationError,
    ResponseDecodeError,
    RetryPolicy,
    ServerError,
)
from basiq_async.errors import ConfigurationError
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq, serve

from ..conftest import ENDPOINT, Caller, Endpoint, arranged

ONCE = RetryPolicy(max_retries=0)


@attrs.frozen
class Stage:
    fake: FakeBasiq
    basiq: BasiqClient
    in_memory: bool = False

    def time(self) -> float:
        """The clock that the client waits by."""
        waits = self.fake._waits if self.in_memory else None
        return asyncio.get_running_loop().time() if waits is None else waits.time()


@pytest.fixture(params=["in memory", "over HTTP"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    fake = FakeBasiq(page_size=2)
    fake.seed_messages(6)
    if request.param == "in memory":
        transport = InMemoryTransport(fake)
        async with BasiqClient(fake.api_key, transport=transport, retry=ONCE) as basiq:
            yield Stage(fake, basiq, True)
    else:
        async with serve(fake) as url, BasiqClient(fake.api_key, base_url=url, retry=ONCE) as basiq:
            yield Stage(fake, basiq)


async def test_the_next_requests_fail_as_often_as_asked_and_no_more(stage: Stage) -> None:
    stage.fake.fail_next(2, status=503, retry_after=1, path="/events/types")
    await stage.basiq.webhooks.list().collect()
    for _ in range(2):
        with pytest.raises(ServerError) as caught:
            await stage.basiq.event_types.list().collect()
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "service-unavailable", 1)
        assert caught.value.correlation_id
    await stage.basiq.event_types.list().collect()


async def test_without_a_path_the_token_call_is_spared(stage: Stage) -> None:
    stage.fake.fail_next(status=500)
    with pytest.raises(ServerError) as caught:
        await stage.basiq.event_types.get("user.created")
    assert caught.value.path == "/events/types/user.created"
    assert stage.fake.requests[0].url.endswith("/token")


async def test_a_fault_can_be_for_a_method_and_for_a_pattern_of_paths(stage: Stage) -> None:
    stage.fake.fail_next(status=500, method="DELETE")
    stage.fake.fail_next(status=502, path="/notifications/webhooks/*")
    (webhook,) = await stage.basiq.webhooks.list().collect()
    with pytest.raises(ServerError) as caught:
        await stage.basiq.webhooks.get(webhook.id)
    assert (caught.value.status, caught.value.code) == (502, "error")
    await stage.basiq.webhooks.get(webhook.id)
    with pytest.raises(ServerError):
        await stage.basiq.webhooks.delete(webhook.id)
    await stage.basiq.webhooks.delete(webhook.id)


@pytest.mark.parametrize("drop", ["request", "response"])
async def test_a_dropped_connection_is_one(stage: Stage, drop: Any) -> None:
    await stage.basiq.event_types.get("user.created")
    stage.fake.fail_next(3, drop=drop, method="POST")
    with pytest.raises(ConnectionFailedError):
        await stage.basiq.webhooks.create(url="https://example.com/new", subscribed_events=["user.created"])
    stage.fake.reset_log()
    urls = [webhook.url async for webhook in stage.basiq.webhooks.list()]
    # Dropped before, nothing was done; dropped after, it was.
    assert ("https://example.com/new" in urls) == (drop == "response")


async def test_a_body_can_be_anything(stage: Stage) -> None:
    stage.fake.fail_next(body=b'{"data": [{')
    with pytest.raises(ResponseDecodeError):
        await stage.basiq.event_types.get("user.created")
    stage.fake.fail_next(body="<html>", status=502, headers={"content-type": "text/html"})
    with pytest.raises(ServerError):
        await stage.basiq.event_types.get("user.created")


async def test_a_slow_answer_is_the_right_one_later(stage: Stage) -> None:
    stage.fake.fail_next(delay=0.03)
    began = stage.time()
    assert (await stage.basiq.event_types.get("user.created")).id == "user.created"
    assert stage.time() - began >= 0.029


async def test_an_expired_token_is_renewed_by_the_client(stage: Stage) -> None:
    await stage.basiq.event_types.get("user.created")
    stage.fake.expire_tokens()
    await stage.basiq.event_types.get("user.created")
    assert [request.url.rpartition("/")[2] for request in stage.fake.requests].count("token") == 2


async def test_a_page_that_loops_is_told_after_its_items(stage: Stage) -> None:
    (webhook,) = await stage.basiq.webhooks.list().collect()
    stage.fake.fail_next(100, loop=True)
    seen: list[str] = []
    with pytest.raises(PaginationError):
        async for message in stage.basiq.messages.list(webhook.id):
            seen.append(message.id)
    assert len(seen) == 2


async def test_a_transport_without_a_fake_makes_one() -> None:
    transport = InMemoryTransport(prefix="/basiq")
    async with BasiqClient(
        transport.fake.api_key, transport=transport, base_url="https://proxy.example/basiq"
    ) as basiq:
        assert len(await basiq.event_types.list().collect()) == 15


def test_handle_answers_at_once_and_raises_what_is_dropped(fake: FakeBasiq, caller: Caller) -> None:
    caller.authorize()
    fake.fail_next(delay=60)
    caller.get("/events/types")
    fake.fail_next(drop="request")
    with pytest.raises(ConnectionFailedError, match="GET /events/types"):
        caller.get("/events/types")


def test_retry_after_can_be_any_text(fake: FakeBasiq, caller: Caller) -> None:
    fake.fail_next(status=429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
    answer = caller.send("GET", "/events")
    assert (answer.status, answer.headers["retry-after"]) == (429, "Wed, 21 Oct 2026 07:28:00 GMT")


async def test_every_response_takes_its_latency_and_faults_still_come() -> None:
    fake = FakeBasiq(latency=2)
    start = fake.now()
    fake.fail_next(status=503, delay=1)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.event_types.get("user.created")
    waited = (fake.now() - start).total_seconds()
    assert 2 + 3 + 2 <= waited <= 2 + 3 + 2 + 0.5  # the token, the fault, the retry, and a wait before it
    assert [record.duration for record in fake.request_log] == [2, 3, 2]


async def test_a_lost_response_has_the_delivery_made_again_and_an_inbox_handles_it_once(fake: FakeBasiq) -> None:
    handled: list[str] = []
    service = WebhookReceiver(fake.secret(fake.add_webhook(ENDPOINT)), inbox=MemoryInbox())

    @service.on("*")
    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    fake.route(ENDPOINT, service)
    fake.fail_deliveries(drop="response")
    emitted = await fake.emit("user.created")
    await fake.advance(seconds=5)
    assert [(each.number, each.status, each.ok) for each in fake.deliveries] == [(1, None, False), (2, 200, True)]
    assert handled == [emitted.event_id]


async def test_deliveries_fail_as_often_as_asked_at_urls_that_match(fake: FakeBasiq) -> None:
    endpoints = {ENDPOINT: Endpoint(200), f"{ENDPOINT}/other": Endpoint(200)}
    for url, endpoint in endpoints.items():
        fake.route(url, endpoint)
        fake.add_webhook(url)
    fake.fail_deliveries(2, status=500, url="*/other")
    for _ in range(3):
        await fake.emit("user.created")
    assert [each.status for each in fake.deliveries if each.url.endswith("/other")] == [500, 500, 200]
    assert [len(each.got) for each in endpoints.values()] == [3, 1]


async def test_an_endpoint_is_down_until_it_is_up_and_a_message_is_redelivered_at_any_time() -> None:
    endpoint = Endpoint(200)
    fake, webhook_id = arranged(endpoint)
    fake.endpoint_down(ENDPOINT)
    (message_id,) = (await fake.emit("user.created")).message_ids
    assert not endpoint.got
    fake.endpoint_down(f"{ENDPOINT}/other")
    fake.endpoint_up(ENDPOINT)
    await fake.redeliver(message_id)
    await fake.advance(seconds=5)
    assert [each.ok for each in fake.deliveries] == [False, True, True], "the second attempt is still made"
    fake.endpoint_down(status=502)
    await fake.emit("user.created")
    await fake.advance(hours=30)
    assert (fake.deliveries[-1].status, fake.webhooks()[0].disabled) == (502, True)
    fake.endpoint_up()
    await fake.redeliver(message_id)
    assert (fake.deliveries[-1].ok, fake.pending) == (True, 0)
    fake.seed_messages(20, webhook_id, failed=1)
    seeded = next(fake.messages(webhook_id))
    await fake.redeliver(seeded.id)
    kept = next(fake.messages(webhook_id))
    assert ([each.status for each in kept.attempts], kept.status) == ([500, 200], "Success")


@pytest.mark.parametrize(
    "call",
    [
        lambda fake: fake.fail_deliveries(),
        lambda fake: fake.fail_deliveries(0, status=500),
        lambda fake: fake.fail_deliveries(status=500, drop="request"),
        lambda fake: fake.fail_deliveries(drop="answer"),
        lambda fake: fake.fail_next(drop="answer"),
        lambda fake: fake.redeliver("none"),
        lambda fake: fake.secret("none"),
        lambda fake: FakeBasiq(latency=-1),
        lambda fake: FakeBasiq(cool_off=-1),
        lambda fake: FakeBasiq(cool_off=float("inf")),
        lambda fake: FakeBasiq(cool_off=float("nan")),
        lambda fake: FakeBasiq(cool_off=1e12),
        lambda fake: FakeBasiq(delivery_timeout=0),
        lambda fake: FakeBasiq(delivery_timeout=float("inf")),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any) -> None:
    with pytest.raises(ConfigurationError):
        call(FakeBasiq())
