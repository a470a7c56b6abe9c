"""The promises of a record about segments and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...distributed.record import ClaimRefusal, LeaseLostError, ListSpec, Saving, SegmentClaim, new_token
from ._record_probe import SHORT, RecordProbe, make_dead_letter, make_page
from ._runner import hold


class SegmentPromises(RecordProbe):
    """The promises about segments. Each method checks the promise in its docstring."""

    async def has_one_owner(self) -> None:
        """A segment that has an owner cannot be claimed by another worker."""
        key = await self.job()
        await self.claim(key)
        refusal = await self.tried(key)
        hold(isinstance(refusal, ClaimRefusal) and refusal.reason == "held", f"the second claim was {refusal}")
        other = await self.tried(await self.job())
        hold(isinstance(other, SegmentClaim), "a claim of another job was refused too")

    async def has_one_selection(self) -> None:
        """The first worker's selection is kept for the job, and a worker with another selection is refused."""
        key = await self.job()
        first = await self.one.claim(key, "0.0", new_token(), lease=0.001, worker="w", width=4, selection="a")
        hold(isinstance(first, SegmentClaim), f"the first claim was refused: {first}")
        await asyncio.sleep(0.005)
        other = await self.two.claim(key, "0.0", new_token(), lease=30.0, worker="w", width=4, selection="b")
        hold(
            isinstance(other, ClaimRefusal) and (other.reason, other.detail) == ("selection", "a"),
            f"the claim with another selection was {other}",
        )
        same = await self.two.claim(key, "0.0", new_token(), lease=30.0, worker="w", width=4, selection="a")
        hold(isinstance(same, SegmentClaim), f"the same selection was refused: {same}")

    async def accepts_a_claim_twice(self) -> None:
        """A claim that is repeated with its token changes nothing."""
        key = await self.job()
        token = await self.claim(key)
        await self.save(key, token, counts={"handled": 1}, ids=["a"])
        await self.claim(key, token=token)
        status = await self.status(key)
        hold((status.takeovers, status.interrupted, status.handled) == (0, 0, 1), f"the status was {status}")

    async def lets_a_lease_run_out(self) -> None:
        """After a lease has run out, another worker can claim the segment, and interrupted messages are counted."""
        key = await self.job()
        await self.claim(key, lease=SHORT)
        await asyncio.sleep(SHORT + 0.05)
        await self.claim(key, record=self.two)
        status = await self.status(key)
        hold((status.takeovers, status.interrupted) == (1, 4), f"the status was {status}")

    async def prolongs(self) -> None:
        """A heartbeat and a save prolong a lease, and a heartbeat names lost segments."""
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
        hold(isinstance(refusal, ClaimRefusal), "the lease ran out although save() had prolonged it")

    async def refuses_former_owners(self) -> None:
        """All writes by a former owner raise LeaseLostError and change nothing."""
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
            raise AssertionError(f"{name}() by a former owner raised nothing")
        status = await self.status(key)
        hold(
            (status.handled, status.read, status.dead, status.open, status.held) == (0, 0, 0, 1, 1),
            f"the status was {status}",
        )

    async def hands_on_what_is_done(self) -> None:
        """The next owner gets what former owners recorded."""
        key = await self.job()
        token = await self.claim(key, lease=SHORT)
        await self.one.record_page(key, "0.0", token, make_page(["a", "b", "c"], None), lease=SHORT, limit=None)
        await self.one.save(key, "0.0", token, Saving(counts={"handled": 1}, ids=["a"], before=0), lease=SHORT)
        await self.one.save(key, "0.0", token, Saving(counts={"handled": 2}, ids=["b"], before=1), lease=SHORT)
        await asyncio.sleep(SHORT + 0.05)
        claim = await self.tried(key)
        hold(isinstance(claim, SegmentClaim), f"the claim was refused: {claim}")
        if isinstance(claim, SegmentClaim):
            found = (sorted(claim.done), claim.count, claim.last, claim.quota)
            hold(found == (["a", "b"], 3, "c", 3), f"the claim was {claim}")

    async def counts_once(self) -> None:
        """A repeated save counts once, also by another owner; a save with a wrong ``before`` changes nothing."""
        key = await self.job()
        token = await self.claim(key)
        first: dict[str, Any] = {"counts": {"handled": 2, "skipped:x": 1}, "ids": ["a", "b", "c"]}
        hold(await self.save(key, token, before=0, **first) is not None, "a save was refused")
        hold(await self.save(key, token, before=0, **first) is None, "a save with a wrong before was accepted")
        hold(await self.save(key, token, before=None, **first) is not None, "a save of all ids was refused")
        await self.one.release(key, "0.0", token)
        token = await self.claim(key)
        await self.save(key, token, before=3, counts={"handled": 1, "failed": 1}, ids=["d", "e"])
        status = await self.status(key)
        found = (status.handled, status.failed, dict(status.skipped))
        hold(found == (3, 1, {"x": 1}), f"the counts were {found}")

    async def accepts_a_release(self) -> None:
        """A released segment is free at once, and no message counts as interrupted."""
        key = await self.job()
        token = await self.claim(key)
        await self.one.release(key, "0.0", token, problem="the vendor is away", waits=True)
        claim = await self.tried(key)
        hold(isinstance(claim, SegmentClaim) and claim.waits == 1, f"the next claim was {claim}")
        status = await self.status(key)
        found = (status.takeovers, status.interrupted, status.problem)
        hold(found == (0, 0, "the vendor is away"), f"the status was {status}")

    async def keeps_the_first_page(self) -> None:
        """The first recorded page of a segment is kept; the next segment is created once, with its place."""
        key = await self.job()
        token = await self.claim(key)
        page = make_page(["a", "b"], "cursor-1", chosen=[True, False])
        first = await self.one.record_page(key, "0.0", token, page, lease=30.0, limit=None)
        hold((first.quota, first.following) == (1, "0.1"), f"record_page() returned {first}")
        again = await self.one.record_page(key, "0.0", token, make_page(["a"] * 5, "cursor-2"), lease=30.0, limit=None)
        hold((again.quota, again.following) == (1, None), f"a second record_page() returned {again}")
        claim = await self.tried(key, "0.1")
        hold(isinstance(claim, SegmentClaim), f"the next segment was refused: {claim}")
        if isinstance(claim, SegmentClaim):
            hold(
                (claim.cursor, claim.after, claim.position) == ("cursor-1", "b", 2),
                f"the claim of the next segment was {claim}",
            )
        status = await self.status(key)
        hold((status.read, dict(status.skipped)) == (2, {"where": 1}), f"the status was {status}")

    async def shares_the_limit(self) -> None:
        """A job's lists share its limit, which is never exceeded and ends the lists."""
        key = await self.job(lists=(ListSpec("w1"), ListSpec("w2")))
        one, two = await self.claim(key, "0.0"), await self.claim(key, "1.0")
        ids = ["a", "b", "c", "d"]
        first = await self.one.record_page(
            key, "0.0", one, make_page(ids, "c1", chosen=[True, False, True, True]), lease=30.0, limit=5
        )
        second = await self.one.record_page(
            key, "1.0", two, make_page(ids, "c2", chosen=[False, True, True, True]), lease=30.0, limit=5
        )
        hold((first.quota, first.following) == (3, "0.1"), f"record_page() of the first list returned {first}")
        hold((second.quota, second.following) == (2, None), f"record_page() of the second list returned {second}")
        status = await self.status(key)
        hold(status.cut and dict(status.skipped) == {"where": 2}, f"the status was {status}")


class DeadLetterPromises(RecordProbe):
    """The promises about dead letters. Each method checks the promise in its docstring."""

    async def keeps_dead_letters(self) -> None:
        """Dead letters are returned unchanged, oldest first; a new one with the same id keeps the number."""
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
            f"dead_letters() returned {found}",
        )
        rest = await self.two.dead_letters(key, after=found[0].dead_letter.number, limit=1)
        hold([each.dead_letter.id for each in rest] == ["a"], f"the letters after the first were {rest}")
        hold(
            await self.one.drop_dead(key, ["a", "nobody"]) == 1,
            "drop_dead() of one letter and an unknown id did not return 1",
        )
        await self.save(key, token, before=3, revived=["c"])
        hold(
            [each.dead_letter.id for each in await self.two.dead_letters(key)] == ["b"],
            "a revived letter is still listed",
        )
        hold((await self.status(key)).dead == 1, "the status does not count one dead letter")

    async def stops_at_too_many_dead_letters(self) -> None:
        """A job that has as many dead letters as it may keep is paused, and its reason says so."""
        key = await self.job(most_dead=2)
        token = await self.claim(key)
        await self.save(key, token, ids=["a"], dead_letters=[make_dead_letter("a")])
        hold((await self.status(key)).state == "running", "the job was paused with fewer dead letters")
        heartbeat = await self.save(key, token, before=1, ids=["b"], dead_letters=[make_dead_letter("b")])
        hold(heartbeat is not None and heartbeat.state == "paused", f"save() returned {heartbeat}")
        hold("dead letters" in (await self.status(key)).reason, "the reason does not name the dead letters")

    async def revives(self) -> None:
        """A new segment retries dead letters up to the last one, and a finished job runs again for it."""
        key = await self.job()
        hold(await self.one.revive(key, new_token()) is None, "revive() without dead letters was not None")
        await self._finish_with_dead_letters(key, "a")
        revival = await self.one.revive(key, new_token())
        if revival is None:
            raise AssertionError("revive() with a dead letter returned None")
        hold((await self.status(key)).state == "running", "the job is not running after revive()")
        hold(key in await self.two.keys(active=True), "keys(active=True) does not list the job after revive()")
        claim = await self.tried(key, revival.segment)
        (stored,) = await self.one.dead_letters(key)
        hold(isinstance(claim, SegmentClaim) and claim.upto == stored.dead_letter.number, f"the claim was {claim}")

    async def revives_each_dead_letter_once(self) -> None:
        """Dead letters that a segment is to retry already stay with it, however often revive() is called"""
        key = await self.job()
        await self._finish_with_dead_letters(key, "a", "b")
        token = new_token()
        found = await asyncio.gather(*(record.revive(key, token) for record in self.all))
        others = await asyncio.gather(*(record.revive(key, new_token()) for record in self.all))
        hold(
            len({*found, *others}) == 1 and found[0] is not None,
            f"concurrent calls of revive() returned {found} and {others}",
        )
        hold(found[0] is not None and found[0].dead_letters == 2, f"for 2 dead letters, revive() returned {found[0]}")
        status = await self.status(key)
        hold(status.open == 1, f"{status.open} segments were created for the same dead letters")
        again = new_token()
        last = await self.one.revive(key, again)
        if last is not None:
            segment = last.segment
            owner = await self.claim(key, segment)
            await self.one.record_page(key, segment, owner, make_page(["a", "b"], None), lease=30.0, limit=None)
            await self.one.finish(key, segment, owner)
            hold(
                await self.two.revive(key, again) == last,
                "revive() that was repeated after its segment's end returned another segment",
            )

    async def revives_later_dead_letters_apart(self) -> None:
        """Dead letters that are recorded after revive() are retried by another segment, after the first ones"""
        key = await self.job(lists=(ListSpec("w1"), ListSpec("w2")))
        token = await self.claim(key)
        await self.save(key, token, ids=["a"], dead_letters=[make_dead_letter("a")])
        first = await self.one.revive(key, new_token())
        await self.save(key, token, before=1, ids=["b"], dead_letters=[make_dead_letter("b")])
        second = await self.one.revive(key, new_token())
        if first is None or second is None:
            raise AssertionError("revive() with a new dead letter returned None")
        one, two = await self.tried(key, first.segment), await self.tried(key, second.segment)
        a, b = (each.dead_letter.number for each in await self.one.dead_letters(key))
        hold(
            isinstance(one, SegmentClaim) and (one.cursor, one.upto) == ("0", a),
            f"the claim of the first segment was {one}",
        )
        hold(
            isinstance(two, SegmentClaim) and (two.cursor, two.upto) == (str(a), b),
            f"the claim of the second segment was {two}",
        )
        hold((first.dead_letters, second.dead_letters) == (1, 2), f"revive() returned {first} and {second}")

    async def lists_dead_letters_whole(self) -> None:
        """Each page of dead letters except the last is full, even if letters are dropped meanwhile"""
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
                hold(len(page) == 2 or seen[-1] in names[-2:], f"a page before the last had {len(page)} letters")
            return seen

        _, *all_seen = await asyncio.gather(drop(), *(read() for _ in range(3)))
        for seen in all_seen:
            hold(set(names) - dropped <= set(seen or ()), "dead_letters() left out letters that were not dropped")

    async def drops_many(self) -> None:
        """10,000 dead letters can be saved, dropped and revived in one call"""
        key = await self.job()
        token = await self.claim(key)
        names = [f"m{number}" for number in range(10_000)]
        await self.save(key, token, ids=names, dead_letters=[make_dead_letter(name) for name in names])
        await self.save(key, token, before=10_000, revived=names[:1])
        hold(await self.one.drop_dead(key, names) == 9_999, "drop_dead() did not return 9,999")
        await self.save(key, token, before=10_000, dead_letters=[make_dead_letter(name) for name in names])
        await self.save(key, token, before=10_000, revived=names)
        hold((await self.status(key)).dead == 0, "the status still counts dead letters")

    async def _finish_with_dead_letters(self, key: str, *ids: str) -> None:
        token = await self.claim(key)
        await self.one.record_page(key, "0.0", token, make_page(list(ids), None), lease=30.0, limit=None)
        await self.save(key, token, ids=list(ids), dead_letters=[make_dead_letter(id) for id in ids])
        await self.one.finish(key, "0.0", token)
