"""Spans and metrics over OTLP, as a collector gets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from basiq_async.otel import instrument
from tests.support.scripted import Scripted, answer, client


@asynccontextmanager
async def collector(received: dict[str, list[bytes]]) -> AsyncIterator[str]:
    async def take(request: web.Request) -> web.Response:
        received.setdefault(request.path, []).append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/{signal}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_collector_gets_spans_and_metrics() -> None:
    import asyncio

    received: dict[str, list[bytes]] = {}
    async with collector(received) as url:
        spans = TracerProvider()
        spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{url}/v1/traces")))
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(endpoint=f"{url}/v1/metrics"), export_interval_millis=3_600_000
        )
        metrics = MeterProvider(metric_readers=[reader])
        basiq = client(Scripted(answer({"id": "e"})))
        instrument(basiq, tracer_provider=spans, meter_provider=metrics)
        await basiq.events.get("e")
        # The exporters are synchronous; the collector is served by this loop.
        await asyncio.to_thread(spans.shutdown)
        await asyncio.to_thread(metrics.shutdown)
    traces = ExportTraceServiceRequest.FromString(received["/v1/traces"][0])
    (scope,) = traces.resource_spans[0].scope_spans
    assert scope.scope.name == "basiq_async"
    assert scope.schema_url.endswith("/1.34.0")
    assert sorted(span.name for span in scope.spans) == [
        "GET /events/{event_id}",
        "POST /token",
        "basiq GET /events/{event_id}",
    ]
    exported = ExportMetricsServiceRequest.FromString(received["/v1/metrics"][0])
    names = [metric.name for metric in exported.resource_metrics[0].scope_metrics[0].metrics]
    assert names == ["http.client.request.duration"]
