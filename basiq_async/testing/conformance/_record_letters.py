"""The promises about dead letters."""

from __future__ import annotations

import asyncio

from ...distributed.record import ListSpec, SegmentClaim, new_token
from ._record_probe import RecordProbe, make_letter, make_page
from ._runner import hold


class LettersProbe(RecordProbe):
    """Tries what is promised of dead letters."""

    async def keeps_dead_letters(self) -> None:
        """Dead letters come back whole, oldest first, by number; one of the same id keeps its place."""
        key = await self.job()
        token = await self.claim(key)
        await self.save(key, token, ids=["a", "b", "c"], letters=[make_letter("b"), make_letter("a"), make_letter("c")])
        await self.save(key, token, before=3, letters=[make_letter("b", "again")])
        found = list(await self.two.dead_letters(key))
        hold(found == [make_letter("b", "again"), make_letter("a"), make_letter("c")], f"they were {found}")
        rest = await self.two.dead_letters(key, after=found[0].letter.number, limit=1)
        hold([each.letter.id for each in rest] == ["a"], f"after the first there was {rest}")
        hold(await self.one.drop_dead(key, ["a", "nobody"]) == 1, "dropping one counted wrong")
        await self.save(key, token, before=3, revived=["c"])
        hold(
            [each.letter.id for each in await self.two.dead_letters(key)] == ["b"],
            "one that was revived is still there",
        )
        hold((await self.status(key)).dead == 1, "it counted wrong")

    async def stops_at_too_many_letters(self) -> None:
        """A job with as many dead letters as it may keep is paused, and says so."""
        key = await self.job(most_dead=2)
        token = await self.claim(key)
        await self.save(key, token, ids=["a"], letters=[make_letter("a")])
        hold((await self.status(key)).state == "running", "it was paused before")
        heartbeat = await self.save(key, token, before=1, ids=["b"], letters=[make_letter("b")])
        hold(heartbeat is not None and heartbeat.state == "paused", f"it was {heartbeat}")
        hold("dead letters" in (await self.status(key)).reason, "it does not say why")

    async def revives(self) -> None:
        """Dead letters are tried again by a segment that knows the last of them; a finished job runs for it."""
        key = await self.job()
        hold(await self.one.revive(key, new_token()) is None, "there was something to revive")
        await self._finish_with_letters(key, "a")
        revival = await self.one.revive(key, new_token())
        if revival is None:
            raise AssertionError("there was nothing to revive")
        hold((await self.status(key)).state == "running", "it did not run")
        hold(key in await self.two.keys(active=True), "no worker looks for it")
        claim = await self.tried(key, revival.segment)
        (stored,) = await self.one.dead_letters(key)
        hold(isinstance(claim, SegmentClaim) and claim.upto == stored.letter.number, f"the claim was {claim}")

    async def revives_each_letter_once(self) -> None:
        """Letters that a segment is to try already are left to it, whoever asks, and however often"""
        key = await self.job()
        await self._finish_with_letters(key, "a", "b")
        token = new_token()
        found = await asyncio.gather(*(record.revive(key, token) for record in self.all))
        others = await asyncio.gather(*(record.revive(key, new_token()) for record in self.all))
        hold(len({*found, *others}) == 1 and found[0] is not None, f"they were {found} and {others}")
        hold(found[0] is not None and found[0].letters == 2, f"of 2 letters it was {found[0]}")
        status = await self.status(key)
        hold(status.open == 1, f"there were {status.open} segments for the same letters")
        again = new_token()
        last = await self.one.revive(key, again)
        if last is not None:
            segment = last.segment
            owner = await self.claim(key, segment)
            await self.one.record_page(key, segment, owner, make_page(["a", "b"], None), lease=30.0, limit=None)
            await self.one.finish(key, segment, owner)
            hold(await self.two.revive(key, again) == last, "sent again after its end, it was another request")

    async def revives_later_letters_apart(self) -> None:
        """Letters that came after a segment was made to try the others are another segment's, and begin behind those"""
        key = await self.job(lists=(ListSpec("w1"), ListSpec("w2")))
        token = await self.claim(key)
        await self.save(key, token, ids=["a"], letters=[make_letter("a")])
        first = await self.one.revive(key, new_token())
        await self.save(key, token, before=1, ids=["b"], letters=[make_letter("b")])
        second = await self.one.revive(key, new_token())
        if first is None or second is None:
            raise AssertionError("there was nothing to revive")
        one, two = await self.tried(key, first.segment), await self.tried(key, second.segment)
        a, b = (each.letter.number for each in await self.one.dead_letters(key))
        hold(isinstance(one, SegmentClaim) and (one.cursor, one.upto) == ("0", a), f"the first was {one}")
        hold(isinstance(two, SegmentClaim) and (two.cursor, two.upto) == (str(a), b), f"the second was {two}")
        hold((first.letters, second.letters) == (1, 2), f"they counted {first} and {second}")

    async def lists_letters_whole(self) -> None:
        """A page of letters is full until there are no more, though somebody drops some meanwhile"""
        key = await self.job()
        token = await self.claim(key)
        names = [f"m{number}" for number in range(60)]
        await self.save(key, token, ids=names, letters=[make_letter(name) for name in names])
        dropped = set(names[1::2])

        async def drop() -> None:
            for name in dropped:
                await self.two.drop_dead(key, [name])

        async def read() -> list[str]:
            seen: list[str] = []
            after = 0
            while page := await self.one.dead_letters(key, after=after, limit=2):
                seen += [each.letter.id for each in page]
                after = page[-1].letter.number
                hold(len(page) == 2 or seen[-1] in names[-2:], f"a page in the midst had {len(page)} letters")
            return seen

        _, *all_seen = await asyncio.gather(drop(), *(read() for _ in range(3)))
        for seen in all_seen:
            hold(set(names) - dropped <= set(seen or ()), "letters were not listed")

    async def drops_many(self) -> None:
        """Ten thousand letters can be kept, dropped and revived at once"""
        key = await self.job()
        token = await self.claim(key)
        names = [f"m{number}" for number in range(10_000)]
        await self.save(key, token, ids=names, letters=[make_letter(name) for name in names])
        await self.save(key, token, before=10_000, revived=names[:1])
        hold(await self.one.drop_dead(key, names) == 9_999, "not all of them were dropped")
        await self.save(key, token, before=10_000, letters=[make_letter(name) for name in names])
        await self.save(key, token, before=10_000, revived=names)
        hold((await self.status(key)).dead == 0, "some are still there")

    async def _finish_with_letters(self, key: str, *ids: str) -> None:
        token = await self.claim(key)
        await self.one.record_page(key, "0.0", token, make_page(list(ids), None), lease=30.0, limit=None)
        await self.save(key, token, ids=list(ids), letters=[make_letter(id) for id in ids])
        await self.one.finish(key, "0.0", token)
