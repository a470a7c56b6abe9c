"""Random walks of a record and of a simple model: workers claim, save, die and repeat calls, and both must agree."""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import attrs
import pytest

from basiq_async.distributed._job_store import JobStore  # private: the record that the walks look at
from basiq_async.distributed._record_types import (  # private: what a record exchanges with its callers
    Heartbeat,
    LeaseLostError,
    LeftAtService,
    ListSpec,
    Outcome,
    SegmentClaim,
    SegmentPage,
    StateChange,
    new_token,
)
from tests.support.job_stores import Pair, make_spec, outcomes, set_aside

T = TypeVar("T")

_WALKS = 8
_STEPS = 120
_PAGES, _MESSAGES, _ENTRIES = 2, 3, 2
"""The number of pages of a list, of messages on a page, and of entries on a page of the quarantine."""


async def test_in_any_order_of_claims_saves_deaths_and_repeated_calls_the_record_is_as_its_model(pair: Pair) -> None:
    """Owners, counts, the quarantine and the end of the job."""
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
    done: list[str] = attrs.field(factory=list)
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
        self._read = self._takeovers = self._left = 0
        self._may_count = False
        """Whether no segment was added since the last one was counted."""
        self._quarantine: dict[str, int] = {}
        self._numbers = 0

    @property
    def _store(self) -> JobStore:
        return self._rng.choice(self._pair.all)

    async def run(self) -> None:
        await self._store.create(self._spec)
        await self._store.reclaim_expired(self._key, "w", grace=30.0)  # a worker is there, so the job is not waiting
        steps: list[Any] = [*[self._claim, self._record_page, self._retry] * 2, *[self._save] * 4, self._finish]
        steps += [self._release, self._die, self._write_late, self._set_state, self._drop, self._wake]
        for _ in range(_STEPS):
            await self._step(self._rng.choice(steps))
            await self._compare()
        for _ in range(3):
            await self._go_to_the_end()
            steps = (self._retry, self._claim, self._record_page, self._retry, self._drop, self._save, self._die)
            for step in (*steps, self._retry):
                await self._step(step)
                await self._compare()
        await self._go_to_the_end()

    async def _go_to_the_end(self) -> None:
        if self._state == "paused":
            await self._set_state()
        for _ in range(300):
            for name in [name for name, segment in self._open.items() if not segment.alive]:
                await self._claim_one(name)
            for step in (self._record_page, self._save, self._finish):
                await self._step(step)
        await self._compare()
        assert self._state == "finished"
        assert self._key not in await self._store.keys(active=True)

    async def _step(self, step: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """Take a step. An owner's steps get a segment, with its name and the token, if one has an owner."""
        self.log.append(step.__name__.strip("_"))
        if step not in (self._record_page, self._save, self._finish, self._release, self._die):
            await step()
        elif (owned := self._choose(advanced=True if step == self._save else None)) is not None:
            await step(*owned)

    async def _compare(self) -> None:
        status = await self._store.progress(self._key)
        if status is None:
            raise AssertionError("the job is gone")
        found = (status.state, status.segments, status.handled, status.failed, status.read, status.quarantined)
        known = (self._state, len(self._open), *self._counts.values(), self._read, len(self._quarantine))
        assert found == known, f"state, open segments, handled, failed, read and quarantined were {found}, not {known}"
        waiting = min(self._left, self._counts["handled"])
        assert status.waiting == waiting, f"{status.waiting} wait, not {waiting}"
        held = sum(segment.alive for segment in self._open.values())
        found, known = (status._held, status.takeovers), (held, self._takeovers)
        assert found == known, f"segments with an owner, and takeovers, were {found}, not {known}"

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
        found = await self._perhaps_twice(lambda: self._store.claim(self._key, name, token, lease=30.0, worker="w"))
        if segment is None or self._state != "running" or segment.alive:
            reason = "gone" if segment is None else "held" if self._state == "running" else "stopped"
            assert found == reason, f"the claim of {name} was {found}"
            return
        assert isinstance(found, SegmentClaim), f"the claim of {name} was {found}"
        assert list(found.edge) == (segment.ids or [])[-20:], f"the claim of {name} was {found}"
        assert sorted(found.done) == sorted(segment.done), f"the claim of {name} was {found}"
        if name.startswith("q"):
            place = (found.cursor, found.upto)
            assert place == (str(segment.after), segment.upto), f"the claim of {name} covers the entries {place}"
        if segment.token is not None:
            self._former.append((name, segment.token))
            self._takeovers += 1
        segment.token, segment.alive = token, True

    async def _record_page(self, name: str, segment: _Segment, token: str) -> None:
        list_name, _, index = name.partition(".")
        if not list_name.startswith("q"):
            ids = [f"{name}-{number}" for number in range(_MESSAGES)]
            more = int(index) + 1 < _PAGES
            cursor = "next" if more else None
        else:
            page = await self._store.quarantined(self._key, after=segment.after, limit=_ENTRIES)
            entries = [each for each in page if each.number <= segment.upto]
            numbers = [number for number in self._quarantine.values() if segment.after < number <= segment.upto]
            assert [each.number for each in entries] == sorted(numbers)[:_ENTRIES], f"quarantined() returned {entries}"
            ids = [each.delivery_id for each in entries]
            end = entries[-1].number if entries else segment.upto
            more = end < segment.upto
            cursor = str(end) if more else None
        if segment.ids is not None:
            ids = segment.ids
        mark = SegmentPage(next_cursor=cursor, edge=ids)
        found = await self._perhaps_twice(
            lambda: self._store.record_page(self._key, name, token, mark, read=len(ids), lease=30.0)
        )
        if segment.ids is not None:
            assert found is None, f"the page of {name} was recorded twice, and created {found}"
        else:
            segment.ids = ids
            self._read += len(ids)
            if more:
                self._may_count = False
                self._open[f"{list_name}.{int(index) + 1}"] = _Segment(
                    after=int(cursor or 0) if list_name[0] == "q" else 0, upto=segment.upto
                )

    async def _save(self, name: str, segment: _Segment, token: str) -> None:
        left = [each for each in segment.ids or () if each not in segment.done][: self._rng.randint(1, 2)]
        failed = [each for each in left if self._rng.random() < 0.4]
        handled = [each for each in left if each not in failed]
        is_retry = name.startswith("q")
        ended: list[Outcome] = [*outcomes(*handled), *set_aside(*failed)]
        before = len(segment.done)
        if left:
            save = self._store.save
            heartbeat = await save(self._key, name, token, ended, before=before, lease=30.0)
            assert isinstance(heartbeat, Heartbeat), f"save() said that {heartbeat} are recorded"
            assert heartbeat.state == self._state
            if self._rng.random() < 0.3:  # its response was lost
                again = await save(self._key, name, token, ended, before=before, lease=30.0)
                assert again == before + len(left), f"a repeated save() returned {again}"
        segment.done += left
        self._counts["handled"] += len(handled)
        self._counts["failed"] += len(failed)
        for each in failed:
            if each not in self._quarantine and not is_retry:
                self._numbers += 1
                self._quarantine[each] = self._numbers
        for each in handled if is_retry else ():
            self._quarantine.pop(each, None)

    async def _finish(self, name: str, segment: _Segment, token: str) -> None:
        if segment.ids is not None and len(segment.done) < len(segment.ids):
            return
        left = self._rng.choice((None, LeftAtService(self._rng.randint(0, 9), 1)))
        counts = left is not None or self._rng.random() < 0.3
        is_last = segment.ids is not None and len(self._open) == 1
        uncounted = counts and is_last and (left is None or not self._may_count)
        expected = "unread" if segment.ids is None else "uncounted" if uncounted else "finished"
        found = await self._store.finish(self._key, name, token, counts=counts, left=left)
        assert found == expected, f"finish() of {name} returned {found}, not {expected}"
        self._may_count = self._may_count or uncounted
        if found == "finished":
            if left is not None and is_last:
                self._left = left.waiting
            del self._open[name]
            self._gone.append(name)
            if not self._open:
                self._state = "finished"

    async def _release(self, name: str, segment: _Segment, token: str) -> None:
        await self._store.release(self._key, name, token)
        self._former.append((name, token))
        segment.token, segment.alive = None, False

    async def _die(self, name: str, segment: _Segment, token: str) -> None:
        await self._store.heartbeat(self._key, "w", {name: token}, lease=0.001)
        await self._pair.pass_seconds(0.004)
        segment.alive = False

    async def _write_late(self) -> None:
        if not self._former:
            return
        name, token = self._rng.choice(self._former)
        record, key = self._store, self._key
        mark = SegmentPage(next_cursor="x", edge=["x"])
        ended = [*set_aside("x"), *outcomes(*self._quarantine)]
        calls: list[partial[Any]] = [
            partial(record.record_page, page=mark, read=9, lease=30.0),
            partial(record.save, outcomes=ended, before=0, lease=30.0),
            partial(record.finish),
            partial(record.release),
        ]
        with pytest.raises(LeaseLostError):
            await self._rng.choice(calls)(key, name, token)

    async def _set_state(self) -> None:
        if self._state not in ("running", "paused"):
            return
        action: StateChange = "pause" if self._state == "running" else "resume"
        state, _ = await self._perhaps_twice(lambda: self._store.set_state(self._key, action))
        self._state = "paused" if action == "pause" else "running"
        assert state == self._state, f"after {action}, the state was {state}"

    async def _retry(self) -> None:
        token = new_token()
        found = [await self._store.retry_quarantined(self._key, token) for _ in range(self._rng.choice((1, 2)))]
        assert len(set(found)) == 1, f"retry_quarantined() with the same token returned {found}"
        retry = found[0]
        covered = max((segment.upto for name, segment in self._open.items() if name[0] == "q"), default=0)
        last = max(self._quarantine.values(), default=0)
        if not self._quarantine:
            assert retry == "", f"without entries, retry_quarantined() returned {retry}"
        elif not retry:
            raise AssertionError(f"with {len(self._quarantine)} entries, retry_quarantined() returned {retry}")
        elif last > covered:
            assert retry not in self._open, f"retry_quarantined() left later entries to an earlier segment: {retry}"
            self._open[retry], self._may_count = _Segment(after=covered, upto=last), False
            if self._state == "finished":
                self._state = "running"
        else:
            assert retry in self._open, f"retry_quarantined() put the same entries into another segment: {retry}"

    async def _drop(self) -> None:
        if self._quarantine:
            each = self._rng.choice(list(self._quarantine))
            assert await self._store.drop_quarantined(self._key, [each, "no-such-id"]) == 1, (
                f"drop_quarantined() of {each} and an unknown id did not return 1"
            )
            del self._quarantine[each]

    async def _wake(self) -> None:
        for name in await self._store.reclaim_expired(self._key, "w", grace=0.001):
            assert self._state == "running", "reclaim_expired() returned segments of a job that is not running"
            assert name in self._open, f"reclaim_expired() returned {name}, which is finished"
            assert not self._open[name].alive, f"reclaim_expired() returned {name}, which has an owner"
        assert (self._key in await self._store.keys(active=True)) is (self._state in ("running", "paused")), (
            f"the job is {self._state}, and keys(active=True) does not agree"
        )
