"""The promises of a record about segments: who owns one, what is recorded of it, and its dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...distributed.record import ClaimRefusal, LeaseLostError, ListSpec, Saving, SegmentClaim, new_token
from ._record_probe import SHORT, RecordProbe, make_dead_letter, make_page
from ._runner import hold


class SegmentPromises(RecordProbe):
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

    async def accepts_a_claim_twice(self) -> None:
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
        one, letter = self.one, make_dead_letter("a")
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "save": lambda: self.save(key, token, counts={"handled": 5}, ids=["a"], dead_letters=[letter]),
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

    async def accepts_a_release(self) -> None:
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
        """The first record of a page stands; the segment after it exists once, and knows its place."""
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


class DeadLetterPromises(RecordProbe):
    """Tries what is promised of dead letters."""

    async def keeps_dead_letters(self) -> None:
        """Dead letters come back whole, oldest first, by number; one of the same id keeps its place."""
        key = await self.job()
        token = await self.claim(key)
        await self.save(
            key,
            token,
            ids=["a", "b", "c"],
            dead_letters=[make_dead_letter("b"), make_dead_letter("a"), make_dead_letter("c")],
        )
        await self.save(key, token, before=3, dead_letters=[make_dead_letter("b", "again")])
        found = list(await self.two.dead_letters(key))
        hold(
            found == [make_dead_letter("b", "again"), make_dead_letter("a"), make_dead_letter("c")],
            f"they were {found}",
        )
        rest = await self.two.dead_letters(key, after=found[0].dead_letter.number, limit=1)
        hold([each.dead_letter.id for each in rest] == ["a"], f"after the first there was {rest}")
        hold(await self.one.drop_dead(key, ["a", "nobody"]) == 1, "dropping one counted wrong")
        await self.save(key, token, before=3, revived=["c"])
        hold(
            [each.dead_letter.id for each in await self.two.dead_letters(key)] == ["b"],
            "one that was revived is still there",
        )
        hold((await self.status(key)).dead == 1, "it counted wrong")

    async def stops_at_too_many_dead_letters(self) -> None:
        """A job with as many dead letters as it may keep is paused, and says so."""
        key = await self.job(most_dead=2)
        token = await self.claim(key)
        await self.save(key, token, ids=["a"], dead_letters=[make_dead_letter("a")])
        hold((await self.status(key)).state == "running", "it was paused before")
        heartbeat = await self.save(key, token, before=1, ids=["b"], dead_letters=[make_dead_letter("b")])
        hold(heartbeat is not None and heartbeat.state == "paused", f"it was {heartbeat}")
        hold("dead letters" in (await self.status(key)).reason, "it does not say why")

    async def revives(self) -> None:
        """Dead letters are tried again by a segment that knows the last of them; a finished job runs for it."""
        key = await self.job()
        hold(await self.one.revive(key, new_token()) is None, "there was something to revive")
        await self._finish_with_dead_letters(key, "a")
        revival = await self.one.revive(key, new_token())
        if revival is None:
            raise AssertionError("there was nothing to revive")
        hold((await self.status(key)).state == "running", "it did not run")
        hold(key in await self.two.keys(active=True), "no worker looks for it")
        claim = await self.tried(key, revival.segment)
        (stored,) = await self.one.dead_letters(key)
        hold(isinstance(claim, SegmentClaim) and claim.upto == stored.dead_letter.number, f"the claim was {claim}")

    async def revives_each_dead_letter_once(self) -> None:
        """Dead letters that a segment is to try already are left to it, however often they are revived"""
        key = await self.job()
        await self._finish_with_dead_letters(key, "a", "b")
        token = new_token()
        found = await asyncio.gather(*(record.revive(key, token) for record in self.all))
        others = await asyncio.gather(*(record.revive(key, new_token()) for record in self.all))
        hold(len({*found, *others}) == 1 and found[0] is not None, f"they were {found} and {others}")
        hold(found[0] is not None and found[0].dead_letters == 2, f"of 2 dead letters it was {found[0]}")
        status = await self.status(key)
        hold(status.open == 1, f"there were {status.open} segments for the same dead letters")
        again = new_token()
        last = await self.one.revive(key, again)
        if last is not None:
            segment = last.segment
            owner = await self.claim(key, segment)
            await self.one.record_page(key, segment, owner, make_page(["a", "b"], None), lease=30.0, limit=None)
            await self.one.finish(key, segment, owner)
            hold(await self.two.revive(key, again) == last, "sent again after its end, it was another request")

    async def revives_later_dead_letters_apart(self) -> None:
        """Dead letters that came after a segment was made to try the others are another's, and begin after those"""
        key = await self.job(lists=(ListSpec("w1"), ListSpec("w2")))
        token = await self.claim(key)
        await self.save(key, token, ids=["a"], dead_letters=[make_dead_letter("a")])
        first = await self.one.revive(key, new_token())
        await self.save(key, token, before=1, ids=["b"], dead_letters=[make_dead_letter("b")])
        second = await self.one.revive(key, new_token())
        if first is None or second is None:
            raise AssertionError("there was nothing to revive")
        one, two = await self.tried(key, first.segment), await self.tried(key, second.segment)
        a, b = (each.dead_letter.number for each in await self.one.dead_letters(key))
        hold(isinstance(one, SegmentClaim) and (one.cursor, one.upto) == ("0", a), f"the first was {one}")
        hold(isinstance(two, SegmentClaim) and (two.cursor, two.upto) == (str(a), b), f"the second was {two}")
        hold((first.dead_letters, second.dead_letters) == (1, 2), f"they counted {first} and {second}")

    async def lists_dead_letters_whole(self) -> None:
        """A page of dead letters is full until there are no more, though somebody drops some meanwhile"""
        key = await self.job()
        token = await self.claim(key)
        names = [f"m{number}" for number in range(60)]
        await self.save(key, token, ids=names, dead_letters=[make_dead_letter(name) for name in names])
        dropped = set(names[1::2])

        async def drop() -> None:
            for name in dropped:
                await self.two.drop_dead(key, [name])

        async def read() -> list[str]:
            seen: list[str] = []
            after = 0
            while page := await self.one.dead_letters(key, after=after, limit=2):
                seen += [each.dead_letter.id for each in page]
                after = page[-1].dead_letter.number
                hold(len(page) == 2 or seen[-1] in names[-2:], f"a page in the midst had {len(page)} letters")
            return seen

        _, *all_seen = await asyncio.gather(drop(), *(read() for _ in range(3)))
        for seen in all_seen:
            hold(set(names) - dropped <= set(seen or ()), "dead letters were not listed")

    async def drops_many(self) -> None:
        """Ten thousand dead letters can be kept, dropped and revived at once"""
        key = await self.job()
        token = await self.claim(key)
        names = [f"m{number}" for number in range(10_000)]
        await self.save(key, token, ids=names, dead_letters=[make_dead_letter(name) for name in names])
        await self.save(key, token, before=10_000, revived=names[:1])
        hold(await self.one.drop_dead(key, names) == 9_999, "not all of them were dropped")
        await self.save(key, token, before=10_000, dead_letters=[make_dead_letter(name) for name in names])
        await self.save(key, token, before=10_000, revived=names)
        hold((await self.status(key)).dead == 0, "some are still there")

    async def _finish_with_dead_letters(self, key: str, *ids: str) -> None:
        token = await self.claim(key)
        await self.one.record_page(key, "0.0", token, make_page(list(ids), None), lease=30.0, limit=None)
        await self.save(key, token, ids=list(ids), dead_letters=[make_dead_letter(id) for id in ids])
        await self.one.finish(key, "0.0", token)
