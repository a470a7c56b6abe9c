"""The promises of an inbox about what it remembers, for how long, and since when, each a function that checks it."""

from __future__ import annotations

from datetime import datetime, timedelta

from ..fake._clock import ManualClock
from ._inbox_probe import CLAIMED, DONE, SHORT, InboxProbe, MakeInbox, always, made, make_delivery
from ._runner import hold

_RESENT = 28
"""Hours: longer than Basiq sends a message again, which is 27 h 35 min."""
_LONGEST = 100 * 24
"""Hours: an inbox that remembers for longer is asked no more."""
_STEP = 6
_OTHERS = 100
_ALIKE = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_OLDEST = timedelta(days=3650)


@always
async def remembers(probe: InboxProbe) -> None:
    """A handled key is remembered while Basiq may send its message again, and for as long as known_since() says"""
    quarantined_key = f"{probe.key}-quarantined"
    delivery = make_delivery(quarantined_key, at=probe.now())
    await probe.inbox.quarantine(quarantined_key, probe.a, delivery)
    await probe.wait(SHORT)
    await probe.claim_a(CLAIMED, "the first claim")
    await probe.inbox.complete(probe.key, probe.a)
    handled = probe.now()
    for number in range(_OTHERS):
        await probe.inbox.complete(f"{probe.key}-{number}", probe.a)
    await probe.claim_b(DONE, f"a claim of a key after which {_OTHERS} others were handled")
    if probe.clock is None:
        return
    for hours in range(_STEP, _LONGEST, _STEP):
        probe.clock.advance(timedelta(hours=_STEP))
        since = await probe.inbox.known_since()
        if not await probe.other.known([probe.key]):
            hold(
                hours > _RESENT,
                f"a key was forgotten {hours} hours after it was handled; Basiq sends again for 27 h 35 min",
            )
            hold(since >= handled, f"a key that was handled at {handled} was forgotten, and known_since() was {since}")
            break
        await probe.claim_b(DONE, f"a claim of a key that known() has, {hours} hours after it was handled,")
    hold(await probe.deliveries() == [delivery], "a quarantined delivery was gone, though nobody handled or dropped it")


@always
async def knows_since(probe: InboxProbe) -> None:
    """known_since() is a time since which there can have been an inbox, and stays where it is"""
    first, other = await probe.inbox.known_since(), await probe.other.known_since()
    hold(first.tzinfo is not None, f"known_since() was {first}, without a time zone")
    hold(abs(other - first) < timedelta(hours=1), f"one worker's known_since() was {first}, the other's {other}")
    hold(first > probe.now() - _OLDEST, f"known_since() was {first}, when no inbox can have existed")
    await probe.inbox.complete(probe.key, probe.a)
    began = await _wait(probe)
    again = await probe.inbox.known_since()
    hold(first <= again, f"known_since() was {first}, and later {again}, which is earlier")
    hold(
        _stayed(first, again, began),
        f"known_since() moved from {first} to {again}, though the inbox remembers what was handled in between",
    )


async def known_since_opened(make_inbox: MakeInbox, clock: ManualClock | None) -> None:
    """known_since() is when the storage was first used, not earlier, and not when the inbox was opened"""
    async with made(make_inbox) as inbox:
        probe = InboxProbe(inbox, inbox, clock)
        first = await inbox.known_since()
        await inbox.complete(probe.key, probe.a)
    began = await _wait(probe)
    async with made(make_inbox) as inbox:
        again = await inbox.known_since()
        if await inbox.known([probe.key]):
            hold(
                _stayed(first, again, began),
                f"known_since() moved from {first} to {again} when the inbox was opened again, though it remembers "
                "what was handled in between",
            )
        else:  # each inbox has a new storage
            skew = timedelta(minutes=1) if clock is None else timedelta()
            hold(again >= began - skew, f"known_since() of an inbox that was made at {began} was {again}")


async def _wait(probe: InboxProbe) -> datetime:
    """Wait a moment, or an hour on the inbox's own clock. Return the time after that."""
    await probe.wait(SHORT if probe.clock is None else 3600)
    return probe.now()


def _stayed(first: datetime, again: datetime, now: datetime) -> bool:
    """Return whether a later ``known_since`` is the same. It may move if the inbox forgets what is older than a day."""
    return again - first < _ALIKE or again < now - _DAY
