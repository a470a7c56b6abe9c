"""Bulk replay: hand the message history of a webhook to your handler or endpoint again, resumable after any crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names
from .._work.protocol import Record
from ..services.coverage import Inactivity
from ._recovered import Recovery, RecoveryPlan
from ._recovery import RecoveryRun, recover
from ._replay import Replay
from ._report import Plan, Progress, Report
from ._share import share
from ._where import Where, event_types, failed_only, limit, message_time, since, until
from .targets._base import BulkTarget, Target
from .targets._http import HttpTarget
from .targets._json_lines import JSONLinesTarget

if TYPE_CHECKING:
    from ._page import serve_page

__all__ = [
    "BulkTarget",
    "HttpTarget",
    "Inactivity",
    "JSONLinesTarget",
    "Plan",
    "Progress",
    "Record",
    "Recovery",
    "RecoveryPlan",
    "RecoveryRun",
    "Replay",
    "Report",
    "Target",
    "Where",
    "event_types",
    "failed_only",
    "limit",
    "message_time",
    "recover",
    "serve_page",
    "share",
    "since",
    "until",
]


# Loaded at its first use: it needs the packages of an extra.
__getattr__, __dir__ = lazy_names(__name__, {"serve_page": "_page"})
