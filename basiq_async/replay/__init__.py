"""Bulk replay: hand the message history of a webhook to your handler or endpoint again, resumable after any crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names
from .._work.protocol import Record
from ._coverage import Inactivity
from ._recovery import Recovery, recover, recovered_by
from ._replay import Replay
from ._report import Plan, Progress, Reconciliation, Report
from ._where import Where, event_types, failed_only, limit, message_time, since, until
from .checkpoints._base import Checkpoint, DeadLetter
from .checkpoints._memory import MemoryCheckpoint
from .checkpoints._sqlite import SQLiteCheckpoint
from .targets._base import Target
from .targets._json_lines import JSONLinesTarget

if TYPE_CHECKING:
    from ._page import serve_page
    from .checkpoints._sql import SQLCheckpoint
    from .checkpoints._sql_statements import checkpoint_metadata
    from .targets._http import HttpTarget

__all__ = [
    "Checkpoint",
    "DeadLetter",
    "HttpTarget",
    "Inactivity",
    "JSONLinesTarget",
    "MemoryCheckpoint",
    "Plan",
    "Progress",
    "Reconciliation",
    "Record",
    "Recovery",
    "Replay",
    "Report",
    "SQLCheckpoint",
    "SQLiteCheckpoint",
    "Target",
    "Where",
    "checkpoint_metadata",
    "event_types",
    "failed_only",
    "limit",
    "message_time",
    "recover",
    "recovered_by",
    "serve_page",
    "since",
    "until",
]


# Loaded at their first use, because they need more packages: aiohttp, or those of an extra.
_LAZY = {
    "HttpTarget": "targets._http",
    "SQLCheckpoint": "checkpoints._sql",
    "checkpoint_metadata": "checkpoints._sql_statements",
    "serve_page": "_page",
}

__getattr__, __dir__ = lazy_names(__name__, _LAZY, extras={"sqlalchemy": "sql"})
