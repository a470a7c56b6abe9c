"""Receiving webhooks: signatures, the receiver, and the inbox that remembers what has been handled."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .._inbox.keys import inbox_key
from .._inbox.protocol import Claim, ClaimStatus, Inbox, QuarantinedDelivery, TransactionalInbox
from .._signing.signature import sign, verify
from ..errors import ConfigurationError
from ._delivery import Delivery
from ._outcome import DeliveryEvent, Outcome, Result
from ._receiver import WebhookReceiver
from ._routes import UnknownEventTypeWarning
from .inboxes._memory import MemoryInbox
from .inboxes._sqlite import SQLiteInbox

if TYPE_CHECKING:
    from .inboxes._redis import RedisInbox
    from .inboxes._sql import SQLInbox
    from .inboxes._sql_statements import inbox_metadata

__all__ = [
    "Claim",
    "ClaimStatus",
    "Delivery",
    "DeliveryEvent",
    "Inbox",
    "MemoryInbox",
    "Outcome",
    "QuarantinedDelivery",
    "RedisInbox",
    "Result",
    "SQLInbox",
    "SQLiteInbox",
    "TransactionalInbox",
    "UnknownEventTypeWarning",
    "WebhookReceiver",
    "inbox_key",
    "inbox_metadata",
    "sign",
    "verify",
]

# Each needs an extra, whose packages are not loaded before they are asked for.
_EXTRAS = {
    "RedisInbox": ("redis", "_redis"),
    "SQLInbox": ("sql", "_sql"),
    "inbox_metadata": ("sql", "_sql_statements"),
}


def __getattr__(name: str) -> object:
    if name not in _EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra, module = _EXTRAS[name]
    try:
        value: object = getattr(import_module(f".inboxes.{module}", __name__), name)
    except ModuleNotFoundError as exc:
        raise ConfigurationError(f"{name} needs the extra {extra!r}: pip install 'basiq-async[{extra}]'") from exc
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
