"""The tracer, the meter, and other objects that all instruments share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer, TracerProvider

from .. import __version__

_NAME = "basiq_async"
_SCHEMA = "https://opentelemetry.io/schemas/1.34.0"
_MOST_VALUES = 64
_LONGEST_VALUE = 256
_MOST_DELIVERIES = 10_000
OTHER = "_OTHER"


class Telemetry:
    """A tracer and a meter. ``records``: whether an SDK is configured, so that they record anything."""

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self.tracer: Tracer = trace.get_tracer(_NAME, __version__, tracer_provider, _SCHEMA)
        self.meter: Meter = metrics.get_meter(_NAME, __version__, meter_provider, _SCHEMA)
        self.records = _is_sdk(tracer_provider or trace.get_tracer_provider()) or _is_sdk(
            meter_provider or metrics.get_meter_provider()
        )

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str | int],
        first: SpanContext | None = None,
    ) -> Iterator[Span]:
        """Run a block within a span, which links to ``first``.

        Of an error it records the class alone: the text and frames of an exception can hold credentials.
        """
        with self.tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=attributes,
            links=[Link(first)] if first is not None else None,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as exc:
                span.set_attribute("error.type", type(exc).__name__)
                span.set_status(StatusCode.ERROR)
                raise


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


first_deliveries: OrderedDict[str, SpanContext] = OrderedDict()
"""The span of each message's first delivery to this process, so that a replay can link to it. Keeps the latest ones."""


def remember_first(message_id: str, context: SpanContext) -> None:
    """Remember the span context of a first delivery."""
    first_deliveries[message_id] = context
    if len(first_deliveries) > _MOST_DELIVERIES:
        first_deliveries.popitem(last=False)
