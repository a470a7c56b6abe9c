"""An async-first SDK for Basiq's webhooks, with pluggable transports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .client import BasiqClient
    from .errors import (
        APIError,
        AuthenticationError,
        BadRequestError,
        BasiqError,
        CheckpointError,
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
        TargetError,
        TransportError,
    )
    from .filters import F, Filter
    from .hooks import RequestEvent, RetryEvent
    from .models import DeliveryAttempt, Event, EventType, Message, Secret, Webhook
    from .pagination import Page, Paginator
    from .transports.aiohttp import AiohttpTransport
    from .transports.base import Request, Response, Transport
    from .transports.memory import InMemoryTransport
    from .transports.retry import RetryPolicy

__all__ = [
    "APIError",
    "AiohttpTransport",
    "AuthenticationError",
    "BadRequestError",
    "BasiqClient",
    "BasiqError",
    "CheckpointError",
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
    "TargetError",
    "Transport",
    "TransportError",
    "Webhook",
    "__version__",
]

# Each name is loaded from its home when it is first asked for: the client needs cattrs, a transport aiohttp, the
# in-memory one the fake, and "basiq-async --version" none of them.
_HOMES = {
    "TargetError": "errors",
    "CheckpointError": "errors",
    "APIError": "errors",
    "AiohttpTransport": "transports.aiohttp",
    "AuthenticationError": "errors",
    "BadRequestError": "errors",
    "BasiqClient": "client",
    "BasiqError": "errors",
    "ConfigurationError": "errors",
    "ConflictError": "errors",
    "ConnectionFailedError": "errors",
    "DeliveryAttempt": "models",
    "Event": "models",
    "EventType": "models",
    "F": "filters",
    "Filter": "filters",
    "InMemoryTransport": "transports.memory",
    "InboxError": "errors",
    "Message": "models",
    "NotFoundError": "errors",
    "Page": "pagination",
    "PaginationError": "errors",
    "Paginator": "pagination",
    "PermissionDeniedError": "errors",
    "RateLimitError": "errors",
    "ReplayError": "errors",
    "Request": "transports.base",
    "RequestEvent": "hooks",
    "RequestTimeoutError": "errors",
    "Response": "transports.base",
    "ResponseDecodeError": "errors",
    "RetryEvent": "hooks",
    "RetryPolicy": "transports.retry",
    "Secret": "models",
    "ServerError": "errors",
    "SignatureVerificationError": "errors",
    "Transport": "transports.base",
    "TransportError": "errors",
    "Webhook": "models",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
