"""A checkpoint in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs

from ...errors import CheckpointError, CheckpointInUseError
from ._base import Commit, DeadLetter, ReplayJob, State, _Closing, another_job, apply


class MemoryCheckpoint(_Closing):
    """A checkpoint in memory, for tests, and for replays that need not survive a restart."""

    def __init__(self) -> None:
        self._job: ReplayJob | None = None
        self._state = State()
        self._dead: dict[str, DeadLetter] = {}
        self._numbers = itertools.count(1)
        self._open = False

    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        """See ``Checkpoint``."""
        if self._open:
            raise CheckpointInUseError("another run has this checkpoint open: wait for it or stop it")
        self._check(job)
        self._job, self._open = job, True
        found = self._current()
        self._state = attrs.evolve(self._state, interrupted=self._state.interrupted + concurrency)
        return found

    async def peek(self, job: ReplayJob) -> State | None:
        """See ``Checkpoint``."""
        self._check(job)
        return None if self._job is None else self._current()

    async def save(self, commit: Commit) -> None:
        """See ``Checkpoint``."""
        if not self._open:
            raise CheckpointError("the checkpoint is not open")
        self._state = apply(self._state, commit)
        for dead_letter in commit.dead:
            earlier = self._dead.get(dead_letter.id)
            number = next(self._numbers) if earlier is None else earlier.number
            self._dead[dead_letter.id] = attrs.evolve(dead_letter, number=number)
        for revived in commit.revived:
            self._dead.pop(revived, None)

    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        """See ``Checkpoint``."""
        return [dead_letter for dead_letter in self._dead.values() if dead_letter.number > after][:limit]

    async def aclose(self) -> None:
        """See ``Checkpoint``."""
        self._open = False

    def _check(self, job: ReplayJob) -> None:
        if self._job is not None and self._job != job:
            raise another_job("this checkpoint", self._job, job)

    def _current(self) -> State:
        return attrs.evolve(self._state, dead=len(self._dead))
