"""Spans and metrics of a receiver's deliveries and of a replay's messages.

They follow the conventions for messaging (in development; version 1.34.0).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from opentelemetry.trace import SpanKind, StatusCode

from .._work.failures import failure_text
from ..models import Message
from ..receiver import Delivery, DeliveryEvent, Outcome, Result, WebhookReceiver
from ..receiver.protocol import Waiting
from ..replay import Progress, Target
from ..replay.shared import Source
from ._providers import Bounded, Telemetry, clean, first_deliveries, remember_first

logger = logging.getLogger("basiq_async.otel")

_MEASURE_EVERY = 60.0
_MOST_COUNTED = 1_000

_SYSTEM: dict[str, str] = {
    "messaging.system": "basiq",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
}


class ReceiverTelemetry:
    """Records the deliveries of a receiver.

    Each metric has the webhook's id, because a process may serve several webhooks.
    """

    def __init__(self, telemetry: Telemetry, receiver: WebhookReceiver) -> None:
        self._receiver = receiver
        self._webhook = _of_webhook(*receiver.webhook_ids)
        self._measure_at = -math.inf
        self._quarantined = telemetry.meter.create_gauge(
            "basiq.receiver.quarantined", description="Deliveries in the quarantine, at most 1,000."
        )
        self._waiting = telemetry.meter.create_gauge(
            "basiq.receiver.waiting", description="Deferred deliveries that wait to be handled."
        )
        self._waiting_age = telemetry.meter.create_gauge(
            "basiq.receiver.waiting.age",
            unit="s",
            description="Age of the oldest delivery that waits and never failed; 0 without one.",
        )
        self._failing = telemetry.meter.create_gauge(
            "basiq.receiver.failing", description="Deferred deliveries that wait and have failed."
        )
        self._failing_age = telemetry.meter.create_gauge(
            "basiq.receiver.failing.age",
            unit="s",
            description="Time since the first failure of the delivery that fails for longest; 0 without one.",
        )
        self._telemetry = telemetry
        self._types = Bounded()
        self._reasons = Bounded()
        self._duration = telemetry.meter.create_histogram(
            "messaging.process.duration", unit="s", description="Duration of processing a delivery."
        )
        self._age = telemetry.meter.create_histogram(
            "basiq.delivery.age", unit="s", description="Time from a delivery's signature to the response."
        )

    def on_delivery(self, event: DeliveryEvent) -> None:
        """Record a delivery after the response to it, whether its signature was valid or not; and each deferred try."""
        result: dict[str, str | bool] = {"basiq.result": event.result.value, **self._webhook}
        if event.deferred:
            result["basiq.deferred"] = True
        attributes = {**_SYSTEM, **result}
        if event.event_type_id is not None:
            attributes["basiq.event_type"] = self._types.name(event.event_type_id)
        if event.reason is not None:
            attributes["basiq.reason"] = self._reasons.name(event.reason)
        if not 200 <= event.status <= 299:
            attributes["error.type"] = event.result.value
        self._duration.record(event.duration, attributes)
        if event.age is not None:
            self._age.record(max(event.age, 0.0), result)

    def on_count(self, waiting: Waiting) -> None:
        """Record what waits to be handled."""
        self._waiting.set(waiting.count, self._webhook)
        self._waiting_age.set(waiting.age or 0.0, self._webhook)
        self._failing.set(waiting.failing, self._webhook)
        self._failing_age.set(waiting.failing_age or 0.0, self._webhook)

    async def measure_quarantine(self) -> None:
        """Record how many deliveries are in the quarantine. If the inbox fails, record nothing."""
        self._measure_at = time.monotonic() + _MEASURE_EVERY
        try:
            found = await self._receiver.quarantined(limit=_MOST_COUNTED)
            self._quarantined.set(len(found), self._webhook)
        except Exception as exc:
            logger.debug("the quarantine could not be counted: %s", failure_text(exc))

    async def around(self, delivery: Delivery, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Do the work within a consumer span, so that the calls of its handler are part of the same trace."""
        first = first_deliveries.get(delivery.id)
        attributes = {**_SYSTEM, **_identify(delivery)}
        name = f"process {self._types.name(delivery.event_type_id)}"
        with self._telemetry.span(name, SpanKind.CONSUMER, attributes, first) as span:
            context = span.get_span_context()
            if first is None and context.is_valid:
                remember_first(delivery.id, context)
            outcome = await work
            if outcome.result is Result.QUARANTINED or time.monotonic() >= self._measure_at:
                await self.measure_quarantine()
            span.set_attribute("basiq.result", outcome.result.value)
            if outcome.handler is not None:
                span.set_attribute("basiq.handler", clean(outcome.handler))
            if outcome.attempt is not None:
                span.set_attribute("basiq.attempt", outcome.attempt)
            if not outcome.acknowledged:
                error = outcome.error
                span.set_attribute("error.type", outcome.result.value if error is None else type(error).__name__)
                span.set_status(StatusCode.ERROR)
            return outcome


class ReplayTelemetry:
    """Records the runs of one replay. Its metrics are recorded from the progress, four times a second.

    Their attribute ``basiq.source`` distinguishes the two lists of a recovery: messages, and events.
    """

    def __init__(self, telemetry: Telemetry, webhook_id: str) -> None:
        self._webhook = _of_webhook(webhook_id)
        self._attributes: dict[str, str] = {}
        self.telemetry = telemetry
        self._types = Bounded()
        meter = telemetry.meter
        self._messages = meter.create_counter("basiq.replay.messages", description="Messages, by outcome.")
        self._pauses = meter.create_counter("basiq.replay.pauses", description="Pauses, by cause.")
        self._rate = meter.create_gauge("basiq.replay.rate", unit="{message}/s", description="Messages a second.")
        self._lag = meter.create_gauge(
            "basiq.replay.lag", unit="s", description="Age of the message that the replay has reached."
        )
        self._in_flight = meter.create_gauge("basiq.replay.in_flight", description="Messages under way.")
        self._last: Progress | None = None
        self._message: Message | None = None

    def wrap(self, target: Target) -> Target:
        """Return the target, wrapped so that each message has a span."""
        return _TracedTarget(target, self)

    def begin(self, source: Source) -> None:
        """Start recording a run over one list. Its counts start at 0."""
        self._attributes = {"basiq.source": source, **self._webhook}
        self._last = self._message = None

    def reach(self, message: Message) -> None:
        """Record that a message is passed to the target."""
        self._message = message

    def on_progress(self, progress: Progress) -> None:
        """Record the changes since the last call."""
        last, self._last = self._last, progress
        for outcome, count in _outcomes(progress).items():
            more = count - (0 if last is None else _outcomes(last)[outcome])
            if more > 0:
                self._messages.add(more, {**self._attributes, "basiq.outcome": outcome})
        if progress.paused > 0 and (last is None or last.paused <= 0):
            cause = "outage" if progress.down > 0 else "requested"
            self._pauses.add(1, {**self._attributes, "basiq.cause": cause})
        self._rate.set(progress.rate, self._attributes)
        self._in_flight.set(progress.in_flight, self._attributes)
        age = _age(self._message)
        if age is not None:
            self._lag.set(age, self._attributes)

    def name_of(self, message: Message) -> str:
        """The name of a message's span."""
        return f"process {self._types.name(message.event_type_id)}"


def _outcomes(progress: Progress) -> dict[str, int]:
    return {
        "handled": progress.handled,
        "skipped": sum(progress.skipped.values()),
        "failed": progress.failed,
    }


class _TracedTarget:
    def __init__(self, inner: Target, replay: ReplayTelemetry) -> None:
        self._inner = inner
        self._replay = replay

    async def deliver(self, message: Message) -> str | None:
        self._replay.reach(message)
        first = first_deliveries.get(message.id)
        attributes = {**_SYSTEM, "messaging.operation.name": "replay", **_identify(message)}
        with self._replay.telemetry.span(self._replay.name_of(message), SpanKind.CONSUMER, attributes, first) as span:
            skipped = await self._inner.deliver(message)
            span.set_attribute("basiq.outcome", "handled" if skipped is None else "skipped")
            return skipped


def _of_webhook(*webhook_ids: str) -> dict[str, str]:
    return {"basiq.webhook_id": clean(",".join(webhook_ids))} if webhook_ids else {}


def _identify(item: Delivery | Message) -> dict[str, str]:
    return {
        "messaging.message.id": clean(item.id),
        "basiq.event_type": clean(item.event_type_id),
        "basiq.event_id": clean(item.event_id),
    }


def _age(message: Message | None) -> float | None:
    if message is None:
        return None
    first = message.first_attempt
    if first is None or first.timestamp is None:
        return None
    return max((datetime.now(UTC) - first.timestamp).total_seconds(), 0.0)
