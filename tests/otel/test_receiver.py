"""A delivery is a consumer span in which its handler runs; metrics of all, genuine or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from basiq_async import ConfigurationError, InboxError
from basiq_async.otel import instrument
from basiq_async.receiver import Delivery, DeliveryEvent, InboxEntry, MemoryInbox, WebhookReceiver
from basiq_async.receiver.protocol import Waiting
from tests.otel.conftest import Recorded
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, post, signed
from tests.support.scripted import Scripted, answer, client

Handler = Callable[[Delivery], Awaitable[None]]


async def take(delivery: Delivery) -> None: ...


def traced(recorded: Recorded, handler: Handler | None = None, **options: Any) -> WebhookReceiver:
    receiver = WebhookReceiver(SECRET, **options)
    if handler is not None:
        receiver.on("*")(handler)
    instrument(receiver, **recorded.options)
    return receiver


async def test_the_calls_of_a_handler_are_in_the_trace_of_its_delivery(recorded: Recorded) -> None:
    basiq = client(Scripted(answer({"id": "e"})))
    instrument(basiq, **recorded.options)

    async def handler(delivery: Delivery) -> None:
        await basiq.events.fetch(delivery)

    outcome = await post(traced(recorded, handler), payload(event_id="event-1"), message_id="msg_9")
    assert outcome.status == 204
    *_, delivery_span = recorded.spans
    assert (delivery_span.name, delivery_span.kind) == ("process consent.revoked", SpanKind.CONSUMER)
    assert {name: value for name, value in recorded.attributes[-1].items() if name != "basiq.handler"} == {
        "messaging.system": "basiq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": "msg_9",
        "basiq.event_type": "consent.revoked",
        "basiq.event_id": "event-1",
        "basiq.result": "handled",
    }
    assert {span.context.trace_id for span in recorded.spans if span.context} == {delivery_span.context.trace_id}  # type: ignore[union-attr]  # finished spans have one
    assert len(recorded.spans) == 4


async def test_a_handler_that_fails_is_an_error_of_its_class_and_no_secret_or_body_is_recorded(
    recorded: Recorded,
) -> None:
    async def handler(delivery: Delivery) -> None:
        raise ValueError("a customer's name")

    await post(traced(recorded, handler), body := payload(customer="a-customer-name"))
    (span,), (attributes,) = recorded.spans, recorded.attributes
    assert (attributes["basiq.result"], attributes["error.type"]) == ("failed", "ValueError")
    assert span.status.status_code is StatusCode.ERROR
    for secret in ("customer", SECRET.removeprefix("whsec_"), signed(body)["webhook-signature"]):
        assert secret not in recorded.everything()


async def test_metrics_tell_result_reason_type_and_age(recorded: Recorded) -> None:
    seen: list[DeliveryEvent] = []
    receiver = traced(recorded, on_delivery=seen.append)
    receiver.on("user.created")(take)
    for event_type_id in ("user.created", "user.deleted"):
        await post(receiver, payload(event_type_id))
    await receiver.handle({}, b"")
    found = recorded.values("messaging.process.duration", "basiq.result", "basiq.event_type", "basiq.reason")
    assert found == {
        ("handled", "user.created", None): 1,
        ("ignored", "user.deleted", None): 1,
        ("rejected", None, "missing-header"): 1,
    }
    assert recorded.values("basiq.delivery.age", "basiq.result") == {"handled": 1, "ignored": 1}
    assert len(seen) == 3


async def test_event_types_of_a_metric_are_bounded(recorded: Recorded) -> None:
    receiver = traced(recorded)
    for number in range(100):
        await post(receiver, payload(f"made.up{number}"))
    types = recorded.values("messaging.process.duration", "basiq.event_type")
    assert (len(types), types["_OTHER"]) == (65, 36)


async def test_text_from_elsewhere_keeps_no_exporter_from_its_spans(recorded: Recorded) -> None:
    body = json.dumps({"eventTypeId": "made.\ud800up", "eventId": "\udc00" + "e" * 100_000}).encode()
    await post(traced(recorded), body)
    metrics = [str(point.attributes) for point in recorded.points("messaging.process.duration")]
    for text in recorded.texts + metrics:
        text.encode()  # a lone surrogate has an exporter of OTLP drop all that it was to send
        assert len(text) < 400


async def test_a_delivery_that_comes_again_links_to_the_first(recorded: Recorded) -> None:
    receiver, body = traced(recorded, take), payload()
    for _ in range(2):
        await post(receiver, body, message_id="msg_again")
    first, second = recorded.spans
    assert first.context is not None
    assert list(first.links) == []
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


async def test_without_an_sdk_no_hook_is_set(recorded: Recorded) -> None:
    receiver = WebhookReceiver(SECRET)
    instrument(receiver)
    assert (await post(receiver)).status == 204
    assert receiver._on_delivery is None
    instrument(receiver, **recorded.options)
    with pytest.raises(ConfigurationError, match="instrumented already"):
        instrument(receiver)


async def test_the_size_of_the_quarantine_is_a_gauge(recorded: Recorded) -> None:
    healed = False

    async def handler(delivery: Delivery) -> None:
        if not healed and delivery.event_id != "good":
            raise ValueError("no")

    receiver = traced(recorded, handler, quarantine_after=1)

    def size() -> int:
        (point,) = recorded.points("basiq.receiver.quarantined")
        return int(point.value)

    for number, event_id in enumerate(("good", "bad-1", "bad-2")):
        await post(receiver, payload(event_id=event_id), message_id=f"msg_{number}")
        assert size() == number
    assert await receiver.drop_quarantined(["msg_1"]) == 1
    assert size() == 1
    healed = True
    await receiver.retry_quarantined()
    assert size() == 0


async def test_each_of_several_webhooks_has_its_own_numbers(recorded: Recorded) -> None:
    async def fail(delivery: Delivery) -> None:
        raise ValueError("no")

    for webhook_id, handler in (("wh-1", fail), ("wh-2", take)):
        await post(traced(recorded, handler, webhook_id=webhook_id, inbox=MemoryInbox(), quarantine_after=1))
    assert recorded.values("basiq.receiver.quarantined", "basiq.webhook_id") == {"wh-1": 1, "wh-2": 0}


async def test_an_inbox_that_cannot_say_how_large_its_quarantine_is_fails_no_delivery(recorded: Recorded) -> None:
    class Failing(MemoryInbox):
        async def entries(self, **_: object) -> list[InboxEntry]:  # type: ignore[override]  # it never returns
            raise InboxError("away")

    assert (await post(traced(recorded, take, inbox=Failing()))).status == 204
    assert recorded.points("basiq.receiver.quarantined") == []


async def test_a_delivery_that_comes_again_links_to_the_first_one_of_the_latest_thousands(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.otel._providers._MOST_DELIVERIES", 100)  # ten thousand
    receiver = WebhookReceiver(SECRET)
    instrument(receiver, tracer_provider=TracerProvider())  # no exporter: a span that has ended is forgotten

    for number in range(101):
        await post(receiver, message_id=f"many-{number}")
    again = traced(recorded)
    for number in (1, 0, 100):
        await post(again, message_id=f"many-{number}")
    assert [len(span.links) for span in recorded.spans] == [1, 0, 1]


@virtual.clocked
async def test_what_waits_and_its_age_are_gauges_as_deliveries_come_and_each_minute(recorded: Recorded) -> None:
    def gauges() -> tuple[int, float]:
        ((count,), (age,)) = (recorded.points(f"basiq.receiver.{name}") for name in ("waiting", "waiting.age"))
        return int(count.value), float(age.value)

    inbox, held = MemoryInbox(clock=virtual.clock), asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        await held.wait()

    receiver = traced(recorded, handler, inbox=inbox, deferred=True, clock=virtual.clock)
    for _ in range(3):
        await post(receiver, at=virtual.clock())
        await asyncio.sleep(30)
    assert gauges() == (2, 60.0), "counted before the third was stored"
    async with receiver:
        await asyncio.sleep(45)
        count, age = gauges()
        assert (count, 120 <= age < 122) == (3, True), "counted a minute after the last count"
        held.set()
        await asyncio.sleep(60)
        assert gauges() == (0, 0.0)
    found = recorded.values("messaging.process.duration", "basiq.result", "basiq.deferred")
    assert found == {("deferred", None): 3, ("handled", True): 3}


@virtual.clocked
async def test_what_fails_and_since_when_are_gauges_apart_from_the_age_of_what_never_failed(recorded: Recorded) -> None:
    async def handler(delivery: Delivery) -> None:
        raise ValueError("no")

    names = ("waiting", "waiting.age", "failing", "failing.age")
    inbox = MemoryInbox(clock=virtual.clock)
    async with traced(recorded, handler, inbox=inbox, deferred=True, clock=virtual.clock) as receiver:
        await post(receiver, at=virtual.clock())
        await asyncio.sleep(600)
        (count, age, failing, failing_age) = (
            next(iter(recorded.points(f"basiq.receiver.{name}"))).value for name in names
        )
    assert (count, age, failing) == (1, 0.0, 1)
    assert 530 < failing_age <= 600


@virtual.clocked
async def test_an_inbox_that_cannot_say_what_waits_stops_no_work(recorded: Recorded) -> None:
    class Failing(MemoryInbox):
        async def waiting(self, webhook_id: str | None) -> Waiting:
            raise InboxError("away")

    async with traced(recorded, take, inbox=Failing(clock=virtual.clock), deferred=True):
        await asyncio.sleep(100)
        assert len(asyncio.all_tasks()) == 2, "its worker lives"
    assert recorded.points("basiq.receiver.waiting") == []
