"""A checkpoint of whatever kind, each call of which has a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from ...errors import CheckpointError
from ._base import Checkpoint, Commit, DeadLetter, Job, State

T = TypeVar("T")


class LimitedCheckpoint:
    """Passes each call on, and raises ``CheckpointError`` where it takes longer than ``timeout`` seconds."""

    def __init__(self, checkpoint: Checkpoint, timeout: float) -> None:
        self._checkpoint = checkpoint
        self._timeout = timeout

    async def open(self, job: Job, *, concurrency: int) -> State:
        """See ``Checkpoint``."""
        return await self._within_limit(self._checkpoint.open(job, concurrency=concurrency))

    async def peek(self, job: Job) -> State | None:
        """See ``Checkpoint``."""
        return await self._within_limit(self._checkpoint.peek(job))

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        await self._within_limit(self._checkpoint.save(commit))

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        return await self._within_limit(self._checkpoint.dead_letters(after=after, limit=limit))

    async def aclose(self) -> None:
        """See ``Checkpoint``."""
        await self._within_limit(self._checkpoint.aclose())

    async def _within_limit(self, call: Awaitable[T]) -> T:
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await call
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise CheckpointError(
                f"the checkpoint did not finish within {self._timeout:g} s: mend it, then run the same again to "
                "continue"
            ) from exc
