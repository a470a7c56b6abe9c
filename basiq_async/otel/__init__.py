"""Traces and metrics by OpenTelemetry: ``instrument(client)``, ``instrument(receiver)``, ``instrument(replay)``.

Needs the extra ``otel``, which is opentelemetry-api alone; the SDK and its exporters are your program's choice. Without
an SDK nothing is recorded, and a call costs next to nothing more. Names follow the semantic conventions of version
1.34.0: those for HTTP are stable, those for messaging are in development. No span and no metric has a credential, a
body or a query; no metric has an identifier.
"""

from __future__ import annotations

from ..errors import ConfigurationError

try:
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401  # looked for here, so that what is missing is named
except ModuleNotFoundError as exc:
    if not (exc.name or "").startswith("opentelemetry"):
        raise
    raise ConfigurationError("basiq_async.otel needs the OpenTelemetry API: pip install 'basiq-async[otel]'") from None

from ._instrument import instrument

__all__ = ["instrument"]
