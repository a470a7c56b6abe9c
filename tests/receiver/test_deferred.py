"""A deferred handler works after the response: what was acknowledged is handled, tried again, or quarantined."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime, timedelta
from typing import Any

import attrs
import pytest

from basiq_async import ConfigurationError, InboxError, RateLimitError
from basiq_async._work.store_use import may_work
from basiq_async.receiver import (
    Deferred,
    Delivery,
    InboxEntry,
    MemoryInbox,
    Outcome,
    Result,
    WebhookReceiver,
)
from tests.support import virtual
from tests.support.deferring import post_event
from tests.support.deliveries import OTHER_SECRET, SECRET, Service, quarantined_delivery
from tests.support.inboxes import fail_in


def make(handle: Any = None, *, inbox: MemoryInbox | None = None, **options: Any) -> Service:
    """Return a service whose handler of ``*`` is deferred, all on the virtual clock."""
    limits = {name: options.pop(name) for name in attrs.fields_dict(Deferred) if name in options}
    options = {"deferred": Deferred(**limits), "clock": virtual.clock, **options}
    service = Service(inbox=MemoryInbox(clock=virtual.clock) if inbox is None else inbox, **options)
    if handle is not None:
        service.receiver.on("transactions.updated")(handle)
    return service


def of_another_process(inbox: MemoryInbox) -> MemoryInbox:
    """Return another inbox on the same storage."""
    other = MemoryInbox()
    other.__dict__ = inbox.__dict__
    return other


async def post(service: Service, event_id: str = "e-1", *, type_id: str = "transactions.updated") -> Outcome:
    return await post_event(service.receiver, event_id, type_id, at=virtual.clock())


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks every ten seconds: a test of three days."""
    monkeypatch.setattr("basiq_async.receiver._worker._LOOK_EVERY", 10.0)


def results(service: Service) -> list[str]:
    return [event.result.value for event in service.events]


@virtual.clocked
async def test_the_response_comes_before_the_work() -> None:
    ended = asyncio.Event()

    async def slow(delivery: Delivery) -> None:
        await asyncio.sleep(30)
        ended.set()

    service = make(slow)
    async with service.receiver:
        began = virtual.now()
        done = await post(service)
        assert (done.result, done.status, done.acknowledged) == (Result.DEFERRED, 202, True)
        assert virtual.now() == began
        waiting = await service.receiver.waiting()
        assert (waiting.count, waiting.fresh, waiting.age) == (1, 1, 0.0)
        await ended.wait()
        assert 30 <= virtual.now() - began < 31
        await asyncio.sleep(1)
        assert (await service.receiver.waiting()).count == 0
    assert results(service) == ["deferred", "handled"]


@virtual.clocked
async def test_a_second_delivery_of_an_event_that_waits_or_was_handled_is_a_duplicate() -> None:
    service = make()
    first = [await post(service) for _ in range(3)]  # no worker runs yet
    assert [done.result for done in first] == [Result.DEFERRED, Result.DUPLICATE, Result.DUPLICATE]
    async with service.receiver:
        await asyncio.sleep(2)
        assert (await post(service)).result is Result.DUPLICATE
    assert len(service.handled) == 1


@virtual.clocked
async def test_what_waits_is_handled_by_the_next_process_even_without_a_deferred_handler() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    await post(make(inbox=inbox))  # its receiver is never entered
    later = make(inbox=inbox, deferred=False)
    async with later.receiver:
        await asyncio.sleep(1)
    assert len(later.handled) == 1


@virtual.clocked
async def test_a_receiver_that_never_deferred_looks_once_a_minute_for_what_others_have_deferred() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    service = make(inbox=inbox, deferred=False)
    async with service.receiver:
        assert (await post(service)).result is Result.HANDLED
        await post(make(inbox=of_another_process(inbox)), "e-2")
        await asyncio.sleep(59)
        assert len(service.handled) == 1
        await asyncio.sleep(2)
        assert len(service.handled) == 2
        await post(make(inbox=of_another_process(inbox)), "e-3")
        await asyncio.sleep(1.1)
        assert len(service.handled) == 3, "from then on it looks each second"


@virtual.clocked
async def test_a_process_that_works_looks_each_second_though_it_was_entered_before() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    service = make(inbox=inbox, deferred=False)
    async with service.receiver:
        await asyncio.sleep(1)
        work = asyncio.create_task(service.receiver.work())
        await asyncio.sleep(1)
        await post(make(inbox=of_another_process(inbox)))
        await asyncio.sleep(1.1)
        assert len(service.handled) == 1
        await service.receiver.aclose()
        await work


@virtual.clocked
async def test_a_command_that_works_handles_what_waits_though_it_only_looks_at_receivers() -> None:
    may_work.set(False)
    service = make()
    await post(service)
    work = asyncio.create_task(service.receiver.work())
    await asyncio.sleep(2)
    assert len(service.handled) == 1
    work.cancel()
    await asyncio.wait((work,))


@pytest.mark.usefixtures("seldom")
@virtual.clocked
async def test_after_a_failure_it_is_tried_again_later_and_later_and_then_quarantined(
    caplog: pytest.LogCaptureFixture,
) -> None:
    moments: list[float] = []

    async def fail(delivery: Delivery) -> None:
        moments.append(virtual.now())
        raise ValueError("no")

    service = make(fail)
    async with service.receiver:
        await post(service)
        await asyncio.sleep(72 * 3600 - 60)
        assert list(await service.receiver.quarantined()) == []
        (waits,) = await service.receiver.inbox.entries(waiting=True)
        assert (waits.failures, waits.failing_since.timestamp()) == (len(moments), moments[0])
        await asyncio.sleep(2400)
        [entry] = await service.receiver.quarantined()
        assert (entry.error, entry.failures, entry.acknowledged) == ("ValueError: no", len(moments), True)
        assert (await service.receiver.waiting()).count == 0
    waits = [later - earlier for earlier, later in itertools.pairwise(moments)]
    for wait, meant in zip(waits, [5, 30, 300, *[1800] * (len(waits) - 3)], strict=True):
        assert 0.9 * meant <= wait <= 1.1 * meant + 10.1
    assert 140 < len(moments) < 160
    assert results(service) == ["deferred", *["failed"] * (len(moments) - 1), "quarantined"]
    assert "failed, 1 times so far; it is tried again in" in caplog.text


@pytest.mark.usefixtures("seldom")
@virtual.clocked
@pytest.mark.parametrize("hours", [40 * 24, 2, -2])
async def test_what_failed_while_a_clock_was_wrong_is_tried_again_soon_by_the_right_one(hours: float) -> None:
    wrong = timedelta(hours=hours)

    def clock() -> datetime:
        return virtual.clock() + wrong

    async def handle(delivery: Delivery) -> None:
        if wrong:
            raise ValueError("no")

    service = make(handle, clock=clock, inbox=MemoryInbox(clock=clock))
    await asyncio.sleep(3 * 3600)  # the virtual clock begins in 1970
    async with service.receiver:
        await post_event(service.receiver, "e-1", at=clock())
        await asyncio.sleep(600)
        [entry] = await service.receiver.inbox.entries(waiting=True)
        assert entry.failures == 4
        wrong = timedelta()
        await asyncio.sleep(1_900)  # the longest wait, and the next look
        assert (await service.receiver.waiting()).count == 0
    assert results(service)[-1] == "handled"


@pytest.mark.usefixtures("seldom")
@virtual.clocked
async def test_it_is_quarantined_after_eight_failures_however_short_it_is_to_be_tried() -> None:
    calls: list[str] = []

    async def fail(delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        raise ValueError("no")

    service = make(fail, keep_trying=0)
    async with service.receiver:
        await post(service)
        await asyncio.sleep(3 * 3600)
        [entry] = await service.receiver.quarantined()
    assert (entry.failures, len(calls)) == (8, 8)


@pytest.mark.parametrize(("asked", "wait"), [(0.0, 5), (40.0, 40), (7 * 86_400.0, 1_800)])
@virtual.clocked
async def test_an_error_with_a_time_is_waited_for_within_the_limits(asked: float, wait: float) -> None:
    moments: list[float] = []

    async def handle(delivery: Delivery) -> None:
        moments.append(virtual.now())
        if len(moments) == 1:
            raise RateLimitError("slowly", status=429, retry_after=asked)

    service = make(handle)
    async with service.receiver:
        await post(service)
        await asyncio.sleep(wait + 20)
    assert 0.9 * wait <= moments[1] - moments[0] <= 1.1 * wait + 1.1


@virtual.clocked
async def test_a_handler_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    calls: list[float] = []

    async def handle(delivery: Delivery) -> None:
        calls.append(virtual.now())
        if len(calls) == 1:
            await asyncio.sleep(1000)

    service = make(handle, timeout=20)
    async with service.receiver:
        await post(service)
        await asyncio.sleep(60)
        assert (await service.receiver.waiting()).count == 0
    assert 24 <= calls[1] - calls[0] <= 28
    assert results(service) == ["deferred", "timed-out", "handled"]


@virtual.clocked
async def test_at_most_so_many_are_worked_on_at_once_and_the_oldest_first() -> None:
    order: list[str] = []
    now, most = 0, 0

    async def handle(delivery: Delivery) -> None:
        nonlocal now, most
        now, order[len(order) :] = now + 1, [delivery.event_id]
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1

    service = make(handle, concurrency=3)
    for number in range(10):
        await post(service, f"e-{number}")
        await asyncio.sleep(0.01)
    async with service.receiver:
        await asyncio.sleep(6)
    assert most == 3
    assert order == [f"e-{number}" for number in range(10)]


@virtual.clocked
async def test_of_those_whose_attempts_had_no_end_one_is_worked_on_at_a_time() -> None:
    order: list[str] = []
    now, most = 0, 0

    async def handle(delivery: Delivery) -> None:
        nonlocal now, most
        now, order[len(order) :] = now + 1, [delivery.event_id]
        most = max(most, now)
        await asyncio.sleep(1)
        now -= 1

    inbox = MemoryInbox(clock=virtual.clock)
    service = make(handle, inbox=inbox, concurrency=8)
    for number in range(4):
        await post(service, f"e-{number}")
    moment = virtual.clock()
    for each in await inbox.claim_due("t", limit=4, retries=4, lease=60, now=moment):
        ended = attrs.evolve(each.entry, failures=1, unended=1, error="killed", failing_since=moment)
        assert await inbox.put_off(ended, "t", seconds=0, now=moment)
    async with service.receiver:
        await asyncio.sleep(120)
    assert (most, len(order)) == (1, 4)


@virtual.clocked
async def test_closing_begins_nothing_new_and_leaves_the_rest_in_the_inbox() -> None:
    begun: list[str] = []

    async def handle(delivery: Delivery) -> None:
        begun.append(delivery.event_id)
        await asyncio.sleep(5 if delivery.event_id == "e-0" else 50)

    service = make(handle, concurrency=2, handler_timeout=10)
    async with service.receiver:
        for number in range(6):
            await post(service, f"e-{number}")
        await asyncio.sleep(0.1)
        closing = virtual.now()
    assert 10 <= virtual.now() - closing <= 12
    assert begun == ["e-0", "e-1"]
    left = await service.receiver.waiting()
    assert (left.count, left.fresh) == (5, 5), "e-0 ended; e-1 was cancelled, and waits again"


@pytest.mark.parametrize("until_empty", [None, False, True])
@virtual.clocked
async def test_what_was_being_claimed_when_it_is_closed_or_its_job_is_cancelled_does_not_begin(
    until_empty: bool | None,
) -> None:
    class Slow(MemoryInbox):
        async def claim_due(self, *args: Any, **options: Any) -> Any:
            found = await super().claim_due(*args, **options)
            await asyncio.sleep(1)
            return found

    begun: list[str] = []

    async def handle(delivery: Delivery) -> None:
        begun.append(delivery.event_id)

    inbox = Slow(clock=virtual.clock)
    service = make(handle, inbox=inbox)
    await post(service)
    if until_empty is None:
        async with service.receiver:
            await asyncio.sleep(0.5)
    else:
        job = asyncio.create_task(service.receiver.work(until_empty=until_empty))
        await asyncio.sleep(0.5)
        job.cancel()
        await asyncio.wait((job,))
    assert begun == []
    later = make(inbox=inbox)
    async with later.receiver:
        await asyncio.sleep(1.5)
        assert len(later.handled) == 1, "its claim was given back"


@virtual.clocked
async def test_a_replay_and_a_retry_give_a_deferred_handler_its_time() -> None:
    async def slow(delivery: Delivery) -> None:
        await asyncio.sleep(40)

    service = make(slow, handler_timeout=10, timeout=60)
    delivery = Delivery("msg_e-1", "transactions.updated", "e-1", {}, b"{}", {}, virtual.clock())
    assert (await service.receiver.dispatch(delivery)).result is Result.HANDLED


@pytest.mark.usefixtures("seldom")
@virtual.clocked
async def test_a_type_without_a_handler_is_left_to_others_until_the_horizon_and_counts_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    before = make(inbox=inbox, webhook_id="w1")
    await post(before, "e-1", type_id="consent.revoked")
    limits = Deferred(keep_trying=7_200)
    after = WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1", deferred=limits, clock=virtual.clock)

    @after.on("transactions.updated")
    async def handle(delivery: Delivery) -> None: ...

    async with after:
        await asyncio.sleep(7_100)
        waiting = await after.waiting()
        assert (waiting.fresh, waiting.failing) == (1, 0)
        [entry] = await inbox.entries(waiting=True)
        assert "no handler is registered for event type 'consent.revoked'" in entry.error
        assert await after.quarantined() == []
        await asyncio.sleep(200)
        [entry] = await after.quarantined()
        assert (entry.failures, entry.acknowledged) == (0, True)
    assert caplog.text.count("are left to other processes") == 1


@virtual.clocked
async def test_a_rotation_of_the_secret_touches_nothing_that_waits() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    await post(make(inbox=inbox, webhook_id="w1"))
    rotated = WebhookReceiver(OTHER_SECRET, inbox=inbox, webhook_id="w1", deferred=True, clock=virtual.clock)
    handled: list[str] = []

    @rotated.on("*")
    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    async with rotated:
        await asyncio.sleep(2)
    assert handled == ["e-1"]


@virtual.clocked
async def test_what_is_unreadable_is_quarantined_at_once() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    entry = attrs.evolve(quarantined_delivery("k"), body=b"{", kind="unreadable", failures=0)
    await inbox.store(entry)
    service = make(inbox=inbox, webhook_id="w1")
    async with service.receiver:
        await asyncio.sleep(1.1)
        [found] = await inbox.entries()
    assert "cannot be read as JSON" in found.error
    assert service.handled == []


@virtual.clocked
async def test_too_many_that_wait_are_refused_and_failures_do_not_count_among_them() -> None:
    service = make(max_waiting=3)
    done = []
    for number in range(6):
        done.append(await post(service, f"e-{number}"))
        await asyncio.sleep(1.1)
    assert [each.status for each in done] == [202, 202, 202, 503, 503, 503]
    again = await post(service, "e-0")
    assert (again.status, again.result) == (200, Result.DUPLICATE), "the inbox knows it"
    assert done[-1].result is Result.FULL
    assert done[-1].headers == {"Retry-After": "60"}

    async def fail(delivery: Delivery) -> None:
        raise ValueError("a bad deploy")

    service = make(fail, max_waiting=3)
    async with service.receiver:
        for number in range(6):
            assert (await post(service, f"e-{number}")).status == 202
            await asyncio.sleep(1.1)


@virtual.clocked
async def test_the_bytes_that_wait_are_limited_and_other_types_never_refused() -> None:
    service = make()

    @service.receiver.on("user.created", deferred=False)
    async def at_once(delivery: Delivery) -> None: ...

    statuses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("basiq_async.receiver._backlog._MOST_BYTES", 1_000)
        for number in range(10):
            statuses.append((await post(service, f"e-{number}")).status)
            await asyncio.sleep(1.1)
    assert statuses[0] == 202
    assert statuses[-1] == 503
    assert (await post(service, "e-x", type_id="user.created")).result is Result.HANDLED


@virtual.clocked
async def test_what_cannot_be_stored_is_not_acknowledged() -> None:
    inbox = fail_in("store", error=InboxError("the disk is full"), inbox=MemoryInbox(clock=virtual.clock))
    done = await post(make(inbox=inbox))
    assert (done.result, done.status) == (Result.UNAVAILABLE, 503)
    inbox = fail_in("store", inbox=MemoryInbox(clock=virtual.clock))
    done = await post(make(inbox=inbox))
    assert (done.status, str(done.error)) == (503, "the inbox did not respond within 5 s")


@virtual.clocked
async def test_a_replay_passes_it_at_once_and_work_alone_handles_what_waits() -> None:
    service = make()
    await post(service, "e-1")
    await post(service, "e-2")
    waiting = await service.receiver.inbox.entries(waiting=True)
    assert [type(entry) for entry in waiting] == [InboxEntry] * 2
    delivery = Delivery("msg_e-1", "transactions.updated", "e-1", {}, b"{}", {}, virtual.clock())
    assert (await service.receiver.dispatch(delivery)).result is Result.HANDLED
    assert (await service.receiver.waiting()).count == 1
    work = asyncio.create_task(service.receiver.work())
    await asyncio.sleep(2)
    assert (await service.receiver.waiting()).count == 0
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(service.handled) == 2


@virtual.clocked
async def test_a_job_works_until_nothing_is_due_and_leaves_what_is_tried_again_later() -> None:
    handled: list[str] = []

    async def handle(delivery: Delivery) -> None:
        await asyncio.sleep(1)
        if delivery.event_id == "e-bad":
            raise ValueError("no")
        handled.append(delivery.event_id)

    inbox = MemoryInbox(clock=virtual.clock)
    service = make(handle, inbox=inbox)
    for event_id in ("e-bad", *(f"e-{number}" for number in range(20))):
        await post(service, event_id)
    began = virtual.now()
    await service.receiver.work(until_empty=True)
    assert virtual.now() - began <= 4
    assert len(handled) == 20
    assert ((await inbox.waiting()).count, (await inbox.waiting()).failing) == (1, 1)
    later = make(handle, inbox=inbox)
    await later.receiver.work(until_empty=True)
    assert (await inbox.waiting()).count == 1
    away = fail_in("claim_due", error=InboxError("away"), inbox=MemoryInbox(clock=virtual.clock))
    with pytest.raises(InboxError, match="away"):
        await make(handle, inbox=away).receiver.work(until_empty=True)


def test_only_an_inbox_that_was_passed_may_keep_what_waits() -> None:
    with pytest.raises(ConfigurationError, match=r"would lose deliveries .* or MemoryInbox\(\) in a test"):
        WebhookReceiver(SECRET, deferred=True)
    receiver = WebhookReceiver(SECRET)
    with pytest.raises(ConfigurationError, match="would lose deliveries"):

        @receiver.on("user.created", deferred=True)
        async def handle(delivery: Delivery) -> None: ...

    WebhookReceiver(SECRET, inbox=MemoryInbox(), deferred=True)


@pytest.mark.parametrize("name", ["concurrency", "max_waiting", "timeout", "keep_trying"])
def test_each_limit_is_checked(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Deferred(**{name: -1})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="deferred must be"):
        WebhookReceiver(SECRET, deferred=8)  # type: ignore[arg-type]
