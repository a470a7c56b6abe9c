"""The conformance suite for a fleet's ``Record``, and its promises about jobs."""

from __future__ import annotations

import asyncio
import uuid
from itertools import pairwise

import attrs

from ...distributed.record import ClaimRefusal, ListSpec, SegmentClaim, StoredDeadLetter, new_token
from ...errors import ReplayError
from ...replay import DeadLetter
from ._record_model import ModelPromises
from ._record_probe import ODD, SHORT, WHEN, MakeRecord, RecordProbe, make_page, make_spec
from ._record_segments import DeadLetterPromises, SegmentPromises
from ._runner import hold, keep


async def check_record(make_record: MakeRecord, *, seconds: float = 20.0) -> None:
    """Check that a record keeps the promises of ``Record``.

    ``make_record`` is called for each caller in the suite, and must always return a record of the same storage. Keys
    of jobs are always new. The check of each promise may last ``seconds``. Raises ``BrokenPromisesError``, an
    ``AssertionError`` that names each broken promise and what happened instead.
    """
    probe = RecordPromises(make_record)
    try:
        await keep("the record", probe.promises(), seconds=seconds)
    finally:
        await probe.aclose()


class JobPromises(RecordProbe):
    """The promises about jobs. Each method checks the promise in its docstring."""

    async def begins(self) -> None:
        """A new job is running, has the first segment of each of its lists, and nothing is done."""
        spec = make_spec(uuid.uuid4().hex, lists=(ListSpec("w1"), ListSpec("w2", "f")))
        found = await self.one.create(spec)
        hold(found is not None and sorted(found) == ["0.0", "1.0"], f"create() returned {found}")
        status = await self.status(spec.key)
        hold(
            (status.state, status.open, status.handled, status.dead) == ("running", 2, 0, 0), f"the status was {status}"
        )
        claim = await self.two.claim(spec.key, "1.0", new_token(), lease=30.0, worker="w", width=4)
        hold(isinstance(claim, SegmentClaim), f"its second segment could not be claimed: {claim}")
        if isinstance(claim, SegmentClaim):
            found_claim = (claim.cursor, claim.position, claim.count, claim.done, claim.job_token)
            hold(found_claim == (None, 0, None, [], spec.token), f"the claim was {claim}")

    async def knows_its_jobs(self) -> None:
        """All callers find a submitted job, and get None for an unknown key."""
        spec = make_spec(uuid.uuid4().hex, rate=2.5, total=7)
        await self.one.create(spec)
        found = await self.two.spec(spec.key)
        hold(found == spec, f"spec() returned {found}, not the submitted job")
        hold(
            spec.key in await self.two.keys() and spec.key in await self.two.keys(active=True),
            "keys() does not list the job",
        )
        unknown = uuid.uuid4().hex
        hold(
            await self.two.spec(unknown) is None and await self.two.status(unknown) is None,
            "spec() or status() of an unknown key was not None",
        )
        refusal = await self.tried(unknown)
        hold(isinstance(refusal, ClaimRefusal) and refusal.reason == "gone", f"a claim of an unknown job was {refusal}")

    async def is_active_from_its_beginning_to_its_end(self) -> None:
        """A job is active until it ends, even if other callers look for its segments while it is created"""
        specs = [make_spec(uuid.uuid4().hex) for _ in range(20)]
        looking = True

        async def look() -> None:
            while looking:
                for spec in specs:
                    await self.two.reclaim_expired(spec.key, grace=1.0)

        looker = asyncio.create_task(look())
        try:
            await asyncio.gather(*(self.one.create(spec) for spec in specs))
        finally:
            looking = False
            await looker
        active = set(await self.two.keys(active=True))
        hold({spec.key for spec in specs} <= active, "keys(active=True) does not list all created jobs")
        key = specs[0].key
        for action, there in (("pause", True), ("cancel", False), ("resume", True), ("fail", False), ("resume", True)):
            await self.one.set_state(key, action)  # type: ignore[arg-type]  # a loop over literals
            hold(
                (key in await self.two.keys(active=True)) is there,
                f"after {action}, keys(active=True) listed the job: {not there}",
            )

    async def begins_once(self) -> None:
        """A submission that is sent again creates no second job, and returns the same segments"""
        spec = make_spec(uuid.uuid4().hex)
        first = await self.one.create(spec)
        hold(
            first is not None and await self.two.create(spec) == first,
            "create() with the same job did not return the same segments",
        )

    async def is_no_other_job(self) -> None:
        """A call for a job that was forgotten changes nothing of a later job with the same key"""
        old, new = (make_spec(uuid.uuid4().hex) for _ in range(2))
        new = attrs.evolve(new, key=old.key)
        await self.one.create(old)
        await self.one.set_state(old.key, "cancel")
        await self.one.forget(old.key)
        await self.two.create(new)
        refusal = await self.one.claim(
            old.key, "0.0", new_token(), lease=30.0, worker="w", width=1, selection="old", job=old.token
        )
        hold(isinstance(refusal, ClaimRefusal) and refusal.reason == "another", f"the claim was {refusal}")
        await self.one.set_state(old.key, "fail", "of the old one", job=old.token)
        await self.one.pause(old.key, 60.0, job=old.token)
        heartbeat = await self.one.heartbeat(old.key, "w", {}, lease=30.0, job=old.token)
        hold(heartbeat.state == "gone", f"the heartbeat of the old job was {heartbeat}")
        claim = await self.two.claim(
            new.key, "0.0", new_token(), lease=30.0, worker="w", width=1, selection="new", job=new.token
        )
        hold(isinstance(claim, SegmentClaim) and claim.paused == 0, f"the claim of the new job was {claim}")
        hold((await self.status(new.key)).state == "running", "a call for the old job stopped the new one")

    async def is_one_job_for_ever(self) -> None:
        """create() with a known key sets the job's rate; with another name, source or list it raises ReplayError."""
        spec = make_spec(uuid.uuid4().hex)
        await self.one.create(spec)
        again = await self.two.create(attrs.evolve(spec, rate=9.0, token=new_token()))
        hold(again is None, f"create() with a known key returned {again}, not None")
        found = await self.two.spec(spec.key)
        hold(found is not None and (found.rate, found.token) == (9.0, spec.token), f"spec() returned {found}")
        for other in (
            attrs.evolve(spec, lists=(ListSpec("w2"),)),
            attrs.evolve(spec, name="other"),
            attrs.evolve(spec, source="events"),
        ):
            try:
                await self.two.create(other)
            except ReplayError:
                continue
            raise AssertionError(f"create() accepted {other} under the key of another job")

    async def finishes(self) -> None:
        """A segment can be finished after its page was recorded, and a job finishes with its last segment."""
        key = await self.job()
        token = await self.claim(key)
        hold(not await self.one.finish(key, "0.0", token), "a segment whose page was not recorded could be finished")
        await self.one.record_page(key, "0.0", token, make_page(["a"], "c"), lease=30.0, limit=None)
        await self.save(key, token, counts={"handled": 1}, ids=["a"])
        hold(await self.one.finish(key, "0.0", token), "finish() of a recorded segment was not True")
        refusal = await self.tried(key)
        hold(
            isinstance(refusal, ClaimRefusal) and refusal.reason == "gone",
            f"a claim of a finished segment was {refusal}",
        )
        hold((await self.status(key)).state == "running", "the job ended before its list")
        token = await self.claim(key, "0.1")
        await self.one.record_page(key, "0.1", token, make_page([], None), lease=30.0, limit=None)
        await self.one.finish(key, "0.1", token)
        status = await self.status(key)
        hold((status.state, status.handled, status.open) == ("finished", 1, 0), f"the status was {status}")

    async def names_what_waits_to_one_caller(self) -> None:
        """reclaim_expired() returns a free segment to one caller at a time, and again if no worker claims it."""
        key = await self.job(lease=SHORT)
        hold(
            not await self.one.reclaim_expired(key, grace=1.0),
            "a new segment was returned before its notification can have arrived",
        )
        await asyncio.sleep(SHORT + 0.05)
        told = await asyncio.gather(*(record.reclaim_expired(key, grace=SHORT) for record in self.all))
        hold(sorted(map(list, told)) == [[], [], [], ["0.0"]], f"four concurrent calls returned {told}")
        await asyncio.sleep(SHORT + 0.05)
        hold(
            list(await self.two.reclaim_expired(key, grace=1.0)) == ["0.0"],
            "an unclaimed segment was not returned again",
        )
        await asyncio.sleep(0.05)
        await self.claim(key, lease=SHORT)
        await asyncio.sleep(SHORT + 0.05)
        hold(
            list(await self.two.reclaim_expired(key, grace=1.0)) == ["0.0"],
            "a segment whose lease had expired was not returned",
        )

    async def names_what_waits_ever_more_rarely(self) -> None:
        """A caller that is not idle gets an unclaimed segment ever more rarely; an idle caller always gets it"""
        key = await self.job(lease=0.001)
        told = 0
        for _ in range(100):
            await asyncio.sleep(0.002)
            told += len(await self.one.reclaim_expired(key, grace=0.001, idle=False))
        hold(3 <= told <= 8, f"the segment was returned in {told} of 100 calls, not in 3 to 8")
        await asyncio.sleep(0.002)
        hold(
            list(await self.two.reclaim_expired(key, grace=0.001)) == ["0.0"], "an idle caller did not get the segment"
        )
        token = await self.claim(key)
        await self.one.release(key, "0.0", token)
        await asyncio.sleep(0.002)
        hold(
            list(await self.two.reclaim_expired(key, grace=0.001, idle=False)) == ["0.0"],
            "after a claim and a release, the segment was not returned",
        )

    async def accepts_many_lists(self) -> None:
        """A job with 9,000 lists can be created, paused and resumed"""
        key = await self.job(lists=tuple(ListSpec(f"w{number}") for number in range(9_000)))
        await self.one.set_state(key, "pause")
        state, segments = await self.one.set_state(key, "resume")
        hold(
            (state, len(segments)) == ("running", 9_000),
            f"after resume, the job was {state} with {len(segments)} segments",
        )
        await self.one.set_state(key, "cancel")
        await self.one.forget(key)

    async def changes_states(self) -> None:
        """A paused, failed or cancelled job cannot be claimed, and continues when it is resumed."""
        key = await self.job()
        for action, state in (("pause", "paused"), ("fail", "failed"), ("cancel", "cancelled")):
            found, _ = await self.one.set_state(key, action, "because")  # type: ignore[arg-type]  # a loop over literals
            hold(found == state, f"after {action}, the state was {found}")
            hold((await self.status(key)).reason == "because", "the status does not have the reason")
            refusal = await self.tried(key)
            hold(
                isinstance(refusal, ClaimRefusal) and refusal.reason == "stopped",
                f"a claim of a {state} job was {refusal}",
            )
            found, segments = await self.one.set_state(key, "resume")
            hold((found, list(segments)) == ("running", ["0.0"]), f"set_state('resume') returned {found}, {segments}")
        token = await self.claim(key)
        await self.one.record_page(key, "0.0", token, make_page([], None), lease=30.0, limit=None)
        await self.one.set_state(key, "pause")
        await self.one.finish(key, "0.0", token)
        found, _ = await self.one.set_state(key, "cancel")
        hold(found == "finished", f"a finished job became {found}")

    async def stops_at_failures(self) -> None:
        """Failures in a row are counted over all segments and end the job; a success restarts the count."""
        key = await self.job(lists=(ListSpec("w1"), ListSpec("w2")))
        one, two = await self.claim(key, "0.0"), await self.claim(key, "1.0")
        await self.save(key, one, counts={"failed": 2}, ids=["a", "b"], max_failures=4)
        await self.save(key, two, "1.0", counts={"handled": 1, "failed": 1}, ids=["c", "d"], max_failures=4)
        await self.save(key, one, counts={"failed": 4}, ids=["e", "f"], before=2, max_failures=4)
        hold((await self.status(key)).state == "running", "the job stopped before four failures in a row")
        heartbeat = await self.save(
            key, two, "1.0", counts={"handled": 1, "failed": 3}, ids=["g", "h"], before=2, max_failures=4
        )
        hold(
            heartbeat is not None and heartbeat.state == "failed",
            f"after four failures in a row, save() returned {heartbeat}",
        )

    async def stops_at_a_poisoned_segment(self) -> None:
        """After 20 claims of a segment without a saved message, the job fails, and its reason names the segment."""
        key = await self.job()
        for _ in range(20):
            await self.claim(key, lease=0.001)
            await asyncio.sleep(0.003)
        refusal = await self.tried(key)
        status = await self.status(key)
        hold(isinstance(refusal, ClaimRefusal) and status.state == "failed", f"the 21st claim was {refusal}")
        hold("0.0" in status.reason, f"the reason was {status.reason!r}")

    async def pauses(self) -> None:
        """A pause is reported to all callers, and a shorter pause does not replace a longer one."""
        key = await self.job()
        await self.one.pause(key, 60.0)
        await self.two.pause(key, 5.0)
        heartbeat = await self.two.heartbeat(key, "w", {}, lease=30.0)
        hold(50.0 < heartbeat.paused <= 60.0, f"the heartbeat reported a pause of {heartbeat.paused} s, not of 60 s")
        claim = await self.tried(key)
        hold(isinstance(claim, SegmentClaim) and 50.0 < claim.paused <= 60.0, f"the claim was {claim}")

    async def spaces_slots(self) -> None:
        """The slots of all callers are spaced by the rate, and unused time gives no extra slots."""
        key = await self.job(rate=100.0)
        found = await asyncio.gather(*(record.rate_slots(key, 3) for record in self.all))
        moments = sorted(each.first + each.interval * i for each in found if each is not None for i in range(3))
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        hold(len(moments) == 12 and min(gaps) > 0.0099, f"the gaps were {gaps}")
        await asyncio.sleep(0.3)
        late = await self.one.rate_slots(key, 1)
        hold(late is not None and late.first >= late.now, f"unused time gave a slot in the past: {late}")
        hold(
            await self.one.rate_slots(await self.job(), 1) is None, "rate_slots() of a job without a rate was not None"
        )

    async def spaces_slots_of_a_slow_rate(self) -> None:
        """The slots of a slow rate are spaced correctly for any number of callers"""
        key = await self.job(rate=0.01)
        found = [await record.rate_slots(key, 1) for record in self.all * 3]
        moments = [each.first for each in found if each is not None]
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        hold(len(moments) == 12 and min(gaps) > 99.0, f"the gaps were {gaps}")

    async def raises_a_rate(self) -> None:
        """A rate that is raised, lowered or removed takes effect at once"""
        spec = make_spec(uuid.uuid4().hex, rate=0.001)
        await self.one.create(spec)
        for _ in range(5):
            await self.one.rate_slots(spec.key, 1)
        await self.one.create(attrs.evolve(spec, rate=100.0, token=new_token()))
        slots = await self.two.rate_slots(spec.key, 1)
        hold(slots is not None and slots.first - slots.now < 1.0, f"after the rate was raised, the slot was {slots}")
        await self.one.create(attrs.evolve(spec, rate=0.001, token=new_token()))
        for _ in range(2):
            slots = await self.two.rate_slots(spec.key, 1)
        hold(
            slots is not None and slots.first - slots.now > 900.0,
            f"after the rate was lowered, the second slot was {slots}",
        )
        await self.one.create(attrs.evolve(spec, rate=None, token=new_token()))
        hold(await self.two.rate_slots(spec.key, 1) is None, "after the rate was removed, rate_slots() was not None")

    async def forgets(self) -> None:
        """A job that has ended can be forgotten and submitted again; a running job cannot be forgotten."""
        spec = make_spec(uuid.uuid4().hex)
        await self.one.create(spec)
        try:
            await self.one.forget(spec.key)
        except ReplayError:
            pass
        else:
            raise AssertionError("a running job was forgotten")
        await self.one.set_state(spec.key, "cancel")
        await self.one.forget(spec.key)
        hold(
            await self.two.status(spec.key) is None and spec.key not in await self.two.keys(),
            "status() or keys() still has a forgotten job",
        )
        hold(await self.two.create(spec) is not None, "a forgotten job could not be submitted again")

    async def accepts_odd_text(self) -> None:
        """Ids, errors, reasons, cursors and keys may contain any text."""
        key = await self.job(name=ODD, lists=(ListSpec(ODD, ODD),))
        spec = await self.two.spec(key)
        hold(spec is not None and (spec.name, spec.lists) == (ODD, (ListSpec(ODD, ODD),)), f"spec() returned {spec!a}")
        token = await self.claim(key)
        await self.one.record_page(key, "0.0", token, make_page([ODD], "c'ü\n"), lease=30.0, limit=None)
        letter = StoredDeadLetter(
            DeadLetter(ODD, ODD, WHEN, {"id": ODD, "payload": {"n": 1.5, "none": None}}), ODD, ODD
        )
        await self.save(key, token, counts={f"skipped:{ODD}": 1}, ids=[ODD], dead_letters=[letter])
        await self.one.release(key, "0.0", token, problem=ODD)
        claim = await self.tried(key)
        hold(
            isinstance(claim, SegmentClaim) and (list(claim.done), claim.last) == ([ODD], ODD),
            f"the claim was {claim!a}",
        )
        found = list(await self.two.dead_letters(key))
        hold(
            found == [letter] and found[0].dead_letter.message == letter.dead_letter.message,
            f"dead_letters() returned {found!a}",
        )
        status = await self.status(key)
        hold((status.problem, dict(status.skipped)) == (ODD, {ODD: 1}), f"the status was {status!a}")


class RecordPromises(SegmentPromises, JobPromises, DeadLetterPromises, ModelPromises):
    """All promises of a record."""
