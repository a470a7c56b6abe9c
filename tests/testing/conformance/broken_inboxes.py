"""Inboxes that break one promise each, and what the suite finds."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

import attrs

from basiq_async import InboxError
from basiq_async.receiver import MemoryInbox, QuarantinedDelivery
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.testing import BrokenPromisesError, ManualClock, check_inbox

CLAIMED, BUSY = ClaimStatus.CLAIMED, ClaimStatus.BUSY


class Broken(MemoryInbox):
    """Each subclass breaks one promise."""


class IsNeverReady(Broken):
    async def check(self) -> None:
        raise InboxError("away")


class BusyIsNeverTold(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        claim = await super().claim(key, token, lease=lease)
        return Claim(CLAIMED) if claim.status is BUSY else claim


class NoRetryAfter(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return Claim((await super().claim(key, token, lease=lease)).status)


class CutsKeys(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key[:255], token, lease=lease)

    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        return await super().complete(key[:255] if isinstance(key, str) else key, token)


class IgnoresCase(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key.lower(), token, lease=lease)


class LocksItselfOut(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key, token + str(id(object())) + str(len(self._claims)), lease=lease)


class KeepsTheFirstLease(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        before = dict(self._claims)
        claim = await super().claim(key, token, lease=lease)
        self._claims.update({key: held for key, held in before.items() if held.token == token})
        return claim


class Forgets(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        for each in [key] if isinstance(key, str) else key:
            await self.release(each, token)
        return True


class CompletesTwice(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        await super().complete(key, token)
        return True


class KnowsTheFirstOfMany(Broken):
    async def known(self, keys: Sequence[str]) -> Collection[str]:
        return await super().known(keys[:500])


class KnowsNotWhatAJobSetAside(Broken):
    async def known(self, keys: Sequence[str]) -> Collection[str]:
        return {key for key in await super().known(keys) if self._is_done(key)}


class NotesAreShort(Broken):
    async def set_note(self, name: str, text: str) -> None:
        await super().set_note(name, text[:65_535])


class NotesStay(Broken):
    async def set_note(self, name: str, text: str) -> None:
        self._notes.setdefault(name, text)


class CompletesAllOrNone(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        keys = [key] if isinstance(key, str) else key
        if not all(self._may_record(each, token, even_if_acknowledged=True) for each in keys):
            return False
        return await super().complete(key, token)


class CompletesOneAfterTheOther(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        if isinstance(key, str):
            return await super().complete(key, token)
        recorded = []
        for each in set(key):
            recorded.append(await super().complete(each, token))
            await asyncio.sleep(0)
        return all(recorded)


class CompletesWhatOthersHold(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        if not isinstance(key, str):
            for each in key:
                self._claims.pop(each, None)
        return await super().complete(key, token)


class WhatAJobSetAsideIsDone(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return Claim(ClaimStatus.DONE) if key in self._quarantined else await super().claim(key, token, lease=lease)


class AnAttemptTakesOutWhatAJobSetAside(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        claim = await super().claim(key, token, lease=lease)
        if claim.status is CLAIMED:
            self._quarantined.pop(key, None)
        return claim


class AFailedAttemptCountsTheJobsFailures(Broken):
    async def fail(self, key: str, token: str) -> int:
        delivery = self._quarantined.get(key)
        return await super().fail(key, token) + (0 if delivery is None or delivery.acknowledged else delivery.failures)


class RetriesDuringAnAttempt(Broken):
    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        delivery = self._quarantined.get(key)
        if delivery is not None and not delivery.acknowledged:
            self._claims.pop(key, None)
        return await super().claim_quarantined(key, token, lease=lease)


class WhatAJobSetAsideStaysAsItIs(Broken):
    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        before = self._quarantined.get(key)
        if before is not None and not before.acknowledged:
            return False
        return await super().quarantine(key, token, delivery)


class ALateWorkerLeavesTheQuarantine(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        delivery = self._quarantined.get(key) if isinstance(key, str) else None
        recorded = await super().complete(key, token)
        if delivery is not None and not delivery.acknowledged:
            self._quarantined[delivery.key] = delivery
        return recorded


class SeesClaims(Broken):
    async def known(self, keys: Sequence[str]) -> Collection[str]:
        return self._claims.keys() & set(keys) or await super().known(keys)


class NeverReleases(Broken):
    async def release(self, key: str, token: str) -> None:
        return None


class ReleasesAnybodys(Broken):
    async def release(self, key: str, token: str) -> None:
        self._claims.clear()


class ReleaseUndoes(Broken):
    async def release(self, key: str, token: str) -> None:
        await super().release(key, token)
        self._done.clear()


class EndlessLease(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return await super().claim(key, token, lease=1e9)


class CompletesForAnybody(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        self._claims.clear()
        return await super().complete(key, token)


class TooLateIsTooLate(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        held = any(held.token == token and held.ends > self._lease_clock() for held in self._claims.values())
        return held and await super().complete(key, token)


class NotAtomic(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        free = not self._claims
        await asyncio.sleep(0)
        if free:
            self._claims.clear()
        return await super().claim(key, token, lease=lease)


class NeverCounts(Broken):
    async def fail(self, key: str, token: str) -> int:
        await self.release(key, token)
        return 1


class KeepsTheFailedClaim(Broken):
    async def fail(self, key: str, token: str) -> int:
        held = self._claims.get(key)
        failures = await super().fail(key, token)
        if held is not None:
            self._claims[key] = held
        return failures


class ALateFailureFreesTheSuccessor(Broken):
    async def fail(self, key: str, token: str) -> int:
        failures = await super().fail(key, token)
        self._claims.pop(key, None)
        return failures


class QuarantineIsForgotten(Broken):
    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        return await self.complete(key, token)


class QuarantineIsOpen(Broken):
    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        recorded = await super().quarantine(key, token, delivery)
        self._done.clear()
        return recorded

    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        quarantined, self._quarantined = self._quarantined, {}
        claim = await super().claim(key, token, lease=lease)
        self._quarantined = quarantined
        return claim


class AnybodyQuarantines(Broken):
    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        self._quarantined[key] = delivery
        return True


class RetriesTwice(Broken):
    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        self._claims.pop(key, None)
        return await super().claim_quarantined(key, token, lease=lease)


class ARetryRemovesTheDelivery(Broken):
    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        claim = await super().claim_quarantined(key, token, lease=lease)
        if claim.status is CLAIMED:
            del self._quarantined[key]
        return claim


class AFailedRetryLosesTheDelivery(Broken):
    async def fail(self, key: str, token: str) -> int:
        failures = await super().fail(key, token)
        self._quarantined.pop(key, None)
        return failures


class ADroppedKeyIsFree(Broken):
    async def drop_quarantined(self, key: str) -> bool:
        dropped = await super().drop_quarantined(key)
        self._done.clear()
        return dropped


class NeverDrops(Broken):
    async def drop_quarantined(self, key: str) -> bool:
        return False


class PagesFromTheStart(Broken):
    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        return [] if after is not None else await super().quarantined(limit=limit)


class NoLimit(Broken):
    async def quarantined(
        self, *, after: QuarantinedDelivery | None = None, limit: int = 100
    ) -> Sequence[QuarantinedDelivery]:
        return await super().quarantined(after=after, limit=1000)


class BodiesAreText(Broken):
    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        delivery = attrs.evolve(delivery, body=delivery.body.decode(errors="ignore").encode())
        return await super().quarantine(key, token, delivery)


class KnowsNothingOfTimeZones(Broken):
    async def known_since(self) -> datetime:
        return (await super().known_since()).replace(tzinfo=None)


class ForgetsAfterADay(Broken):
    def __init__(self, *, clock: ManualClock) -> None:
        super().__init__(clock=clock, remember=timedelta(hours=24))


class ForgetsTheOldestOfAFew(Broken):
    def __init__(self, *, clock: ManualClock) -> None:
        super().__init__(clock=clock, max_entries=50)


class ForgetsWithTheLease(Broken):
    """As ``SET key done KEEPTTL`` does in Redis."""

    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        held = self._claims.get(key) if isinstance(key, str) else None
        recorded = await super().complete(key, token)
        if recorded and held is not None and isinstance(key, str):
            self._done[key] += held.ends - self._lease_clock() - self._remember
        return recorded


class KnowsSinceItBeganThoughItForgets(Broken):
    async def known_since(self) -> datetime:
        return datetime.fromtimestamp(self._known_since, UTC)


class KnowsSinceNow(Broken):
    async def known_since(self) -> datetime:
        return datetime.fromtimestamp(self._retention.read()[0], UTC)


class KnowsSinceEver(Broken):
    async def known_since(self) -> datetime:
        return datetime.fromtimestamp(0, UTC)


class KnewBeforeItBegan(Broken):
    async def known_since(self) -> datetime:
        return await super().known_since() - timedelta(days=365)


class Hangs(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        raise TimeoutError


@cache
def check(broken: type[Broken], *, leases: bool = True) -> dict[str, str]:
    """What the suite finds, on the inbox's own clock, which waits for nothing."""
    clock = ManualClock()
    try:
        asyncio.run(check_inbox(lambda: broken(clock=clock), clock=clock, leases=leases))
    except BrokenPromisesError as error:
        return error.broken
    return {}
