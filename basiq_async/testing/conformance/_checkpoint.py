"""The conformance suite for a ``Checkpoint``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ...errors import CheckpointError, CheckpointInUseError
from ...replay import Checkpoint, DeadLetter
from ...replay.protocol import Advance, Commit, ReplayJob, State
from ._runner import Promises, hold, keep

MakeCheckpoint = Callable[[str], Checkpoint]
"""A function that returns a checkpoint on the storage with a name. The same name must always be the same storage."""

_JOB = ReplayJob("webhook-1", "event.type.eq('user.created')")
_WHEN = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
_ODD = 'id with "quotes", a line\nbreak, \x00, ü, \U0001f600 and a lone \ud800'


async def check_checkpoint(make_checkpoint: MakeCheckpoint, *, seconds: float = 20.0) -> None:
    """Check that a checkpoint keeps the promises of ``Checkpoint``.

    ``make_checkpoint`` is called with a new name for each promise. The check of each promise may last ``seconds``.
    Raises ``BrokenPromisesError``, an ``AssertionError`` that names each broken promise and what happened instead.
    """
    probe = _CheckpointPromises(make_checkpoint)
    checks = {promise: partial(check, probe) for promise, check in _promise.checks.items()}
    await keep("the checkpoint", checks, seconds=seconds)


_promise: Promises[Any] = Promises()


class _CheckpointPromises:
    def __init__(self, make: MakeCheckpoint) -> None:
        self._make = make

    async def _saved(self, *commits: Commit) -> tuple[str, State]:
        """Save these commits in one run. Return the storage's name, and the state that a later run finds."""
        name = uuid.uuid4().hex
        await self._run(name, *commits)
        return name, await self._look(name)

    async def _run(self, name: str, *commits: Commit) -> None:
        checkpoint = self._make(name)
        await checkpoint.open(_JOB, concurrency=4)
        try:
            for commit in commits:
                await checkpoint.save(commit)
        finally:
            await checkpoint.aclose()

    async def _look(self, name: str) -> State:
        checkpoint = self._make(name)
        state = await checkpoint.open(_JOB, concurrency=1)
        await checkpoint.aclose()
        return state

    async def _dead_letters(self, name: str, *, after: int = 0, limit: int = 250) -> list[DeadLetter]:
        checkpoint = self._make(name)
        await checkpoint.open(_JOB, concurrency=1)
        try:
            return list(await checkpoint.dead_letters(after=after, limit=limit))
        finally:
            await checkpoint.aclose()

    @_promise
    async def begins_blank(self) -> None:
        """A new checkpoint has no cursor, and nothing is done."""
        state = await self._look(uuid.uuid4().hex)
        found = (state.cursor, state.position, state.done, state.handled, state.failed, state.dead, state.interrupted)
        hold(found == (None, 0, frozenset(), 0, 0, 0, 0), f"open() returned {state}")

    @_promise
    async def peeks_at_nothing(self) -> None:
        """peek() returns None before the first run and the recorded state later, and begins no run."""
        name = uuid.uuid4().hex
        found = await self._make(name).peek(_JOB)
        hold(found is None, f"before the first run, peek() returned {found}, not None")
        await self._run(name, Commit(done=["a"], ended=True))
        checkpoint = self._make(name)
        found = await checkpoint.peek(_JOB)
        hold(found is not None and found.done == {"a"} and found.interrupted == 0, f"peek() returned {found}")
        await checkpoint.open(_JOB, concurrency=1)
        await checkpoint.aclose()

    @_promise
    async def keeps_what_is_done(self) -> None:
        """The next run finds what was saved."""
        _, state = await self._saved(Commit(done=["a", "b"]))
        hold(state.done == {"a", "b"} and state.cursor is None, f"open() returned {state}")

    @_promise
    async def adds_what_is_done(self) -> None:
        """The done ids of a commit are added to those of earlier commits."""
        _, state = await self._saved(Commit(done=["a"]), Commit(done=["b", "a"]), Commit())
        hold(state.done == {"a", "b"}, f"open() returned {state}")

    @_promise
    async def advances(self) -> None:
        """An advance moves the cursor, and its ids replace all earlier done ids."""
        advance = Advance("cursor-1", 250, ["c"])
        _, state = await self._saved(Commit(done=["a", "b"]), Commit(advance=advance), Commit(done=["d"]))
        found = (state.cursor, state.position, set(state.done))
        hold(found == ("cursor-1", 250, {"c", "d"}), f"the cursor, position and done ids were {found}")

    @_promise
    async def counts(self) -> None:
        """Counts are added up over commits, advances and runs."""
        name, _ = await self._saved(
            Commit(handled=2, failed=1), Commit(handled=3, advance=Advance("c", 5, ())), Commit(handled=1, failed=1)
        )
        await self._run(name, Commit(handled=10))
        state = await self._look(name)
        found = (state.handled, state.failed)
        hold(found == (16, 2), f"the counts of handled and failed were {found}, not (16, 2)")

    @_promise
    async def counts_the_interrupted(self) -> None:
        """A run that does not end in order adds its concurrency to the count of interrupted messages."""
        name, state = await self._saved(Commit(done=["a"]))
        hold(state.interrupted == 4, f"after one run with a concurrency of 4, interrupted was {state.interrupted}")
        await self._run(name)
        state = await self._look(name)
        hold(state.interrupted == 9, f"after runs with concurrency 4, 1 and 4, interrupted was {state.interrupted}")

    @_promise
    async def forgets_the_interrupted(self) -> None:
        """A run that ends in order leaves no message counted as interrupted."""
        name = uuid.uuid4().hex
        await self._run(name)
        await self._run(name, Commit(ended=True))
        state = await self._look(name)
        hold(state.interrupted == 0, f"interrupted was {state.interrupted}, not 0")

    @_promise
    async def keeps_its_token(self) -> None:
        """Each job has its own token, which is the same in all its runs."""
        name, state = await self._saved()
        again = await self._look(name)
        _, other = await self._saved()
        hold(bool(state.token) and state.token == again.token, "the token is empty, or differs from run to run")
        hold(state.token != other.token, "two jobs have the same token")

    @_promise
    async def keeps_notes(self) -> None:
        """Notes are empty at first, stay until a commit has other notes, and are recorded together with its advance."""
        name, state = await self._saved(Commit(advance=Advance("c", 2, ()), notes='{"a": 1}'), Commit(done=["b"]))
        found = (state.cursor, state.done, state.notes, (await self._look(uuid.uuid4().hex)).notes)
        hold(found == ("c", frozenset({"b"}), '{"a": 1}', ""), f"open() returned {state}")
        await self._run(name, Commit(notes="", ended=True))
        state = await self._look(name)
        hold(state.notes == "", f"open() returned {state}")

    @_promise
    async def is_for_one_run(self) -> None:
        """While one run has the checkpoint open, another run gets a CheckpointInUseError, and the first continues."""
        name = uuid.uuid4().hex
        first, second = self._make(name), self._make(name)
        await first.open(_JOB, concurrency=1)
        try:
            await _refused(second.open(_JOB, concurrency=1), "a second open()", CheckpointInUseError)
            await first.save(Commit(done=["a"]))
        finally:
            await second.aclose()
            await first.aclose()
        state = await self._look(name)
        hold(state.done == {"a"}, f"the first run's commit was lost: {state}")

    @_promise
    async def lets_go(self) -> None:
        """The checkpoint is free after a run failed to open it, and after a run closed it."""
        name, _ = await self._saved()
        other = self._make(name)
        await _refused(other.open(ReplayJob("webhook-2"), concurrency=1), "open() for another job")
        await other.aclose()
        await self._look(name)

    @_promise
    async def is_for_one_job(self) -> None:
        """For another webhook or filter, open() and peek() raise a CheckpointError and change nothing."""
        name, _ = await self._saved(Commit(done=["a"]))
        for job in (ReplayJob("webhook-2", _JOB.filter), ReplayJob(_JOB.webhook_id)):
            checkpoint = self._make(name)
            await _refused(checkpoint.open(job, concurrency=1), f"open() for {job}")
            await checkpoint.aclose()
            await _refused(self._make(name).peek(job), f"peek() for {job}")
        state = await self._look(name)
        hold(state.done == {"a"}, f"open() returned {state}")

    @_promise
    async def keeps_dead_letters(self) -> None:
        """Dead letters are returned unchanged, oldest first, and are counted."""
        name, state = await self._saved(
            Commit(dead=[_dead_letter("b"), _dead_letter("a")]), Commit(dead=[_dead_letter("c")])
        )
        found = await self._dead_letters(name)
        hold(found == [_dead_letter("b"), _dead_letter("a"), _dead_letter("c")], f"dead_letters() returned {found}")
        hold(state.dead == 3, f"after 3 dead letters, dead was {state.dead}")

    @_promise
    async def replaces_dead_letters(self) -> None:
        """A dead letter with the id of an earlier one replaces it, and keeps its number."""
        name, _ = await self._saved(Commit(dead=[_dead_letter("a"), _dead_letter("b")]))
        before = [each.number for each in await self._dead_letters(name)]
        await self._run(name, Commit(dead=[_dead_letter("a", error="another")]))
        found = await self._dead_letters(name)
        hold(found == [_dead_letter("a", error="another"), _dead_letter("b")], f"dead_letters() returned {found}")
        after = [each.number for each in found]
        hold(before == after, f"the numbers were {before}, then {after}")

    @_promise
    async def revives_dead_letters(self) -> None:
        """A revived dead letter is removed; an unknown id changes nothing."""
        name, state = await self._saved(
            Commit(dead=[_dead_letter("a"), _dead_letter("b")]),
            Commit(revived=["a", "nobody"], dead=[_dead_letter("c")]),
        )
        found = await self._dead_letters(name)
        hold(found == [_dead_letter("b"), _dead_letter("c")], f"dead_letters() returned {found}")
        hold(state.dead == 2, f"with 2 dead letters left, dead was {state.dead}")

    @_promise
    async def pages_dead_letters(self) -> None:
        """dead_letters() returns up to ``limit`` dead letters after a number, even if earlier ones were removed."""
        name, _ = await self._saved(Commit(dead=[_dead_letter(each) for each in "abcd"]))
        first = await self._dead_letters(name, limit=2)
        hold([each.id for each in first] == ["a", "b"], f"the first two were {first}")
        await self._run(name, Commit(revived=["a", "b"]))
        rest = await self._dead_letters(name, after=first[-1].number, limit=10)
        hold([each.id for each in rest] == ["c", "d"], f"the rest was {rest}")

    @_promise
    async def takes_odd_text(self) -> None:
        """Ids, errors and cursors may contain any text."""
        dead_letter = DeadLetter(_ODD, _ODD, _WHEN, {"id": _ODD, "payload": {"n": 1.5, "none": None}})
        name, state = await self._saved(Commit(advance=Advance("c'ü\n", 1, [_ODD]), dead=[dead_letter]))
        hold(state.done == {_ODD} and state.cursor == "c'ü\n", f"open() returned {state!a}")
        found = await self._dead_letters(name)
        kept = found == [dead_letter] and found[0].message == dead_letter.message
        hold(kept, f"dead_letters() returned {found!a}")
        await self._run(name, Commit(revived=[_ODD]))
        hold(not await self._dead_letters(name), "a revived dead letter was not removed")

    @_promise
    async def saves_while_open_only(self) -> None:
        """A save before open or after close raises a CheckpointError."""
        checkpoint = self._make(uuid.uuid4().hex)
        await _refused(checkpoint.save(Commit(done=["a"])), "save() before open()")
        await checkpoint.open(_JOB, concurrency=1)
        await checkpoint.aclose()
        await _refused(checkpoint.save(Commit(done=["a"])), "save() after aclose()")

    @_promise
    async def closes_twice(self) -> None:
        """aclose() may be called twice, and before open(); concurrent saves are all recorded."""
        name = uuid.uuid4().hex
        checkpoint = self._make(name)
        await checkpoint.aclose()
        await checkpoint.open(_JOB, concurrency=1)
        await asyncio.gather(*(checkpoint.save(Commit(done=[str(i)])) for i in range(5)))
        await checkpoint.aclose()
        await checkpoint.aclose()
        state = await self._look(name)
        hold(state.done == {"0", "1", "2", "3", "4"}, f"open() returned {state}")


async def _refused(call: Awaitable[object], what: str, kind: type[CheckpointError] = CheckpointError) -> None:
    """Check that a call raises an error of this kind."""
    try:
        await call
    except kind:
        return
    raise AssertionError(f"{what} raised no {kind.__name__}")


def _dead_letter(id: str, error: str = "ValueError: no") -> DeadLetter:
    return DeadLetter(id, error, _WHEN, {"id": id, "payload": {"eventId": "1"}})
