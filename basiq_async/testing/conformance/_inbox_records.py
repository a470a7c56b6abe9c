"""The promises of an inbox about many keys at once, about notes, and about what a job set aside."""

from __future__ import annotations

import attrs

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
)
from ._runner import hold

_MANY = 10_000
_AT_ONCE = 500
_NOTE = 64 * 1024


@always
async def known(probe: InboxProbe) -> None:
    """known() has what was handled or set aside, of 0, 1 and 10,000 keys, but not what was claimed or released"""
    for what in ("that nobody knows", "that is only claimed", "that was released", "that failed"):
        if what == "that is only claimed":
            await probe.claim_a(CLAIMED, "a claim after known()")
        elif what == "that was released":
            await probe.inbox.release(probe.key, probe.a)
        elif what == "that failed":
            await probe.claim_a(CLAIMED, "a claim after a release")
            await probe.fail_a(1, "the first failure")
        await probe.known(False, f"for a key {what}")
    keys = [f"{probe.key}-{number}" for number in range(_MANY)]
    expected = set(keys[::100])
    hold(await probe.inbox.complete(sorted(expected), probe.a) is True, "complete() of many free keys was not True")
    for key, acknowledged in ((keys[1], True), (keys[2], False)):
        await probe.inbox.quarantine(key, probe.a, make_delivery(key, acknowledged=acknowledged))
        expected.add(key)
    for asked in ([], keys[:1], keys[1:2], keys[2:3], keys[3:4], [*reversed(keys), *keys[:10]]):
        found = await probe.other.known(asked)
        hold(
            set(found) == expected.intersection(asked),
            f"of {len(asked)} keys, known() had {len(set(found))}, not {len(expected.intersection(asked))}",
        )


@always
async def noted(probe: InboxProbe) -> None:
    """A note is kept for all workers until another one takes its place, whatever its name and text, up to 64 kB"""
    name = f"{probe.key} {ODD}"
    hold(await probe.inbox.note(name) is None, "a note that nobody stored was not None")
    await probe.inbox.set_note(f"{name}-2", "another")
    for text in ("first", "", ODD, "ü" * _NOTE, '{"json": [1, null]}'):
        await probe.inbox.set_note(name, text)
        for inbox in (probe.inbox, probe.other):
            found = await inbox.note(name)
            hold(found == text, f"a note of {len(text)} characters was {None if found is None else found[:80]!a}")
    hold(await probe.other.note(f"{name}-2") == "another", "a note was changed by one of another name")


@always
async def completed_together(probe: InboxProbe) -> None:
    """complete() of many keys records each that is free or its own, and leaves what another holds or has handled"""
    names = ("free", "own", "another's", "handled", "set aside", "acknowledged")
    free, own, others, handled, aside, acknowledged = keys = [f"{probe.key}-{name}" for name in names]
    await probe.inbox.claim(own, probe.a, lease=LONG)
    await probe.other.claim(others, probe.b, lease=LONG)
    await probe.other.complete(handled, probe.b)
    await probe.inbox.quarantine(aside, probe.b, make_delivery(aside, acknowledged=False))
    await probe.inbox.quarantine(acknowledged, probe.b, make_delivery(acknowledged))
    hold(await probe.inbox.complete([*keys, free], probe.a) is False, "complete() of many was True, though not for all")
    found = set(await probe.other.known(keys))
    hold(found == set(keys) - {others}, f"of {', '.join(names)} keys, complete() recorded {sorted(found)}")
    hold(not await probe.deliveries(), "what complete() of many recorded was still in the quarantine")
    claim = await probe.inbox.claim(own, probe.a, lease=LONG)
    hold(claim.status is DONE, f"a claim of a key that was completed with others was {claim.status.name}, not DONE")
    hold(await probe.other.complete(others, probe.b) is True, "complete() of many ended another worker's claim")
    more = [f"{probe.key}-more-{number}" for number in range(2 * _AT_ONCE + 1)]
    hold(await probe.inbox.complete([*more, more[0]], probe.a) is True, "complete() of 1,001 free keys was not True")
    hold(len(set(await probe.other.known(more))) == len(more), "not all of 1,001 completed keys were known")
    hold(await probe.inbox.complete([], probe.a) is True, "complete() of no keys was not True")


@always
async def cancelled_together(probe: InboxProbe) -> None:
    """A cancelled complete() of many recorded all or none, and after a cancelled set_note() the note is old or new"""
    note = f"{probe.key}-note"
    await probe.inbox.set_note(note, "old")
    for number, wait in enumerate(waits):
        keys = [f"{probe.key}-{number}-{each}" for each in range(_AT_ONCE)]
        await cancel_after(wait, probe.inbox.complete(keys, f"{probe.a}-{number}"))
        found = len(set(await probe.other.known(keys)))
        hold(found in (0, _AT_ONCE), f"a cancelled complete() recorded {found} of {_AT_ONCE} keys")
        await cancel_after(wait, probe.inbox.known(keys))
        await cancel_after(wait, probe.inbox.set_note(note, "new"))
        text = await probe.other.note(note)
        hold(text in ("old", "new"), f"after a cancelled set_note(), the note was {text!r}")


@always
async def set_aside(probe: InboxProbe) -> None:
    """What was set aside and not acknowledged can be claimed, and stays in the quarantine until it is completed"""
    delivery = await probe.quarantine_a(acknowledged=False)
    for end in ("release", "fail"):
        await probe.known(True, "for a key that was set aside")
        await probe.claim_b(CLAIMED, "a claim of a key that was set aside, and not acknowledged,")
        hold(await probe.deliveries() == [delivery], "a claim changed what was set aside")
        if end == "release":
            await probe.other.release(probe.key, probe.b)
        else:
            await probe.fail_b(1, "after the 3 failures of a job, the first failure of an attempt")
        hold(await probe.deliveries() == [delivery], f"what was set aside was changed by a claim that ended by {end}")
    await probe.claim_b(CLAIMED, "a claim after a failure")
    hold(await probe.other.complete(probe.key, probe.b) is True, "complete() of what was set aside was not True")
    hold(not await probe.deliveries(), "what was handled was still in the quarantine")
    await probe.claim_a(DONE, "a claim of what was set aside, and then handled,")


@always
async def set_aside_held(probe: InboxProbe) -> None:
    """Of what was set aside, either a live attempt or a retry is under way: the other is BUSY"""
    await probe.quarantine_a(acknowledged=False)
    await probe.claim_a(CLAIMED, "a claim of what was set aside")
    await probe.retry_b(BUSY, "claim_quarantined() during a live attempt")
    hold(await probe.other.complete(probe.key, probe.b) is False, "another's complete() was not False")
    await probe.inbox.release(probe.key, probe.a)
    await probe.retry_b(CLAIMED, "claim_quarantined() after the live attempt")
    await probe.claim_a(BUSY, "a claim during a retry of what was set aside")
    taken = await probe.inbox.quarantine(probe.key, probe.a, make_delivery(probe.key, acknowledged=False))
    hold(taken is False, "quarantine() during another's retry was not False")
    hold(await probe.other.complete(probe.key, probe.b) is True, "complete() of a retry was not True")
    hold(not await probe.deliveries(), "what a retry handled was still in the quarantine")


@always
async def set_aside_again(probe: InboxProbe) -> None:
    """A later quarantine() replaces what was set aside, and one that is acknowledged ends the attempts"""
    await probe.quarantine_a(acknowledged=False)
    newer = attrs.evolve(make_delivery(probe.key, acknowledged=False), kind="event", error="ValueError: again")
    hold(await probe.other.quarantine(probe.key, probe.b, newer) is True, "quarantine() of what was set aside failed")
    hold(await probe.deliveries() == [newer], "quarantine() did not replace what was set aside")
    await probe.claim_a(CLAIMED, "a claim of what was set aside twice")
    last = await probe.quarantine_a(failures=5)
    hold(await probe.deliveries() == [last], "an acknowledged delivery did not replace what was set aside")
    await probe.claim_b(DONE, "a claim of what was set aside, and then acknowledged,")
    hold(await probe.inbox.drop_quarantined(probe.key) is True, "drop_quarantined() was not True")


@with_leases
async def set_aside_late(probe: InboxProbe) -> None:
    """A worker whose lease ran out can complete what was set aside meanwhile, and it leaves the quarantine"""
    for acknowledged in (False, True):
        probe.key += "-"
        await probe.claim_a(CLAIMED, "the first claim", lease=SHORT)
        await probe.wait(SHORT * 1.2)
        await probe.other.quarantine(probe.key, probe.b, make_delivery(probe.key, acknowledged=acknowledged))
        hold(await probe.inbox.complete(probe.key, probe.a) is True, "a late complete() was not True")
        hold(not await probe.deliveries(), "what a late worker handled was still in the quarantine")
        await probe.claim_b(DONE, "a claim after a late complete()")
