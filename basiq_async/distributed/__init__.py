"""Replays over many machines: taskiq carries notifications, and a record in Redis decides which
worker owns which segment."""

from __future__ import annotations

from ._fleet import Fleet
from ._job import Job
from ._record_types import JobProgress, JobState
from ._work import Work
from ._worker import Worker

__all__ = ["Fleet", "Job", "JobProgress", "JobState", "Work", "Worker"]
