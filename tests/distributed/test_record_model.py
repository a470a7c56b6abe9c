"""Random walks of a record and of a simple model: workers claim, save, die and repeat calls, and both must agree."""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import attrs

from basiq_async.distributed._record import Record  # private: the record that the walks look at
from basiq_async.distributed._record_types import (  # private: what a record exchanges with its callers
    ClaimRefusal,
    LeaseLostError,
    ListSpec,
    Saving,
    SegmentClaim,
    SegmentPage,
    StateChange,
    new_token,
)
from tests.support.records import Pair, make_dead_letter, make_spec

T = TypeVar("T")

_WALKS = 8
_STEPS = 120
_PAGES, _MESSAGES, _DEAD_LETTERS = 2, 3, 2
"""The number of pages of a list, of messages on a page, and of dead letters on a page that retries them."""


async def test_in_any_order_of_claims_saves_deaths_and_repeated_calls_the_record_is_as_its_model(pair: Pair) -> None:
    """Owners, counts, dead letters and the end of the job."""
    for seed in range(_WALKS):
        walk = _Walk(pair, random.Random(seed))
        try:
            await walk.run()
        except AssertionError as error:
            raise AssertionError(f"{error}; walk {seed}, after {', '.join(walk.log[-12:])}") from error


@attrs.define(eq=False)
class _Segment:
    """The expected state of an open segment. ``ids`` are those of its page; None before the page was recorded."""

    token: str | None = None
    alive: bool = False
    ids: list[str] | None = None
    last: str | None = None
    done: list[str] = attrs.field(factory=list)
    counts: dict[str, int] = attrs.field(factory=dict)
    after: int = 0
    upto: int = 0


class _Walk:
    """One walk: a job, and the expected state of it."""

    def __init__(self, pair: Pair, rng: random.Random) -> None:
        self._pair = pair
        self._rng = rng
        self.log: list[str] = []
        self._spec = make_spec(uuid.uuid4().hex, lists=(ListSpec("w1"), ListSpec("w2")))
        self._key = self._spec.key
        self._open = {"0.0": _Segment(), "1.0": _Segment()}
        self._gone: list[str] = []
        self._former: list[tuple[str, str]] = []
        self._state = "running"
        self._counts = {"handled": 0, "failed": 0}
        self._read = 0
        self._dead_letters: dict[str, int] = {}
        self._numbers = 0

    @property
    def _record(self) -> Record:
        return self._rng.choice(self._pair.all)

    async def run(self) -> None:
        await self._record.create(self._spec)
        await self._record.reclaim_expired(self._key, "w", grace=30.0)  # a worker is there, so the job is not waiting
        steps = [self._claim, self._claim, self._record_page, self._save, self._save, self._save, self._finish]
        steps += [self._release, self._die, self._write_late, self._set_state, self._revive, self._drop, self._wake]
        steps += [self._revive, self._save, self._record_page]
        for _ in range(_STEPS):
            await self._step(self._rng.choice(steps))
            await self._compare()
        for _ in range(3):
            await self._go_to_the_end()
            for step in (
                self._revive,
                self._claim,
                self._record_page,
                self._revive,
                self._save,
                self._die,
                self._revive,
            ):
                await self._step(step)
                await self._compare()
        await self._go_to_the_end()

    async def _go_to_the_end(self) -> None:
        if self._state == "paused":
            await self._set_state()
        for _ in range(300):
            if not self._open:
                break
            for name, segment in list(self._open.items()):
                if not segment.alive:
                    await self._claim_one(name)
            for step in (self._record_page, self._save, self._finish):
                await self._step(step)
        await self._compare()
        assert self._state == "finished"
        assert self._key not in await self._record.keys(active=True)

    async def _step(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.log.append(step.__name__.strip("_"))
        await step()

    async def _compare(self) -> None:
        status = await self._record.progress(self._key)
        if status is None:
            raise AssertionError("the job is gone")
        found = (status.state, status.segments, status.handled, status.failed, status.read, status.dead)
        known = (self._state, len(self._open), *self._counts.values(), self._read, len(self._dead_letters))
        assert found == known, f"state, open segments, handled, failed, read and dead letters were {found}, not {known}"
        held = sum(segment.alive for segment in self._open.values())
        assert status.held == held, f"{status.held} segments had an owner, not {held}"

    async def _perhaps_twice(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, and sometimes repeat it, as if its response was lost."""
        if self._rng.random() < 0.3:
            await call()
        return await call()

    def _choose(self, *, advanced: bool | None = None) -> tuple[str, _Segment, str] | None:
        """Choose a segment whose owner is alive. Return its name, the segment and the owner's token."""
        found = [
            (name, segment, segment.token)
            for name, segment in self._open.items()
            if segment.alive and segment.token is not None and advanced in (None, segment.ids is not None)
        ]
        return self._rng.choice(found) if found else None

    async def _claim(self) -> None:
        names = [*self._open, *self._gone[-2:]]
        if names:
            await self._claim_one(self._rng.choice(names))

    async def _claim_one(self, name: str) -> None:
        token, segment = new_token(), self._open.get(name)
        found = await self._perhaps_twice(
            lambda: self._record.claim(self._key, name, token, lease=30.0, worker="w", width=1)
        )
        if segment is None or self._state != "running" or segment.alive:
            reason = "gone" if segment is None else "held" if self._state == "running" else "stopped"
            assert isinstance(found, ClaimRefusal), f"{name} could be claimed"
            assert found.reason == reason, f"the claim of {name} was {found}"
            return
        assert isinstance(found, SegmentClaim), f"the claim of {name} was {found}"
        count = None if segment.ids is None else len(segment.ids)
        assert (found.count, sorted(found.done)) == (count, sorted(segment.done)), f"the claim of {name} was {found}"
        if name.startswith("d"):
            place = (found.cursor, found.upto)
            assert place == (str(segment.after), segment.upto), f"the claim of {name} covers the dead letters {place}"
        if segment.token is not None:
            self._former.append((name, segment.token))
        segment.token, segment.alive, segment.counts = token, True, {"handled": 0, "failed": 0}

    async def _record_page(self) -> None:
        if (chosen := self._choose()) is None:
            return
        name, segment, token = chosen
        list_name, _, index = name.partition(".")
        if not list_name.startswith("d"):
            ids = [f"{name}-{number}" for number in range(_MESSAGES)]
            last, more = ids[-1], int(index) + 1 < _PAGES
            cursor = "next" if more else None
        else:
            page = await self._record.dead_letters(self._key, after=segment.after, limit=_DEAD_LETTERS)
            dead_letters = [each.dead_letter for each in page if each.dead_letter.number <= segment.upto]
            numbers = [number for number in self._dead_letters.values() if segment.after < number <= segment.upto]
            assert [each.number for each in dead_letters] == sorted(numbers)[:_DEAD_LETTERS], (
                f"dead_letters() returned {dead_letters}"
            )
            ids = [each.id for each in dead_letters]
            end = dead_letters[-1].number if dead_letters else segment.upto
            last, more = str(end), end < segment.upto
            cursor = last if more else None
        mark = SegmentPage(last=last, marks="1" * len(ids), next_cursor=cursor)
        found = await self._perhaps_twice(
            lambda: self._record.record_page(self._key, name, token, mark, lease=30.0, limit=None)
        )
        if segment.ids is None:
            segment.ids, segment.last = ids, last
            self._read += len(ids)
            if more:
                self._open[f"{list_name}.{int(index) + 1}"] = _Segment(
                    after=int(cursor or 0) if list_name[0] == "d" else 0, upto=segment.upto
                )
        assert found[0] == len(segment.ids), f"the page of {name} had a quota of {found[0]}"

    async def _save(self) -> None:
        if (chosen := self._choose(advanced=True)) is None:
            return
        name, segment, token = chosen
        left = [each for each in segment.ids or () if each not in segment.done][: self._rng.randint(1, 2)]
        failed = [each for each in left if self._rng.random() < 0.4]
        counts = {
            "handled": segment.counts["handled"] + len(left) - len(failed),
            "failed": segment.counts["failed"] + len(failed),
        }
        saving = Saving(
            counts=counts,
            ids=left,
            before=len(segment.done),
            dead_letters=[make_dead_letter(each) for each in failed],
            revived=[each for each in left if each not in failed] if name.startswith("d") else (),
        )
        save = self._record.save
        heartbeat = await save(self._key, name, token, saving, lease=30.0)
        assert heartbeat is not None
        assert heartbeat.state == self._state
        if self._rng.random() < 0.3:  # its response was lost
            again = await save(self._key, name, token, saving, lease=30.0)
            assert (again is None) is bool(left), f"a repeated save() returned {again}"
            whole = attrs.evolve(saving, ids=[*segment.done, *left], before=None)
            assert await save(self._key, name, token, whole, lease=30.0) is not None, "save() of all ids was refused"
        segment.done += left
        for kind, value in counts.items():
            self._counts[kind] += value - segment.counts[kind]
        segment.counts = counts
        for each in failed:
            if each not in self._dead_letters:
                self._numbers += 1
                self._dead_letters[each] = self._numbers
        for each in saving.revived:
            self._dead_letters.pop(each, None)

    async def _finish(self) -> None:
        if (chosen := self._choose()) is None:
            return
        name, segment, token = chosen
        if segment.ids is not None and len(segment.done) < len(segment.ids):
            return
        finished = await self._record.finish(self._key, name, token)
        assert finished is (segment.ids is not None), f"finish() of {name} returned {finished}"
        if finished:
            del self._open[name]
            self._gone.append(name)
            if not self._open:
                self._state = "finished"

    async def _release(self) -> None:
        if (chosen := self._choose()) is None:
            return
        name, segment, token = chosen
        await self._record.release(self._key, name, token)
        self._former.append((name, token))
        segment.token, segment.alive = None, False

    async def _die(self) -> None:
        if (chosen := self._choose()) is None:
            return
        name, segment, token = chosen
        await self._record.heartbeat(self._key, "w", {name: token}, lease=0.001)
        await self._pair.pass_seconds(0.004)
        segment.alive = False

    async def _write_late(self) -> None:
        if not self._former:
            return
        name, token = self._rng.choice(self._former)
        record, key = self._record, self._key
        mark = SegmentPage(last="x", marks="1", next_cursor="x")
        saving = Saving(
            counts={"handled": 9},
            ids=["x"],
            before=0,
            dead_letters=[make_dead_letter("x")],
            revived=[*self._dead_letters],
        )
        calls: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
            lambda: record.record_page(key, name, token, mark, lease=30.0, limit=None),
            lambda: record.save(key, name, token, saving, lease=30.0),
            lambda: record.finish(key, name, token),
            lambda: record.release(key, name, token),
        )
        try:
            found = await self._rng.choice(calls)()
        except LeaseLostError:
            return
        raise AssertionError(f"a call by a former owner of {name} returned {found}, not LeaseLostError")

    async def _set_state(self) -> None:
        if self._state not in ("running", "paused"):
            return
        action: StateChange = "pause" if self._state == "running" else "resume"
        state, _ = await self._perhaps_twice(lambda: self._record.set_state(self._key, action))
        self._state = "paused" if action == "pause" else "running"
        assert state == self._state, f"after {action}, the state was {state}"

    async def _revive(self) -> None:
        token = new_token()
        found = [await self._record.revive(self._key, token) for _ in range(self._rng.choice((1, 2)))]
        assert len(set(found)) == 1, f"revive() with the same token returned {found}"
        revival = found[0]
        covered = max((segment.upto for name, segment in self._open.items() if name[0] == "d"), default=0)
        last = max(self._dead_letters.values(), default=0)
        if not self._dead_letters:
            assert revival is None, f"without dead letters, revive() returned {revival}, not None"
        elif revival is None:
            raise AssertionError(f"with {len(self._dead_letters)} dead letters, revive() returned None")
        elif last > covered:
            assert revival not in self._open, f"revive() left later dead letters to an earlier segment: {revival}"
            self._open[revival] = _Segment(after=covered, upto=last)
            if self._state == "finished":
                self._state = "running"
        else:
            assert revival in self._open, f"revive() put the same dead letters into another segment: {revival}"

    async def _drop(self) -> None:
        if self._dead_letters:
            each = self._rng.choice(list(self._dead_letters))
            assert await self._record.drop_dead(self._key, [each, "nobody"]) == 1, (
                f"drop_dead() of {each} and an unknown id did not return 1"
            )
            del self._dead_letters[each]

    async def _wake(self) -> None:
        for name in await self._record.reclaim_expired(self._key, "w", grace=0.001):
            assert self._state == "running", "reclaim_expired() returned segments of a job that is not running"
            assert name in self._open, f"reclaim_expired() returned {name}, which is finished"
            assert not self._open[name].alive, f"reclaim_expired() returned {name}, which has an owner"
        assert (self._key in await self._record.keys(active=True)) is (self._state in ("running", "paused")), (
            f"the job is {self._state}, and keys(active=True) does not agree"
        )
