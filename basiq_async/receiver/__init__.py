"""Receive webhooks: signatures, the receiver, and the inboxes, which remember the handled events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._arguments import UnknownEventTypeWarning
from .._lazy import lazy_names
from .._signing.secret_file import SecretFile
from .._signing.secret_store import SecretStore
from .._signing.signature import sign, verify
from .._work.inbox_kinds import EXTRAS, KINDS
from .._work.protocol import Inbox, InboxEntry
from ._delivery import Delivery
from ._outcome import DeliveryEvent, Outcome
from ._receiver import WebhookReceiver
from ._results import Result
from ._settings import Deferred
from .inboxes._memory import MemoryInbox
from .inboxes._sqlite import SQLiteInbox

if TYPE_CHECKING:
    from .inboxes._redis import RedisInbox
    from .inboxes._sql import SQLInbox
    from .inboxes._sql_tables import inbox_metadata

__all__ = [
    "Deferred",
    "Delivery",
    "DeliveryEvent",
    "Inbox",
    "InboxEntry",
    "MemoryInbox",
    "Outcome",
    "RedisInbox",
    "Result",
    "SQLInbox",
    "SQLiteInbox",
    "SecretFile",
    "SecretStore",
    "UnknownEventTypeWarning",
    "WebhookReceiver",
    "inbox_metadata",
    "sign",
    "verify",
]

# Each name needs an extra. Its packages are loaded when the name is first used.
_LAZY = {
    **{kind.name: f"inboxes.{kind.module}" for kind in KINDS if kind.extra is not None},
    "inbox_metadata": "inboxes._sql_tables",
}

__getattr__, __dir__ = lazy_names(__name__, _LAZY, extras=EXTRAS)
