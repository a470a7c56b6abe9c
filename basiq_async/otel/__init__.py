"""Traces and metrics with OpenTelemetry: ``instrument(client)``, ``instrument(receiver)``, ``instrument(replay)``.

Needs the extra ``otel``, which installs only opentelemetry-api. Your program chooses the OpenTelemetry SDK and its
exporters. Without an SDK, nothing is recorded, at no cost. Names follow the semantic conventions, version
1.34.0: the conventions for HTTP are stable, and the ones for messaging are in development. Spans and metrics contain no
credentials, bodies or queries. Metrics contain no identifiers but the webhook's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .._lazy import missing_extra
from ..errors import ConfigurationError

try:
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401  # so that the error names the extra
except ModuleNotFoundError as exc:
    if not (exc.name or "").startswith("opentelemetry"):
        raise
    raise missing_extra("basiq_async.otel", "otel") from None

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ..client import BasiqClient
from ..receiver import WebhookReceiver
from ..replay import RecoveryRun, Replay
from ._client import ClientTelemetry, TracedTransport
from ._processing import ReceiverTelemetry, ReplayTelemetry
from ._providers import Telemetry

__all__ = ["instrument"]

logger = logging.getLogger("basiq_async.otel")


def instrument(
    *instrumented: BasiqClient | WebhookReceiver | Replay | RecoveryRun,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Record traces and metrics of clients, receivers, replays and recoveries. Call it once for each, before its use.

    Without a provider, the global one is used. Configure the SDK first: without one, nothing is instrumented, which is
    logged at the level INFO. The spans:

    - A client has a span for each call, with a child span for each attempt.
    - A receiver has a consumer span for each delivery. The handler runs inside it.
    - A replay or recovery has a span for each message. It links to the span of the message's first delivery, if this
      process received it.

    Hooks that were passed to a constructor are still called. Raises ``ConfigurationError`` for an object of another
    kind, and for an object that is instrumented already. Nothing is instrumented then.
    """
    _refuse_what_cannot_be(instrumented)
    telemetry = Telemetry(tracer_provider, meter_provider)
    if not telemetry.records:
        logger.info("nothing is instrumented: no OpenTelemetry SDK is configured yet, nor was a provider passed")
        return
    for one in instrumented:
        if isinstance(one, BasiqClient):
            _instrument_client(one, telemetry)
        elif isinstance(one, WebhookReceiver):
            _instrument_receiver(one, telemetry)
        else:
            job = one._job
            job.observe(ReplayTelemetry(telemetry, job.webhook_id))


def _refuse_what_cannot_be(instrumented: Sequence[BasiqClient | WebhookReceiver | Replay | RecoveryRun]) -> None:
    for number, one in enumerate(instrumented):
        if isinstance(one, BasiqClient):
            kind, done = "client", one._observed
        elif isinstance(one, WebhookReceiver):
            kind, done = "receiver", one._around is not None
        elif isinstance(one, (Replay, RecoveryRun)):
            kind, done = "replay" if isinstance(one, Replay) else "recovery", one._job.observer is not None
        else:
            raise ConfigurationError(
                f"instrument accepts clients, receivers, replays and recoveries, not {type(one).__name__}"
            )
        if done or any(one is other for other in instrumented[:number]):
            raise ConfigurationError(f"this {kind} is instrumented already")


def _instrument_client(client: BasiqClient, telemetry: Telemetry) -> None:
    recorder = ClientTelemetry(telemetry, client.base_url)
    client._observe(lambda inner: TracedTransport(inner, recorder), recorder.on_request, recorder.on_retry)


def _instrument_receiver(receiver: WebhookReceiver, telemetry: Telemetry) -> None:
    recorder = ReceiverTelemetry(telemetry, receiver)
    receiver._observe(recorder.around, recorder.on_delivery, recorder.on_count, recorder.measure_quarantine)
