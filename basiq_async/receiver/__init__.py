"""Receiving webhooks: signatures, the receiver, and the inbox that remembers what has been handled."""

from __future__ import annotations

from .delivery import Delivery
from .inbox import Claim, ClaimStatus, Inbox, MemoryInbox, inbox_key
from .outcome import DeliveryEvent, Outcome, Result
from .receiver import WebhookReceiver
from .signature import sign, verify
from .sqlite_inbox import SQLiteInbox

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
