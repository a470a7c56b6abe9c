"""The suite for checkpoints finds each promise that one breaks, and names it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence

import attrs
import pytest

from basiq_async.replay import Checkpoint, DeadLetter, MemoryCheckpoint
from basiq_async.replay.protocol import Commit, ReplayJob, State
from basiq_async.testing import BrokenPromisesError, check_checkpoint

JOB = ReplayJob("w1")


class _ForgetsDone(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        await super().save(attrs.evolve(commit, done=()))


class _KeepsDoneOnAdvance(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        if commit.advance is not None:
            done = [*self._state.done, *commit.advance.done]
            commit = attrs.evolve(commit, advance=attrs.evolve(commit.advance, done=done))
        await super().save(commit)


class _OverwritesDone(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        if commit.advance is None:
            self._state = attrs.evolve(self._state, done=frozenset())
        await super().save(commit)


class _NoLock(MemoryCheckpoint):
    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        self._open = False
        return await super().open(job, concurrency=concurrency)


class _AnyJob(MemoryCheckpoint):
    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        self._job = None
        return await super().open(job, concurrency=concurrency)


class _NeverLetsGo(MemoryCheckpoint):
    async def aclose(self) -> None:
        pass


class _PeekBegins(MemoryCheckpoint):
    async def peek(self, job: ReplayJob) -> State | None:
        return await self.open(job, concurrency=0)


class _NewTokens(MemoryCheckpoint):
    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        return attrs.evolve(await super().open(job, concurrency=concurrency), token=os.urandom(4).hex())


class _OneToken(MemoryCheckpoint):
    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        return attrs.evolve(await super().open(job, concurrency=concurrency), token="token")


class _NewNumbers(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        for dead_letter in commit.dead:
            self._dead.pop(dead_letter.id, None)
        await super().save(commit)


class _NoCounts(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        await super().save(attrs.evolve(commit, handled=0, failed=0))


class _ForgetsInterrupted(MemoryCheckpoint):
    async def open(self, job: ReplayJob, *, concurrency: int) -> State:
        return attrs.evolve(await super().open(job, concurrency=concurrency), interrupted=0)


class _NeverEnds(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        await super().save(attrs.evolve(commit, ended=False))


class _IgnoresLimit(MemoryCheckpoint):
    async def dead_letters(self, *, after: int = 0, limit: int = 250) -> Sequence[DeadLetter]:
        return await super().dead_letters(after=after)


class _KeepsRevived(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        await super().save(attrs.evolve(commit, revived=()))


class _SavesWhenClosed(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        was, self._open = self._open, True
        await super().save(commit)
        self._open = was


class _AsciiOnly(MemoryCheckpoint):
    async def save(self, commit: Commit) -> None:
        for dead_letter in commit.dead:
            dead_letter.id.encode()
        await super().save(commit)


class _ClosesOnce(MemoryCheckpoint):
    async def aclose(self) -> None:
        if not self._open:
            raise RuntimeError("closed already")
        await super().aclose()


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (_ForgetsDone, "The next run finds what was saved"),
        (_KeepsDoneOnAdvance, "An advance moves the cursor"),
        (_OverwritesDone, "The done ids of a commit are added"),
        (_NoLock, "While one run has the checkpoint open"),
        (_AnyJob, "For another webhook or filter"),
        (_AnyJob, "The checkpoint is free after"),
        (_NeverLetsGo, "The next run finds what was saved"),
        (_PeekBegins, "peek() returns None"),
        (_NewTokens, "Each job has its own token"),
        (_OneToken, "Each job has its own token"),
        (_NewNumbers, "A dead letter with the id of an earlier one"),
        (_NoCounts, "Counts are added up"),
        (_ForgetsInterrupted, "A run that does not end in order"),
        (_NeverEnds, "A run that ends in order"),
        (_IgnoresLimit, "dead_letters() returns up to"),
        (_KeepsRevived, "A revived dead letter is removed"),
        (_SavesWhenClosed, "A save before open or after close"),
        (_AsciiOnly, "Ids, errors and cursors may contain any text"),
        (_ClosesOnce, "aclose() may be called twice"),
    ],
)
async def test_the_suite_names_the_promise_that_is_broken(broken: Callable[[], Checkpoint], promise: str) -> None:
    stores: defaultdict[str, Checkpoint] = defaultdict(broken)
    with pytest.raises(BrokenPromisesError) as caught:
        await check_checkpoint(lambda name: stores[name])
    assert any(name.startswith(promise) for name in caught.value.broken)
