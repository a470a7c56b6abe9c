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

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .client import BasiqClient
    from .filters import F, Filter
    from .hooks import RequestEvent
    from .models import DeliveryAttempt, EnsuredWebhook, Event, EventType, Message, Secret, Webhook
    from .pagination import Page, Paginator, UnreadableItem
    from .services.diagnosis import Diagnosis, EndpointCheck
    from .services.problems import Problem
    from .testing.transport import InMemoryTransport
    from .transports.aiohttp import AiohttpTransport
    from .transports.base import Request, Response, Transport
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

# Loaded on first access: each run of pytest imports this file, as the fixtures are there. What is below imports attrs.
_LAZY = {
    "AiohttpTransport": "transports.aiohttp",
    "BasiqClient": "client",
    "DeliveryAttempt": "models",
    "Diagnosis": "services.diagnosis",
    "EndpointCheck": "services.diagnosis",
    "EnsuredWebhook": "models",
    "Event": "models",
    "EventType": "models",
    "F": "filters",
    "Filter": "filters",
    "InMemoryTransport": "testing.transport",
    "Message": "models",
    "Page": "pagination",
    "Paginator": "pagination",
    "Problem": "services.problems",
    "Request": "transports.base",
    "RequestEvent": "hooks",
    "Response": "transports.base",
    "RetryPolicy": "transports.retry",
    "Secret": "models",
    "Transport": "transports.base",
    "UnreadableItem": "pagination",
    "Webhook": "models",
}

__getattr__, __dir__ = lazy_names(__name__, _LAZY)
