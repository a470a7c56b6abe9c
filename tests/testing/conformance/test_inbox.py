"""The suite for inboxes: it passes ours, and names every promise that another one breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import attrs
import pytest

from basiq_async import InboxError
from basiq_async.receiver import Inbox, MemoryInbox, QuarantinedDelivery, SQLiteInbox
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.testing import BrokenPromisesError, ManualClock, check_inbox
from basiq_async.testing.conformance import _inbox as suite  # private: to see that no promise is left out
from tests.support.real_time import PATIENCE

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY


async def test_the_suite_can_pass_the_time_on_the_inboxs_own_clock() -> None:
    clock = ManualClock()
    await check_inbox(lambda: MemoryInbox(clock=clock), clock=clock)


async def test_the_suite_takes_an_async_factory_and_closes_what_it_made() -> None:
    closed: list[bool] = []

    class Closing(MemoryInbox):
        async def aclose(self) -> None:
            closed.append(True)

    async def make() -> Inbox:
        return Closing()

    await check_inbox(make)
    assert len(closed) == len(suite._CHECKS) - len(suite._WITHOUT_LEASES) + 3  # two for known_since, one for sessions


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
    async def seen(self, key: str) -> bool:
        return bool(self._claims) or await super().seen(key)


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


class ARetryRemovesTheLetter(Broken):
    async def claim_quarantined(self, key: str, token: str, *, lease: float) -> Claim:
        claim = await super().claim_quarantined(key, token, lease=lease)
        if claim.status is CLAIMED:
            del self._quarantined[key]
        return claim


class AFailedRetryLosesTheLetter(Broken):
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


def check(broken: type[Broken], *, leases: bool = True) -> dict[str, str]:
    """What the suite finds, on the inbox's own clock, which waits for nothing."""
    clock = ManualClock()
    try:
        asyncio.run(check_inbox(lambda: broken(clock=clock), clock=clock, leases=leases))
    except BrokenPromisesError as error:
        return error.broken
    return {}


@pytest.mark.parametrize("broken", Broken.__subclasses__())
def test_the_suite_catches_each_way_to_break_a_promise(broken: type[Broken]) -> None:
    assert check(broken)


def test_every_promise_is_broken_by_some_of_these_and_not_by_ours() -> None:
    promises = {(promise.__doc__ or "").strip() for promise in (*suite._CHECKS, suite.memory.known_since_opened)}
    found: set[str] = set()
    for broken in Broken.__subclasses__():
        if broken is not Hangs:  # breaks all
            found |= set(check(broken))
    found |= set(check(BusyIsNeverTold, leases=False))
    assert found == promises
    assert check(Broken) == {}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            ForgetsAfterADay,
            "a key was forgotten 24 hours after it was handled; Basiq sends again for 27 h 35 min",
        ),
        (ForgetsTheOldestOfAFew, "a claim of a key after which 100 others were handled was CLAIMED, not DONE"),
        (KnowsSinceItBeganThoughItForgets, "was forgotten, and known_since() was 20"),
        (KnowsSinceNow, "though the inbox remembers what was handled in between"),
        (KnowsSinceEver, "known_since() was 1970-01-01 00:00:00+00:00, when no inbox can have existed"),
        (KnewBeforeItBegan, "known_since() of an inbox that was made at 20"),
    ],
)
def test_an_inbox_that_forgets_early_or_lies_about_its_memory_is_told_so(broken: type[Broken], said: str) -> None:
    found = check(broken)
    assert any(said in what for what in found.values()), found


class KnowsSinceItWasOpened(SQLiteInbox):
    """It lies after a restart."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._opened = datetime.now(UTC)

    async def known_since(self) -> datetime:
        return self._opened


class WritesWhenClosed(SQLiteInbox):
    """What was completed is not in the file yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._later: list[tuple[str, str]] = []

    async def complete(self, key: str, token: str) -> bool:
        self._later.append((key, token))
        return True

    async def aclose(self) -> None:
        for key, token in self._later:
            await super().complete(key, token)
        await super().aclose()


async def test_an_inbox_that_knows_only_since_a_restart_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="when the inbox was opened again, though it remembers"):
        await suite.memory.known_since_opened(partial(KnowsSinceItWasOpened, tmp_path / "inbox.db"), None)


async def test_an_inbox_that_loses_in_a_kill_what_it_recorded_is_told_so(tmp_path: Path) -> None:
    said = r"seen\(\) was False for a key that a process had completed before it was killed"
    with pytest.raises(AssertionError, match=said):
        await suite.killed(partial(WritesWhenClosed, tmp_path / "inbox.db"), PATIENCE)


async def test_the_error_of_a_process_that_should_be_killed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InboxError, match="cannot be opened"):
        await suite.killed(partial(SQLiteInbox, tmp_path / "missing" / "inbox.db"), PATIENCE)


def test_the_suite_names_every_promise_that_is_broken() -> None:
    clock = ManualClock()
    with pytest.raises(BrokenPromisesError) as caught:
        asyncio.run(check_inbox(lambda: Forgets(clock=clock), clock=clock))
    assert str(caught.value).startswith(f"the inbox breaks {len(caught.value.broken)} of its promises:\n- ")
    assert len(caught.value.broken) > 1
    promise = "A completed key stays completed for all workers, and is recorded once"
    assert caught.value.broken[promise] == "another worker's claim after that was CLAIMED, not DONE"


async def test_the_suite_says_when_a_promise_fails_only_across_two_workers() -> None:
    with pytest.raises(BrokenPromisesError) as caught:
        await check_inbox(MemoryInbox, shared=True)
    assert caught.value.broken
    assert all(promise.endswith("(across two workers)") for promise in caught.value.broken)


class Transactional(MemoryInbox):
    """A handler's rows are a list, which is its session; they commit with the entry."""

    keeps_rows_of_a_failure = keeps_no_rows = swallows = commits_early = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self._session: list[int] = []

    async def claim_transaction(self, key: str, token: str, *, lease: float, quarantined: bool = False) -> Claim:
        self._session = self.rows if self.keeps_rows_of_a_failure else self.rows.copy()
        return await self.claim(key, token, lease=lease)

    @asynccontextmanager
    async def transaction(self, key: str, token: str) -> AsyncGenerator[list[int]]:
        with suppress(Exception) if self.swallows else nullcontext():
            yield self._session
        if self.commits_early:
            await super().complete(key, token)

    async def complete(self, key: str, token: str) -> bool:
        if not self.keeps_no_rows:
            self.rows = self._session
        return await super().complete(key, token)


async def write(session: list[int]) -> int:
    session.append(1)
    return len(session) - 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("keeps_rows_of_a_failure", "a handler that failed left 1 of its rows, not 0"),
        ("keeps_no_rows", "a handler that was completed left 0 rows, not 1"),
        ("swallows", "the exception of a handler with a session was swallowed by transaction()"),
        ("commits_early", "a claim before complete() of a handler with a session was DONE, not BUSY"),
    ],
)
async def test_an_inbox_whose_entry_and_writes_are_not_one_is_told_so(fault: str, said: str) -> None:
    def make() -> Inbox:
        inbox = Transactional()
        setattr(inbox, fault, True)
        return inbox

    with pytest.raises(BrokenPromisesError) as caught:
        await check_inbox(make, write=write)
    assert caught.value.broken == {str(suite.transacted.__doc__): said}


async def test_an_inbox_whose_entry_and_writes_are_one_keeps_every_promise() -> None:
    await check_inbox(Transactional, write=write)
