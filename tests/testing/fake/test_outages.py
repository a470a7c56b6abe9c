"""Deliveries go wrong on demand, and every response can be slow."""

from __future__ import annotations

from typing import Any

import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.errors import ConfigurationError
from basiq_async.receiver import MemoryInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq

from ..conftest import ENDPOINT

OTHER = "https://example.com/other"


class Endpoint:
    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, headers: dict[str, str], body: bytes) -> int:
        self.calls += 1
        return 200


def arranged() -> tuple[FakeBasiq, Endpoint]:
    fake, endpoint = FakeBasiq(), Endpoint()
    for url in (ENDPOINT, OTHER):
        fake.route(url, endpoint)
        fake.add_webhook(url)
    return fake, endpoint


async def test_an_inbox_handles_a_delivery_once_whose_response_was_lost() -> None:
    fake, handled = FakeBasiq(), list[str]()
    receiver = WebhookReceiver(fake.secret(fake.add_webhook(ENDPOINT)), inbox=MemoryInbox())

    @receiver.on("*")
    async def handle(delivery: Any) -> None:
        handled.append(delivery.event_id)

    fake.route(ENDPOINT, receiver)
    fake.fail_deliveries(drop="response")
    emitted = await fake.emit("consent.revoked")
    await fake.advance_to_next()
    assert [(attempt.status, attempt.ok) for attempt in fake.deliveries] == [(None, False), (200, True)]
    assert handled == [emitted.event_id]


async def test_a_fault_is_for_as_many_deliveries_as_asked_and_for_matching_urls() -> None:
    fake, endpoint = arranged()
    fake.fail_deliveries(2, status=500, url="*/other")
    for _ in range(3):
        await fake.emit("user.created")
    assert endpoint.calls == 4
    assert [attempt.status for attempt in fake.deliveries if attempt.url == OTHER] == [500, 500, 200]


@pytest.mark.parametrize(("status", "seen"), [(None, None), (503, 503)])
async def test_an_endpoint_that_is_down_is_not_called_until_it_is_up(status: int | None, seen: int | None) -> None:
    fake, endpoint = arranged()
    fake.endpoint_down(ENDPOINT, status=status)
    await fake.emit("user.created")
    assert [attempt.status for attempt in fake.deliveries] == [seen, 200]
    assert endpoint.calls == 1
    fake.endpoint_up()
    await fake.advance(seconds=5)
    assert fake.deliveries[-1].ok


async def test_a_redelivery_is_one_attempt_more_even_of_a_disabled_webhook() -> None:
    fake, _ = arranged()
    fake.endpoint_down(ENDPOINT)
    emitted = await fake.emit("user.created")
    await fake.advance(hours=30)
    assert fake.webhooks()[0].disabled
    before = len(fake.deliveries)
    await fake.redeliver(emitted.message_ids[0])
    assert not fake.deliveries[-1].ok
    assert fake.upcoming() == []
    fake.endpoint_up()
    await fake.redeliver(emitted.message_ids[0])
    assert fake.deliveries[-1].number == 10
    assert fake.deliveries[-1].ok
    assert len(fake.deliveries) == before + 2


async def test_every_response_takes_its_latency_and_faults_still_come() -> None:
    fake = FakeBasiq(latency=2)
    start = fake.now()
    fake.fail_next(status=503, delay=1)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.event_types.get("user.created")
    waited = (fake.now() - start).total_seconds()
    assert 2 + 3 + 2 <= waited <= 2 + 3 + 2 + 0.5  # the token, the fault, the retry, and a wait before it
    assert [record.duration for record in fake.request_log] == [2, 3, 2]


@pytest.mark.parametrize(
    "call",
    [
        lambda fake: fake.fail_deliveries(),
        lambda fake: fake.fail_deliveries(0, status=500),
        lambda fake: fake.fail_deliveries(status=500, drop=True),
        lambda fake: fake.fail_deliveries(drop="answer"),
        lambda fake: fake.fail_next(drop="answer"),
        lambda fake: fake.redeliver("none"),
        lambda fake: fake.secret("none"),
        lambda fake: FakeBasiq(latency=-1),
        lambda fake: FakeBasiq(cool_off=-1),
        lambda fake: FakeBasiq(cool_off=float("inf")),
        lambda fake: FakeBasiq(cool_off=float("nan")),
        lambda fake: FakeBasiq(cool_off=1e12),
        lambda fake: FakeBasiq(processes=0),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any) -> None:
    with pytest.raises(ConfigurationError):
        call(FakeBasiq())
