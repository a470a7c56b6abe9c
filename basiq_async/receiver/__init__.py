"""Receiving webhooks: signatures, the receiver, and the inbox that remembers what has been handled."""

from __future__ import annotations

from ._delivery import Delivery
from ._outcome import DeliveryEvent, Outcome, Result
from ._receiver import WebhookReceiver
from ._signature import sign, verify
from .inboxes._memory import Claim, ClaimStatus, Inbox, MemoryInbox, inbox_key
from .inboxes._sqlite import SQLiteInbox

__all__ = [
    "Claim",
    "ClaimStatus",
    "Delivery",
    "DeliveryEvent",
    "Inbox",
    "MemoryInbox",
    "Outcome",
    "Result",
    "SQLiteInbox",
    "WebhookReceiver",
    "inbox_key",
    "sign",
    "verify",
]
