"""The promises of an inbox about what it keeps for later, each a method."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import attrs

from ..._work.protocol import InboxEntry, WaitingInbox
from ._inbox_model import LATER, LONG, ODD, SHORT, START, make_delivery, make_odd_deliveries
from ._inbox_workers import Workers
from ._runner import hold

_MOMENT = timedelta(milliseconds=1)
_YEAR, _PRUNING = 365, 40
"""Days, and after how many of them so many others are handled."""


class WaitingPromises(Workers[WaitingInbox]):
    """What an inbox promises about deliveries that it keeps to be handled later."""

    needs: ClassVar[Any] = WaitingInbox

    async def _store(self, name: str) -> InboxEntry:
        delivery = make_delivery(self.key + name, failures=0, at=self.now())
        stored = await self.inbox.store(delivery)
        hold(stored is True, f"store() of a new delivery was {stored}, not True")
        return delivery

    async def _claim_due(self, token: str, inbox: WaitingInbox, limit: int = 10) -> list[str]:
        found = await inbox.claim_due(token, limit=limit, retries=limit, lease=LONG)
        return [each.entry.key for each in found]

    async def store_what_is_open(self) -> None:
        """store() is False for what was handled or acknowledged in the quarantine, True for what a job quarantined"""
        await self.follow(
            "complete a; quarantine a 1; store b; store b 1; waiting a; quarantined b; claim_due b",
            "give_up a; store b; waiting a; quarantined b; claim_due b",
        )

    async def put_off(self) -> None:
        """put_off() ends the claim: the delivery is due again after so many seconds, as it was given, and not before"""
        await self.follow(
            "store a; claim_due a; put_off a; claim_due b; put_off_for_long b; claim_due a; list_waiting b; "
            "claim a; put_off_shortly a; pass a; claim_due a; put_off_for_long a; claim b; complete b; put_off a",
        )

    async def hold_what_waits(self) -> None:
        """While one token holds a delivery that waits, another one cannot claim it, put it off or complete it"""
        await self.follow(
            "store a; claim_due a; claim b; claim_due b; put_off_for_long b; complete b; list_waiting b; "
            "release b; claim b; release a; claim b; claim_due a; put_off_for_long a; release b; claim_due a",
        )

    async def put_off_what_waits_alone(self) -> None:
        """put_off() of a key that does not wait is False, and records nothing"""
        await self.follow("claim a; put_off a; known a; known b; waiting a; waiting b")

    async def leave_the_lease(self) -> None:
        """put_off() of a key that does not wait leaves its lease"""
        await self.follow("claim_shortly a; claim a; put_off a; claim b")

    async def end_the_wait(self) -> None:
        """complete() and quarantine() by who claimed it end the wait; release() and a retry do not"""
        await self.follow(
            "store a; claim_due a; release a; retry a; quarantined b; claim_due a; fail a; waiting a; "
            "claim_due a; complete a; waiting a; waiting b; list_waiting b; known b; claim b; store b",
            "store a; claim a; complete a; waiting a; waiting b; list_waiting b; known b; claim b; store b",
            "store a; claim_due a; quarantine a; waiting a; waiting b; list_waiting b; known b; claim b; store b",
        )

    async def stop_waiting_when_quarantined(self) -> None:
        """What was completed in the quarantine cannot be stored"""
        await self.follow("give_up a; retry b; complete b; store b; waiting a")

    async def wait_until_it_was_claimed(self) -> None:
        """complete() and quarantine() by a token that did not claim it are False, and so is what a job quarantines"""
        await self.follow(
            "store a; complete b; quarantine b; give_up b; waiting a; quarantined b; known b; "
            "claim b; give_up b; waiting a; quarantined a; release b; claim_due a; complete a; waiting b",
        )

    async def count_attempts(self) -> None:
        """Each claim_due() counts as an attempt; after put_off() there were as many as the delivery has failures"""
        await self.follow(
            "store a; claim_due a; release a; claim_due b; put_off b; claim_due a; put_off a; claim_due b; put_off b",
            "store a; die_of_due a; claim_due b; complete b",
        )

    async def claim_again(self) -> None:
        """claim_due() with a limit of 0 returns what its token holds, whose lease starts again, and counts nothing"""
        await self.follow(
            "store a; store a 1; claim_again a; die_of_due a; claim_again a; pass a; claim_due b; put_off a; "
            "claim_again b; claim_again a; put_off b; claim_again a; waiting a",
        )

    async def hold_back_what_failed(self) -> None:
        """claim_due() claims no more of those that failed than ``retries``, and in any case what never failed"""
        keys = [(await self._store(f"-{number}")).key for number in range(4)]
        for each in await self.inbox.claim_due(self.a, limit=3, retries=0, lease=LONG):
            failed = attrs.evolve(each.entry, failures=1, failing_since=each.claimed_at)
            await self.inbox.put_off(failed, self.a, seconds=0.0)
        for retries, expected in ((1, [keys[0], keys[3]]), (0, []), (5, keys[1:3])):
            found = await self.other.claim_due(self.b, limit=4, retries=retries, lease=LONG)
            claimed = sorted(each.entry.key for each in found)
            hold(claimed == expected, f"with retries={retries}, {claimed} were claimed, not {expected}")

    async def leave_types_out(self) -> None:
        """claim_due() claims nothing of the types of ``without``, though it is due first, and counts nothing of it"""
        kinds = ("a", ODD, 'b"', "a ")
        for number, kind in enumerate(kinds):
            delivery = make_delivery(f"{self.key}-{number}", failures=0, at=self.now())
            await self.inbox.store(attrs.evolve(delivery, event_type_id=kind))
            await self.wait(SHORT / 10)
        for without, expected in (((*kinds, ""), []), (("a", "unknown"), [ODD]), ({ODD, 'b"'}, ["a", "a "])):
            found = await self.other.claim_due(self.b, limit=len(expected) or 4, retries=4, lease=LONG, without=without)
            claimed = [(each.entry.event_type_id, each.attempts) for each in found]
            hold(claimed == [(each, 1) for each in expected], f"without {without!a}, {claimed!a} were claimed")

    async def go_by_the_given_time(self) -> None:
        """Where the caller gives the time, what is due, put off and counted goes by that time"""
        at = START + timedelta(days=9_000)
        delivery = make_delivery(self.key, failures=0, at=at)
        await self.inbox.store(delivery, now=at)
        for later, count in ((-1, 0), (0, 1), (LATER - 1, 0), (LATER, 1)):
            now = at + timedelta(seconds=later)
            found = await self.inbox.claim_due(self.a, limit=1, retries=1, lease=LONG, now=now)
            hold(len(found) == count, f"{len(found)} were due {later} s after it was stored, not {count}")
            for each in found:
                hold(abs(each.claimed_at - now) < _MOMENT, f"claimed at {now}, claimed_at was {each.claimed_at}")
                failed = attrs.evolve(delivery, failures=1, failing_since=at)
                await self.inbox.put_off(failed, self.a, seconds=LATER, now=now)
        counted = await self.other.waiting(now=at + timedelta(seconds=60))
        age = counted.failing_age
        hold(age is not None and 59 < age < 61, f"a minute after the first failure, failing_age was {age}")

    async def mistrust_a_clock(self) -> None:
        """What a clock that was ahead has stored, or put off, is due at once by the right time"""
        at = START + timedelta(days=9_000)
        ahead = [at + timedelta(days=40), at + timedelta(hours=2)]
        keys = [f"{self.key}-{number}" for number in range(4)]
        for key, now in zip(keys, [*ahead, at, at], strict=True):
            await self.inbox.store(make_delivery(key, failures=0, at=now), now=now)
        for failing_at in (*ahead, at - timedelta(hours=2)):
            found = await self.other.claim_due(self.b, limit=5, retries=5, lease=LONG, now=at)
            claimed = [each.entry.key for each in found]
            hold(sorted(claimed) == keys, f"by the right time, {claimed} were due, not {keys}")
            for each in found:
                failed = attrs.evolve(each.entry, failures=each.attempts, failing_since=at)
                await self.inbox.put_off(failed, self.b, seconds=LATER, now=failing_at)
        for retries in (1, 3):
            found = await self.inbox.claim_due(self.a, limit=5, retries=retries, lease=LONG, now=at)
            hold(len(found) == retries, f"of 4 that failed and were due, {len(found)} were claimed, not {retries}")

    async def store_what_is_claimed(self) -> None:
        """A claimed key can be stored: the claim stays, and its complete() ends the wait"""
        await self.follow(
            "claim a; store b; claim b; claim_due b; complete a; waiting a",
            "give_up a; claim a; store b; claim_due b; release a; claim_due b",
        )

    async def be_due_after_a_death(self) -> None:
        """A delivery whose claim died is due again; its former holder can put it off until another claims it"""
        await self.follow(
            "store a; die_of_due a; put_off a; die_of_due a; claim_due b; put_off_for_long a; complete b; waiting a",
        )

    async def survive_a_cancelled_call(self) -> None:
        """A cancelled call about what waits was carried out completely or not at all, wherever it was cancelled"""
        await self.follow(
            "cancelled store a; store a; waiting b; cancelled claim_due a; release a; claim_due b; "
            "cancelled put_off_for_long b; put_off b; waiting b; claim a; complete a",
        )

    async def store_once(self) -> None:
        """Of twenty calls of store() for an event at once, one stores it; then it is known, and not handled"""
        delivery = make_delivery(self.key)
        inboxes = [self.inbox, self.other] * 10
        stored = await asyncio.gather(*(inbox.store(delivery) for inbox in inboxes))
        hold(stored.count(True) == 1, f"{stored.count(True)} of 20 calls stored it, not 1")
        await self.end_waits([self.key], [self.a])
        await self.follow("store a; waiting a; waiting b; known a; known b; claim b; store a")

    async def claim_in_turn(self) -> None:
        """claim_due() claims what is due, the longest due first, and no more than its limit"""
        keys: list[str] = []
        for number in (3, 1, 4, 2, 0):
            keys.append((await self._store(f"-{number}")).key)
            await self.wait(SHORT / 10)
        claimed = await self.inbox.claim_due(self.a, limit=2, retries=2, lease=LONG)
        found = [each.entry.key for each in claimed]
        hold(found == keys[:2], f"the two that were due first were {found}, not {keys[:2]}")
        for each, seconds in zip(claimed, (0.0, LATER), strict=True):
            await self.inbox.put_off(each.entry, self.a, seconds=seconds)
        found, expected = await self._claim_due(self.b, self.other), [*keys[2:], keys[0]]
        hold(found == expected, f"after one was put off and is due at once, the order was {found}, not {expected}")

    async def measure(self) -> None:
        """waiting() has the bytes of what waits, and the age of the oldest that never failed"""
        first = await self._store("-first")
        least = SHORT if self.clock is None else LATER
        await self.wait(least)
        await self._store("-second")
        found = await self.other.waiting()
        hold(found.size >= 2 * len(first.body), f"of {2 * len(first.body)} bytes, waiting() had {found.size}")
        age = -1 if found.age is None else found.age
        hold(least * 0.9 <= age < least + LONG, f"after {least:g} s, the age was {found.age}")
        sizes = [found.size]
        await self.inbox.claim(first.key, self.a, lease=LONG)
        longer = attrs.evolve(first, body=first.body * 2)
        await self.inbox.put_off(longer, self.a, seconds=0)
        sizes.append((await self.other.waiting()).size)
        await self.inbox.claim(first.key, self.a, lease=LONG)
        await self.inbox.complete(first.key, self.a)
        sizes.append((await self.other.waiting()).size)
        hold(0 < sizes[2] < sizes[0] < sizes[1], f"of two, a longer one, and one, waiting() had {sizes} bytes")
        await self.inbox.claim(f"{self.key}-second", self.a, lease=LONG)
        await self.inbox.complete(f"{self.key}-second", self.a)
        none = await self.other.waiting()
        hold((none.count, none.size, none.age) == (0, 0, None), f"waiting() of what has ended was {none}")

    async def list_in_order(self) -> None:
        """entries(waiting=True) has pages in order of time, each delivery as it was"""
        stored = make_odd_deliveries(self.key)
        for each in stored:
            await self.inbox.store(each)

        async def complete(key: str) -> bool:
            await self.inbox.claim(key, self.a, lease=LONG)
            return await self.inbox.complete(key, self.a)

        await self.check_order(partial(self.other.entries, waiting=True), stored, complete)
        claimed = await self.inbox.claim_due(self.a, limit=10, retries=10, lease=LONG)
        hold(len(claimed) == 4, f"of 5 deliveries, of which 1 was handled, {len(claimed)} were due, not 4")

    async def keep_for_long(self) -> None:
        """Nothing forgets a delivery that waits, however long it waits and however many are handled meanwhile"""
        stored = await self._store("")
        for key in await self._claim_due(self.a, self.inbox):
            await self.inbox.put_off(attrs.evolve(stored, key=key), self.a, seconds=0.0)
        for day in range(0, _YEAR if self.clock is not None else 1, _PRUNING):
            for number in range(_PRUNING):
                await self.inbox.complete(f"{self.key}-{day}-{number}", self.b)
            if self.clock is not None:
                self.clock.advance(timedelta(days=_PRUNING))
        hold(self.key in await self.other.known([self.key]), "what waits for long was not known")
        hold(await self.list_own(partial(self.other.entries, waiting=True)) == [stored], "what waits for long was gone")
        hold(await self._claim_due(self.b, self.other) == [self.key], "what waits for long was not due")
