from __future__ import annotations

import inspect
from datetime import timedelta

import pytest

from basiq_async import ConfigurationError, InboxError
from basiq_async.receiver import MemoryInbox
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.testing import ManualClock, check_inbox
from tests.support.deliveries import NOW, quarantined_delivery
from tests.support.inboxes import pass_hours

CLAIMED, DONE, BUSY = ClaimStatus.CLAIMED, ClaimStatus.DONE, ClaimStatus.BUSY


async def test_the_inbox_in_memory_keeps_every_promise() -> None:
    await check_inbox(MemoryInbox)


async def test_the_memory_is_longer_than_basiqs_retries_and_then_ends() -> None:
    clock = ManualClock()
    inbox = MemoryInbox(clock=clock)
    await inbox.claim("k", "a", lease=60)
    await inbox.complete("k", "a")
    await pass_hours(clock, inbox, 66)
    assert await inbox.known(["k"])
    await pass_hours(clock, inbox, 7 + 144)
    assert not await inbox.known(["k"])
    assert (await inbox.claim("k", "b", lease=60)).status is CLAIMED
    await inbox.complete("k", "b")
    await pass_hours(clock, inbox, 216)
    await inbox.complete("l", "b")
    await pass_hours(clock, inbox, 216)
    await inbox.complete("m", "b")
    assert len(inbox) == 1, "what is too old is dropped"


async def test_an_event_is_forgotten_three_to_nine_days_after_it_was_handled() -> None:
    clock = ManualClock(NOW)
    inbox = MemoryInbox(clock=clock)
    for hours in range(0, 144, 3):
        await inbox.complete(f"k{hours}", "a")
        handled = clock()
        while await inbox.known([f"k{hours}"]):
            await pass_hours(clock, inbox, 1)
        assert timedelta(days=3) < clock() - handled <= timedelta(days=9)


async def test_the_memory_is_bounded_and_forgets_the_oldest_first() -> None:
    inbox = MemoryInbox(max_entries=10)
    for number in range(100):
        await inbox.claim(str(number), "a", lease=60)
        await inbox.complete(str(number), "a")
        assert len(inbox) <= 10
        remembered = [each for each in range(number + 1) if await inbox.known([str(each)])]
        assert remembered == list(range(number + 1))[-len(remembered) :], "the latest ones"
        assert len(remembered) >= min(number + 1, 5)


async def test_a_quarantine_may_hold_none() -> None:
    with pytest.raises(InboxError, match="quarantine"):
        await MemoryInbox(max_quarantined=0).quarantine("k", "a", quarantined_delivery("k"))
    with pytest.raises(ConfigurationError, match="max_quarantined must not be negative"):
        MemoryInbox(max_quarantined=-1)


def test_it_holds_as_much_as_the_docs_say_unless_it_is_told_otherwise() -> None:
    options = inspect.signature(MemoryInbox).parameters
    assert {name: options[name].default for name in ("max_entries", "max_quarantined")} == {
        "max_entries": 200_000,
        "max_quarantined": 1_000,
    }


async def test_a_lease_ends_at_its_last_moment_for_claims_and_records() -> None:
    clock = ManualClock()
    inbox = MemoryInbox(clock=clock)
    for token in ("a", "b"):
        assert (await inbox.claim("k", token, lease=60)).status is CLAIMED, "the lease of the former owner has ended"
        clock.advance(timedelta(seconds=60))
    assert await inbox.complete("k", "a"), "no token holds the event, and it was not handled"


async def test_claims_of_dead_workers_are_dropped_from_memory() -> None:
    clock = ManualClock()
    inbox = MemoryInbox(clock=clock)
    for number in range(5000):
        await inbox.claim(str(number), "dead", lease=1)
        clock.advance(seconds=1)
    assert len(inbox._claims) <= 1024


async def test_claims_of_living_workers_are_kept_however_many() -> None:
    inbox = MemoryInbox()
    for number in range(3000):
        await inbox.claim(str(number), "alive", lease=60)
    assert (await inbox.claim("0", "other", lease=60)).status is BUSY


async def test_what_is_completed_again_after_it_was_forgotten_is_remembered() -> None:
    clock = ManualClock()
    inbox = MemoryInbox(remember=timedelta(seconds=10), clock=clock)
    await inbox.complete("a", "t")
    await pass_hours(clock, inbox, 180)
    assert not await inbox.known(["a"])
    assert await inbox.complete("a", "u")
    assert await inbox.known(["a"])


async def test_a_full_quarantine_is_an_error_and_keeps_what_it_has() -> None:
    inbox = MemoryInbox(max_quarantined=2)
    for key in ("a", "b"):
        assert await inbox.quarantine(key, "t", quarantined_delivery(key))
    with pytest.raises(InboxError, match=r"quarantine is full \(2 deliveries\): retry or drop"):
        await inbox.quarantine("c", "t", quarantined_delivery("c"))
    assert not await inbox.known(["c"])
    assert [each.key for each in await inbox.entries()] == ["a", "b"]
    assert await inbox.complete("a", "u")
    assert await inbox.quarantine("c", "t", quarantined_delivery("c"))


async def test_the_counts_of_failures_are_bounded_and_the_oldest_go_first() -> None:
    inbox = MemoryInbox(max_entries=20)
    for number in range(100):
        await inbox.release(str(number), "a", failed=True)
        assert len(inbox._failures) <= 10
    assert await inbox.release("99", "a", failed=True) == 2
    assert await inbox.release("0", "a", failed=True) == 1
