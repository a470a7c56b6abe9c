"""A fake Basiq for tests, in memory and over HTTP, and conformance suites for your own stores and transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from ._deferred import handle_waiting
    from .conformance._inbox import check_inbox
    from .conformance._runner import BrokenPromisesError
    from .conformance._secret_store import check_secret_store
    from .conformance._transport import check_transport
    from .fake._clock import ManualClock, SystemClock
    from .fake._deliveries import DeliveredAttempt, Emission
    from .fake._fake import FakeBasiq
    from .fake._logs import Misuse
    from .fake._quirks import Quirks
    from .mock._server import serve

__all__ = [
    "BrokenPromisesError",
    "DeliveredAttempt",
    "Emission",
    "FakeBasiq",
    "ManualClock",
    "Misuse",
    "Quirks",
    "SystemClock",
    "check_inbox",
    "check_secret_store",
    "check_transport",
    "handle_waiting",
    "serve",
]

# Names are imported on first use: the fake must not import aiohttp, which only the server needs.
_LAZY = {
    "BrokenPromisesError": "conformance._runner",
    "DeliveredAttempt": "fake._deliveries",
    "Emission": "fake._deliveries",
    "FakeBasiq": "fake._fake",
    "ManualClock": "fake._clock",
    "Quirks": "fake._quirks",
    "SystemClock": "fake._clock",
    "Misuse": "fake._logs",
    "check_inbox": "conformance._inbox",
    "check_secret_store": "conformance._secret_store",
    "check_transport": "conformance._transport",
    "handle_waiting": "_deferred",
    "serve": "mock._server",
}

__getattr__, __dir__ = lazy_names(__name__, _LAZY)
