"""Faults of requests and deliveries on demand, each in one line. ``check_transport`` has those over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from basiq_async import BasiqClient, ConnectionFailedError, InMemoryTransport, Response
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq

from ..conftest import BASE, ENDPOINT, Caller, Endpoint, arranged

TYPE = "/events/types/user.created"
WEBHOOKS = "/notifications/webhooks"
CALLS = (WEBHOOKS, TYPE, TYPE, TYPE)


@pytest.mark.parametrize(
    ("fault", "statuses", "code"),
    [
        ({"times": 2, "status": 503, "path": "/events/*"}, [200, 503, 503, 200], "service-unavailable"),
        ({"status": 500}, [500, 200, 200, 200], "internal-server-error"),
        ({"times": 2, "status": 502, "path": TYPE, "method": "GET"}, [200, 502, 502, 200], "error"),
        ({"status": 500, "method": "DELETE"}, [200, 200, 200, 200], None),
        ({"status": 500, "path": "/token"}, [200, 200, 200, 200], None),
    ],
)
def test_the_next_requests_that_match_fail_as_often_as_asked_and_no_more(
    caller: Caller, fault: Any, statuses: list[int], code: str | None
) -> None:
    caller.authorize()
    caller.fake.fail_next(**fault, retry_after=1)
    answers = [caller.send("GET", path) for path in CALLS]
    assert [answer.status for answer in answers] == statuses
    assert {record.duration for record in caller.fake.request_log} == {0}
    for answer in answers:
        if answer.status != 200:
            body = json.loads(answer.body)
            assert (body["data"][0]["code"], answer.headers["retry-after"]) == (code, "1")
            assert body["correlationId"]


def test_without_a_path_the_token_call_is_spared(caller: Caller) -> None:
    caller.fake.fail_next(status=500)
    caller.authorize()
    assert caller.send("GET", TYPE).status == 500


@pytest.mark.parametrize("drop", ["request", "response"])
def test_a_dropped_connection_is_one_before_or_after_the_request_is_carried_out(caller: Caller, drop: Any) -> None:
    caller.authorize()
    caller.fake.fail_next(drop=drop, method="POST")
    with pytest.raises(ConnectionFailedError, match="POST /notifications/webhooks"):
        caller.create("https://example.com/new")
    assert len(caller.get(WEBHOOKS)["data"]) == (drop == "response")
    assert [record.status for record in caller.fake.request_log] == [200, None, 200]


def test_a_body_can_be_anything(caller: Caller) -> None:
    caller.authorize()
    caller.fake.fail_next(body=b'{"data": [{')
    assert caller.send("GET", TYPE) == Response(200, {"content-type": "application/json"}, b'{"data": [{')
    caller.fake.fail_next(body="<html>", status=502, headers={"Content-Type": "text/html"})
    assert caller.send("GET", TYPE) == Response(502, {"content-type": "text/html"}, b"<html>")


def test_a_slow_answer_is_the_right_one_later_and_handle_does_not_wait_for_it(caller: Caller) -> None:
    caller.authorize()
    caller.fake.fail_next(delay=60)
    assert caller.get(TYPE)["id"] == "user.created"
    assert caller.fake.request_log[-1].duration == 60


def test_tokens_that_expire_open_nothing_any_more(caller: Caller) -> None:
    caller.get(TYPE)
    caller.fake.expire_tokens()
    assert caller.error("GET", TYPE, status=401)["code"] == "unauthorized-access"


def test_a_page_can_lead_to_itself() -> None:
    caller = Caller(FakeBasiq(page_size=2))
    path = f"{WEBHOOKS}/{caller.fake.seed_messages(6)}/messages?limit=2"
    caller.authorize()
    caller.fake.fail_next(loop=True)
    assert caller.get(path)["links"]["next"] == BASE + path
    assert len(caller.every(path)) == 6


async def test_a_transport_without_a_fake_makes_one() -> None:
    transport = InMemoryTransport(prefix="/basiq")
    async with BasiqClient(
        transport.fake.api_key, transport=transport, base_url="https://proxy.example/basiq"
    ) as basiq:
        assert len(await basiq.event_types.list().collect()) == 15


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
    assert (fake.deliveries[-1].ok, list(fake.upcoming())) == (True, [])
    fake.seed_messages(20, webhook_id, failed=1)
    seeded = next(fake.messages(webhook_id))
    again = fake.redeliver(seeded.id)
    assert [(each.number, each.once) for each in fake.upcoming()] == [(2, True)]
    await again
    kept = next(fake.messages(webhook_id))
    assert ([each.status for each in kept.attempts], kept.status) == ([500, 200], "Success")
