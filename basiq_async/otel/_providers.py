"""The tracer, the meter, and other objects that all instruments share."""

from __future__ import annotations

import time
from collections import OrderedDict

from opentelemetry import metrics, trace
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.trace import SpanContext, Tracer, TracerProvider

from .._version import __version__

_NAME = "basiq_async"
_SCHEMA = "https://opentelemetry.io/schemas/1.34.0"
_LOOK_EVERY = 1.0
_MOST_VALUES = 64
_LONGEST_VALUE = 256
_MOST_DELIVERIES = 10_000
OTHER = "_OTHER"


class Telemetry:
    """A tracer and a meter, and whether an SDK records.

    Without an SDK, nothing is recorded, and each check costs only a comparison of two numbers. An SDK that is
    configured later is noticed within a second.
    """

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self.tracer: Tracer = trace.get_tracer(_NAME, __version__, tracer_provider, _SCHEMA)
        self.meter: Meter = metrics.get_meter(_NAME, __version__, meter_provider, _SCHEMA)
        self._wanted = tracer_provider is not None or meter_provider is not None
        self._look_at = 0.0

    @property
    def wanted(self) -> bool:
        """Whether an SDK is configured to record."""
        if self._wanted:
            return True
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_EVERY
        self._wanted = _is_sdk(trace.get_tracer_provider()) or _is_sdk(metrics.get_meter_provider())
        return self._wanted


def _is_sdk(provider: object) -> bool:
    # The API's own providers (proxy and no-op) record nothing.
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def clean(value: str | None) -> str:
    """Return a text as an attribute: at most 256 characters, which every exporter can encode."""
    if not value:
        return ""
    return value[:_LONGEST_VALUE].encode("utf-8", "backslashreplace").decode()


class Bounded:
    """Bounds the values of a metric's attribute: after the first 64, a new value is recorded as ``_OTHER``."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def name(self, value: str | None) -> str:
        """Return the value, or ``_OTHER`` if it is new and there is no room for it."""
        value = clean(value)
        if not value:
            return OTHER
        if value not in self._known:
            if len(self._known) >= _MOST_VALUES or len(value) > 64:
                return OTHER
            self._known.add(value)
        return value


class FirstDeliveries:
    """Remembers the span of each message's first delivery to this process, for links to it. Keeps the latest 10,000."""

    def __init__(self) -> None:
        self._contexts: OrderedDict[str, SpanContext] = OrderedDict()

    def get(self, message_id: str) -> SpanContext | None:
        """Return the span context of a message's first delivery, or None."""
        return self._contexts.get(message_id)

    def remember(self, message_id: str, context: SpanContext) -> None:
        """Remember the span context of a first delivery."""
        self._contexts[message_id] = context
        if len(self._contexts) > _MOST_DELIVERIES:
            self._contexts.popitem(last=False)


first_deliveries = FirstDeliveries()
"""Shared by all receivers and replays of this process, so that a replay can link to a receiver's delivery."""
