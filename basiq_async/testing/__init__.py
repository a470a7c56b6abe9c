"""A Basiq for tests: the fake, the same over HTTP, and suites that hold others to what ours promise."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._courier import DeliveredAttempt, Emission
    from ._violations import Violation
    from .clock import ManualClock, SystemClock
    from .fake import FakeBasiq
    from .quirks import Quirks
    from .server import serve

__all__ = [
    "DeliveredAttempt",
    "Emission",
    "FakeBasiq",
    "ManualClock",
    "Quirks",
    "SystemClock",
    "Violation",
    "serve",
]

_HOMES = {
    "DeliveredAttempt": "_courier",
    "Emission": "_courier",
    "FakeBasiq": "fake",
    "ManualClock": "clock",
    "Quirks": "quirks",
    "SystemClock": "clock",
    "Violation": "_violations",
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
