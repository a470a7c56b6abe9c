"""Inboxes that break one promise each, and what the suite finds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import attrs

from basiq_async import InboxError
from basiq_async.receiver import MemoryInbox, QuarantinedDelivery
from basiq_async.receiver.protocol import Claim, ClaimStatus, Waiting
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
    async def quarantined(self, *, after: Any = None, limit: int = 100) -> Any:
        return [] if after is not None else await super().quarantined(limit=limit)


class NoLimit(Broken):
    async def quarantined(self, *, after: Any = None, limit: int = 100) -> Any:
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


class StoresTwice(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        await super().store(delivery, webhook_id=webhook_id)
        return True


class LooksBeforeItStores(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        if await self.known([delivery.key]):
            return False
        await asyncio.sleep(0)
        self._waiting.pop(delivery.key, None)
        return await super().store(delivery, webhook_id=webhook_id)


class WhatWaitsIsHandled(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        return Claim(ClaimStatus.DONE) if key in self._waiting else await super().claim(key, token, lease=lease)


class KnowsNotWhatWaits(Broken):
    async def known(self, keys: Sequence[str]) -> Collection[str]:
        return set(await super().known(keys)) - self._waiting.keys()


class StoresWhatWasHandled(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        self._done.pop(delivery.key, None)
        return await super().store(delivery, webhook_id=webhook_id)


class DoesNotStoreWhatAJobSetAside(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        return delivery.key not in self._quarantined and await super().store(delivery, webhook_id=webhook_id)


class DoesNotStoreWhatIsClaimed(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        return delivery.key not in self._claims and await super().store(delivery, webhook_id=webhook_id)


class StoringEndsTheClaim(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        self._claims.pop(delivery.key, None)
        return await super().store(delivery, webhook_id=webhook_id)


class StoresForLater(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        stored = await super().store(delivery, webhook_id=webhook_id)
        self._waiting[delivery.key].due += 1 if stored else 0
        return stored


class TheNewestIsDueFirst(Broken):
    async def claim_due(self, webhook_id: str | None, token: str, *, limit: int, lease: float) -> Any:
        return (await super().claim_due(webhook_id, token, limit=limit, lease=lease))[::-1]


class ClaimsAllThatIsDue(Broken):
    async def claim_due(self, webhook_id: str | None, token: str, *, limit: int, lease: float) -> Any:
        return await super().claim_due(webhook_id, token, limit=1000, lease=lease)


class ClaimsForAnyWebhook(Broken):
    async def claim_due(self, webhook_id: str | None, token: str, *, limit: int, lease: float) -> Any:
        for wait in self._waiting.values():
            wait.webhook_id = webhook_id
        return await super().claim_due(webhook_id, token, limit=limit, lease=lease)


class DueForTwo(Broken):
    async def claim_due(self, webhook_id: str | None, token: str, *, limit: int, lease: float) -> Any:
        self._claims.clear()
        return await super().claim_due(webhook_id, token, limit=limit, lease=lease)


class ClaimsNothingThatIsDue(Broken):
    """It reads what is due, and does not claim it."""

    async def claim_due(self, webhook_id: str | None, token: str, *, limit: int, lease: float) -> Any:
        before = dict(self._claims)
        found = await super().claim_due(webhook_id, token, limit=limit, lease=lease)
        self._claims = before
        return found


class TheClaimOfWhatIsDueNeverEnds(Broken):
    async def claim_due(self, webhook_id: str | None, token: str, *, limit: int, lease: float) -> Any:
        return await super().claim_due(webhook_id, token, limit=limit, lease=1e9)


class ADeadClaimTakesTheDeliveryAway(Broken):
    async def claim_due(self, webhook_id: str | None, token: str, *, limit: int, lease: float) -> Any:
        found = await super().claim_due(webhook_id, token, limit=limit, lease=lease)
        for entry in found:
            del self._waiting[entry.key]
        return found


class PutsOffForNoTime(Broken):
    async def put_off(self, key: str, token: str, *, seconds: float, delivery: Any = None) -> bool:
        return await super().put_off(key, token, seconds=0, delivery=delivery)


class PutsOffForEver(Broken):
    async def put_off(self, key: str, token: str, *, seconds: float, delivery: Any = None) -> bool:
        return await super().put_off(key, token, seconds=seconds + 1e6, delivery=delivery)


class PutsOffWithoutTheFailure(Broken):
    async def put_off(self, key: str, token: str, *, seconds: float, delivery: Any = None) -> bool:
        return await super().put_off(key, token, seconds=seconds)


class PutsOffAndKeepsTheClaim(Broken):
    async def put_off(self, key: str, token: str, *, seconds: float, delivery: Any = None) -> bool:
        held = self._claims.get(key)
        done = await super().put_off(key, token, seconds=seconds, delivery=delivery)
        if held is not None:
            self._claims[key] = held
        return done


class AnybodyPutsOff(Broken):
    async def put_off(self, key: str, token: str, *, seconds: float, delivery: Any = None) -> bool:
        held = self._claims.get(key)
        return await super().put_off(key, token if held is None else held.token, seconds=seconds, delivery=delivery)


class PuttingOffEndsAnyClaim(Broken):
    async def put_off(self, key: str, token: str, *, seconds: float, delivery: Any = None) -> bool:
        done = await super().put_off(key, token, seconds=seconds, delivery=delivery)
        await self.release(key, token)
        return done


class HandledButWaits(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        waiting = dict(self._waiting)
        done = await super().complete(key, token)
        if isinstance(key, str):
            self._waiting = waiting
        return done


class HandledWithOthersButWaits(Broken):
    async def complete(self, key: str | Sequence[str], token: str) -> bool:
        waiting = dict(self._waiting)
        done = await super().complete(key, token)
        if not isinstance(key, str):
            self._waiting = waiting
        return done


class SetAsideButWaits(Broken):
    async def quarantine(self, key: str, token: str, delivery: QuarantinedDelivery) -> bool:
        waiting = dict(self._waiting)
        done = await super().quarantine(key, token, delivery)
        self._waiting = waiting
        return done


class DropsWhatWaits(Broken):
    async def drop_quarantined(self, key: str) -> bool:
        return self._waiting.pop(key, None) is not None or await super().drop_quarantined(key)


class TheQuarantineHasWhatWaits(Broken):
    async def quarantined(self, *, after: Any = None, limit: int = 100) -> Any:
        found = await super().quarantined(after=after, limit=limit)
        return found if after is not None else [*found, *(wait.delivery for wait in self._waiting.values())]


class AFailureEndsTheWait(Broken):
    async def fail(self, key: str, token: str) -> int:
        self._waiting.pop(key, None)
        return await super().fail(key, token)


class AReleaseEndsTheWait(Broken):
    async def release(self, key: str, token: str) -> None:
        self._waiting.pop(key, None)
        await super().release(key, token)


class AllIsFresh(Broken):
    async def waiting(self, webhook_id: str | None) -> Waiting:
        found = await super().waiting(webhook_id)
        return attrs.evolve(found, fresh=found.count)


class CountsAllWebhooks(Broken):
    async def waiting(self, webhook_id: str | None) -> Waiting:
        return attrs.evolve(await super().waiting(webhook_id), count=len(self._waiting))


class TheSizeStays(Broken):
    size = 0

    async def waiting(self, webhook_id: str | None) -> Waiting:
        found = await super().waiting(webhook_id)
        self.size = max(self.size, found.size)
        return attrs.evolve(found, size=self.size)


class TheAgeIsOfTheNewest(Broken):
    async def waiting(self, webhook_id: str | None) -> Waiting:
        found = await super().waiting(webhook_id)
        return attrs.evolve(found, age=None if found.age is None else 0.0)


class ListsFromTheStart(Broken):
    async def list_waiting(self, *, after: Any = None, limit: int = 100) -> Any:
        return [] if after is not None else await super().list_waiting(limit=limit)


class ListsInTheOrderOfKeys(Broken):
    async def list_waiting(self, *, after: Any = None, limit: int = 100) -> Any:
        found = await super().list_waiting(after=after, limit=limit)
        return sorted(found, key=lambda entry: entry.key)


class LosesTheSeal(Broken):
    async def store(self, delivery: QuarantinedDelivery, *, webhook_id: str | None) -> bool:
        return await super().store(attrs.evolve(delivery, seal=None), webhook_id=webhook_id)


class ForgetsWhatWaitsForLong(Broken):
    def _record(self, key: str) -> None:
        super()._record(key)
        now, _ = self._retention.read()
        self._waiting = {key: wait for key, wait in self._waiting.items() if wait.stored + self._remember > now}


class PutsOffWhatDoesNotWait(Broken):
    async def put_off(self, key: str, token: str, *, seconds: float, delivery: Any = None) -> bool:
        await super().put_off(key, token, seconds=seconds, delivery=delivery)
        return True


class Hangs(Broken):
    async def claim(self, key: str, token: str, *, lease: float) -> Claim:
        raise TimeoutError


def check(broken: type[Broken], *, leases: bool = True) -> dict[str, str]:
    """What the suite finds, on the inbox's own clock, which waits for nothing."""
    return _check(broken, leases, os.getpid())


@cache
def _check(broken: type[Broken], leases: bool, process: int) -> dict[str, str]:
    """Once in a process: a fork may have another suite."""
    clock = ManualClock()
    try:
        asyncio.run(check_inbox(lambda: broken(clock=clock), clock=clock, leases=leases))
    except BrokenPromisesError as error:
        return error.broken
    return {}
