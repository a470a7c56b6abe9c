"""Spans and metrics of a replay."""

from __future__ import annotations

from datetime import UTC, datetime

from opentelemetry.trace import Link, SpanKind, StatusCode

from ..models import Message
from ..replay import Progress, Target
from ._providers import Bounded, Telemetry, clean, first_deliveries


class ReplayTelemetry:
    """What is recorded of one replay's runs. The metrics are those of the progress, four times a second.

    ``source`` tells the two replays of a recovery apart.
    """

    def __init__(self, telemetry: Telemetry, source: str) -> None:
        self._attributes = {"basiq.source": source}
        self.telemetry = telemetry
        self._types = Bounded()
        meter = telemetry.meter
        self._messages = meter.create_counter("basiq.replay.messages", description="Messages, by outcome.")
        self._commits = meter.create_counter("basiq.replay.commits", description="Commits of the checkpoint.")
        self._pauses = meter.create_counter("basiq.replay.pauses", description="Pauses, by cause.")
        self._rate = meter.create_gauge("basiq.replay.rate", unit="{message}/s", description="Messages a second.")
        self._lag = meter.create_gauge(
            "basiq.replay.lag", unit="s", description="Age of the message that the replay has come to."
        )
        self._dead = meter.create_gauge("basiq.replay.dead_letters", description="Dead letters in the checkpoint.")
        self._in_flight = meter.create_gauge("basiq.replay.in_flight", description="Messages handed out.")
        self._last: Progress | None = None
        self._message: Message | None = None

    def wrap(self, target: Target) -> Target:
        """The target, with a span a message."""
        return _TracedTarget(target, self)

    def begin(self) -> None:
        """A run begins: its counts begin at 0."""
        self._last = self._message = None

    def reach(self, message: Message) -> None:
        """The target was handed this message."""
        self._message = message

    def on_progress(self, progress: Progress) -> None:
        """Record what has changed since the last time."""
        if not self.telemetry.wanted:
            return
        last, self._last = self._last, progress
        for outcome in ("handled", "skipped", "failed"):
            more = getattr(progress, outcome) - (0 if last is None else getattr(last, outcome))
            if more > 0:
                self._messages.add(more, {**self._attributes, "basiq.outcome": outcome})
        commits = progress.commits - (0 if last is None else last.commits)
        if commits > 0:
            self._commits.add(commits, self._attributes)
        if progress.paused > 0 and (last is None or last.paused <= 0):
            cause = "outage" if progress.down > 0 else "requested"
            self._pauses.add(1, {**self._attributes, "basiq.cause": cause})
        self._rate.set(progress.rate, self._attributes)
        self._dead.set(progress.dead, self._attributes)
        self._in_flight.set(progress.in_flight, self._attributes)
        age = _age(self._message)
        if age is not None:
            self._lag.set(age, self._attributes)

    def name_of(self, message: Message) -> str:
        """The name of a message's span."""
        return f"process {self._types.name(message.event_type_id)}"


class _TracedTarget:
    def __init__(self, inner: Target, replay: ReplayTelemetry) -> None:
        self._inner = inner
        self._replay = replay

    async def deliver(self, message: Message) -> str | None:
        if not self._replay.telemetry.wanted:
            return await self._inner.deliver(message)
        self._replay.reach(message)
        first = first_deliveries.get(message.id)
        with self._replay.telemetry.tracer.start_as_current_span(
            self._replay.name_of(message),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "basiq",
                "messaging.operation.name": "replay",
                "messaging.operation.type": "process",
                "messaging.message.id": clean(message.id),
                "basiq.event_type": clean(message.event_type_id),
                "basiq.event_id": clean(message.event_id),
            },
            links=[Link(first)] if first is not None else None,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                skipped = await self._inner.deliver(message)
            except BaseException as exc:
                span.set_attribute("error.type", type(exc).__name__)
                span.set_status(StatusCode.ERROR)
                raise
            span.set_attribute("basiq.outcome", "handled" if skipped is None else "skipped")
            return skipped

    async def flush(self) -> None:
        await self._inner.flush()


def _age(message: Message | None) -> float | None:
    if message is None:
        return None
    first = message.first_attempt
    if first is None or first.timestamp is None:
        return None
    return max((datetime.now(UTC) - first.timestamp).total_seconds(), 0.0)
