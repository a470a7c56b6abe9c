"""A Basiq for tests: the fake, the same over HTTP, and suites that hold others to what ours promise."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._courier import DeliveredAttempt, Emission
    from ._promises import BrokenPromisesError
    from ._violations import Violation
    from .checkpoint_suite import check_checkpoint
    from .clock import ManualClock, SystemClock
    from .fake import FakeBasiq
    from .inbox_suite import check_inbox
    from .quirks import Quirks
    from .server import serve
    from .transport_suite import check_transport

__all__ = [
    "BrokenPromisesError",
    "DeliveredAttempt",
    "Emission",
    "FakeBasiq",
    "ManualClock",
    "Quirks",
    "SystemClock",
    "Violation",
    "check_checkpoint",
    "check_inbox",
    "check_transport",
    "serve",
]

_HOMES = {
    "BrokenPromisesError": "_promises",
    "DeliveredAttempt": "_courier",
    "Emission": "_courier",
    "FakeBasiq": "fake",
    "ManualClock": "clock",
    "Quirks": "quirks",
    "SystemClock": "clock",
    "Violation": "_violations",
    "check_checkpoint": "checkpoint_suite",
    "check_inbox": "inbox_suite",
    "check_transport": "transport_suite",
    "serve": "server",
}


def __getattr__(name: str) -> object:
    # The fake must not load aiohttp, which only the server needs.
    if name in _HOMES:
        value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
