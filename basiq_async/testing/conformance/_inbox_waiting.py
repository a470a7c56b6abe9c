"""The promises of an inbox that keeps deliveries to be handled later, each a function that checks it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import attrs

from ..._work.protocol import QuarantinedDelivery, WaitingInbox
from ..fake._clock import ManualClock
from ._inbox_model import WAITING_ACTIONS, walk
from ._inbox_probe import BUSY, CLAIMED, DONE, LONG, ODD, SHORT, InboxProbe, cancel_after, make_delivery, waits
from ._runner import Promises, hold

_AT_ONCE = 20
_LATER = 3600.0
_YEAR = 365
_PRUNING = 40


class WaitingProbe(InboxProbe):
    """Two workers, A and B, and a webhook of their own, whose id is the key."""

    def __init__(self, inbox: WaitingInbox, other: WaitingInbox, clock: ManualClock | None) -> None:
        super().__init__(inbox, other, clock)
        self.one = inbox
        self.two = other

    def make(self, name: str = "", *, failures: int = 0) -> QuarantinedDelivery:
        return make_delivery(self.key + name, failures=failures, at=self.now())

    async def store(self, name: str = "") -> QuarantinedDelivery:
        """Store a delivery, which is due at once. Return it."""
        delivery = self.make(name)
        stored = await self.one.store(delivery, webhook_id=self.key)
        hold(stored is True, f"store() of a new delivery was {stored}, not True")
        return delivery

    async def due_a(self, *, limit: int = 10, lease: float = LONG) -> list[QuarantinedDelivery]:
        return list(await self.one.claim_due(self.key, self.a, limit=limit, lease=lease))

    async def due_b(self, *, limit: int = 10, lease: float = LONG) -> list[QuarantinedDelivery]:
        return list(await self.two.claim_due(self.key, self.b, limit=limit, lease=lease))

    async def off_a(
        self, expected: bool, what: str, *, seconds: float = 0.0, delivery: QuarantinedDelivery | None = None
    ) -> None:
        found = await self.one.put_off(self.key, self.a, seconds=seconds, delivery=delivery)
        hold(found is expected, f"{what} was {found}, not {expected}")

    async def count(self, expected: int, what: str) -> None:
        for inbox in (self.one, self.two):
            found = (await inbox.waiting(self.key)).count
            hold(found == expected, f"waiting() counted {found}, not {expected}, {what}")

    async def listed(self) -> list[QuarantinedDelivery]:
        """Return what waits of this probe's keys. Other users of the storage may have more."""
        found: list[QuarantinedDelivery] = []
        page = await self.two.list_waiting()
        while page:
            found += [delivery for delivery in page if delivery.key.startswith(self.key)]
            page = await self.two.list_waiting(after=page[-1])
        return found


waiting: Promises[WaitingProbe] = Promises()
waiting_with_leases: Promises[WaitingProbe] = Promises()
"""The promises of every ``WaitingInbox``, and of those whose claims end after a time."""


@waiting
async def stored_once(probe: WaitingProbe) -> None:
    """Of twenty calls of store() for an event at once, one stores it; then it is known, and not handled"""
    inboxes = [probe.one, probe.two] * (_AT_ONCE // 2)
    delivery = probe.make()
    stored = await asyncio.gather(*(inbox.store(delivery, webhook_id=probe.key) for inbox in inboxes))
    hold(stored.count(True) == 1, f"{stored.count(True)} of {_AT_ONCE} calls stored it, not 1")
    await probe.count(1, "after one delivery was stored")
    await probe.known(True, "for a key that waits")
    await probe.claim_b(CLAIMED, "a claim of a key that waits")
    hold(await probe.one.store(delivery, webhook_id=probe.key) is False, "store() of what waits already was not False")


@waiting
async def stored_or_not(probe: WaitingProbe) -> None:
    """store() is False for what was handled or acknowledged in the quarantine, and True for what a job set aside"""
    handled, acknowledged, aside = (probe.make(f"-{number}") for number in range(3))
    await probe.inbox.complete(handled.key, probe.a)
    await probe.inbox.quarantine(acknowledged.key, probe.a, make_delivery(acknowledged.key))
    await probe.inbox.quarantine(aside.key, probe.a, make_delivery(aside.key, acknowledged=False))
    stored = [await probe.two.store(each, webhook_id=probe.key) for each in (handled, acknowledged, aside)]
    hold(stored == [False, False, True], f"store() was {stored} for what was handled, acknowledged and set aside")
    await probe.count(1, "after one of three could be stored")
    left = [delivery.key for delivery in await probe.deliveries()]
    hold(left == [acknowledged.key], f"after that, the quarantine had {left}")
    hold([entry.key for entry in await probe.due_b()] == [aside.key], "what a job had set aside was stored and not due")


@waiting
async def due_in_turn(probe: WaitingProbe) -> None:
    """claim_due() claims what is due of its own webhook, the longest due first, and no more than its limit"""
    names = [f"{probe.key}-{number}" for number in (3, 1, 4, 2, 0)]
    for name in names:
        await probe.store(name.removeprefix(probe.key))
        await probe.wait(SHORT / 10)
    none = await probe.two.claim_due(None, probe.b, limit=1000, lease=0.001)
    hold(not any(entry.key in names for entry in none), "claim_due() of no webhook had a delivery of another")
    hold(not await probe.two.claim_due(probe.key + "-", probe.b, limit=10, lease=LONG), "another webhook's was due")
    found = [entry.key for entry in await probe.due_a(limit=2)]
    hold(found == names[:2], f"the two that were due first were {found}, not {names[:2]}")
    for name, seconds in zip(names[:2], (0.0, _LATER), strict=True):
        await probe.one.put_off(name, probe.a, seconds=seconds)
    found = [entry.key for entry in await probe.due_b()]
    expected = [*names[2:], names[0]]
    hold(found == expected, f"after one was put off and is due at once, the order was {found}, not {expected}")


@waiting
async def put_off(probe: WaitingProbe) -> None:
    """put_off() ends the claim: the delivery is due again after so many seconds, as it was given, and not before"""
    stored = await probe.store()
    hold(await probe.due_a() == [stored], "claim_due() had another delivery than the one that was stored")
    await probe.off_a(True, "put_off() by the holder")
    hold(await probe.due_b() == [stored], "what was put off for 0 s was not due, or was changed")
    changed = attrs.evolve(stored, failures=1, error="ValueError: first")
    found = await probe.two.put_off(probe.key, probe.b, seconds=_LATER, delivery=changed)
    hold(found is True, f"put_off() with a changed delivery was {found}, not True")
    hold(not await probe.due_a(), "what was put off for an hour was due at once")
    [listed] = await probe.listed()
    hold(listed == changed, "put_off() did not replace the delivery")
    late = listed.due - probe.now() if listed.due is not None else timedelta()
    hold(abs(late.total_seconds() - _LATER) < LONG, f"of what was put off for {_LATER:g} s, due was {listed.due}")
    await probe.claim_a(CLAIMED, "a claim of what was put off for an hour")
    await probe.off_a(True, "put_off() by a claim that claim_due() did not make", seconds=SHORT)
    await probe.wait(SHORT * 1.5)
    hold(await probe.due_a() == [changed], f"what was put off for {SHORT:g} s was not due after that")
    await probe.off_a(True, "put_off() for an hour", seconds=_LATER)
    await probe.claim_b(CLAIMED, "a claim of what was put off")
    hold(await probe.other.complete(probe.key, probe.b) is True, "complete() of what was put off was not True")
    await probe.off_a(False, "put_off() of what was handled")


@waiting
async def held(probe: WaitingProbe) -> None:
    """While one token holds a delivery that waits, another one cannot claim it, put it off or complete it"""
    stored = await probe.store()
    await probe.due_a()
    await probe.claim_b(BUSY, "another worker's claim of what claim_due() returned")
    hold(not await probe.due_b(), "claim_due() had a delivery that another token holds")
    found = await probe.two.put_off(probe.key, probe.b, seconds=_LATER, delivery=probe.make(failures=7))
    hold(found is False, f"put_off() by another token was {found}, not False")
    hold(await probe.two.complete(probe.key, probe.b) is False, "complete() by another token was not False")
    hold(await probe.listed() == [stored], "another token changed what waits")
    await probe.two.release(probe.key, probe.b)
    await probe.claim_b(BUSY, "a claim after another token's put_off() and release()")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_b(CLAIMED, "a claim of a key that waits, after its release")
    hold(not await probe.due_a(), "claim_due() had a delivery that a claim holds")
    await probe.off_a(False, "put_off() by a token that has released the key", seconds=_LATER)
    await probe.two.release(probe.key, probe.b)
    hold(await probe.due_a() == [stored], "what was released was not due as before")


@waiting
async def not_waiting(probe: WaitingProbe) -> None:
    """put_off() of a key that does not wait is False, and records nothing"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.off_a(False, "put_off() of a claimed key that does not wait", delivery=probe.make())
    await probe.known(False, "after put_off() of a key that does not wait")
    await probe.count(0, "after put_off() of a key that does not wait")


@waiting
async def ended(probe: WaitingProbe) -> None:
    """complete(), of one or many, and quarantine() end the wait; release(), fail() and a retry do not"""
    for end in ("complete", "complete of many", "quarantine"):
        probe.key += "-"
        stored = await probe.store()
        await probe.due_a()
        await probe.inbox.release(probe.key, probe.a)
        await probe.retry_a(DONE, "claim_quarantined() of a key that waits")
        hold(await probe.inbox.drop_quarantined(probe.key) is False, "drop_quarantined() of what waits was not False")
        hold(not await probe.deliveries(), "the quarantine had a delivery that waits")
        await probe.due_a()
        await probe.fail_a(1, "a failure of a key that waits")
        await probe.count(1, "after release(), fail() and a retry")
        hold(await probe.due_a() == [stored], "after release() and fail(), it was not due as before")
        if end == "complete":
            done = await probe.inbox.complete(probe.key, probe.a)
        elif end == "complete of many":
            done = await probe.inbox.complete([probe.key, f"{probe.key}-other"], probe.a)
        else:
            done = await probe.inbox.quarantine(probe.key, probe.a, make_delivery(probe.key))
        hold(done is True, f"{end} of a key that waits was {done}, not True")
        await probe.count(0, f"after {end}")
        hold(not await probe.listed(), f"list_waiting() had a delivery after {end}")
        await probe.known(True, f"after {end}")
        await probe.claim_b(DONE, f"a claim after {end}")
        hold(await probe.two.store(stored, webhook_id=probe.key) is False, f"store() after {end} was not False")


@waiting
async def set_aside_and_dropped(probe: WaitingProbe) -> None:
    """What waits and a job sets aside waits no longer; and what was dropped from the quarantine cannot be stored"""
    stored = await probe.store()
    aside = make_delivery(probe.key, acknowledged=False, at=probe.now())
    hold(await probe.other.quarantine(probe.key, probe.b, aside) is True, "quarantine() of what waits was not True")
    await probe.count(0, "after quarantine() of a free key that waits")
    hold(await probe.deliveries() == [aside], "the quarantine did not have what replaced a delivery that waits")
    dropped = await probe.other.drop_quarantined(probe.key)
    hold(dropped is True, f"drop_quarantined() of what waited and was set aside was {dropped}, not True")
    hold(await probe.two.store(stored, webhook_id=probe.key) is False, "store() of what was dropped was not False")
    await probe.count(0, "after drop_quarantined()")


@waiting
async def counted(probe: WaitingProbe) -> None:
    """waiting() has the number of deliveries of a webhook, how many never failed, their bytes and the oldest's age"""
    empty = await probe.two.waiting(probe.key)
    hold((empty.count, empty.fresh, empty.size, empty.age) == (0, 0, 0, None), f"waiting() of nothing was {empty}")
    stored = [await probe.store(f"-{number}") for number in range(3)]
    bodies = sum(len(each.body) for each in stored)
    await probe.wait(SHORT if probe.clock is None else _LATER)
    first = await probe.two.waiting(probe.key)
    hold((first.count, first.fresh) == (3, 3), f"of 3 that never failed, waiting() was {first}")
    hold(first.size >= bodies, f"of {bodies} bytes, waiting() had {first.size}")
    least = SHORT if probe.clock is None else _LATER
    hold(
        first.age is not None and least * 0.9 <= first.age < least + LONG, f"after {least:g} s, the age was {first.age}"
    )
    for entry in await probe.due_a():
        failed = attrs.evolve(entry, failures=1, body=entry.body * 2) if entry.key.endswith("-1") else None
        await probe.one.put_off(entry.key, probe.a, seconds=0, delivery=failed)
    second = await probe.two.waiting(probe.key)
    hold((second.count, second.fresh) == (3, 2), f"of 3, of which one failed, waiting() was {second}")
    hold(
        second.size > first.size, f"a delivery became longer, and waiting() had {second.size} after {first.size} bytes"
    )
    await probe.inbox.complete([each.key for each in stored[:2]], probe.a)
    last = await probe.two.waiting(probe.key)
    hold((last.count, last.fresh) == (1, 1), f"after two of 3 were handled, waiting() was {last}")
    hold(0 < last.size < first.size, f"after two of 3 were handled, waiting() had {last.size} of {first.size} bytes")
    hold((await probe.two.waiting(f"{probe.key}-")).count == 0, "waiting() counted those of another webhook")


@waiting
async def listed(probe: WaitingProbe) -> None:
    """list_waiting() returns pages of all webhooks in order of time, each delivery as it was stored, with its seal"""
    start = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
    stored: list[QuarantinedDelivery] = []
    for number, age in enumerate((3, 1, 2, 2, 5)):
        delivery = make_delivery(f"{probe.key}-{number}", failures=0, at=start + timedelta(microseconds=age))
        odd = attrs.evolve(delivery, body=bytes(range(256)), delivery_id=ODD, event_id=ODD, error=ODD, seal="v1,seal")
        await probe.one.store(odd, webhook_id=None if number % 2 else probe.key)
        stored.append(odd)
    expected = [stored[number] for number in (1, 2, 3, 0, 4)]
    found = await probe.listed()
    hold(found == expected, f"the order was {[entry.key for entry in found]}, or a delivery was changed")
    hold({entry.seal for entry in found} == {"v1,seal"}, "a seal was lost")
    hold(len(await probe.two.list_waiting(limit=1)) == 1, "with a limit of 1, list_waiting() did not return 1")
    await probe.inbox.complete(expected[1].key, probe.a)
    rest = await probe.two.list_waiting(after=expected[1], limit=1000)
    keys = [entry.key for entry in rest if entry.key.startswith(probe.key)]
    hold(keys == [entry.key for entry in expected[2:]], f"the page after the second, which was handled, was {keys}")
    claimed = await probe.due_a()
    hold(len(claimed) == 2, f"of 3 deliveries of the webhook, of which 1 was handled, {len(claimed)} were due, not 2")
    hold({entry.seal for entry in claimed} == {"v1,seal"}, "claim_due() returned a delivery without its seal")


@waiting
async def cancelled(probe: WaitingProbe) -> None:
    """A cancelled call about what waits was carried out completely or not at all, wherever it was cancelled"""
    for number, wait in enumerate(waits):
        probe.key += str(number)
        delivery = probe.make()
        await cancel_after(wait, probe.one.store(delivery, webhook_id=probe.key))
        await probe.two.store(delivery, webhook_id=probe.key)
        await probe.count(1, "after a cancelled and another store()")
        await cancel_after(wait, probe.one.claim_due(probe.key, probe.a, limit=1, lease=LONG))
        await probe.inbox.release(probe.key, probe.a)
        hold(await probe.due_b() == [delivery], "after a cancelled claim_due() and release(), it was not due")
        changed = attrs.evolve(delivery, failures=1)
        await cancel_after(wait, probe.two.put_off(probe.key, probe.b, seconds=_LATER, delivery=changed))
        found = await probe.two.waiting(probe.key)
        again = await probe.two.put_off(probe.key, probe.b, seconds=_LATER, delivery=changed)
        hold(
            again is bool(found.fresh),
            f"after a cancelled put_off(), another was {again}, with {found.fresh} unchanged",
        )
        await probe.claim_a(CLAIMED, "a claim after a cancelled and another put_off()")
        await probe.inbox.complete(probe.key, probe.a)


@waiting
async def not_forgotten(probe: WaitingProbe) -> None:
    """Nothing forgets a delivery that waits, however long it waits and however many are handled meanwhile"""
    stored = await probe.store()
    await probe.due_a()
    await probe.off_a(True, "put_off()", seconds=0.0)
    for day in range(_YEAR if probe.clock is not None else 1):
        if day % _PRUNING == 0:
            for number in range(_PRUNING):
                await probe.inbox.complete(f"{probe.key}-{day}-{number}", probe.b)
        if probe.clock is not None:
            probe.clock.advance(timedelta(hours=23))
    await probe.known(True, "for a key that waits for long")
    hold(await probe.listed() == [stored], "what waits for long was gone")
    hold(await probe.due_b() == [stored], "what waits for long was not due")


@waiting_with_leases
async def lease_of_what_does_not_wait(probe: WaitingProbe) -> None:
    """put_off() of a key that does not wait leaves its lease"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.off_a(False, "put_off() of a claimed key that does not wait", delivery=probe.make())
    await probe.claim_b(BUSY, "a claim after put_off() of a key that does not wait")


@waiting_with_leases
async def died(probe: WaitingProbe) -> None:
    """A delivery whose claim died is due again; its former holder can put it off until another claims it"""
    stored = await probe.store()
    await probe.due_a(lease=SHORT)
    await probe.wait(SHORT * 1.2)
    changed = attrs.evolve(stored, failures=1)
    await probe.off_a(True, "put_off() after the lease had run out", delivery=changed)
    hold(await probe.due_a(lease=SHORT) == [changed], "what was put off late was not due, or not changed")
    await probe.wait(SHORT * 1.2)
    hold(await probe.due_b() == [changed], "a delivery whose claim had died was not due")
    await probe.off_a(False, "put_off() by the former holder", seconds=_LATER)
    hold(await probe.other.complete(probe.key, probe.b) is True, "complete() by the new holder was not True")
    await probe.count(0, "after the new holder's complete()")


@waiting_with_leases
async def stored_while_claimed(probe: WaitingProbe) -> None:
    """A claimed key can be stored: the claim stays, and its complete() ends the wait"""
    await probe.claim_a(CLAIMED, "the first claim")
    hold(await probe.two.store(probe.make(), webhook_id=probe.key) is True, "store() of a claimed key was not True")
    await probe.claim_b(BUSY, "another worker's claim of a claimed key that was stored")
    hold(not await probe.due_b(), "claim_due() had a key that a claim holds")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() of a claimed key that was stored failed")
    await probe.count(0, "after a claimed key was stored and completed")
    probe.key += "-"
    await probe.quarantine_a(acknowledged=False)
    await probe.claim_a(CLAIMED, "a claim of what was set aside")
    hold(
        await probe.two.store(probe.make(), webhook_id=probe.key) is True, "store() of what was set aside was not True"
    )
    hold(not await probe.due_b(), "claim_due() had what a live attempt holds")
    await probe.inbox.release(probe.key, probe.a)
    hold(len(await probe.due_b()) == 1, "what was set aside, stored and released was not due")


@waiting_with_leases
async def walked(probe: WaitingProbe) -> None:
    """Each call about what waits has the right result when workers act on two keys in any order, and some die"""
    await walk(probe, WAITING_ACTIONS)
