"""The promises of an inbox, each a function that checks it: claims, completed keys, failures and the quarantine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import get_args

import attrs

from ..._work.protocol import ClaimStatus, Inbox, Kind
from ._inbox_probe import (
    BUSY,
    CLAIMED,
    DONE,
    LONG,
    ODD,
    SHORT,
    InboxProbe,
    always,
    cancel_after,
    make_delivery,
    waits,
    with_leases,
    without_leases,
)
from ._runner import hold


@always
async def checked(probe: InboxProbe) -> None:
    """check() accepts a storage that works, and changes nothing"""
    await probe.claim_a(CLAIMED, "the first claim")
    for inbox in (probe.inbox, probe.other):
        await inbox.check()
    await probe.claim_b(BUSY, "another worker's claim after check()")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() by the holder was not True after check()")


@always
async def free(probe: InboxProbe) -> None:
    """A free key can be claimed, and then another worker's claim is BUSY"""
    await probe.claim_a(CLAIMED, "the first claim of a key")
    await probe.claim_b(BUSY, "the claim of a second worker")


@always
async def apart(probe: InboxProbe) -> None:
    """Similar keys are independent of each other, up to a length of 400 ASCII characters"""
    long = probe.key.ljust(399, "x")
    alike = [*(probe.key + end for end in ("", " ", "%", "'\";*")), probe.key.upper(), long + "1", long + "2"]
    for number, key in enumerate(alike):
        claim = await probe.inbox.claim(key, f"{probe.a}-{number}", lease=LONG)
        hold(claim.status is CLAIMED, f"a claim of the key {key!r} was {claim.status.name}")
        hold(await probe.inbox.complete(key, f"{probe.a}-{number}"), f"the key {key!r} could not be completed")


@with_leases
async def again(probe: InboxProbe) -> None:
    """The holder's token may claim a key again, and its lease begins anew"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.claim_a(CLAIMED, "the same token's second claim")
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(BUSY, "another worker's claim after the first of two leases had run out")


@always
async def completed(probe: InboxProbe) -> None:
    """A completed key stays completed for all workers, and is recorded once"""
    await probe.claim_a(CLAIMED, "the first claim")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() by the holder was not True")
    await probe.claim_b(DONE, "another worker's claim after that")
    await probe.claim_a(DONE, "the same worker's claim after that")
    hold(await probe.inbox.complete(probe.key, probe.a) is False, "a second complete() was not False")
    hold(await probe.other.complete(probe.key, probe.b) is False, "another's complete() was not False")
    await probe.known(True, "for a completed key")


@always
async def released(probe: InboxProbe) -> None:
    """A released key is free at once, and a second release() changes nothing"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.inbox.release(probe.key, probe.a)
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_b(CLAIMED, "another worker's claim after the release")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_a(BUSY, "a claim after release() by a former holder")


@always
async def not_mine(probe: InboxProbe) -> None:
    """Only the holder can release or complete"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.other.release(probe.key, probe.b)
    await probe.claim_b(BUSY, "a claim after release() by a worker that does not hold the key")
    hold(await probe.other.complete(probe.key, probe.b) is False, "complete() by another was not False")
    await probe.known(False, "after complete() by a worker that does not hold the key")


@always
async def kept(probe: InboxProbe) -> None:
    """release() does not change a completed key"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.inbox.complete(probe.key, probe.a)
    await probe.inbox.release(probe.key, probe.a)
    await probe.known(True, "after a release")
    await probe.claim_b(DONE, "a claim after complete() and release()")


@with_leases
async def crashed(probe: InboxProbe) -> None:
    """After a lease has run out, another worker can claim the key, and the former holder changes nothing"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(CLAIMED, "another worker's claim after the lease ran out")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_a(BUSY, "a claim after the former holder's release()")
    hold(await probe.inbox.complete(probe.key, probe.a) is False, "the former holder's complete() was not False")
    await probe.known(False, "after the former holder's complete()")
    hold(await probe.other.complete(probe.key, probe.b) is True, "complete() by the new holder was not True")


@with_leases
async def late(probe: InboxProbe) -> None:
    """A worker whose lease has run out can still complete the key if no other worker claimed it"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() after the lease had run out was not True")
    await probe.claim_b(DONE, "a claim after that")


@always
async def race(probe: InboxProbe) -> None:
    """If fifty workers claim a key at once, one of them gets it"""
    tokens = [f"{probe.a}-{number}" for number in range(50)]
    inboxes = [probe.inbox, probe.other] * 25

    async def claim(inbox: Inbox, token: str) -> ClaimStatus:
        return (await inbox.claim(probe.key, token, lease=LONG)).status

    found = await asyncio.gather(*map(claim, inboxes, tokens))
    hold(found.count(CLAIMED) == 1, f"{found.count(CLAIMED)} workers got CLAIMED, not 1")
    hold(found.count(BUSY) == 49, f"{found.count(BUSY)} workers got BUSY, not 49")


@always
async def cancelled(probe: InboxProbe) -> None:
    """After a cancelled claim, release() frees the key"""
    for steps in range(4):
        task = asyncio.create_task(probe.inbox.claim(probe.key, probe.a, lease=LONG))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await probe.inbox.release(probe.key, probe.a)
        await probe.claim_b(
            CLAIMED, f"another worker's claim, after one that was cancelled at step {steps} and released,"
        )
        await probe.other.release(probe.key, probe.b)


@always
async def cancelled_anywhere(probe: InboxProbe) -> None:
    """A cancelled call was carried out completely or not at all, wherever it was cancelled"""
    for number, wait in enumerate(waits):
        key, a, b = f"{probe.key}-{number}", f"{probe.a}-{number}", f"{probe.b}-{number}"
        await probe.inbox.claim(key, a, lease=LONG)
        await cancel_after(wait, probe.inbox.complete(key, a))
        await probe.inbox.complete(key, a)
        hold(key in await probe.other.known([key]), "after a cancelled and another complete(), the key was not known")

        key += "-failed"
        await probe.inbox.claim(key, a, lease=LONG)
        await cancel_after(wait, probe.inbox.fail(key, a))
        await probe.inbox.release(key, a)
        claim = await probe.other.claim(key, b, lease=LONG)
        hold(claim.status is CLAIMED, f"after a cancelled fail() and release(), a claim was {claim.status.name}")

        await cancel_after(wait, probe.other.quarantine(key, b, make_delivery(key)))
        await probe.other.release(key, b)
        known, deliveries = await probe.inbox.known([key]), [one for one in await probe.deliveries() if one.key == key]
        hold(
            bool(known) is bool(deliveries),
            f"after a cancelled quarantine(), known() was {known}, with {len(deliveries)} in the quarantine",
        )
        if not deliveries:
            await probe.other.quarantine(key, b, make_delivery(key))
        await cancel_after(wait, probe.inbox.claim_quarantined(key, a, lease=LONG))
        await probe.inbox.release(key, a)
        claim = await probe.other.claim_quarantined(key, b, lease=LONG)
        hold(claim.status is CLAIMED, f"after a cancelled claim_quarantined(), another was {claim.status.name}")
        await probe.other.release(key, b)
        await cancel_after(wait, probe.inbox.drop_quarantined(key))
        await probe.inbox.drop_quarantined(key)
        hold(key in await probe.other.known([key]), "after a cancelled drop_quarantined(), the key was not known")


@without_leases
async def holds_on(probe: InboxProbe) -> None:
    """A claim lasts as long as its worker's inbox is open"""
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.claim_b(BUSY, "another worker's claim")
    close = getattr(probe.inbox, "aclose", None)
    if probe.other is probe.inbox or close is None:
        return
    await close()
    await probe.claim_b(CLAIMED, "another worker's claim after the first one's inbox was closed")


@always
async def failed(probe: InboxProbe) -> None:
    """fail() releases the claim and counts the failure, until the key is completed"""
    for number in (1, 2):
        await probe.claim_a(CLAIMED, "a claim")
        await probe.fail_a(number, f"the failure number {number}")
        await probe.known(False, "after a failure")
    await probe.claim_b(CLAIMED, "another worker's claim after a failure")
    await probe.fail_b(3, "another worker's failure")
    await probe.claim_a(CLAIMED, "a claim after three failures")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_a(CLAIMED, "a claim after a release")
    await probe.fail_a(4, "after a release, the fourth failure")
    await probe.claim_a(CLAIMED, "a claim after four failures")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() after failures was not True")
    await probe.fail_a(0, "a failure of a completed key")
    await probe.claim_b(DONE, "a claim after a failure of a completed key")


@with_leases
async def failed_late(probe: InboxProbe) -> None:
    """fail() by a former holder counts the failure, and the new holder's claim stays"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(CLAIMED, "another worker's claim after the lease expired")
    await probe.fail_a(1, "the late worker's failure")
    await probe.claim_a(BUSY, "a claim after the late worker's failure")
    await probe.fail_b(2, "the failure of the worker that took over")


@always
async def quarantined(probe: InboxProbe) -> None:
    """A quarantined key counts as handled, and all workers can read its delivery unchanged"""
    await probe.claim_a(CLAIMED, "the first claim")
    delivery = await probe.quarantine_a()
    await probe.claim_b(DONE, "a claim of a key in the quarantine")
    await probe.known(True, "for a key in the quarantine")
    hold(await probe.deliveries() == [delivery], "the quarantined delivery was not the one that was stored")
    again = await probe.inbox.quarantine(probe.key, probe.a, make_delivery(probe.key, failures=9))
    hold(again is False, "a second quarantine() was not False")
    await probe.fail_b(0, "a failure of a key in the quarantine")
    hold(await probe.deliveries() == [delivery], "a worker that does not hold the key changed the quarantined delivery")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() of a key in the quarantine was not True")
    hold(not await probe.deliveries(), "a delivery that was handled after all was still in the quarantine")


@always
async def quarantined_by_another(probe: InboxProbe) -> None:
    """Only the holder can quarantine a key, and a completed key cannot be quarantined"""
    await probe.claim_a(CLAIMED, "the first claim")
    taken = await probe.other.quarantine(probe.key, probe.b, make_delivery(probe.key))
    hold(taken is False, "quarantine() by another was not False")
    hold(not await probe.deliveries(), "quarantine() by another stored something")
    await probe.inbox.complete(probe.key, probe.a)
    taken = await probe.inbox.quarantine(probe.key, probe.a, make_delivery(probe.key))
    hold(taken is False, "quarantine() of a completed key was not False")
    hold(not await probe.deliveries(), "quarantine() of a completed key stored something")


@always
async def retried(probe: InboxProbe) -> None:
    """One worker at a time can claim a quarantined key for a retry, and complete() removes it from the quarantine"""
    await probe.retry_a(DONE, "claim_quarantined() of a key that is not in the quarantine")
    await probe.claim_a(CLAIMED, "the first claim")
    delivery = await probe.quarantine_a()
    await probe.retry_a(CLAIMED, "claim_quarantined()")
    await probe.retry_b(BUSY, "another's claim_quarantined()")
    await probe.claim_b(DONE, "a claim during a retry")
    hold(await probe.deliveries() == [delivery], "the quarantined delivery was gone before complete()")
    hold(await probe.other.complete(probe.key, probe.b) is False, "another's complete() was not False")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() by the holder was not True")
    hold(not await probe.deliveries(), "the delivery was still in the quarantine after complete()")
    await probe.known(True, "after complete()")
    await probe.claim_b(DONE, "a claim after complete()")


@always
async def retry_given_back(probe: InboxProbe) -> None:
    """After a retry that was released or failed, the quarantined delivery is unchanged"""
    await probe.claim_a(CLAIMED, "the first claim")
    delivery = await probe.quarantine_a()
    for end in ("release", "fail"):
        await probe.retry_a(CLAIMED, "claim_quarantined()")
        if end == "release":
            await probe.inbox.release(probe.key, probe.a)
        else:
            await probe.fail_a(4, "after 3 failures, the failure of a retry")
        hold(await probe.deliveries() == [delivery], f"the quarantine was empty after a retry that ended by {end}")
        await probe.claim_b(DONE, f"a claim after a retry that ended by {end}")
    await probe.retry_b(CLAIMED, "another's retry after that")
    newer = attrs.evolve(delivery, failures=5, error="ValueError: again")
    hold(await probe.other.quarantine(probe.key, probe.b, newer) is True, "quarantine() after a retry was not True")
    hold(await probe.deliveries() == [newer], "the new quarantined delivery did not replace the old one")


@with_leases
async def retry_abandoned(probe: InboxProbe) -> None:
    """After a retry whose lease expired, the quarantined delivery is unchanged"""
    await probe.claim_a(CLAIMED, "the first claim")
    delivery = await probe.quarantine_a()
    await probe.inbox.claim_quarantined(probe.key, probe.a, lease=SHORT)
    await probe.wait(SHORT * 1.2)
    hold(await probe.deliveries() == [delivery], "after the lease had expired, the quarantined delivery was gone")
    await probe.claim_b(DONE, "a claim after that")
    await probe.retry_b(CLAIMED, "another's retry after that")


@always
async def dropped(probe: InboxProbe) -> None:
    """drop_quarantined() removes a quarantined delivery, and its key stays handled"""
    dropped = await probe.inbox.drop_quarantined(probe.key)
    hold(dropped is False, f"drop_quarantined() of a key that is not in the quarantine was {dropped}, not False")
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.quarantine_a()
    hold(await probe.other.drop_quarantined(probe.key) is True, "drop_quarantined() was not True")
    hold(not await probe.deliveries(), "the delivery was still in the quarantine")
    await probe.claim_b(DONE, "a claim after that")


@always
async def paged(probe: InboxProbe) -> None:
    """quarantined() returns pages in order of time, even if earlier deliveries were dropped"""
    start = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
    ages = [3, 1, 2, 2, 5, 4]
    for number, age in enumerate(ages):
        key, token = f"{probe.key}-{number}", f"{probe.a}-{number}"
        await probe.inbox.claim(key, token, lease=LONG)
        await probe.inbox.quarantine(key, token, make_delivery(key, at=start + timedelta(microseconds=age)))
    expected = [f"{probe.key}-{number}" for number in (1, 2, 3, 0, 5, 4)]
    deliveries = await probe.deliveries()
    found = [delivery.key for delivery in deliveries]
    hold(found == expected, f"the order was {found}, not {expected}")
    page = await probe.inbox.quarantined(limit=1)
    hold(len(page) == 1, f"with a limit of 1, quarantined() returned {len(page)}")
    await probe.inbox.drop_quarantined(expected[1])
    rest = await probe.inbox.quarantined(after=deliveries[1], limit=1000)
    found = [delivery.key for delivery in rest if delivery.key.startswith(probe.key)]
    hold(found == expected[2:], f"the page after the second delivery, which was dropped, was {found}")


@always
async def odd_deliveries(probe: InboxProbe) -> None:
    """A quarantined delivery may contain any bytes and any text"""
    await probe.claim_a(CLAIMED, "the first claim")
    odd = attrs.evolve(make_delivery(probe.key), body=bytes(range(256)), delivery_id=ODD, event_id=ODD, error=ODD)
    for kind in get_args(Kind):
        for delivery in (attrs.evolve(odd, kind=kind, acknowledged=acknowledged) for acknowledged in (False, True)):
            await probe.inbox.quarantine(probe.key, probe.a, delivery)
            found = await probe.deliveries()
            hold(found == [delivery], f"the quarantine had {found!a}, not {delivery!a}")
            await probe.retry_a(CLAIMED, "claim_quarantined() of an odd delivery")
