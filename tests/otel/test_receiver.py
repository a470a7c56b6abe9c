"""A delivery is a consumer span in which its handler runs; metrics of all, genuine or not."""

from __future__ import annotations

import asyncio
import json

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from basiq_async import ConfigurationError, InboxError
from basiq_async.otel import instrument
from basiq_async.receiver import Delivery, DeliveryEvent, MemoryInbox, QuarantinedDelivery, WebhookReceiver
from basiq_async.receiver.protocol import Waiting
from tests.otel.conftest import Recorded
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, signed
from tests.support.scripted import Scripted, answer, client


def traced(recorded: Recorded, **options: object) -> WebhookReceiver:
    receiver = WebhookReceiver(SECRET, **options)  # type: ignore[arg-type]  # options of a test
    instrument(receiver, **recorded.options)
    return receiver


async def test_the_calls_of_a_handler_are_in_the_trace_of_its_delivery(recorded: Recorded) -> None:
    receiver = traced(recorded)
    basiq = client(Scripted(answer({"id": "e"})))
    instrument(basiq, **recorded.options)

    @receiver.on("consent.revoked")
    async def handler(delivery: Delivery) -> None:
        await basiq.events.fetch(delivery)

    body = payload(event_id="event-1")
    outcome = await receiver.handle(signed(body, message_id="msg_9"), body)
    assert outcome.status == 204
    *_, delivery_span = recorded.spans
    assert (delivery_span.name, delivery_span.kind) == ("process consent.revoked", SpanKind.CONSUMER)
    assert delivery_span.attributes is not None
    assert {name: delivery_span.attributes[name] for name in delivery_span.attributes if name != "basiq.handler"} == {
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


async def test_a_handler_that_fails_is_an_error_of_its_class_and_no_more(recorded: Recorded) -> None:
    receiver = traced(recorded)

    @receiver.on("*")
    async def handler(delivery: Delivery) -> None:
        raise ValueError("a customer's name")

    body = payload()
    await receiver.handle(signed(body), body)
    (span,) = recorded.spans
    assert span.attributes is not None
    assert (span.attributes["basiq.result"], span.attributes["error.type"]) == ("failed", "ValueError")
    assert span.status.status_code is StatusCode.ERROR
    assert "customer" not in recorded.everything()


async def test_metrics_tell_result_reason_type_and_age(recorded: Recorded) -> None:
    seen: list[DeliveryEvent] = []
    receiver = traced(recorded, on_delivery=seen.append)

    @receiver.on("user.created")
    async def handler(delivery: Delivery) -> None: ...

    for body in (payload("user.created"), payload("user.deleted")):
        await receiver.handle(signed(body), body)
    await receiver.handle({}, b"")
    points = recorded.points("messaging.process.duration")
    found = {
        (
            point.attributes["basiq.result"],
            point.attributes.get("basiq.event_type"),
            point.attributes.get("basiq.reason"),
        )
        for point in points
    }
    assert found == {
        ("handled", "user.created", None),
        ("ignored", "user.deleted", None),
        ("rejected", None, "missing-header"),
    }
    ages = recorded.points("basiq.delivery.age")
    assert {point.attributes["basiq.result"] for point in ages} == {"handled", "ignored"}
    assert len(seen) == 3


async def test_event_types_of_a_metric_are_bounded(recorded: Recorded) -> None:
    receiver = traced(recorded)
    for number in range(100):
        body = payload(f"made.up{number}")
        await receiver.handle(signed(body), body)
    types = {point.attributes["basiq.event_type"] for point in recorded.points("messaging.process.duration")}
    assert len(types) == 65
    assert "_OTHER" in types


async def test_text_from_elsewhere_keeps_no_exporter_from_its_spans(recorded: Recorded) -> None:
    receiver = traced(recorded)
    body = json.dumps({"eventTypeId": "made.\ud800up", "eventId": "\udc00" + "e" * 100_000}).encode()
    await receiver.handle(signed(body), body)
    (span,) = recorded.spans
    assert span.attributes is not None
    texts = [span.name, *(str(value) for value in span.attributes.values())]
    texts += [str(point.attributes) for point in recorded.points("messaging.process.duration")]
    for text in texts:
        text.encode()  # a lone surrogate has an exporter of OTLP drop all that it was to send
        assert len(text) < 400


async def test_a_delivery_that_comes_again_links_to_the_first(recorded: Recorded) -> None:
    receiver = traced(recorded)

    @receiver.on("*")
    async def handler(delivery: Delivery) -> None: ...

    body = payload()
    for _ in range(2):
        await receiver.handle(signed(body, message_id="msg_again"), body)
    first, second = recorded.spans
    assert first.context is not None
    assert list(first.links) == []
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


async def test_no_secret_and_no_body_is_recorded(recorded: Recorded) -> None:
    receiver = traced(recorded)
    body = payload(customer="a-customer-name")
    await receiver.handle(signed(body), body)
    text = recorded.everything()
    for secret in (SECRET.removeprefix("whsec_"), "a-customer-name", signed(body)["webhook-signature"]):
        assert secret not in text


async def test_without_an_sdk_no_hook_is_set(recorded: Recorded) -> None:
    receiver = WebhookReceiver(SECRET)
    instrument(receiver)
    body = payload()
    assert (await receiver.handle(signed(body), body)).status == 204
    assert receiver._on_delivery is None
    instrument(receiver, **recorded.options)
    with pytest.raises(ConfigurationError, match="instrumented already"):
        instrument(receiver)


async def test_the_size_of_the_quarantine_is_a_gauge(recorded: Recorded) -> None:
    receiver = traced(recorded, quarantine_after=1)
    healed = False

    @receiver.on("consent.revoked")
    async def handler(delivery: Delivery) -> None:
        if not healed and delivery.event_id != "good":
            raise ValueError("no")

    def size() -> int:
        (point,) = recorded.points("basiq.receiver.quarantined")
        return int(point.value)

    for number, event_id in enumerate(("good", "bad-1", "bad-2")):
        body = payload(event_id=event_id)
        await receiver.handle(signed(body, message_id=f"msg_{number}"), body)
        assert size() == number
    assert await receiver.drop_quarantined(["msg_1"]) == 1
    assert size() == 1
    healed = True
    await receiver.retry_quarantined()
    assert size() == 0


async def test_an_inbox_that_cannot_say_how_large_its_quarantine_is_fails_no_delivery(recorded: Recorded) -> None:
    class Failing(MemoryInbox):
        async def quarantined(self, **_: object) -> list[QuarantinedDelivery]:  # type: ignore[override]  # it never returns
            raise InboxError("away")

    receiver = traced(recorded, inbox=Failing())

    @receiver.on("*")
    async def handler(delivery: Delivery) -> None: ...

    body = payload()
    assert (await receiver.handle(signed(body), body)).status == 204
    assert recorded.points("basiq.receiver.quarantined") == []


async def test_a_delivery_that_comes_again_links_to_the_first_one_of_the_latest_thousands(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.otel._providers._MOST_DELIVERIES", 100)  # ten thousand
    receiver = WebhookReceiver(SECRET)
    instrument(receiver, tracer_provider=TracerProvider())  # no exporter: a span that has ended is forgotten

    async def deliver(message_id: str, to: WebhookReceiver) -> None:
        body = payload()
        await to.handle(signed(body, message_id=message_id), body)

    for number in range(101):
        await deliver(f"many-{number}", receiver)
    again = traced(recorded)
    for number in (1, 0, 100):
        await deliver(f"many-{number}", again)
    assert [len(span.links) for span in recorded.spans] == [1, 0, 1]


@virtual.clocked
async def test_what_waits_and_its_age_are_gauges_as_deliveries_come_and_each_minute(recorded: Recorded) -> None:
    def gauges() -> tuple[int, float]:
        ((count,), (age,)) = (recorded.points(f"basiq.receiver.{name}") for name in ("waiting", "waiting.age"))
        return int(count.value), float(age.value)

    inbox = MemoryInbox(clock=virtual.clock)
    receiver = traced(recorded, inbox=inbox, deferred=True, accept_loss=True, clock=virtual.clock)
    held = asyncio.Event()

    @receiver.on("*")
    async def handler(delivery: Delivery) -> None:
        await held.wait()

    for _ in range(3):
        body = payload()
        await receiver.handle(signed(body, at=virtual.clock()), body)
        await asyncio.sleep(30)
    assert gauges() == (2, 60.0), "counted before the third was stored"
    async with receiver:
        await asyncio.sleep(45)
        assert gauges() == (3, 120.0), "a minute after the last count"
        held.set()
        await asyncio.sleep(60)
        assert gauges() == (0, 0.0)
    durations = recorded.points("messaging.process.duration")
    found = {(each.attributes["basiq.result"], each.attributes.get("basiq.deferred")): each.count for each in durations}
    assert found == {("deferred", None): 3, ("handled", True): 3}


@virtual.clocked
async def test_an_inbox_that_cannot_say_what_waits_stops_no_work(recorded: Recorded) -> None:
    class Failing(MemoryInbox):
        async def waiting(self, webhook_id: str | None) -> Waiting:
            raise InboxError("away")

    receiver = traced(recorded, inbox=Failing(clock=virtual.clock), deferred=True, accept_loss=True)
    receiver.on("*")(_take)
    async with receiver:
        await asyncio.sleep(100)
        assert len(asyncio.all_tasks()) == 2, "its worker lives"
    assert recorded.points("basiq.receiver.waiting") == []


async def _take(delivery: Delivery) -> None: ...
