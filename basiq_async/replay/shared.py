"""What a fleet and the command line use of a replay: its engine, its recorders, and its sources."""

from __future__ import annotations

from ._engine import Engine, Finished
from ._listed import place_after
from ._reading import Reading
from ._records import QuarantinedMessage, RetryTarget, key_of, make_entry, message_of_entry
from ._report import make_plan
from ._service import check_place
from ._sources import FixedMessages, Source, message_of, open_events, placeholder_for, plain_id
from ._tally import OnError, RunSettings
from ._where import SUBMITTED, Predicate, as_where, choose
from .targets._adapters import AnyTarget, HandOut, choose_hand_out
from .targets._base import BUSY, HANDLED_BEFORE, BulkTarget

__all__ = [
    "BUSY",
    "HANDLED_BEFORE",
    "SUBMITTED",
    "AnyTarget",
    "BulkTarget",
    "Engine",
    "Finished",
    "FixedMessages",
    "HandOut",
    "OnError",
    "Predicate",
    "QuarantinedMessage",
    "Reading",
    "RetryTarget",
    "RunSettings",
    "Source",
    "as_where",
    "check_place",
    "choose",
    "choose_hand_out",
    "key_of",
    "make_entry",
    "make_plan",
    "message_of",
    "message_of_entry",
    "open_events",
    "place_after",
    "placeholder_for",
    "plain_id",
]
