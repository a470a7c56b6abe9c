"""Receiving webhooks: signatures, the receiver, and the inbox that remembers what has been handled."""

from __future__ import annotations

from basiq_async.receiver.delivery import Delivery
from basiq_async.receiver.inbox import Claim, ClaimStatus, Inbox, MemoryInbox, inbox_key
from basiq_async.receiver.outcome import DeliveryEvent, Outcome, Result
from basiq_async.receiver.receiver import WebhookReceiver
from basiq_async.receiver.signature import sign, verify
from basiq_async.receiver.sqlite_inbox import SQLiteInbox

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
