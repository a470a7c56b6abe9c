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

    async def complete(self, key: str, token: str) -> bool:
        return await super().complete(key[:255], token)


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
    async def complete(self, key: str, token: str) -> bool:
        await self.release(key, token)
        return True


class CompletesTwice(Broken):
    async def complete(self, key: str, token: str) -> bool:
        await super().complete(key, token)
        return True


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
    async def complete(self, key: str, token: str) -> bool:
        self._claims.clear()
        return await super().complete(key, token)


class TooLateIsTooLate(Broken):
    async def complete(self, key: str, token: str) -> bool:
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

    async def complete(self, key: str, token: str) -> bool:
        held = self._claims.get(key)
        recorded = await super().complete(key, token)
        if recorded and held is not None:
            self._done[key] = self._retention.read()[0] + held.ends - self._lease_clock()
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
