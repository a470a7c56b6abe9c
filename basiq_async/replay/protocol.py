"""What a checkpoint of your own needs, beside ``Checkpoint`` itself."""

from __future__ import annotations

from .checkpoints._base import Advance, Commit, Job, State

__all__ = ["Advance", "Commit", "Job", "State"]
