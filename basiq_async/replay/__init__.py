"""Bulk replay: the history of a webhook through your handler or endpoint again, whatever kills the job."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ReplayError, TargetError
from ._inactivity import Inactivity
from ._recover import Recovery, recover
from ._replay import Replay
from ._report import Plan, Progress, Reconciliation, Report
from ._where import Where, event_types, failed_only, limit, message_time, since, until
from .checkpoints._base import Advance, Checkpoint, Commit, DeadLetter, Job, State
from .checkpoints._memory import MemoryCheckpoint
from .checkpoints._sqlite import SQLiteCheckpoint
from .targets._base import Target
from .targets._json_lines import JSONLinesTarget

if TYPE_CHECKING:
    from .page._server import serve_page
    from .targets._http import HttpTarget

__all__ = [
    "Advance",
    "Checkpoint",
    "CheckpointError",
    "Commit",
    "DeadLetter",
    "HttpTarget",
    "Inactivity",
    "JSONLinesTarget",
    "Job",
    "MemoryCheckpoint",
    "Plan",
    "Progress",
    "Reconciliation",
    "Recovery",
    "Replay",
    "ReplayError",
    "Report",
    "SQLiteCheckpoint",
    "State",
    "Target",
    "TargetError",
    "Where",
    "event_types",
    "failed_only",
    "limit",
    "message_time",
    "recover",
    "serve_page",
    "since",
    "until",
]


_LATER = {"HttpTarget": ".targets._http", "serve_page": ".page._server"}


def __getattr__(name: str) -> object:
    # Loaded when they are asked for: they alone need aiohttp.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LATER[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
