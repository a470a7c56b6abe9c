"""What a fleet and the command line use of a replay: its engine, its feed, and its dead letters."""

from __future__ import annotations

from ._dead_letters import as_message, export_dead
from ._engine import Engine, OnError, RunSettings
from ._feed import Feed
from ._ledger import DeadLedger
from ._place import TOP, WINDOW, Part, Place, write_text
from ._report import HandledEvents
from ._sources import FixedMessages, UnreadableMessage, message_of, open_events, placeholder_for
from ._where import SUBMITTED, Predicate, as_where, choose, everything
from .targets._adapters import as_target
from .targets._base import Function, Handler, SessionHandler

__all__ = [
    "SUBMITTED",
    "TOP",
    "WINDOW",
    "DeadLedger",
    "Engine",
    "Feed",
    "FixedMessages",
    "Function",
    "HandledEvents",
    "Handler",
    "OnError",
    "Part",
    "Place",
    "Predicate",
    "RunSettings",
    "SessionHandler",
    "UnreadableMessage",
    "as_message",
    "as_target",
    "as_where",
    "choose",
    "everything",
    "export_dead",
    "message_of",
    "open_events",
    "placeholder_for",
    "write_text",
]
