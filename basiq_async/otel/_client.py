"""Spans and metrics of a client: a span per call and a child span per attempt, by the conventions for HTTP."""

from __future__ import annotations

import functools
import re
import time
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from .._work.clock import clock_of
from ..hooks import RequestEvent
from ..transports.base import Request, Response, Transport
from ._providers import Telemetry, clean

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The boundaries in seconds that the conventions recommend."""


class ClientTelemetry:
    """Records a client's requests."""

    def __init__(self, telemetry: Telemetry, base_url: str) -> None:
        self.telemetry = telemetry
        self._base_url = base_url
        parts = urlsplit(base_url)
        self.server: dict[str, str | int] = {
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        self._duration = telemetry.meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )

    def on_request(self, event: RequestEvent) -> None:
        """Record an attempt that has ended, as a child span of the current call."""
        attributes: dict[str, str | int] = {"http.request.method": event.method, **self.server}
        if event.url_template is not None:
            attributes["url.template"] = event.url_template
        if event.status is not None:
            attributes["http.response.status_code"] = event.status
        failure = _failure(event.status, event.error)
        if failure is not None:
            attributes["error.type"] = failure
        self._duration.record(event.duration, attributes)
        end = time.time_ns()
        span = self.telemetry.tracer.start_span(
            _name(event.method, event.url_template),
            kind=SpanKind.CLIENT,
            attributes={**attributes, "url.full": self._base_url + _shown_path(event)},
            start_time=end - int(event.duration * 1e9),
        )
        if event.attempt > 1:
            span.set_attribute("http.request.resend_count", event.attempt - 1)
        if event.correlation_id is not None:
            span.set_attribute("basiq.correlation_id", clean(event.correlation_id))
        if failure is not None:
            span.set_status(StatusCode.ERROR)
        span.end(end)

    def on_retry(self, event: RequestEvent) -> None:
        """Add the wait before the next attempt to the call's span, as an event."""
        trace.get_current_span().add_event(
            "basiq.retry", {"basiq.retry.wait": event.wait, "http.request.resend_count": event.attempt}
        )


class TracedTransport:
    """A transport that records each ``send`` as a span: one call, with its attempts and its token request, if any."""

    def __init__(self, inner: Transport, client: ClientTelemetry) -> None:
        self._inner = inner
        self._client = client
        self.waits = clock_of(inner)

    async def send(self, request: Request, /) -> Response:
        """Send a request within a span."""
        attributes: dict[str, str | int] = {"http.request.method": request.method, **self._client.server}
        if request.url_template is not None:
            attributes["url.template"] = request.url_template
        name = f"basiq {_name(request.method, request.url_template)}"
        with self._client.telemetry.span(name, SpanKind.INTERNAL, attributes) as span:
            response = await self._inner.send(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.attempts > 1:
                span.set_attribute("http.request.resend_count", response.attempts - 1)
            failure = _failure(response.status, None)
            if failure is not None:
                span.set_attribute("error.type", failure)
                span.set_status(StatusCode.ERROR)
            return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


def _shown_path(event: RequestEvent) -> str:
    """Return the path to record, or its template if they do not match: a link's path can hold the id of a user."""
    template = event.url_template
    return event.path if template is None or _path_of(template).fullmatch(event.path) else f"/{template.lstrip('/')}"


@functools.lru_cache  # there are only about a dozen templates
def _path_of(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)))


def _name(method: str, template: str | None) -> str:
    return method if template is None else f"{method} {template}"


def _failure(status: int | None, error: str | None) -> str | None:
    if error is not None:
        return error
    return str(status) if status is not None and status >= 400 else None
