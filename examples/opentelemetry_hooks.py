"""Metrics in OpenTelemetry from the hooks of the client and the receiver."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from basiq_async import RequestEvent
from basiq_async.receiver import DeliveryEvent


class Metrics:
    """Three methods for use as hooks: ``on_request`` and ``on_retry`` of a client, ``on_delivery`` of a receiver."""

    def __init__(self, meter: Meter) -> None:
        self._requests = meter.create_histogram("basiq.client.request.duration", unit="s")
        self._retries = meter.create_counter("basiq.client.retries")
        self._deliveries = meter.create_histogram("basiq.webhook.delivery.duration", unit="s")

    def on_request(self, event: RequestEvent) -> None:
        self._requests.record(
            event.duration, {"http.request.method": event.method, "outcome": event.error or str(event.status)}
        )

    def on_retry(self, event: RequestEvent) -> None:
        self._retries.add(1, {"http.request.method": event.method, "reason": event.error or str(event.status)})

    def on_delivery(self, event: DeliveryEvent) -> None:
        attributes = {
            "result": str(event.result),
            "event_type": event.event_type_id or "",
            "reason": event.reason or "",
        }
        self._deliveries.record(event.duration, attributes)
