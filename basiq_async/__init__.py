"""An async-first SDK for Basiq's webhooks, with pluggable transports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__
from .client import BasiqClient
from .errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BasiqError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    InboxError,
    NotFoundError,
    PaginationError,
    PermissionDeniedError,
    RateLimitError,
    ReplayError,
    RequestTimeoutError,
    ResponseDecodeError,
    ServerError,
    SignatureVerificationError,
    TransportError,
)
from .filters import F, Filter
from .hooks import RequestEvent, RetryEvent
from .models import DeliveryAttempt, Event, EventType, Message, Secret, Webhook
from .pagination import Page, Paginator
from .transports.base import Request, Response, Transport
from .transports.retry import RetryPolicy

if TYPE_CHECKING:
    from .transports.aiohttp import AiohttpTransport
    from .transports.memory import InMemoryTransport

__all__ = [
    "APIError",
    "AiohttpTransport",
    "AuthenticationError",
    "BadRequestError",
    "BasiqClient",
    "BasiqError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "DeliveryAttempt",
    "Event",
    "EventType",
    "F",
    "Filter",
    "InMemoryTransport",
    "InboxError",
    "Message",
    "NotFoundError",
    "Page",
    "PaginationError",
    "Paginator",
    "PermissionDeniedError",
    "RateLimitError",
    "ReplayError",
    "Request",
    "RequestEvent",
    "RequestTimeoutError",
    "Response",
    "ResponseDecodeError",
    "RetryEvent",
    "RetryPolicy",
    "Secret",
    "ServerError",
    "SignatureVerificationError",
    "Transport",
    "TransportError",
    "Webhook",
    "__version__",
]

# Each is loaded when it is first asked for: one needs aiohttp, the other the fake.
_LAZY = {"AiohttpTransport": ".transports.aiohttp", "InMemoryTransport": ".transports.memory"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
