"""The promises about failures and the quarantine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs

from ._inbox_probe import BUSY, CLAIMED, DONE, LONG, ODD, SHORT, Probe, make_letter
from ._runner import hold


async def failed(probe: Probe) -> None:
    """A failure gives the claim back and is counted, until the key is completed"""
    for number in (1, 2):
        await probe.claim_a(CLAIMED, "a claim")
        failures = await probe.inbox.fail(probe.key, probe.a)
        hold(failures == number, f"the failure number {number} was counted as {failures}")
        await probe.seen(False, "after a failure")
    await probe.claim_b(CLAIMED, "another worker's claim after a failure")
    failures = await probe.other.fail(probe.key, probe.b)
    hold(failures == 3, f"another worker's failure was counted as {failures}, not 3")
    await probe.claim_a(CLAIMED, "a claim after three failures")
    await probe.inbox.release(probe.key, probe.a)
    await probe.claim_a(CLAIMED, "a claim after a release")
    failures = await probe.inbox.fail(probe.key, probe.a)
    hold(failures == 4, f"after a release, the fourth failure was counted as {failures}")
    await probe.claim_a(CLAIMED, "a claim after four failures")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() after failures was not True")
    failures = await probe.inbox.fail(probe.key, probe.a)
    hold(failures == 0, f"a failure of a completed key was counted as {failures}, not 0")
    await probe.claim_b(DONE, "a claim after a failure of a completed key")


async def failed_late(probe: Probe) -> None:
    """A failure is counted, and another worker's claim stays, where the token holds the key no more"""
    await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
    await probe.wait(SHORT * 1.2)
    await probe.claim_b(CLAIMED, "another worker's claim after the lease expired")
    failures = await probe.inbox.fail(probe.key, probe.a)
    hold(failures == 1, f"the late worker's failure was counted as {failures}, not 1")
    await probe.claim_a(BUSY, "a claim after the late worker's failure")
    failures = await probe.other.fail(probe.key, probe.b)
    hold(failures == 2, f"the failure of the worker that took over was counted as {failures}, not 2")


async def quarantined(probe: Probe) -> None:
    """What is in the quarantine counts as handled, and its letter can be read, whole, by everybody"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    await probe.claim_b(DONE, "a claim of a key in the quarantine")
    await probe.seen(True, "for a key in the quarantine")
    hold(await probe.letters() == [letter], "the letter was not what was stored")
    again = await probe.inbox.quarantine(probe.key, probe.a, make_letter(probe.key, failures=9))
    hold(again is False, "a second quarantine() was not False")
    hold(await probe.inbox.complete(probe.key, probe.a) is False, "complete() in the quarantine was not False")
    failures = await probe.other.fail(probe.key, probe.b)
    hold(failures == 0, f"a failure of a key in the quarantine was counted as {failures}, not 0")
    hold(await probe.letters() == [letter], "the letter was changed by a worker that does not hold it")


async def quarantined_by_another(probe: Probe) -> None:
    """Only the holder can quarantine, and nothing that was completed can be"""
    await probe.claim_a(CLAIMED, "the first claim")
    taken = await probe.other.quarantine(probe.key, probe.b, make_letter(probe.key))
    hold(taken is False, "quarantine() by another was not False")
    hold(not await probe.letters(), "quarantine() by another stored a letter")
    await probe.inbox.complete(probe.key, probe.a)
    taken = await probe.inbox.quarantine(probe.key, probe.a, make_letter(probe.key))
    hold(taken is False, "quarantine() of a completed key was not False")
    hold(not await probe.letters(), "quarantine() of a completed key stored a letter")


async def retried(probe: Probe) -> None:
    """A key in the quarantine can be claimed to handle it again, by one worker, and complete() removes its letter"""
    claim = await probe.inbox.claim_quarantined(probe.key, probe.a, lease=LONG)
    hold(claim.status is DONE, f"claim_quarantined() of a key without a letter was {claim.status.name}, not DONE")
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    claim = await probe.inbox.claim_quarantined(probe.key, probe.a, lease=LONG)
    hold(claim.status is CLAIMED, f"claim_quarantined() was {claim.status.name}, not CLAIMED")
    claim = await probe.other.claim_quarantined(probe.key, probe.b, lease=LONG)
    hold(claim.status is BUSY, f"another's claim_quarantined() was {claim.status.name}, not BUSY")
    hold(0 < claim.retry_after <= LONG, f"retry_after was {claim.retry_after}, with a lease of {LONG:g} s")
    await probe.claim_b(DONE, "a claim during a retry")
    hold(await probe.letters() == [letter], "the letter was gone before complete()")
    hold(await probe.other.complete(probe.key, probe.b) is False, "another's complete() was not False")
    hold(await probe.inbox.complete(probe.key, probe.a) is True, "complete() by the holder was not True")
    hold(not await probe.letters(), "the letter was still there after complete()")
    await probe.seen(True, "after complete()")
    await probe.claim_b(DONE, "a claim after complete()")


async def retry_given_back(probe: Probe) -> None:
    """After a retry that was released or failed, the key is in the quarantine as before"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    for end in ("release", "fail"):
        claim = await probe.inbox.claim_quarantined(probe.key, probe.a, lease=LONG)
        hold(claim.status is CLAIMED, f"claim_quarantined() was {claim.status.name}, not CLAIMED")
        if end == "release":
            await probe.inbox.release(probe.key, probe.a)
        else:
            failures = await probe.inbox.fail(probe.key, probe.a)
            hold(failures == 4, f"after 3 failures, that of a retry was counted as {failures}")
        hold(await probe.letters() == [letter], f"the letter was gone after a retry that ended by {end}")
        await probe.claim_b(DONE, f"a claim after a retry that ended by {end}")
    claim = await probe.other.claim_quarantined(probe.key, probe.b, lease=LONG)
    hold(claim.status is CLAIMED, f"another's retry after that was {claim.status.name}, not CLAIMED")
    newer = attrs.evolve(letter, failures=5, error="ValueError: again")
    hold(await probe.other.quarantine(probe.key, probe.b, newer) is True, "quarantine() after a retry was not True")
    hold(await probe.letters() == [newer], "the new letter did not replace the old one")


async def retry_abandoned(probe: Probe) -> None:
    """After a retry whose lease expired, the key is in the quarantine as before"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = await probe.quarantine_a()
    await probe.inbox.claim_quarantined(probe.key, probe.a, lease=SHORT)
    await probe.wait(SHORT * 1.2)
    hold(await probe.letters() == [letter], "the letter was gone")
    await probe.claim_b(DONE, "a claim after that")
    claim = await probe.other.claim_quarantined(probe.key, probe.b, lease=LONG)
    hold(claim.status is CLAIMED, f"another's retry after that was {claim.status.name}, not CLAIMED")


async def dropped(probe: Probe) -> None:
    """A letter that is dropped is gone, and its key stays handled"""
    dropped = await probe.inbox.drop_quarantined(probe.key)
    hold(dropped is False, f"drop_quarantined() of a key without a letter was {dropped}, not False")
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.quarantine_a()
    hold(await probe.other.drop_quarantined(probe.key) is True, "drop_quarantined() was not True")
    hold(not await probe.letters(), "the letter was still there")
    await probe.claim_b(DONE, "a claim after that")


async def paged(probe: Probe) -> None:
    """Letters come by the time they were set aside, page by page, though earlier ones are gone"""
    start = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
    ages = [3, 1, 2, 2, 5, 4]
    for number, age in enumerate(ages):
        key, token = f"{probe.key}-{number}", f"{probe.a}-{number}"
        await probe.inbox.claim(key, token, lease=LONG)
        await probe.inbox.quarantine(key, token, make_letter(key, at=start + timedelta(microseconds=age)))
    expected = [f"{probe.key}-{number}" for number in (1, 2, 3, 0, 5, 4)]
    letters = await probe.letters()
    found = [letter.key for letter in letters]
    hold(found == expected, f"the order was {found}, not {expected}")
    page = await probe.inbox.quarantined(limit=1)
    hold(len(page) == 1, f"with a limit of 1 there were {len(page)}")
    await probe.inbox.drop_quarantined(expected[1])
    rest = await probe.inbox.quarantined(after=letters[1], limit=1000)
    found = [letter.key for letter in rest if letter.key.startswith(probe.key)]
    hold(found == expected[2:], f"after the second, which was dropped, they were {found}")


async def odd_letters(probe: Probe) -> None:
    """A letter may hold any bytes and any text"""
    await probe.claim_a(CLAIMED, "the first claim")
    letter = attrs.evolve(make_letter(probe.key), body=bytes(range(256)), delivery_id=ODD, event_id=ODD, error=ODD)
    await probe.inbox.quarantine(probe.key, probe.a, letter)
    found = await probe.letters()
    hold(found == [letter], f"it was {found!a}")
