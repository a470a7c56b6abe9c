"""An async-first SDK for Basiq's webhooks, with pluggable transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from .errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BasiqError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    InboxError,
    JobInUseError,
    MissingExtraError,
    NotFoundError,
    PaginationError,
    PermissionDeniedError,
    RateLimitError,
    RecordError,
    ReplayError,
    RequestTimeoutError,
    ResponseDecodeError,
    ServerError,
    SignatureVerificationError,
    TargetError,
    TransportError,
)
from .filters import F, Filter
from .hooks import RequestEvent
from .models import DeliveryAttempt, EnsuredWebhook, Event, EventType, Message, Secret, Webhook
from .transports.base import Request, Response, Transport

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .client import BasiqClient
    from .pagination import Page, Paginator, UnreadableItem
    from .services.diagnosis import Diagnosis, EndpointCheck, Problem
    from .testing.transport import InMemoryTransport
    from .transports.aiohttp import AiohttpTransport
    from .transports.retry import RetryPolicy

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
    "Diagnosis",
    "EndpointCheck",
    "EnsuredWebhook",
    "Event",
    "EventType",
    "F",
    "Filter",
    "InMemoryTransport",
    "InboxError",
    "JobInUseError",
    "Message",
    "MissingExtraError",
    "NotFoundError",
    "Page",
    "PaginationError",
    "Paginator",
    "PermissionDeniedError",
    "Problem",
    "RateLimitError",
    "RecordError",
    "ReplayError",
    "Request",
    "RequestEvent",
    "RequestTimeoutError",
    "Response",
    "ResponseDecodeError",
    "RetryPolicy",
    "Secret",
    "ServerError",
    "SignatureVerificationError",
    "TargetError",
    "Transport",
    "TransportError",
    "UnreadableItem",
    "Webhook",
    "__version__",
]

# Loaded on first access: these modules import cattrs, aiohttp or asyncio.
_LAZY = {
    "AiohttpTransport": "transports.aiohttp",
    "BasiqClient": "client",
    "Diagnosis": "services.diagnosis",
    "EndpointCheck": "services.diagnosis",
    "InMemoryTransport": "testing.transport",
    "Page": "pagination",
    "Paginator": "pagination",
    "Problem": "services.diagnosis",
    "RetryPolicy": "transports.retry",
    "UnreadableItem": "pagination",
}

__getattr__, __dir__ = lazy_names(__name__, _LAZY)
