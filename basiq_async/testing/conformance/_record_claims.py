"""The promises about segments: who owns one, and what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...distributed.record import ClaimRefusal, LeaseLostError, ListSpec, Saving, SegmentClaim, new_token
from ._record_probe import SHORT, RecordProbe, make_letter, make_page
from ._runner import hold


class ClaimsProbe(RecordProbe):
    """Tries what is promised of segments."""

    async def has_one_owner(self) -> None:
        """A segment that is owned is refused to everyone else."""
        key = await self.job()
        await self.claim(key)
        refusal = await self.tried(key)
        hold(isinstance(refusal, ClaimRefusal) and refusal.reason == "held", f"the second claim was {refusal}")
        other = await self.tried(await self.job())
        hold(isinstance(other, SegmentClaim), "another job was refused as well")

    async def has_one_selection(self) -> None:
        """What the first worker selects stands for the job; a worker that selects otherwise is refused."""
        key = await self.job()
        first = await self.one.claim(key, "0.0", new_token(), lease=0.001, worker="w", width=4, selection="a")
        hold(isinstance(first, SegmentClaim), f"the first was refused: {first}")
        await asyncio.sleep(0.005)
        other = await self.two.claim(key, "0.0", new_token(), lease=30.0, worker="w", width=4, selection="b")
        hold(isinstance(other, ClaimRefusal) and (other.reason, other.detail) == ("selection", "a"), f"it was {other}")
        same = await self.two.claim(key, "0.0", new_token(), lease=30.0, worker="w", width=4, selection="a")
        hold(isinstance(same, SegmentClaim), f"the same selection was refused: {same}")

    async def takes_a_claim_twice(self) -> None:
        """A claim that is made again with its token is the same claim."""
        key = await self.job()
        token = await self.claim(key)
        await self.save(key, token, counts={"handled": 1}, ids=["a"])
        await self.claim(key, token=token)
        status = await self.status(key)
        hold((status.takeovers, status.interrupted, status.handled) == (0, 0, 1), f"it was {status}")

    async def lets_a_lease_run_out(self) -> None:
        """A segment whose lease ran out goes to the next one, and what may have been interrupted is counted."""
        key = await self.job()
        await self.claim(key, lease=SHORT)
        await asyncio.sleep(SHORT + 0.05)
        await self.claim(key, record=self.two)
        status = await self.status(key)
        hold((status.takeovers, status.interrupted) == (1, 4), f"it counted {status}")

    async def prolongs(self) -> None:
        """A heartbeat and a save prolong a lease, and a heartbeat names what is lost."""
        key = await self.job()
        token = await self.claim(key, lease=SHORT)
        held = {"0.0": token, "0.9": new_token()}
        for _ in range(2):
            await asyncio.sleep(SHORT / 2)
            await self.one.heartbeat(key, "w", held, lease=SHORT)
        await asyncio.sleep(SHORT / 2)
        heartbeat = await self.one.heartbeat(key, "w", held, lease=SHORT)
        hold((heartbeat.state, list(heartbeat.lost)) == ("running", ["0.9"]), f"the heartbeat was {heartbeat}")
        await self.one.save(key, "0.0", token, Saving(counts={}, ids=["a"], before=0), lease=30.0)
        await asyncio.sleep(SHORT + 0.05)
        refusal = await self.tried(key)
        hold(isinstance(refusal, ClaimRefusal), "the lease ran out in spite of the heartbeats")

    async def refuses_former_owners(self) -> None:
        """Whatever an owner that was replaced writes is refused with a LeaseLostError, and changes nothing."""
        key = await self.job()
        token = await self.claim(key, lease=SHORT)
        await asyncio.sleep(SHORT + 0.05)
        await self.claim(key, record=self.two)
        one, letter = self.one, make_letter("a")
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "save": lambda: self.save(key, token, counts={"handled": 5}, ids=["a"], letters=[letter]),
            "record_page": lambda: one.record_page(key, "0.0", token, make_page(["a"], "c"), lease=30.0, limit=None),
            "finish": lambda: one.finish(key, "0.0", token),
            "release": lambda: one.release(key, "0.0", token),
        }
        for name, call in calls.items():
            try:
                await call()
            except LeaseLostError:
                continue
            raise AssertionError(f"{name} was taken from it")
        status = await self.status(key)
        hold(
            (status.handled, status.read, status.dead, status.open, status.held) == (0, 0, 0, 1, 1), f"it was {status}"
        )

    async def hands_on_what_is_done(self) -> None:
        """The next owner learns what the former ones recorded."""
        key = await self.job()
        token = await self.claim(key, lease=SHORT)
        await self.one.record_page(key, "0.0", token, make_page(["a", "b", "c"], None), lease=SHORT, limit=None)
        await self.one.save(key, "0.0", token, Saving(counts={"handled": 1}, ids=["a"], before=0), lease=SHORT)
        await self.one.save(key, "0.0", token, Saving(counts={"handled": 2}, ids=["b"], before=1), lease=SHORT)
        await asyncio.sleep(SHORT + 0.05)
        claim = await self.tried(key)
        hold(isinstance(claim, SegmentClaim), f"it was refused: {claim}")
        if isinstance(claim, SegmentClaim):
            found = (sorted(claim.done), claim.count, claim.last, claim.quota)
            hold(found == (["a", "b"], 3, "c", 3), f"the claim was {claim}")

    async def counts_once(self) -> None:
        """What is saved twice counts once, over owners too; a save that fits badly changes nothing."""
        key = await self.job()
        token = await self.claim(key)
        first: dict[str, Any] = {"counts": {"handled": 2, "skipped:x": 1}, "ids": ["a", "b", "c"]}
        hold(await self.save(key, token, before=0, **first) is not None, "a save was refused")
        hold(await self.save(key, token, before=0, **first) is None, "a save that fits badly was taken")
        hold(await self.save(key, token, before=None, **first) is not None, "a save of everything was refused")
        await self.one.release(key, "0.0", token)
        token = await self.claim(key)
        await self.save(key, token, before=3, counts={"handled": 1, "failed": 1}, ids=["d", "e"])
        status = await self.status(key)
        found = (status.handled, status.failed, dict(status.skipped))
        hold(found == (3, 1, {"x": 1}), f"it counted {found}")

    async def takes_a_release(self) -> None:
        """A segment that was released is free at once, and nothing counts as interrupted."""
        key = await self.job()
        token = await self.claim(key)
        await self.one.release(key, "0.0", token, problem="the vendor is away", waits=True)
        claim = await self.tried(key)
        hold(isinstance(claim, SegmentClaim) and claim.waits == 1, f"the next claim was {claim}")
        status = await self.status(key)
        found = (status.takeovers, status.interrupted, status.problem)
        hold(found == (0, 0, "the vendor is away"), f"it was {status}")

    async def keeps_the_first_page(self) -> None:
        """The first word on a page stands; the segment behind it is there once, and knows its place."""
        key = await self.job()
        token = await self.claim(key)
        page = make_page(["a", "b"], "cursor-1", chosen=[True, False])
        first = await self.one.record_page(key, "0.0", token, page, lease=30.0, limit=None)
        hold((first.quota, first.following) == (1, "0.1"), f"it was {first}")
        again = await self.one.record_page(key, "0.0", token, make_page(["a"] * 5, "cursor-2"), lease=30.0, limit=None)
        hold((again.quota, again.following) == (1, None), f"the second word was {again}")
        claim = await self.tried(key, "0.1")
        hold(isinstance(claim, SegmentClaim), f"the next segment was refused: {claim}")
        if isinstance(claim, SegmentClaim):
            hold((claim.cursor, claim.after, claim.position) == ("cursor-1", "b", 2), f"it was {claim}")
        status = await self.status(key)
        hold((status.read, dict(status.skipped)) == (2, {"where": 1}), f"it counted {status}")

    async def shares_the_limit(self) -> None:
        """A limit is the job's: shared by its lists, never exceeded, and the lists end with it."""
        key = await self.job(lists=(ListSpec("w1"), ListSpec("w2")))
        one, two = await self.claim(key, "0.0"), await self.claim(key, "1.0")
        ids = ["a", "b", "c", "d"]
        first = await self.one.record_page(
            key, "0.0", one, make_page(ids, "c1", chosen=[True, False, True, True]), lease=30.0, limit=5
        )
        second = await self.one.record_page(
            key, "1.0", two, make_page(ids, "c2", chosen=[False, True, True, True]), lease=30.0, limit=5
        )
        hold((first.quota, first.following) == (3, "0.1"), f"the first page got {first}")
        hold((second.quota, second.following) == (2, None), f"the second page got {second}")
        status = await self.status(key)
        hold(status.cut and dict(status.skipped) == {"where": 2}, f"it was {status}")
