"""A deferred handler works after the response: what was acknowledged is handled, tried again, or set aside."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import attrs
import pytest

from basiq_async import ConfigurationError, InboxError, RateLimitError, TransportError
from basiq_async.receiver import Delivery, MemoryInbox, Outcome, QuarantinedDelivery, Result, WebhookReceiver
from basiq_async.receiver._worker import Pause  # private: no test has so many outages
from tests.support import virtual
from tests.support.deliveries import OTHER_SECRET, SECRET, Service, payload, quarantined_delivery, signed
from tests.support.inboxes import fail_in


def make(handle: Any = None, *, inbox: MemoryInbox | None = None, **options: Any) -> Service:
    """Return a service whose handler of ``*`` is deferred, all on the virtual clock."""
    options = {"accept_loss": True, "deferred": True, "clock": virtual.clock, **options}
    service = Service(inbox=MemoryInbox(clock=virtual.clock) if inbox is None else inbox, **options)
    if handle is not None:
        service.receiver.on("transactions.updated")(handle)
    return service


async def post(service: Service, event_id: str = "e-1", *, type_id: str = "transactions.updated") -> Outcome:
    body = payload(type_id, event_id)
    return await service.receiver.handle(signed(body, message_id=f"msg_{event_id}", at=virtual.clock()), body)


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
    first = [await post(service) for _ in range(3)]  # nobody works yet
    assert [done.result for done in first] == [Result.DEFERRED, Result.DUPLICATE, Result.DUPLICATE]
    async with service.receiver:
        await asyncio.sleep(2)
        assert (await post(service)).result is Result.DUPLICATE
    assert len(service.handled) == 1


@virtual.clocked
async def test_what_waits_is_worked_off_by_the_next_process_even_without_a_deferred_handler() -> None:
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
        await post(make(inbox=inbox), "e-2")
        await asyncio.sleep(59)
        assert len(service.handled) == 1
        await asyncio.sleep(2)
        assert len(service.handled) == 2
        await post(make(inbox=inbox), "e-3")
        await asyncio.sleep(1.1)
        assert len(service.handled) == 3, "from then on it looks each second"


@virtual.clocked
async def test_after_a_failure_it_is_tried_again_later_and_later_and_then_set_aside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    moments: list[float] = []

    async def fail(delivery: Delivery) -> None:
        moments.append(virtual.now())
        raise ValueError("no")

    service = make(fail)
    async with service.receiver:
        await post(service)
        await asyncio.sleep(7.5 * 3600)
        [entry] = await service.receiver.quarantined()
        assert (entry.error, entry.failures, entry.acknowledged) == ("ValueError: no", 8, True)
        assert (await service.receiver.waiting()).count == 0
    waits = [later - earlier for earlier, later in itertools.pairwise(moments)]
    for wait, meant in zip(waits, [5, 30, 300, 1800, 7200, 7200, 7200], strict=True):
        assert 0.9 * meant <= wait <= 1.1 * meant + 1.1
    assert results(service) == ["deferred", *["failed"] * 7, "quarantined"]
    assert "failed, 1 times so far; it is tried again in" in caplog.text


@virtual.clocked
async def test_an_outage_counts_for_nothing_and_pauses_the_work() -> None:
    calls: list[str] = []
    down = [True]

    async def handle(delivery: Delivery) -> None:
        calls.append(delivery.event_id)
        if down[0]:
            raise TransportError("Basiq is away")

    service = make(handle, attempts=2, concurrency=1)
    async with service.receiver:
        for number in range(5):
            await post(service, f"e-{number}")
        await asyncio.sleep(3600)
        assert len(calls) < 80, "it waits longer and longer, up to a minute"
        assert (await service.receiver.waiting()).fresh == 5
        down[0] = False
        await asyncio.sleep(70)
        assert (await service.receiver.waiting()).count == 0
        assert list(await service.receiver.quarantined()) == []


@virtual.clocked
async def test_many_that_meet_one_outage_make_one_short_pause_and_then_one_is_tried_alone() -> None:
    moments: list[float] = []
    down = [True]

    async def handle(delivery: Delivery) -> None:
        moments.append(virtual.now())
        await asyncio.sleep(0.1)
        if down[0]:
            raise TransportError("Basiq is away")

    service = make(handle, concurrency=8)
    for number in range(20):
        await post(service, f"e-{number}")
    async with service.receiver:
        await asyncio.sleep(0.5)
        assert len(moments) == 8
        await asyncio.sleep(10)
        waits = [later - earlier for earlier, later in itertools.pairwise(moments[7:])]
        assert 1 <= waits[0] <= 2.3
        assert all(wait > 1.5 for wait in waits[1:]), "one at a time, later and later"
        down[0] = False
        await asyncio.sleep(30)
        assert (await service.receiver.waiting()).count == 0


@virtual.clocked
async def test_an_error_with_a_time_pauses_the_work_for_so_long() -> None:
    moments: list[float] = []

    async def handle(delivery: Delivery) -> None:
        moments.append(virtual.now())
        if len(moments) == 1:
            raise RateLimitError("slowly", status=429, retry_after=40.0)

    service = make(handle, concurrency=1)
    async with service.receiver:
        await post(service, "e-1")
        await post(service, "e-2")
        await asyncio.sleep(60)
    assert 40 <= moments[1] - moments[0] <= 42
    assert len(moments) == 3


@virtual.clocked
async def test_no_error_pauses_the_work_for_more_than_an_hour() -> None:
    moments: list[float] = []

    async def handle(delivery: Delivery) -> None:
        moments.append(virtual.now())
        if len(moments) == 1:
            raise RateLimitError("come back next week", status=429, retry_after=7 * 86_400.0)

    service = make(handle)
    async with service.receiver:
        await post(service)
        await asyncio.sleep(3_700)
    assert 3_600 <= moments[1] - moments[0] <= 3_602


@virtual.clocked
async def test_an_event_that_alone_meets_outages_fails_itself() -> None:
    async def handle(delivery: Delivery) -> None:
        if delivery.event_id == "e-bad":
            raise TransportError("its page never comes")

    service = make(handle, attempts=1, concurrency=2)
    async with service.receiver:
        await post(service, "e-bad")
        for number in range(20):
            await post(service, f"e-{number}")
            await asyncio.sleep(5)
        [entry] = await service.receiver.quarantined()
        assert entry.event_id == "e-bad"


def test_an_event_whose_outages_are_counted_is_not_forgotten_because_others_met_one() -> None:
    pause = Pause()
    for number in range(2_000):  # each was handled by another process meanwhile
        assert pause.excuse(f"other-{number}")
    assert pause.excuse("bad")
    for number in range(3):
        pause.end(f"good-{number}", handled=True)
    assert [pause.excuse("bad") for _ in range(2)] == [True, False]


@virtual.clocked
async def test_a_handler_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    calls: list[float] = []

    async def handle(delivery: Delivery) -> None:
        calls.append(virtual.now())
        if len(calls) == 1:
            await asyncio.sleep(1000)

    service = make(handle, deferred_timeout=20)
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


@virtual.clocked
async def test_what_was_being_claimed_when_it_is_closed_does_not_begin() -> None:
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
    async with service.receiver:
        await asyncio.sleep(0.5)
    assert begun == []
    later = make(inbox=inbox)
    async with later.receiver:
        await asyncio.sleep(1.5)
        assert len(later.handled) == 1, "its claim was given back"


@virtual.clocked
async def test_a_replay_and_a_retry_give_a_deferred_handler_its_time() -> None:
    async def slow(delivery: Delivery) -> None:
        await asyncio.sleep(40)

    service = make(slow, handler_timeout=10, deferred_timeout=60)
    delivery = Delivery("msg_e-1", "transactions.updated", "e-1", {}, b"{}", {}, virtual.clock())
    assert (await service.receiver.dispatch(delivery)).result is Result.HANDLED


@virtual.clocked
async def test_a_type_without_a_handler_and_a_lost_secret_go_to_the_quarantine() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    before = make(inbox=inbox, webhook_id="w1")
    await post(before, "e-1", type_id="consent.revoked")
    await post(before, "e-2")
    after = WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1", deferred=True, accept_loss=True, clock=virtual.clock)

    @after.on("transactions.updated")
    async def handle(delivery: Delivery) -> None: ...

    async with after:
        await asyncio.sleep(599)
        assert await after.quarantined() == [], "another process may have its handler: this may be a deploy"
        await asyncio.sleep(62)
        [entry] = await after.quarantined()
        assert entry.error == "no handler is registered for event type 'consent.revoked' any more"
    await post(before, "e-3")
    rotated = WebhookReceiver(
        OTHER_SECRET, inbox=inbox, webhook_id="w1", deferred=True, accept_loss=True, clock=virtual.clock
    )
    rotated.on("*")(handle)
    async with rotated:
        await asyncio.sleep(662)
        entries = {entry.event_id: entry.error for entry in await rotated.quarantined()}
    assert "was sealed with another secret" in entries["e-3"]


@virtual.clocked
async def test_each_deploy_has_ten_minutes_and_what_is_unreadable_has_none() -> None:
    inbox = MemoryInbox(clock=virtual.clock)
    before = make(inbox=inbox, webhook_id="w1")
    after = WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1", deferred=True, accept_loss=True, clock=virtual.clock)

    @after.on("transactions.updated")
    async def handle(delivery: Delivery) -> None: ...

    async def set_aside() -> int:
        return len(await inbox.quarantined())

    async with after:
        for count in (1, 2):
            await post(before, f"e-{count}", type_id="consent.revoked")
            await asyncio.sleep(590)
            assert await set_aside() == count - 1
            await asyncio.sleep(3_600)
            assert await set_aside() == count
        entry = attrs.evolve(quarantined_delivery("k"), kind="unreadable", seal="", failures=0)
        await inbox.store(entry, webhook_id="w1")
        await asyncio.sleep(1.1)
        assert await set_aside() == 3


@virtual.clocked
async def test_too_many_that_wait_are_refused_and_failures_do_not_count_among_them() -> None:
    service = make(max_waiting=3)
    done = []
    for number in range(6):
        done.append(await post(service, f"e-{number}"))
        await asyncio.sleep(1.1)
    assert [each.status for each in done] == [202, 202, 202, 503, 503, 503]
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
    service = make(max_waiting_bytes=1_000)

    @service.receiver.on("user.created", deferred=False)
    async def at_once(delivery: Delivery) -> None: ...

    statuses = []
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
async def test_a_replay_hands_it_out_at_once_and_work_alone_works_off() -> None:
    service = make()
    await post(service, "e-1")
    await post(service, "e-2")
    waiting = await service.receiver.inbox.list_waiting()  # type: ignore[attr-defined]
    assert [type(entry) for entry in waiting] == [QuarantinedDelivery] * 2
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


def test_an_inbox_that_may_lose_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigurationError, match=r"MemoryInbox would lose .* when the process ends"):
        WebhookReceiver(SECRET, deferred=True)
    receiver = WebhookReceiver(SECRET)
    with pytest.raises(ConfigurationError, match="pass accept_loss=True"):

        @receiver.on("user.created", deferred=True)
        async def handle(delivery: Delivery) -> None: ...


@pytest.mark.parametrize("name", ["attempts", "concurrency", "max_waiting", "max_waiting_bytes", "deferred_timeout"])
def test_each_limit_is_checked(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        WebhookReceiver(SECRET, **{name: 0})  # type: ignore[arg-type]
