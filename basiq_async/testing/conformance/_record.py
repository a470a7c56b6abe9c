"""The promises of a fleet's ``Record``, as a suite that any store can be held to."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import attrs

from ...distributed.record import (
    Chain,
    Claim,
    JobSpec,
    LeaseLostError,
    PageMark,
    Record,
    Refusal,
    Saving,
    Status,
    new_token,
)
from ...errors import ReplayError
from ...replay import DeadLetter
from ._runner import hold, keep

__all__ = ["MakeRecord", "check_record"]

MakeRecord = Callable[[], Record]
"""Returns a record on one and the same storage, by a connection of its own."""

_WHEN = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
_ODD = 'id with "quotes", a line\nbreak, \x00, ü, \U0001f600 and a lone \ud800'
_SHORT = 0.3
"""Seconds of a lease that is let run out."""


async def check_record(make_record: MakeRecord, *, seconds: float = 20.0) -> None:
    """Hold a record to what ``Record`` promises.

    ``make_record`` is called for every caller that the suite plays, and always for the same storage; the keys of jobs
    are new each time. Each promise may take ``seconds``. Raises ``BrokenPromisesError``, an ``AssertionError`` that
    names every promise that is broken and what happened.
    """
    probe = Probe(make_record)
    try:
        await keep("the record", probe.promises(), seconds=seconds)
    finally:
        await probe.aclose()


class Probe:
    """Two callers of the same record, and what is tried with them."""

    def __init__(self, make: MakeRecord) -> None:
        self._one, self._two = make(), make()
        self._all = (self._one, self._two, self._one, self._two)

    def promises(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Every promise, and what tries it."""
        return {
            (check.__doc__ or "").strip().rstrip("."): check
            for check in (
                self.begins,
                self.knows_its_jobs,
                self.is_one_job_for_ever,
                self.has_one_owner,
                self.has_one_selection,
                self.takes_a_claim_twice,
                self.lets_a_lease_run_out,
                self.prolongs,
                self.refuses_former_owners,
                self.hands_on_what_is_done,
                self.counts_once,
                self.takes_a_release,
                self.keeps_the_first_page,
                self.shares_the_limit,
                self.finishes,
                self.wakes_one_caller,
                self.steers,
                self.stops_at_failures,
                self.stops_at_a_poisoned_segment,
                self.keeps_dead_letters,
                self.stops_at_too_many_letters,
                self.revives,
                self.holds,
                self.spaces_turns,
                self.forgets,
                self.takes_odd_text,
            )
        }

    async def aclose(self) -> None:
        """Close the connections."""
        await self._one.aclose()
        await self._two.aclose()

    async def _job(self, **changes: Any) -> str:
        spec = attrs.evolve(_spec(uuid.uuid4().hex), **changes)
        await self._one.create(spec)
        return spec.key

    async def _claim(
        self, key: str, segment: str = "0.0", *, lease: float = 30.0, token: str | None = None, record: Any = None
    ) -> str:
        """A claim that has to succeed; returns its token."""
        token = token or new_token()
        found = await (record or self._one).claim(key, segment, token, lease=lease, worker="w", width=4)
        hold(isinstance(found, Claim), f"the claim of {segment} was refused: {found}")
        return token

    async def _tried(self, key: str, segment: str = "0.0") -> Claim | Refusal:
        return await self._two.claim(key, segment, new_token(), lease=30.0, worker="other", width=4)

    async def _save(self, key: str, token: str, segment: str = "0.0", **what: Any) -> Any:
        saving = Saving(**{"counts": {}, "before": 0, **what})
        return await self._one.save(key, segment, token, saving, lease=30.0)

    async def _status(self, key: str) -> Status:
        status = await self._two.status(key)
        if status is None:
            raise AssertionError("the job is not there")
        return status

    async def begins(self) -> None:
        """A new job runs, with the first segment of each of its lists, and nothing is done."""
        spec = _spec(uuid.uuid4().hex, chains=(Chain("w1"), Chain("w2", "f")))
        found = await self._one.create(spec)
        hold(found is not None and sorted(found) == ["0.0", "1.0"], f"its segments were {found}")
        status = await self._status(spec.key)
        hold((status.state, status.open, status.handled, status.dead) == ("running", 2, 0, 0), f"it was {status}")
        claim = await self._two.claim(spec.key, "1.0", new_token(), lease=30.0, worker="w", width=4)
        hold(isinstance(claim, Claim), f"it could not be claimed: {claim}")
        if isinstance(claim, Claim):
            found_claim = (claim.cursor, claim.position, claim.count, claim.done, claim.job_token)
            hold(found_claim == (None, 0, None, [], spec.token), f"the claim was {claim}")

    async def knows_its_jobs(self) -> None:
        """What was submitted is there for everyone, and an unknown key is None."""
        spec = _spec(uuid.uuid4().hex, rate=2.5, total=7)
        await self._one.create(spec)
        found = await self._two.spec(spec.key)
        hold(found == spec, f"it was {found}")
        hold(spec.key in await self._two.keys() and spec.key in await self._two.keys(active=True), "it is not listed")
        unknown = uuid.uuid4().hex
        hold(await self._two.spec(unknown) is None and await self._two.status(unknown) is None, "it knew any key")
        refusal = await self._tried(unknown)
        hold(isinstance(refusal, Refusal) and refusal.reason == "gone", f"a claim of it was {refusal}")

    async def is_one_job_for_ever(self) -> None:
        """A known key is the same job, whose rate is set; with other lists it is a ReplayError."""
        spec = _spec(uuid.uuid4().hex)
        await self._one.create(spec)
        again = await self._two.create(attrs.evolve(spec, rate=9.0, token=new_token()))
        hold(again is None, f"it was made anew: {again}")
        found = await self._two.spec(spec.key)
        hold(found is not None and (found.rate, found.token) == (9.0, spec.token), f"it was {found}")
        for other in (
            attrs.evolve(spec, chains=(Chain("w2"),)),
            attrs.evolve(spec, name="other"),
            attrs.evolve(spec, source="events"),
        ):
            try:
                await self._two.create(other)
            except ReplayError:
                continue
            raise AssertionError(f"{other} was taken for the same job")

    async def has_one_owner(self) -> None:
        """A segment that is owned is refused to everyone else."""
        key = await self._job()
        await self._claim(key)
        refusal = await self._tried(key)
        hold(isinstance(refusal, Refusal) and refusal.reason == "held", f"the second claim was {refusal}")
        other = await self._tried(await self._job())
        hold(isinstance(other, Claim), "another job was refused as well")

    async def has_one_selection(self) -> None:
        """What the first worker selects stands for the job; a worker that selects otherwise is refused."""
        key = await self._job()
        first = await self._one.claim(key, "0.0", new_token(), lease=0.001, worker="w", width=4, selection="a")
        hold(isinstance(first, Claim), f"the first was refused: {first}")
        await asyncio.sleep(0.005)
        other = await self._two.claim(key, "0.0", new_token(), lease=30.0, worker="w", width=4, selection="b")
        hold(isinstance(other, Refusal) and (other.reason, other.detail) == ("selection", "a"), f"it was {other}")
        same = await self._two.claim(key, "0.0", new_token(), lease=30.0, worker="w", width=4, selection="a")
        hold(isinstance(same, Claim), f"the same selection was refused: {same}")

    async def takes_a_claim_twice(self) -> None:
        """A claim that is made again with its token is the same claim."""
        key = await self._job()
        token = await self._claim(key)
        await self._save(key, token, counts={"handled": 1}, ids=["a"])
        await self._claim(key, token=token)
        status = await self._status(key)
        hold((status.takeovers, status.interrupted, status.handled) == (0, 0, 1), f"it was {status}")

    async def lets_a_lease_run_out(self) -> None:
        """A segment whose lease ran out goes to the next one, and what may have been interrupted is counted."""
        key = await self._job()
        await self._claim(key, lease=_SHORT)
        await asyncio.sleep(_SHORT + 0.05)
        await self._claim(key, record=self._two)
        status = await self._status(key)
        hold((status.takeovers, status.interrupted) == (1, 4), f"it counted {status}")

    async def prolongs(self) -> None:
        """A pulse and a save prolong a lease, and a pulse names what is lost."""
        key = await self._job()
        token = await self._claim(key, lease=_SHORT)
        held = {"0.0": token, "0.9": new_token()}
        for _ in range(2):
            await asyncio.sleep(_SHORT / 2)
            await self._one.pulse(key, "w", held, lease=_SHORT)
        await asyncio.sleep(_SHORT / 2)
        pulse = await self._one.pulse(key, "w", held, lease=_SHORT)
        hold((pulse.state, list(pulse.lost)) == ("running", ["0.9"]), f"the pulse was {pulse}")
        await self._one.save(key, "0.0", token, Saving(counts={}, ids=["a"], before=0), lease=30.0)
        await asyncio.sleep(_SHORT + 0.05)
        refusal = await self._tried(key)
        hold(isinstance(refusal, Refusal), "the lease ran out in spite of the pulses")

    async def refuses_former_owners(self) -> None:
        """Whatever an owner that was replaced writes is refused with a LeaseLostError, and changes nothing."""
        key = await self._job()
        token = await self._claim(key, lease=_SHORT)
        await asyncio.sleep(_SHORT + 0.05)
        await self._claim(key, record=self._two)
        one, letter = self._one, _letter("a")
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "save": lambda: self._save(key, token, counts={"handled": 5}, ids=["a"], letters=[letter]),
            "advance": lambda: one.advance(key, "0.0", token, _page(["a"], "c"), lease=30.0, limit=None),
            "finish": lambda: one.finish(key, "0.0", token),
            "release": lambda: one.release(key, "0.0", token),
        }
        for name, call in calls.items():
            try:
                await call()
            except LeaseLostError:
                continue
            raise AssertionError(f"{name} was taken from it")
        status = await self._status(key)
        hold(
            (status.handled, status.read, status.dead, status.open, status.held) == (0, 0, 0, 1, 1), f"it was {status}"
        )

    async def hands_on_what_is_done(self) -> None:
        """The next owner learns what the former ones recorded."""
        key = await self._job()
        token = await self._claim(key, lease=_SHORT)
        await self._one.advance(key, "0.0", token, _page(["a", "b", "c"], None), lease=_SHORT, limit=None)
        await self._one.save(key, "0.0", token, Saving(counts={"handled": 1}, ids=["a"], before=0), lease=_SHORT)
        await self._one.save(key, "0.0", token, Saving(counts={"handled": 2}, ids=["b"], before=1), lease=_SHORT)
        await asyncio.sleep(_SHORT + 0.05)
        claim = await self._tried(key)
        hold(isinstance(claim, Claim), f"it was refused: {claim}")
        if isinstance(claim, Claim):
            found = (sorted(claim.done), claim.count, claim.last, claim.quota)
            hold(found == (["a", "b"], 3, "c", 3), f"the claim was {claim}")

    async def counts_once(self) -> None:
        """What is saved twice counts once, over owners too; a save that fits badly changes nothing."""
        key = await self._job()
        token = await self._claim(key)
        first: dict[str, Any] = {"counts": {"handled": 2, "skipped:x": 1}, "ids": ["a", "b", "c"]}
        hold(await self._save(key, token, before=0, **first) is not None, "a save was refused")
        hold(await self._save(key, token, before=0, **first) is None, "a save that fits badly was taken")
        hold(await self._save(key, token, before=None, **first) is not None, "a save of everything was refused")
        await self._one.release(key, "0.0", token)
        token = await self._claim(key)
        await self._save(key, token, before=3, counts={"handled": 1, "failed": 1}, ids=["d", "e"])
        status = await self._status(key)
        found = (status.handled, status.failed, dict(status.skipped))
        hold(found == (3, 1, {"x": 1}), f"it counted {found}")

    async def takes_a_release(self) -> None:
        """A segment that was released is free at once, and nothing counts as interrupted."""
        key = await self._job()
        token = await self._claim(key)
        await self._one.release(key, "0.0", token, problem="the vendor is away", waits=True)
        claim = await self._tried(key)
        hold(isinstance(claim, Claim) and claim.waits == 1, f"the next claim was {claim}")
        status = await self._status(key)
        found = (status.takeovers, status.interrupted, status.problem)
        hold(found == (0, 0, "the vendor is away"), f"it was {status}")

    async def keeps_the_first_page(self) -> None:
        """The first word on a page stands; the segment behind it is there once, and knows its place."""
        key = await self._job()
        token = await self._claim(key)
        page = _page(["a", "b"], "cursor-1", chosen=[True, False])
        first = await self._one.advance(key, "0.0", token, page, lease=30.0, limit=None)
        hold((first.quota, first.following) == (1, "0.1"), f"it was {first}")
        again = await self._one.advance(key, "0.0", token, _page(["a"] * 5, "cursor-2"), lease=30.0, limit=None)
        hold((again.quota, again.following) == (1, None), f"the second word was {again}")
        claim = await self._tried(key, "0.1")
        hold(isinstance(claim, Claim), f"the next segment was refused: {claim}")
        if isinstance(claim, Claim):
            hold((claim.cursor, claim.after, claim.position) == ("cursor-1", "b", 2), f"it was {claim}")
        status = await self._status(key)
        hold((status.read, dict(status.skipped)) == (2, {"where": 1}), f"it counted {status}")

    async def shares_the_limit(self) -> None:
        """A limit is the job's: shared by its lists, never exceeded, and the lists end with it."""
        key = await self._job(chains=(Chain("w1"), Chain("w2")))
        one, two = await self._claim(key, "0.0"), await self._claim(key, "1.0")
        ids = ["a", "b", "c", "d"]
        first = await self._one.advance(
            key, "0.0", one, _page(ids, "c1", chosen=[True, False, True, True]), lease=30.0, limit=5
        )
        second = await self._one.advance(
            key, "1.0", two, _page(ids, "c2", chosen=[False, True, True, True]), lease=30.0, limit=5
        )
        hold((first.quota, first.following) == (3, "0.1"), f"the first page got {first}")
        hold((second.quota, second.following) == (2, None), f"the second page got {second}")
        status = await self._status(key)
        hold(status.cut and dict(status.skipped) == {"where": 2}, f"it was {status}")

    async def finishes(self) -> None:
        """A segment is finished after it was advanced, and a job when no segment is left."""
        key = await self._job()
        token = await self._claim(key)
        hold(not await self._one.finish(key, "0.0", token), "a page that was never read was finished")
        await self._one.advance(key, "0.0", token, _page(["a"], "c"), lease=30.0, limit=None)
        await self._save(key, token, counts={"handled": 1}, ids=["a"])
        hold(await self._one.finish(key, "0.0", token), "it was not finished")
        refusal = await self._tried(key)
        hold(isinstance(refusal, Refusal) and refusal.reason == "gone", f"a claim of it was {refusal}")
        hold((await self._status(key)).state == "running", "the job ended before its list did")
        token = await self._claim(key, "0.1")
        await self._one.advance(key, "0.1", token, _page([], None), lease=30.0, limit=None)
        await self._one.finish(key, "0.1", token)
        status = await self._status(key)
        hold((status.state, status.handled, status.open) == ("finished", 1, 0), f"it was {status}")

    async def wakes_one_caller(self) -> None:
        """A segment that waits is told to one caller at a time, and again when nobody claims it."""
        key = await self._job(lease=_SHORT)
        hold(not await self._one.wake(key, grace=1.0), "it was woken before its hint can have arrived")
        await asyncio.sleep(_SHORT + 0.05)
        told = await asyncio.gather(*(record.wake(key, grace=_SHORT) for record in self._all))
        hold(sorted(map(list, told)) == [[], [], [], ["0.0"]], f"it was told {told}")
        await asyncio.sleep(_SHORT + 0.05)
        hold(list(await self._two.wake(key, grace=1.0)) == ["0.0"], "it was not told again")
        await asyncio.sleep(0.05)
        await self._claim(key, lease=_SHORT)
        await asyncio.sleep(_SHORT + 0.05)
        hold(list(await self._two.wake(key, grace=1.0)) == ["0.0"], "it was not told when its lease had run out")

    async def steers(self) -> None:
        """A paused, failed or cancelled job is claimed by nobody, and goes on when it is resumed."""
        key = await self._job()
        for action, state in (("pause", "paused"), ("fail", "failed"), ("cancel", "cancelled")):
            found, _ = await self._one.steer(key, action, "because")  # type: ignore[arg-type]  # a loop over literals
            hold(found == state, f"{action} made it {found}")
            hold((await self._status(key)).reason == "because", "the reason is not there")
            refusal = await self._tried(key)
            hold(isinstance(refusal, Refusal) and refusal.reason == "stopped", f"when {state}, a claim was {refusal}")
            found, segments = await self._one.steer(key, "resume")
            hold((found, list(segments)) == ("running", ["0.0"]), f"resumed it was {found}, {segments}")
        token = await self._claim(key)
        await self._one.advance(key, "0.0", token, _page([], None), lease=30.0, limit=None)
        await self._one.steer(key, "pause")
        await self._one.finish(key, "0.0", token)
        found, _ = await self._one.steer(key, "cancel")
        hold(found == "finished", f"a finished job became {found}")

    async def stops_at_failures(self) -> None:
        """Failures in a row are counted over segments, and end the job; a success begins anew."""
        key = await self._job(chains=(Chain("w1"), Chain("w2")))
        one, two = await self._claim(key, "0.0"), await self._claim(key, "1.0")
        await self._save(key, one, counts={"failed": 2}, ids=["a", "b"], max_failures=4)
        await self._save(key, two, "1.0", counts={"handled": 1, "failed": 1}, ids=["c", "d"], max_failures=4)
        await self._save(key, one, counts={"failed": 4}, ids=["e", "f"], before=2, max_failures=4)
        hold((await self._status(key)).state == "running", "it stopped before four failures in a row")
        pulse = await self._save(
            key, two, "1.0", counts={"handled": 1, "failed": 3}, ids=["g", "h"], before=2, max_failures=4
        )
        hold(pulse is not None and pulse.state == "failed", f"after four in a row it was {pulse}")

    async def stops_at_a_poisoned_segment(self) -> None:
        """A segment that is claimed 20 times without anything being recorded ends the job, which names it."""
        key = await self._job()
        for _ in range(20):
            await self._claim(key, lease=0.001)
            await asyncio.sleep(0.003)
        refusal = await self._tried(key)
        status = await self._status(key)
        hold(isinstance(refusal, Refusal) and status.state == "failed", f"the 21st claim was {refusal}")
        hold("0.0" in status.reason, f"the reason was {status.reason!r}")

    async def keeps_dead_letters(self) -> None:
        """Dead letters come back whole, oldest first, by number; one of the same id keeps its place."""
        key = await self._job()
        token = await self._claim(key)
        await self._save(key, token, ids=["a", "b", "c"], letters=[_letter("b"), _letter("a"), _letter("c")])
        await self._save(key, token, before=3, letters=[_letter("b", "again")])
        found = list(await self._two.dead_letters(key))
        hold(found == [_letter("b", "again"), _letter("a"), _letter("c")], f"they were {found}")
        rest = await self._two.dead_letters(key, after=found[0].number, limit=1)
        hold([each.id for each in rest] == ["a"], f"behind the first there was {rest}")
        hold(await self._one.drop_dead(key, ["a", "nobody"]) == 1, "dropping one counted wrong")
        await self._save(key, token, before=3, revived=["c"])
        hold([each.id for each in await self._two.dead_letters(key)] == ["b"], "one that was revived is still there")
        hold((await self._status(key)).dead == 1, "it counted wrong")

    async def stops_at_too_many_letters(self) -> None:
        """A job with as many dead letters as it may keep is paused, and says so."""
        key = await self._job(most_dead=2)
        token = await self._claim(key)
        await self._save(key, token, ids=["a"], letters=[_letter("a")])
        hold((await self._status(key)).state == "running", "it was paused before")
        pulse = await self._save(key, token, before=1, ids=["b"], letters=[_letter("b")])
        hold(pulse is not None and pulse.state == "paused", f"it was {pulse}")
        hold("dead letters" in (await self._status(key)).reason, "it does not say why")

    async def revives(self) -> None:
        """Dead letters are tried again by a segment that knows the last of them; a finished job runs for it."""
        key = await self._job()
        hold(await self._one.revive(key) is None, "there was something to revive")
        token = await self._claim(key)
        await self._one.advance(key, "0.0", token, _page(["a"], None), lease=30.0, limit=None)
        await self._save(key, token, ids=["a"], letters=[_letter("a")])
        await self._one.finish(key, "0.0", token)
        segment = await self._one.revive(key)
        hold(segment is not None and (await self._status(key)).state == "running", f"it was {segment}")
        claim = await self._tried(key, str(segment))
        (letter,) = await self._one.dead_letters(key)
        hold(isinstance(claim, Claim) and claim.upto == letter.number, f"the claim was {claim}")

    async def holds(self) -> None:
        """A pause that a target asks for is told to everyone, and is lengthened, never shortened."""
        key = await self._job()
        await self._one.hold(key, 60.0)
        await self._two.hold(key, 5.0)
        pulse = await self._two.pulse(key, "w", {}, lease=30.0)
        hold(50.0 < pulse.hold <= 60.0, f"it was {pulse.hold}")
        claim = await self._tried(key)
        hold(isinstance(claim, Claim) and 50.0 < claim.hold <= 60.0, f"the claim was {claim}")

    async def spaces_turns(self) -> None:
        """Turns of all callers are as far apart as the rate says; what nobody used is not made up for."""
        key = await self._job(rate=100.0)
        found = await asyncio.gather(*(record.turns(key, 3) for record in self._all))
        moments = sorted(each.first + each.distance * i for each in found if each is not None for i in range(3))
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        hold(len(moments) == 12 and min(gaps) > 0.0099, f"the gaps were {gaps}")
        await asyncio.sleep(0.3)
        late = await self._one.turns(key, 1)
        hold(late is not None and late.first >= late.now, f"time was made up for: {late}")
        hold(await self._one.turns(await self._job(), 1) is None, "there were turns without a rate")

    async def forgets(self) -> None:
        """A job that has ended can be forgotten and begun anew; one that runs cannot."""
        spec = _spec(uuid.uuid4().hex)
        await self._one.create(spec)
        try:
            await self._one.forget(spec.key)
        except ReplayError:
            pass
        else:
            raise AssertionError("a running job was forgotten")
        await self._one.steer(spec.key, "cancel")
        await self._one.forget(spec.key)
        hold(await self._two.status(spec.key) is None and spec.key not in await self._two.keys(), "it is still there")
        hold(await self._two.create(spec) is not None, "it could not be begun anew")

    async def takes_odd_text(self) -> None:
        """Ids, errors, reasons, cursors and keys may hold any text."""
        key = await self._job(name=_ODD, chains=(Chain(_ODD, _ODD),))
        spec = await self._two.spec(key)
        hold(spec is not None and (spec.name, spec.chains) == (_ODD, (Chain(_ODD, _ODD),)), f"it was {spec!a}")
        token = await self._claim(key)
        await self._one.advance(key, "0.0", token, _page([_ODD], "c'ü\n"), lease=30.0, limit=None)
        letter = DeadLetter(_ODD, _ODD, _WHEN, {"id": _ODD, "payload": {"n": 1.5, "none": None}})
        await self._save(key, token, counts={f"skipped:{_ODD}": 1}, ids=[_ODD], letters=[letter])
        await self._one.release(key, "0.0", token, problem=_ODD)
        claim = await self._tried(key)
        hold(isinstance(claim, Claim) and (list(claim.done), claim.last) == ([_ODD], _ODD), f"it was {claim!a}")
        found = list(await self._two.dead_letters(key))
        hold(found == [letter] and found[0].message == letter.message, f"they were {found!a}")
        status = await self._status(key)
        hold((status.problem, dict(status.skipped)) == (_ODD, {_ODD: 1}), f"it was {status!a}")


def _spec(key: str, **changes: Any) -> JobSpec:
    fields: dict[str, Any] = {"name": "work", "chains": (Chain("w1"),), "submitted_at": _WHEN, "lease": 30.0, **changes}
    return JobSpec(key=key, **fields)


def _page(ids: list[str], next_cursor: str | None, chosen: list[bool] | None = None) -> PageMark:
    marks = [True] * len(ids) if chosen is None else chosen
    return PageMark(last=ids[-1] if ids else None, chosen=marks, next_cursor=next_cursor)


def _letter(id: str, error: str = "ValueError: no") -> DeadLetter:
    return DeadLetter(id, error, _WHEN, {"id": id, "payload": {"eventId": "1"}})
