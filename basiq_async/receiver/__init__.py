"""Receiving webhooks: signatures, the receiver, and the inbox that remembers what has been handled."""

from __future__ import annotations

from ._delivery import Delivery
from ._outcome import DeliveryEvent, Outcome, Result
from ._receiver import WebhookReceiver
from ._routes import UnknownEventTypeWarning
from ._signature import sign, verify
from .inboxes._claim import Claim, ClaimStatus
from .inboxes._keys import inbox_key
from .inboxes._memory import MemoryInbox
from .inboxes._protocol import Inbox
from .inboxes._quarantine import QuarantinedDelivery
from .inboxes._sqlite import SQLiteInbox

__all__ = [
    "Claim",
    "ClaimStatus",
    "Delivery",
    "DeliveryEvent",
    "Inbox",
    "MemoryInbox",
    "Outcome",
    "QuarantinedDelivery",
    "Result",
    "SQLiteInbox",
    "UnknownEventTypeWarning",
    "WebhookReceiver",
    "inbox_key",
    "sign",
    "verify",
]
