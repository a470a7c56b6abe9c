"""What an inbox of your own needs, beside ``Inbox`` itself."""

from __future__ import annotations

from .._work.keys import inbox_key
from .._work.protocol import Claim, ClaimedEntry, ClaimStatus, TransactionalInbox, Waiting, WaitingInbox

__all__ = [
    "Claim",
    "ClaimStatus",
    "ClaimedEntry",
    "TransactionalInbox",
    "Waiting",
    "WaitingInbox",
    "inbox_key",
]
