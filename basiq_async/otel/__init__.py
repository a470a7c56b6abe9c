"""Traces and metrics by OpenTelemetry: ``instrument(client)``, ``instrument(receiver)``, ``instrument(replay)``.

Needs the extra ``otel``, which is opentelemetry-api alone; the SDK and its exporters are your program's choice. Without
an SDK nothing is recorded, and a call costs next to nothing more. Names follow the semantic conventions of version
1.34.0: those for HTTP are stable, those for messaging are in development. No span and no metric has a credential, a
body or a query; no metric has an identifier.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigurationError

try:
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401  # so that the error names the extra
except ModuleNotFoundError as exc:
    if not (exc.name or "").startswith("opentelemetry"):
        raise
    raise ConfigurationError("basiq_async.otel needs the OpenTelemetry API: pip install 'basiq-async[otel]'") from None

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ..client import BasiqClient
from ..receiver import WebhookReceiver
from ..replay import Replay
from ._client import ClientTelemetry, TracedTransport
from ._processing import ReceiverTelemetry, ReplayTelemetry
from ._providers import Telemetry

__all__ = ["instrument"]


def instrument(
    *instrumented: BasiqClient | WebhookReceiver | Replay,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Record traces and metrics of clients, receivers and replays. Call it once for each, before it is used.

    The global providers are used where none is passed. The spans:

    - A client: one for each call, with a child for each attempt.
    - A receiver: a consumer span for each delivery, in which its handler runs.
    - A replay: one for each message. It links to the delivery of the same message, where this process has seen it.

    Hooks that were passed to a constructor are still called. Raises ``ConfigurationError`` for anything else, and for
    one that is instrumented already; none of them is instrumented then.
    """
    _refuse_what_cannot_be(instrumented)
    telemetry = Telemetry(tracer_provider, meter_provider)
    for one in instrumented:
        if isinstance(one, BasiqClient):
            _instrument_client(one, telemetry)
        elif isinstance(one, WebhookReceiver):
            _instrument_receiver(one, telemetry)
        else:
            one._observe(ReplayTelemetry(telemetry, one.job.source))


def _refuse_what_cannot_be(instrumented: Sequence[BasiqClient | WebhookReceiver | Replay]) -> None:
    for number, one in enumerate(instrumented):
        if isinstance(one, BasiqClient):
            kind, done = "client", one._observed
        elif isinstance(one, WebhookReceiver):
            kind, done = "receiver", one._around is not None
        elif isinstance(one, Replay):
            kind, done = "replay", one._observer is not None
        else:
            raise ConfigurationError(f"instrument takes clients, receivers and replays, not {type(one).__name__}")
        if done or any(one is other for other in instrumented[:number]):
            raise ConfigurationError(f"this {kind} is instrumented already")


def _instrument_client(client: BasiqClient, telemetry: Telemetry) -> None:
    recorder = ClientTelemetry(telemetry, client.base_url)

    def add_hooks() -> None:
        client._add_hooks(recorder.on_request, recorder.on_retry)

    client._observe(lambda inner: TracedTransport(inner, recorder, when_wanted=add_hooks))


def _instrument_receiver(receiver: WebhookReceiver, telemetry: Telemetry) -> None:
    recorder = ReceiverTelemetry(
        telemetry,
        when_wanted=lambda: receiver._add_hook(recorder.on_delivery),
        count_quarantined=receiver._count_quarantined,
    )
    receiver._observe(recorder.around)
    receiver._watch_quarantine(recorder.measure_quarantine)
    recorder.is_wanted()
