"""One routine claims an event, does the work and records it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from typing import Any, cast

import attrs
import pytest

from basiq_async import InboxError
from basiq_async._work import owed
from basiq_async._work.attempts import AttemptEnd, AttemptResult, KilledError, UnderWay
from basiq_async._work.once import Unit
from basiq_async._work.steps import TaskSteps
from basiq_async.receiver import MemoryInbox
from basiq_async.receiver.protocol import Claim, ClaimStatus
from tests.support import inboxes, virtual
from tests.support.deliveries import quarantined_delivery

LEASE = 30.0
KEY = "event"

Work = Callable[[], Awaitable[str]]


class Event(Unit[str]):
    doing: Work
    reported: list[Exception]
    recorded: list[Exception]
    records_in = 0.0
    prepared = 0

    async def prepare(self) -> None:
        self.prepared += 1

    async def work(self) -> str:
        return await self.doing()

    async def record_failure(self, failure: Exception) -> None:
        await asyncio.sleep(self.records_in)
        self.recorded.append(failure)
        await super().record_failure(failure)

    def describe(self) -> str:
        return "an event"

    def report(self, what: str, failure: Exception) -> None:
        super().report(what, failure)
        self.reported.append(failure)


class Watched(MemoryInbox):
    """An inbox on the virtual clock, with each call that came to its end, and the moment of it.

    ``hooks`` are awaited by name before a call ends: a claim has been made then, and nothing else has been done.
    """

    def __init__(self, **hooks: Callable[[], Awaitable[object]]) -> None:
        super().__init__(clock=virtual.clock)
        self.hooks = hooks
        self.calls: list[tuple[str, float]] = []
        self.asked: list[tuple[float, bool]] = []
        """Of each claim, the lease, and whether it is by a transaction."""

    @property
    def claims(self) -> list[float]:
        return [moment for call, moment in self.calls if call == "claim"]

    async def claim(
        self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
    ) -> Claim:
        self.asked.append((lease, transaction))
        claim = await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=transaction)
        await self._end("claim")
        return claim

    async def complete(self, key: str, token: str) -> bool:
        await self._end("complete")
        return await super().complete(key, token)

    async def release(self, key: str, token: str, *, failed: bool = False) -> int:
        await self._end("release")
        return await super().release(key, token, failed=failed)

    async def _end(self, call: str) -> None:
        if call in self.hooks:
            await self.hooks[call]()
        self.calls.append((call, virtual.now()))

    async def is_free(self) -> bool:
        self.hooks = {}
        return (await self.claim(KEY, "another", lease=1)).status is ClaimStatus.CLAIMED


class Transactional(inboxes.Transactional, Watched):
    """Watched, with transactions."""


def takes(seconds: float) -> Callable[[], Awaitable[object]]:
    return lambda: asyncio.sleep(seconds)


def fails(error: BaseException | None) -> Callable[[], Awaitable[Any]]:
    """Return what raises an error, or hangs where there is none."""

    async def fail() -> None:
        await (asyncio.Event().wait() if error is None else asyncio.sleep(0))
        raise error or AssertionError

    return fail


def lasts(seconds: float) -> Work:
    return lambda: asyncio.sleep(seconds, "done")


def owner(inbox: MemoryInbox, **options: Any) -> UnderWay:
    return UnderWay(inbox, **{"lease": LEASE, "call_timeout": 5.0, "grace": 1.0} | options)


def unit(units: UnderWay, work: Work, token: str = "a", patience: float = 0.3, **options: Any) -> Event:
    one = Event(units, KEY, token, patience, **options)
    one.doing, one.reported, one.recorded = work, [], []
    return one


async def work() -> str:
    await asyncio.sleep(0.1)
    return "done"


@virtual.clocked
async def test_work_that_is_done_is_recorded_and_not_done_again() -> None:
    units = owner(Watched())
    first = await unit(units, work).handle_once()
    again = await unit(units, work, "b").handle_once()
    assert (first.how, first.value, again.how) == (AttemptResult.HANDLED, "done", AttemptResult.DONE)
    assert len(units) == 0


@virtual.clocked
async def test_work_is_under_way_from_its_first_step() -> None:
    units = owner(Watched())
    found: list[int] = []

    async def looks() -> str:
        found.append(len(units))
        closing.append(asyncio.create_task(units.wait(60)))
        await asyncio.sleep(1)
        assert not closing[0].done(), "the inbox would be closed while the work still runs"
        return "done"

    closing: list[asyncio.Task[int]] = []
    caller = asyncio.create_task(unit(units, looks).handle_once())
    await asyncio.sleep(0)
    assert len(units) == 1, "before its task has begun"
    assert (await caller).how is AttemptResult.HANDLED
    assert (found, await closing[0]) == ([1], 0)


@pytest.mark.parametrize("across", [False, True], ids=["in one process", "across processes"])
@virtual.clocked
async def test_a_duplicate_waits_a_moment_for_the_first_one(*, across: bool) -> None:
    inbox = Watched()
    units = owner(inbox)
    owners = [owner(inbox) if across else units for _ in range(20)]
    endings = await asyncio.gather(
        *(unit(each, work, f"t{number}").handle_once() for number, each in enumerate(owners))
    )
    assert Counter(each.how for each in endings) == {AttemptResult.DONE: 19, AttemptResult.HANDLED: 1}


@virtual.clocked
async def test_a_duplicate_of_long_work_is_told_who_holds_it_and_for_how_long() -> None:
    units = owner(Watched())
    first = asyncio.create_task(unit(units, lasts(20)).handle_once())
    await asyncio.sleep(0)
    started = virtual.now()
    ending = await unit(units, work, "b").handle_once()
    assert ending.how is AttemptResult.BUSY
    assert ending.claim is not None
    assert (ending.claim.holder, virtual.now() - started <= 1.0) == ("a", True)
    await first


@virtual.clocked
async def test_who_waits_for_long_gets_its_turn_when_the_other_one_has_failed() -> None:
    async def fails() -> str:
        await asyncio.sleep(20)
        raise ValueError("no")

    inbox = Watched()
    first = asyncio.create_task(unit(owner(inbox), fails).handle_once())
    await asyncio.sleep(0)
    second = await unit(owner(inbox), work, "b", patience=60.0).handle_once()
    assert ((await first).how, second.how) == (AttemptResult.FAILED, AttemptResult.HANDLED)


@virtual.clocked
async def test_who_waits_asks_after_20_ms_and_ever_later_up_to_every_5_seconds() -> None:
    inbox = Watched()
    await inbox.claim(KEY, "another", lease=3600)
    assert (await unit(owner(inbox), work, patience=60.0).handle_once()).how is AttemptResult.BUSY
    gaps = [later - earlier for earlier, later in pairwise(inbox.claims[1:])]
    expected = [min(5.0, 0.02 * 1.5**number) for number in range(len(gaps) - 1)]
    assert gaps[:-1] == pytest.approx(expected, abs=1e-6), (
        "the wait grows by half each time, and the inbox has its peace"
    )
    assert sum(gaps) == pytest.approx(60.0)


@virtual.clocked
async def test_work_that_goes_on_after_the_cancellation_of_its_caller_has_its_lease_run_out() -> None:
    async def stubborn() -> str:
        for _ in range(2):
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                continue
        return "late"

    inbox = Watched()
    units = owner(inbox, renew=True)
    caller = asyncio.create_task(unit(units, stubborn).handle_once())
    await asyncio.sleep(LEASE + 1)
    renewed = len(inbox.claims)
    assert renewed >= 3
    caller.cancel()
    await asyncio.wait((caller,))
    await units.wait(2_000)
    assert len(inbox.claims) == renewed, "a claim was renewed for work without a waiting caller"


@virtual.clocked
async def test_a_renewal_that_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Watched()
    handling = asyncio.create_task(unit(owner(inbox, renew=True), lasts(25)).handle_once())
    await asyncio.sleep(1)
    inbox.hooks["claim"] = fails(InboxError("away"))
    assert (await handling).how is AttemptResult.HANDLED
    assert [record.getMessage() for record in caplog.records] == [
        "the claim on an event could not be renewed: away"
    ] * 2


@virtual.clocked
async def test_the_claim_of_work_that_failed_is_released_at_once() -> None:
    inbox = Watched()
    assert (await unit(owner(inbox), fails(ValueError("no"))).handle_once()).how is AttemptResult.FAILED
    assert await inbox.is_free()


@virtual.clocked
async def test_work_that_outlasts_its_lease_is_told_if_another_worker_has_handled_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Watched()
    slow = asyncio.create_task(unit(owner(inbox), lasts(2 * LEASE)).handle_once())
    await asyncio.sleep(LEASE + 1)
    assert (await unit(owner(inbox), work, "b").handle_once()).how is AttemptResult.HANDLED
    assert (await slow).how is AttemptResult.HANDLED
    assert [record.getMessage() for record in caplog.records] == [
        "an event was handled after its lease had run out: another worker may have handled it too"
    ]


@pytest.mark.parametrize("renew", [False, True])
@virtual.clocked
async def test_a_unit_that_has_ended_is_freed(renew: bool) -> None:
    one = unit(owner(Watched(), renew=renew), work)
    await one.handle_once()
    found = weakref.ref(one)
    del one
    gc.collect()
    assert found() is None, "a timer of a unit that has ended keeps it in memory"


async def test_a_step_that_is_shorter_than_the_one_before_leaves_no_timer_of_that() -> None:
    steps = TaskSteps(1.0, lambda: None)
    steps.task = cast("asyncio.Task[Any]", asyncio.current_task())
    steps.begin(60)
    steps.begin(5)
    steps.close()
    found = weakref.ref(steps)
    del steps
    assert found() is None


@virtual.clocked
async def test_units_that_are_to_end_wait_for_no_other() -> None:
    inbox = Watched()
    units = owner(inbox)
    await inbox.claim(KEY, "another", lease=3600)
    waiting = asyncio.create_task(unit(units, work, patience=3600.0).handle_once())
    await asyncio.sleep(10)
    units.is_ending = True
    assert await units.wait(10) == 0
    assert (await waiting).how is AttemptResult.BUSY


@virtual.clocked
async def test_a_lease_is_renewed_as_long_as_the_work_lasts_and_not_longer() -> None:
    inbox = Watched()
    long = unit(owner(inbox, renew=True), lasts(10 * LEASE))
    working = asyncio.create_task(long.handle_once())
    for _ in range(18):
        await asyncio.sleep(LEASE / 2)
        assert (await inbox.claim(KEY, "other", lease=1)).status is ClaimStatus.BUSY
    assert (await working).how is AttemptResult.HANDLED


@pytest.mark.parametrize(
    "error",
    [None, InboxError("away"), TimeoutError("its own"), TimeoutError()],
    ids=["hangs", "raises", "has a limit of its own", "has a limit of its own, and no text"],
)
@pytest.mark.parametrize(("call", "how"), [("claim", AttemptResult.UNAVAILABLE), ("complete", AttemptResult.HANDLED)])
@virtual.clocked
async def test_an_inbox_that_fails_is_the_end_within_its_limit(
    call: str, how: AttemptResult, error: Exception | None
) -> None:
    inbox = Watched(**{call: fails(error)})
    started = virtual.now()
    one = unit(owner(inbox), work)
    ending = await one.handle_once()
    assert ending.how is how
    found = one.reported[0] if how is AttemptResult.HANDLED else ending.error
    if error is None or not str(error):
        assert str(found) == "the inbox did not respond within 5 s"
        cause = found.__cause__ if found else None
        assert cause is not None
        assert cause.__traceback__ is None, "frames of the inbox are kept, and their variables"
    else:
        assert found is error
    assert virtual.now() - started <= 6.0
    if call == "claim":
        assert await inbox.is_free(), "the claim that the inbox made all the same was left behind"


@virtual.clocked
async def test_work_over_its_time_is_cancelled_once_and_keeps_its_claim_until_it_ends() -> None:
    cancellations = 0

    async def resists() -> str:
        nonlocal cancellations
        until = virtual.now() + 20
        while virtual.now() < until:
            try:
                await asyncio.sleep(until - virtual.now())
            except asyncio.CancelledError:
                cancellations += 1
        return "done"

    inbox = Watched()
    units = owner(inbox, work_timeout=2.0)
    started = virtual.now()
    ending = await unit(units, resists).handle_once()
    assert (ending.how, virtual.now() - started) == (AttemptResult.LATE, 3.0)
    assert (await inbox.claim(KEY, "other", lease=1)).status is ClaimStatus.BUSY
    assert await units.wait(60) == 0
    assert cancellations == 1
    assert await inbox.known([KEY]), "it ended well after all"


@virtual.clocked
async def test_an_event_loop_that_shuts_down_leaves_no_claim_behind() -> None:
    inbox = Watched()
    units = owner(inbox)
    for step in range(8):
        caller = asyncio.create_task(unit(units, lasts(20), f"t{step}").handle_once())
        for _ in range(step):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as asyncio.run does at its end
            task.cancel()
        await asyncio.wait((caller,))
        assert caller.cancelled(), f"after a cancellation at step {step}"
        assert await units.wait(10) == 0
        claim = await inbox.claim(KEY, "other", lease=1)
        assert claim.status is ClaimStatus.CLAIMED, f"after a cancellation at step {step}"
        await inbox.release(KEY, "other")


@virtual.clocked
async def test_a_failure_is_recorded_before_the_ending_is_reported() -> None:
    one = unit(owner(Watched()), fails(ValueError("no")))
    one.records_in = 1.0
    ending: AttemptEnd[str] = await one.handle_once()
    assert (ending.how, [ending.error]) == (AttemptResult.FAILED, one.recorded)


# --- a caller that is cancelled ---


@virtual.clocked
async def test_a_caller_that_is_cancelled_ends_the_work_at_once_and_leaves_no_claim() -> None:
    inbox = Watched()
    units = owner(inbox, grace=10.0)
    one = unit(units, lasts(20))
    caller = asyncio.create_task(one.handle_once())
    await asyncio.sleep(1)
    began = virtual.now()
    caller.cancel()
    await asyncio.wait((caller,))
    assert (caller.cancelled(), virtual.now() - began, len(units)) == (True, 0.0, 0)
    assert not one.timed_out
    assert await inbox.is_free()


@pytest.mark.parametrize(("resists", "warnings"), [(False, 0), (True, 1)])
@virtual.clocked
async def test_only_work_that_still_runs_after_its_cancellation_is_reported(
    *, resists: bool, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def works() -> str:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            if not resists:
                raise
            await asyncio.sleep(5)
        return "done"

    units = owner(Watched())
    caller = asyncio.create_task(unit(units, works).handle_once())
    await asyncio.sleep(1)
    began = virtual.now()
    caller.cancel()
    await asyncio.wait((caller,))
    assert virtual.now() - began == (1.0 if resists else 0.0), "the caller waits for its grace alone"
    assert await units.wait(60) == 0
    assert ["still runs" in record.getMessage() for record in caplog.records] == [True] * warnings


@virtual.clocked
async def test_a_caller_that_is_cancelled_before_the_work_begins_has_it_never_begin() -> None:
    inbox = Watched(claim=takes(1))
    units = owner(inbox, grace=10.0)
    caller = asyncio.create_task(unit(units, fails(AssertionError("begun"))).handle_once())
    await asyncio.sleep(0.5)
    caller.cancel()
    await asyncio.wait((caller,))
    assert (caller.cancelled(), len(units)) == (True, 0)
    assert await inbox.is_free()


@virtual.clocked
async def test_a_unit_says_whether_its_time_was_over() -> None:
    units = owner(Watched(), work_timeout=2.0)
    slow = unit(units, lasts(20))
    ending = await slow.handle_once()
    assert (ending.how, slow.timed_out, str(ending.error)) == (
        AttemptResult.FAILED, True, "the handler was cancelled after 2 s",
    )  # fmt: skip
    quick = unit(units, work)
    assert ((await quick.handle_once()).how, quick.timed_out) == (AttemptResult.HANDLED, False)


@virtual.clocked
async def test_a_duplicate_in_one_process_does_not_ask_the_inbox_while_the_first_one_is_at_work() -> None:
    inbox = Watched()
    units = owner(inbox)
    began = virtual.now()
    await asyncio.gather(*(unit(units, work, token).handle_once() for token in "ab"))
    assert inbox.claims == pytest.approx([began, began + 0.1])


@pytest.mark.parametrize(("session", "how"), [(False, AttemptResult.FAILED), (True, AttemptResult.UNAVAILABLE)])
@virtual.clocked
async def test_an_inbox_error_of_the_work_is_the_storages_only_where_the_storage_is_its_session(
    session: bool, how: AttemptResult
) -> None:
    inbox = Transactional()
    error = InboxError("of another inbox, which the handler uses")
    one = unit(owner(inbox), fails(error), session=inbox if session else None)
    assert (await one.handle_once()).how is how
    assert one.recorded == ([] if session else [error])
    assert await inbox.is_free()


@virtual.clocked
async def test_a_transaction_that_ended_before_its_commit_is_the_storages_failure_and_holds_no_claim() -> None:
    class Lost(Transactional):
        async def complete(self, key: str, token: str) -> bool:
            return False

    inbox = Lost()
    ending = await unit(owner(inbox), work, session=inbox).handle_once()
    assert (ending.how, type(ending.error)) == (AttemptResult.UNAVAILABLE, InboxError)
    assert await inbox.is_free()


@pytest.mark.parametrize(
    ("session", "leaves_trace", "asked"),
    [
        (False, False, [(LEASE, False)]),
        (False, True, [(LEASE, False)]),
        (True, False, [(LEASE, True)]),
        (True, True, [(99.0, False), (LEASE, True)]),
    ],
)
@virtual.clocked
async def test_work_with_a_session_is_claimed_by_its_transaction_and_first_by_a_lease_if_it_leaves_a_trace(
    session: bool, leaves_trace: bool, asked: list[tuple[float, bool]]
) -> None:
    inbox = Transactional()
    units = owner(inbox, trace_lease=99.0)
    units.leaves_trace = leaves_trace
    ending = await unit(units, work, session=inbox if session else None).handle_once()
    assert (ending.how, inbox.asked) == (AttemptResult.HANDLED, asked)


@virtual.clocked
async def test_a_lease_that_is_to_leave_a_trace_is_released_where_no_transaction_can_follow() -> None:
    class Locked(Transactional):
        async def claim(self, key: str, token: str, *, transaction: bool = False, **options: Any) -> Claim:
            if transaction:
                return Claim(ClaimStatus.BUSY, 1.0)
            return await super().claim(key, token, transaction=transaction, **options)

    inbox = Locked()
    units = owner(inbox, trace_lease=99.0)
    units.leaves_trace = True
    assert (await unit(units, work, session=inbox).handle_once()).how is AttemptResult.BUSY
    assert [call for call, _ in inbox.calls] == ["claim", "release"]


@virtual.clocked
async def test_the_claim_of_a_transaction_is_not_renewed() -> None:
    inbox = Transactional()
    ending = await unit(owner(inbox, renew=True), lasts(LEASE - 1), session=inbox).handle_once()
    assert (ending.how, len(inbox.claims)) == (AttemptResult.HANDLED, 1)


@pytest.mark.parametrize("quarantined", [False, True])
@virtual.clocked
async def test_nothing_is_prepared_for_an_event_that_was_handled_unless_it_is_in_the_quarantine(
    quarantined: bool,
) -> None:
    inbox = Transactional()
    await inbox.claim(KEY, "former", lease=LEASE)
    await inbox.complete(KEY, "former")
    one = unit(owner(inbox), work, session=inbox, quarantined=quarantined)
    one.has_prepare = True
    assert (await one.handle_once()).how is AttemptResult.DONE
    assert one.prepared == quarantined


@virtual.clocked
async def test_while_it_is_prepared_nothing_is_claimed_though_the_event_is_in_the_quarantine() -> None:
    inbox = Transactional()
    await inbox.quarantine(KEY, "former", attrs.evolve(quarantined_delivery(KEY), acknowledged=False))
    one = unit(owner(inbox), work, session=inbox)
    one.has_prepare = True
    assert (await one.handle_once()).how is AttemptResult.HANDLED
    assert [call for call, _ in inbox.calls] == ["claim", "release", "claim", "complete"]


@virtual.clocked
async def test_a_renewal_under_way_comes_to_its_end_before_the_work_is_recorded() -> None:
    inbox = Watched(claim=takes(1))
    ending = await unit(owner(inbox, renew=True), lasts(LEASE / 3 + 0.5)).handle_once()
    assert (ending.how, [call for call, _ in inbox.calls]) == (AttemptResult.HANDLED, ["claim", "claim", "complete"])


@virtual.clocked
async def test_what_ends_the_program_leaves_no_claim() -> None:
    class Fatal(BaseException):
        """Ends a program, as SystemExit does, but no event loop."""

    inbox = Watched()
    with pytest.raises(Fatal):
        await unit(owner(inbox), fails(Fatal())).handle_once()
    assert await inbox.is_free()


def test_what_ends_the_event_loop_is_not_logged_as_an_unread_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(unit_in_a_loop(fails(KeyboardInterrupt())))
    gc.collect()
    assert caplog.text == ""


async def unit_in_a_loop(doing: Work) -> None:
    await unit(owner(MemoryInbox()), doing).handle_once()


@virtual.clocked
async def test_a_fault_of_the_recording_is_logged_where_the_caller_has_left(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> str:
        try:
            return await asyncio.sleep(20, "done")
        except asyncio.CancelledError:
            await asyncio.sleep(5)  # its caller waits for a second
            raise ValueError("the work") from None

    one = unit(owner(MemoryInbox()), work)
    one.recorded = None  # type: ignore[assignment]  # a fault of ``record_failure``
    caller = asyncio.create_task(one.handle_once())
    await asyncio.sleep(1)
    caller.cancel()
    await asyncio.sleep(10)
    assert [each.exc_info[0] for each in caplog.records if each.exc_info] == [AttributeError]
    assert "an event ended with a fault" in caplog.text


@virtual.clocked
async def test_work_that_raises_after_its_time_is_over_is_late_once_and_its_unit_ends() -> None:
    async def fails() -> str:
        try:
            return await asyncio.sleep(100, "done")
        except asyncio.CancelledError:
            raise ValueError("of the cleaning up") from None

    inbox = Watched()
    one = unit(owner(inbox, work_timeout=5.0), fails)
    began = virtual.now()
    ending = await one.handle_once()
    assert (ending.how, type(ending.error), one.timed_out) == (AttemptResult.FAILED, TimeoutError, True)
    assert virtual.now() - began == 5.0
    assert await inbox.is_free()


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (ValueError("a column refuses it"), AttemptResult.FAILED),
        (InboxError("away"), AttemptResult.UNAVAILABLE),
        (RuntimeError("the loop ends"), AttemptResult.UNAVAILABLE),
    ],
    ids=lambda each: type(each).__name__,
)
@virtual.clocked
async def test_a_commit_that_the_storage_refuses_is_the_works_failure_and_one_that_it_cannot_do_is_its_own(
    error: Exception, how: AttemptResult
) -> None:
    inbox = Transactional(complete=fails(error))
    ending = await unit(owner(inbox), work, session=inbox).handle_once()
    assert (ending.how, ending.error) == (how, error)
    assert await inbox.is_free()


@virtual.clocked
async def test_a_caller_that_is_cancelled_after_the_time_of_the_work_is_over_has_it_fail_all_the_same() -> None:
    async def slowly() -> str:
        try:
            return await asyncio.sleep(100, "done")
        finally:
            await asyncio.sleep(0.5)

    one = unit(owner(Watched(), work_timeout=5.0), slowly)
    caller = asyncio.create_task(one.handle_once())
    await asyncio.sleep(5.2)
    caller.cancel()
    await asyncio.wait((caller,))
    assert [type(each) for each in one.recorded] == [TimeoutError], (
        "a failure that was not recorded is never quarantined"
    )


@virtual.clocked
async def test_what_became_of_an_event_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Watched(complete=fails(InboxError("away")))
    assert (await unit(owner(inbox), work).handle_once()).how is AttemptResult.HANDLED
    assert [record.getMessage() for record in caplog.records] == [
        "an event was handled, but that could not be recorded: away"
    ]


@pytest.mark.parametrize("call", ["claim", "complete"])
@virtual.clocked
async def test_a_call_of_the_inbox_comes_to_its_end_though_its_caller_is_cancelled(call: str) -> None:
    begun: list[str] = []

    async def take_a_second(what: str) -> None:
        begun.append(what)
        await asyncio.sleep(0.5)
        if what == call:
            caller.cancel()
        await asyncio.sleep(0.5)

    inbox = Watched(**{what: partial(take_a_second, what) for what in ("claim", "complete")})
    caller = asyncio.create_task(unit(owner(inbox), work).handle_once())
    await asyncio.wait((caller,))
    await asyncio.sleep(2)
    ended = [what for what, _ in inbox.calls if what != "release"]
    assert begun == ended == (["claim"] if call == "claim" else ["claim", "complete"])
    assert bool(await inbox.known([KEY])) == (call == "complete"), "what was handled is recorded, and nothing else"


@pytest.mark.parametrize(
    ("call", "how"),
    [("claim", AttemptResult.UNAVAILABLE), ("complete", AttemptResult.HANDLED), ("release", AttemptResult.FAILED)],
)
@virtual.clocked
async def test_an_inbox_that_cancels_itself_has_failed(call: str, how: AttemptResult) -> None:
    one = unit(owner(Watched(**{call: fails(asyncio.CancelledError())})), work)
    if call == "release":
        one.doing = fails(ValueError("no"))
    ending = await one.handle_once()
    assert ending.how is how
    assert "the inbox awaited something that was cancelled" in [str(each) for each in (ending.error, *one.reported)]


@virtual.clocked
async def test_a_call_of_the_inbox_that_a_loop_cancels_because_it_shuts_down_is_made_again() -> None:
    inbox = Watched(complete=takes(1))
    units = owner(inbox)
    caller = asyncio.create_task(unit(units, work).handle_once())
    await asyncio.sleep(0.5)
    for task in units.tasks:
        task.cancel()
    assert (await caller).how is AttemptResult.HANDLED
    assert await inbox.known([KEY])


@pytest.mark.parametrize("seconds", [0.0, 0.5], ids=["before it begins", "at work"])
@virtual.clocked
async def test_work_that_a_loop_cancels_because_it_shuts_down_has_not_failed(seconds: float) -> None:
    units = owner(Watched())
    one = unit(units, lasts(1))
    caller = asyncio.create_task(one.handle_once())
    await asyncio.sleep(seconds)
    has_begun = seconds or asyncio.get_running_loop().get_task_factory() is not None  # a task begins at once
    for task in units.tasks:
        task.cancel()
    await asyncio.wait((caller,), timeout=60)
    assert (await caller).how is AttemptResult.CANCELLED if has_begun else caller.cancelled()
    assert one.recorded == []


@virtual.clocked
async def test_no_work_begins_after_a_claim_that_a_loop_cancels_because_it_shuts_down() -> None:
    inbox, begun = Watched(claim=takes(1)), []

    async def begin() -> str:
        begun.append(1)
        return "done"

    units = owner(inbox)
    caller = asyncio.create_task(unit(units, begin).handle_once())
    await asyncio.sleep(0.5)
    for task in units.tasks:
        task.cancel()
    assert ((await caller).how, begun) == (AttemptResult.CANCELLED, [])
    assert await inbox.is_free()


@pytest.mark.parametrize(("call", "reported"), [("work", 1), ("claim", 0)])
@virtual.clocked
async def test_a_claim_that_stays_is_reported_unless_it_may_not_have_been_made(call: str, reported: int) -> None:
    away = fails(InboxError("away"))
    inbox = Watched(release=away, **{"claim": away} if call == "claim" else {})
    one = unit(owner(inbox), fails(ValueError("no")))
    ending = await one.handle_once()
    assert ending.how is (AttemptResult.FAILED if call == "work" else AttemptResult.UNAVAILABLE)
    assert [type(each) for each in one.reported] == [InboxError] * reported


# --- attempts without an end ---


@virtual.clocked
async def test_events_of_which_an_attempt_had_no_end_are_handled_one_after_the_other() -> None:
    inbox, units, under_way = Watched(), list[Event](), list[int]()

    async def count() -> str:
        under_way.append(1)
        await asyncio.sleep(1)
        under_way.append(-1)
        return "done"

    for key in ("one", "two", "three"):
        await inbox.claim(key, "killed", lease=1)
        units.append(unit(owner(inbox), count, key))
        units[-1].key, units[-1].patience = key, 60
    await asyncio.sleep(2)
    units[2].can_be_alone = False
    endings = await asyncio.gather(*(each.handle_once() for each in units))
    assert [each.how for each in endings] == [AttemptResult.HANDLED] * 2 + [AttemptResult.ALONE]
    assert under_way == [1, -1, 1, -1]


@pytest.mark.parametrize("session", [False, True])
@virtual.clocked
async def test_an_event_with_three_attempts_without_an_end_is_claimed_twice_and_not_begun(session: bool) -> None:
    inbox = Transactional()
    for number in range(3):
        await inbox.claim(KEY, f"killed-{number}", lease=1)
        await asyncio.sleep(2)
    units, begun = owner(inbox), []
    units.leaves_trace = session

    async def begin() -> str:
        begun.append(1)
        return "done"

    inbox.asked.clear()
    began = virtual.now()
    ending = await unit(units, begin, session=inbox if session else None).handle_once()
    assert isinstance(ending.error, KilledError)
    assert (ending.how, ending.error.count, begun) == (AttemptResult.FAILED, 3, [])
    assert inbox.asked == [(LEASE, False)] * 2, "the others had time to take theirs back, and no transaction began"
    assert virtual.now() - began == pytest.approx(5.0)


# --- claims that no worker got ---


@virtual.clocked
async def test_claims_whose_responses_were_lost_are_no_attempts_without_an_end() -> None:
    lost = InboxError("the response was lost")
    inbox = Watched(claim=fails(lost), release=fails(InboxError("away")))
    processes = [owner(inbox) for _ in range(4)]
    for number, units in enumerate(processes[:3]):
        ending = await unit(units, work, f"t{number}").handle_once()
        assert (ending.how, ending.error) == (AttemptResult.UNAVAILABLE, lost)
        await asyncio.sleep(LEASE + 0.5)
    inbox.hooks = {}
    assert (await unit(processes[3], work, "b").handle_once()).how is AttemptResult.HANDLED
    await asyncio.sleep(owed.EVERY)
    assert [len(each.owed) for each in processes] == [0, 0, 0, 0]


@virtual.clocked
async def test_what_was_handled_and_could_not_be_recorded_is_recorded_when_the_inbox_answers_again() -> None:
    inbox = Watched(complete=fails(None))
    units = owner(inbox)
    assert (await unit(units, work).handle_once()).unrecorded is not None
    await asyncio.sleep(10 * LEASE)
    assert await inbox.known([KEY]) == set()
    inbox.hooks = {}
    await asyncio.sleep(5 + owed.EVERY)
    assert await inbox.known([KEY]) == {KEY}


@virtual.clocked
async def test_at_the_end_what_is_owed_to_an_inbox_is_tried_once_more_and_never_again() -> None:
    inbox = Watched(complete=fails(InboxError("away")))
    for answers in (False, True):
        units = owner(inbox)
        await unit(units, work, f"t-{answers}").handle_once()
        if answers:
            inbox.hooks = {}
        calls = len(inbox.calls)
        await units.owed.aclose()
        assert (len(inbox.calls) > calls, len(units.owed)) == (answers, not answers)
        await asyncio.sleep(LEASE)
    assert await inbox.known([KEY]) == {KEY}


@virtual.clocked
async def test_the_newest_thousand_calls_are_owed() -> None:
    done: list[int] = []

    async def call(number: int) -> None:
        done.append(number)

    calls = owed.Owed(1.0)
    for number in range(1_500):
        calls.add(f"k-{number}", "t", partial(call, number))
        calls.add(f"k-{number}", "t", partial(call, number))
    assert len(calls) == 1_000
    await asyncio.sleep(2 * owed.EVERY)
    assert (done, len(calls)) == (list(range(500, 1_500)), 0)
