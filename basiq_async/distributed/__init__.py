"""Replays over many machines: taskiq carries notifications, and a record in Redis decides which
worker owns which segment."""

from __future__ import annotations

from importlib.util import find_spec

from .._lazy import missing_extra

if any(find_spec(name) is None for name in ("redis", "taskiq", "taskiq_redis")):
    raise missing_extra(__name__, "distributed")

from ._fleet import Fleet
from ._job import Job
from ._record_types import JobProgress, JobState
from ._work import Work
from ._worker import Worker

__all__ = ["Fleet", "Job", "JobProgress", "JobState", "Work", "Worker"]
