"""What a checkpoint of your own needs, beside ``Checkpoint`` itself."""

from __future__ import annotations

from .checkpoints._base import Advance, Commit, ReplayJob, State

__all__ = ["Advance", "Commit", "ReplayJob", "State"]
