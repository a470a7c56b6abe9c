"""When a deferred delivery is tried again or quarantined, and how many may be begun at once: the rules alone."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

import attrs
import pytest

from basiq_async.receiver._breaker import Breaker  # private: no service has all these states
from basiq_async.receiver._trying import (  # private: as above
    Rescheduled,
    after_failure,
    after_no_end,
    without_handler,
)
from basiq_async.receiver.protocol import ClaimedEntry
from tests.support import virtual
from tests.support.deliveries import NOW, quarantined_delivery

DAYS = 3 * 86_400.0


def claimed(
    *, failures: int = 0, attempts: int | None = None, failing_for: float = 0.0, unended: int = 0
) -> ClaimedEntry:
    since = NOW if failures or failing_for else None
    entry = attrs.evolve(quarantined_delivery("k", failures=failures), failing_since=since, unended=unended)
    made = failures + 1 if attempts is None else attempts
    return ClaimedEntry(entry, "t", made, NOW + timedelta(seconds=failing_for))


def look_again(then: Rescheduled, *, late: float) -> ClaimedEntry:
    """Claim what was put off, so many seconds after it was due."""
    assert then.seconds is not None
    entry = then.entry
    due = max(each for each in (entry.failing_since, entry.unhandled_since, entry.due) if each is not None)
    due += timedelta(seconds=then.seconds)
    return ClaimedEntry(attrs.evolve(entry, due=due), "t", entry.failures + 1, due + timedelta(seconds=late))


@pytest.mark.parametrize(("failures", "wait"), [(0, 5), (1, 30), (2, 300), (3, 1_800), (4, 1_800), (50, 1_800)])
def test_the_waits_grow_to_half_an_hour(failures: int, wait: float) -> None:
    then = after_failure(claimed(failures=failures), "no", keep_trying=DAYS)
    assert then.seconds is not None
    assert 0.9 * wait <= then.seconds <= 1.1 * wait
    assert (then.entry.failures, then.entry.error) == (failures + 1, "no")


def test_the_first_failure_is_noted_by_the_inboxs_clock_and_kept() -> None:
    first = after_failure(claimed(), "no", keep_trying=DAYS).entry
    assert first.failing_since == NOW
    later = ClaimedEntry(first, "t", 2, NOW + timedelta(days=1))
    assert after_failure(later, "no", keep_trying=DAYS).entry.failing_since == NOW


@pytest.mark.parametrize(
    ("failures", "seconds", "ends"),
    [(7, DAYS, True), (7, DAYS - 1, False), (6, DAYS, False), (6, 10 * DAYS, False), (200, DAYS - 1, False)],
)
def test_it_is_quarantined_after_eight_failures_and_so_long_after_the_first(
    failures: int, seconds: float, ends: bool
) -> None:
    then = after_failure(claimed(failures=failures, failing_for=seconds), "no", keep_trying=DAYS)
    assert (then.seconds is None) is ends


def test_attempts_without_an_end_are_failures_with_a_large_jitter_and_three_of_them_end_it() -> None:
    found = claimed(failures=1, attempts=4, failing_for=10)
    assert found.unended == 2
    waits = [after_no_end(found, keep_trying=DAYS).seconds or 0.0 for _ in range(200)]
    assert min(waits) < 0.7 * 300
    assert max(waits) > 1.3 * 300
    then = after_no_end(found, keep_trying=DAYS)
    assert (then.entry.failures, then.entry.unended) == (3, 2)
    assert after_no_end(claimed(failures=7, attempts=9, unended=1), keep_trying=DAYS).seconds is not None
    assert after_no_end(claimed(failures=7, attempts=9, unended=2), keep_trying=DAYS).seconds is None


def test_without_a_handler_it_is_no_failure_and_the_time_alone_ends_it() -> None:
    then = without_handler(claimed(), "no handler", keep_trying=DAYS)
    entry = then.entry
    assert (then.seconds, entry.failures, entry.unhandled_since, entry.error) == (5, 0, NOW, "no handler")
    for seconds, wait in ((DAYS - 1, 5), (DAYS, None)):
        later = ClaimedEntry(entry, "t", 1, NOW + timedelta(seconds=seconds))
        assert without_handler(later, "no handler", keep_trying=DAYS).seconds == wait
    failed = after_failure(ClaimedEntry(entry, "t", 1, NOW + timedelta(days=2)), "no", keep_trying=DAYS).entry
    assert failed.failing_since == NOW + timedelta(days=2), "the time to try begins with the first failure"
    assert failed.unhandled_since is None, "a process with its handler looked"


def test_after_a_long_stop_a_process_without_the_handler_that_looks_first_ends_nothing() -> None:
    failed = after_failure(claimed(), "no", keep_trying=DAYS)
    then = without_handler(look_again(failed, late=10 * DAYS), "no handler", keep_trying=DAYS)
    assert (then.seconds, then.entry.error) == (5, "no")
    then = without_handler(look_again(then, late=10 * DAYS), "no handler", keep_trying=DAYS)
    assert then.seconds == 5, "nor after the next stop"


def test_only_time_in_which_a_process_with_the_handler_looked_counts() -> None:
    then, looked, alone = after_failure(claimed(), "no", keep_trying=DAYS), 0.0, 0.0
    number = 0
    while then.seconds is not None:
        number += 1
        assert number < 1_000
        late = DAYS if number % 10 == 0 else 30.0  # now and then the service is down for days
        looked += then.seconds + (0.0 if late == DAYS else late)
        again = look_again(then, late=late)
        if number % 3 == 0:  # a process of the former version looks first
            then, alone = without_handler(again, "no handler", keep_trying=DAYS), alone + 35
            assert then.seconds is not None
            then = attrs.evolve(then, entry=attrs.evolve(then.entry, due=again.claimed_at))
            again = look_again(then, late=0.0)
        then = after_failure(again, "no", keep_trying=DAYS)
        then = attrs.evolve(then, entry=attrs.evolve(then.entry, due=again.claimed_at))
    assert 0.9 * DAYS <= looked <= 1.1 * DAYS


@pytest.mark.parametrize("ahead", [40 * DAYS, 7_200.0])
def test_a_clock_that_was_ahead_makes_it_tried_for_at_most_as_long_again(ahead: float) -> None:
    wrong = after_failure(claimed(failing_for=ahead), "no", keep_trying=DAYS).entry
    right = ClaimedEntry(attrs.evolve(wrong, due=NOW, failures=20), "t", 21, NOW)
    failed = after_failure(right, "no", keep_trying=DAYS).entry
    assert failed.failing_since == NOW
    assert failed.idle == 0.0


@virtual.clocked
async def test_five_failures_of_different_deliveries_in_a_row_hold_back_what_failed() -> None:
    breaker = Breaker()
    assert breaker.room(8, 0, 0) == (8, 6), "a quarter is kept for what never failed"
    assert breaker.room(8, 5, 4) == (3, 2)
    assert breaker.room(1, 0, 0) == (1, 1)
    for _ in range(20):
        breaker.count("one", first=False, failed=True)
    assert breaker.room(8, 0, 0) == (8, 6), "one alone is not a row"
    for key in "abcd":
        breaker.count(key, first=False, failed=True)
    assert breaker.room(8, 0, 0) == (8, 0)
    await asyncio.sleep(1.2)
    assert breaker.room(8, 0, 0) == (8, 1)
    breaker.begin_again()
    assert breaker.room(8, 1, 1) == (7, 0), "one at a time"
    await asyncio.sleep(2.3)
    assert breaker.room(8, 1, 1) == (7, 1), "one that hangs does not hold up the next one"
    assert breaker.room(8, 6, 6) == (2, 0), "but a quarter is kept"
    breaker.count("a", first=True, failed=False)
    assert breaker.room(8, 0, 0) == (8, 6)


@virtual.clocked
async def test_its_pauses_grow_to_a_minute() -> None:
    breaker, moments = Breaker(), list[float]()
    for key in "abcde":
        breaker.count(key, first=False, failed=True)
    while len(moments) < 12:
        while breaker.room(8, 0, 0)[1] == 0:
            await asyncio.sleep(0.1)
        moments.append(virtual.now())
        breaker.begin_again()
        breaker.count("a", first=False, failed=True)
    waits = [later - earlier for earlier, later in itertools.pairwise(moments)]
    for wait, meant in zip(waits, [2, 4, 8, 16, 32, *[60] * 6], strict=True):
        assert 0.9 * meant <= wait <= 1.1 * meant + 0.2


@virtual.clocked
async def test_first_attempts_that_fail_one_after_the_other_begin_one_at_a_time_and_do_not_wait() -> None:
    breaker = Breaker()
    for key in "abcde":
        breaker.count(key, first=True, failed=True)
    assert breaker.room(8, 0, 0) == (1, 0)
    assert breaker.room(8, 1, 0) == (0, 0)
    await asyncio.sleep(1.2)
    assert breaker.room(8, 0, 0) == (2, 1), "and one of those that failed"
    breaker.count("f", first=True, failed=True)
    assert breaker.room(8, 0, 0) == (2, 1), "it makes the pause of the others no longer"
    breaker.count("f", first=False, failed=False)
    assert breaker.room(8, 0, 0) == (8, 6)
