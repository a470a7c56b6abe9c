"""A clock that jumps makes no inbox forget, or hold a claim for longer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from basiq_async.receiver import MemoryInbox, SQLiteInbox
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.testing import ManualClock
from tests.support.deliveries import NOW

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY

Inbox = MemoryInbox | SQLiteInbox


class SetClock(ManualClock):
    """A clock that can be set back as well."""

    def move_to(self, moment: datetime) -> None:
        self._now = moment


@pytest.fixture
def clock() -> ManualClock:
    return SetClock(NOW)


@pytest.fixture(params=["memory", "sqlite"])
async def inbox(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncGenerator[Inbox]:
    if request.param == "memory":
        yield MemoryInbox(clock=clock)
        return
    async with SQLiteInbox(tmp_path / "inbox.db", clock=clock) as inbox:
        yield inbox


async def test_a_clock_that_is_forty_days_ahead_for_a_minute_forgets_nothing(
    inbox: Inbox, clock: ManualClock, tmp_path: Path
) -> None:
    for key in ("k", "l"):
        await inbox.complete(key, "a")
    clock.advance(timedelta(days=40))
    assert (await inbox.claim("k", "b", lease=60)).status is DONE, "not even while the clock is wrong"
    await inbox.complete("while it is wrong", "a")
    if isinstance(inbox, SQLiteInbox):
        # A process that is started while the clock is wrong knows when the file was used last.
        async with SQLiteInbox(tmp_path / "inbox.db", clock=clock) as other:
            assert (await other.claim("l", "b", lease=60)).status is DONE
    clock.advance(timedelta(days=-40), seconds=61)
    await inbox.claim("another", "b", lease=60)
    for key in ("k", "l", "while it is wrong"):
        assert await inbox.known([key]), key


async def test_a_clock_that_stays_wrong_forgets_nothing_that_basiq_still_sends(
    inbox: Inbox, clock: ManualClock
) -> None:
    await inbox.complete("k", "a")
    clock.advance(timedelta(days=40))
    for half_days, remembered in ((5, True), (7, False)):  # as a service at work, which looks at the clock now and then
        for _ in range(half_days):
            clock.advance(timedelta(hours=12))
            await inbox.release("any", "a")
            await inbox.known(["any"])
        assert bool(await inbox.known(["k"])) is remembered, "it is forgotten in the end, and not before"


async def test_a_clock_that_is_set_back_by_a_day_prolongs_no_lease(inbox: Inbox, clock: ManualClock) -> None:
    await inbox.claim("k", "dead", lease=30)
    clock.advance(timedelta(days=-1))
    claim = await inbox.claim("k", "b", lease=60)
    assert (claim.status, claim.retry_after, claim.holder) == (BUSY, 30, "dead")
    clock.advance(seconds=29)
    claim = await inbox.claim("k", "c", lease=60)
    assert (claim.status, claim.retry_after) == (BUSY, 1), "who asks for a claim changes its lease"
    clock.advance(seconds=2)
    assert (await inbox.claim("k", "b", lease=60)).status is CLAIMED


async def test_a_claim_for_days_is_kept_while_old_entries_are_dropped(inbox: Inbox, clock: ManualClock) -> None:
    await inbox.claim("k", "a", lease=3 * 86_400)
    await inbox.claim("short", "a", lease=60)
    await inbox.complete("another", "b")  # the first record of an inbox drops what is old
    assert (await inbox.claim("short", "b", lease=60)).status is BUSY, "a claim was dropped before its lease ended"
    for _ in range(5):
        claim = await inbox.claim("k", "b", lease=60)
        assert (claim.status, claim.holder) == (BUSY, "a"), "a claim was dropped before its lease ended"
        clock.advance(timedelta(hours=14))
    clock.advance(timedelta(hours=3))
    assert (await inbox.claim("k", "b", lease=60)).status is CLAIMED, "the claim outlived its lease"


async def test_a_claim_outlives_a_wall_clock_that_is_set_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteInbox(tmp_path / "inbox.db") as in_file:
        inboxes: list[Inbox] = [in_file, MemoryInbox()]
        for inbox in inboxes:
            await inbox.claim("k", "a", lease=30)
        moment = time.time() + 3600
        monkeypatch.setattr("basiq_async._work.clock.time.time", lambda: moment)
        for inbox in inboxes:
            assert (await inbox.claim("k", "b", lease=60)).status is BUSY
