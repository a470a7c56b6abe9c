"""A call is a span, each of its attempts a child; the names are those of the HTTP conventions."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from basiq_async import BasiqClient, BasiqError, ConfigurationError, ConnectionFailedError, RequestEvent, RetryPolicy
from basiq_async.otel import instrument
from basiq_async.receiver import Delivery
from tests.otel.conftest import Recorded
from tests.support.scripted import API_KEY, TOKEN, Scripted, answer, client, error, page

EVENT = answer({"id": "e", "entity": "consent", "eventType": "revoked", "userId": "a-user"})
QUICK = RetryPolicy(max_retries=2, base=0.0001)


def traced(recorded: Recorded, *script: Any, **options: Any) -> BasiqClient:
    basiq = client(Scripted(*script), **options)
    instrument(basiq, **recorded.options)
    return basiq


async def test_a_call_is_a_span_with_a_child_an_attempt(recorded: Recorded) -> None:
    basiq = traced(recorded, error(503), EVENT, retry=QUICK)
    await basiq.events.get("e")
    token, first, second, call = recorded.spans
    assert [span.name for span in recorded.spans] == [
        "POST /token",
        "GET /events/{event_id}",
        "GET /events/{event_id}",
        "basiq GET /events/{event_id}",
    ]
    (scope,) = {span.instrumentation_scope for span in recorded.spans}
    assert (scope.name, scope.schema_url) == ("basiq_async", "https://opentelemetry.io/schemas/1.34.0")
    assert [span.kind for span in recorded.spans] == [SpanKind.CLIENT] * 3 + [SpanKind.INTERNAL]
    assert call.context is not None
    assert call.parent is None
    for attempt in (token, first, second):
        assert attempt.parent is not None
        assert attempt.parent.span_id == call.context.span_id
    assert recorded.attributes[1] == {
        "http.request.method": "GET",
        "url.template": "/events/{event_id}",
        "url.full": "https://au-api.basiq.io/events/e",
        "server.address": "au-api.basiq.io",
        "server.port": 443,
        "http.response.status_code": 503,
        "error.type": "503",
        "basiq.correlation_id": "corr-1",
    }
    assert first.status.status_code is StatusCode.ERROR
    assert recorded.attributes[2]["http.request.resend_count"] == 1
    assert second.status.status_code is StatusCode.UNSET
    assert recorded.attributes[3]["http.response.status_code"] == 200
    assert recorded.attributes[3]["http.request.resend_count"] == 1
    assert [event.name for event in call.events] == ["basiq.retry"]
    assert call.start_time is not None
    assert second.start_time is not None
    assert call.start_time <= second.start_time


async def test_the_user_of_an_entity_is_in_no_span(recorded: Recorded) -> None:
    basiq = traced(recorded, answer({"id": "x"}))
    links = {"event": "/users/a-user/events/e", "eventEntity": "/users/a-user/consents/c"}
    delivery = Delivery("m", "consent.revoked", "e", links, b"", {}, datetime.now(UTC))
    await basiq.events.fetch_entity(delivery)
    await basiq.events.fetch(delivery)
    urls = [attributes["url.full"] for attributes in recorded.attributes if "url.full" in attributes]
    assert urls[-2:] == ["https://au-api.basiq.io/{event_entity}", "https://au-api.basiq.io/events/{event_id}"]
    assert "a-user" not in repr(recorded.texts)


async def test_a_call_that_fails_has_its_class_and_no_exception(recorded: Recorded) -> None:
    basiq = traced(recorded, ConnectionFailedError("broken"))
    with pytest.raises(ConnectionFailedError):
        await basiq.events.get("e")
    for span, attributes in list(zip(recorded.spans, recorded.attributes, strict=True))[-2:]:
        assert attributes["error.type"] == "ConnectionFailedError"
        assert span.status.status_code is StatusCode.ERROR
        assert (span.status.description, list(span.events)) == (None, [])


async def test_a_call_that_is_cancelled_ends_its_span(recorded: Recorded) -> None:
    async def never(request: Any) -> Any:
        await asyncio.sleep(60)

    task = asyncio.create_task(traced(recorded, never).events.get("e"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded.attributes[-1]["error.type"] == "CancelledError"


async def test_a_call_is_part_of_the_trace_that_is_under_way(recorded: Recorded) -> None:
    basiq = traced(recorded, page([{"id": "m1"}], "?next=1"), page([{"id": "m2"}]))
    with recorded.tracer_provider.get_tracer("mine").start_as_current_span("mine") as mine:
        await basiq.messages.list("w").collect()
    assert len(recorded.spans) == 6
    assert {span.context.trace_id for span in recorded.spans if span.context} == {mine.get_span_context().trace_id}


async def test_the_duration_of_attempts_is_a_metric_without_identifiers(recorded: Recorded) -> None:
    basiq = traced(recorded, EVENT)
    for number in range(30):
        await basiq.events.get(f"event-{number}")
    by = ("http.request.method", "url.template", "server.address", "server.port", "http.response.status_code")
    assert recorded.values("http.client.request.duration", *by) == {
        ("POST", "/token", "au-api.basiq.io", 443, 200): 1,
        ("GET", "/events/{event_id}", "au-api.basiq.io", 443, 200): 30,
    }
    assert all(set(point.attributes) == set(by) for point in recorded.points("http.client.request.duration"))
    assert "event-7" not in str(recorded.reader.get_metrics_data())


async def test_hooks_that_were_passed_go_on_being_called(recorded: Recorded) -> None:
    seen: list[RequestEvent] = []

    def hook(event: RequestEvent) -> None:
        seen.append(event)
        raise RuntimeError("a hook that fails")

    basiq = traced(recorded, EVENT, on_request=hook)
    await basiq.events.get("e")
    assert [event.path for event in seen] == ["/token", "/events/e"]
    assert len(recorded.spans) == 3


async def test_nothing_of_a_credential_a_body_or_a_query_is_recorded(recorded: Recorded) -> None:
    echo = answer({"data": [{"code": TOKEN, "detail": API_KEY}], "correlationId": f"{TOKEN}-1"}, 400)
    basiq = traced(recorded, EVENT, echo)
    await basiq.events.get("e")
    with pytest.raises(BasiqError):
        await basiq.events.list(filter="user.id.eq('a-user')").collect()
    text = recorded.everything()
    assert "/events" in text
    for secret in (API_KEY, TOKEN, "a-user", "user.id", "SERVER_ACCESS"):
        assert secret not in text


async def test_without_an_sdk_nothing_is_changed_and_a_log_record_says_so(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    basiq = client(Scripted(EVENT))
    with caplog.at_level(logging.INFO, "basiq_async.otel"):
        instrument(basiq)
    assert "no OpenTelemetry SDK is configured yet" in caplog.text
    await basiq.events.get("e")
    assert basiq._retrying.on_request is None
    instrument(basiq, **recorded.options)  # it can be done later
    await basiq.events.get("e")
    assert recorded.spans


async def test_where_one_cannot_be_instrumented_none_is(recorded: Recorded) -> None:
    before, fresh = client(Scripted(EVENT)), client(Scripted(EVENT))
    instrument(before, **recorded.options)
    for other, said in ((before, "this client is instrumented already"), ("x", "not str"), (fresh, "already")):
        with pytest.raises(ConfigurationError, match=said):
            instrument(fresh, other, **recorded.options)  # type: ignore[arg-type]  # as without a type checker
    instrument(fresh, **recorded.options)
