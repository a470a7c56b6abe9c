"""Hours and days of deferred work in virtual time: what fails stops no other, and nothing is lost by an outage."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from basiq_async import InboxError, PermissionDeniedError, RateLimitError, TransportError
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from tests.support import virtual
from tests.support.deferring import deferring, post_event
from tests.support.deliveries import SECRET
from tests.support.inboxes import Plain, fail_in

TYPES = ("transactions.updated", "consent.revoked", "user.created")
WORK = 0.3
"""Seconds that a handler takes."""
HOUR = 3_600.0
Fails = Callable[[Delivery], Exception | None]


class World:
    """Processes on one inbox, whose handlers fail as a test says. It keeps when each event came and was handled."""

    def __init__(self, fails: Fails = lambda delivery: None) -> None:
        self.inbox = MemoryInbox(clock=virtual.clock)
        self.fails = fails
        self.came: dict[str, float] = {}
        self.handled: dict[str, float] = {}
        self.attempts = Counter[str]()
        self.repeated = 0
        """How many were handled before."""

    async def handle(self, delivery: Delivery) -> None:
        self.attempts[delivery.event_id] += 1
        await asyncio.sleep(WORK)
        if (error := self.fails(delivery)) is not None:
            raise error
        self.repeated += delivery.event_id in self.handled
        self.handled[delivery.event_id] = virtual.now()

    def receiver(self, *types: str, inbox: Any = None, handle: Any = None, **limits: Any) -> WebhookReceiver:
        times = {"clock": virtual.clock, "handler_timeout": 0.1}
        return deferring(
            self.inbox if inbox is None else inbox, handle or self.handle, *(types or TYPES), times=times, **limits
        )

    async def post(self, receiver: WebhookReceiver, event_id: str, type_id: str = TYPES[0]) -> int:
        done = await post_event(receiver, event_id, type_id, at=virtual.clock())
        if done.status == 202:
            self.came[event_id] = virtual.now()
        return done.status

    async def all_handled(self, within: float) -> float:
        """Wait until nothing waits. Return the seconds that it took."""
        began = virtual.now()
        while (await self.inbox.waiting()).count:
            await asyncio.sleep(1)
            assert virtual.now() - began < within, f"after {within:g} s {await self.inbox.waiting()}"
        return virtual.now() - began

    async def quarantined(self) -> list[str]:
        return [entry.event_id for entry in await self.inbox.entries(limit=1_000)]

    def longest_wait(self, events: Any) -> float:
        return max(self.handled[event] - self.came[event] for event in events)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks twice a minute, and logs nothing: a test of days."""
    monkeypatch.setattr("basiq_async.receiver._worker._LOOK_EVERY", 30.0)
    monkeypatch.setattr("basiq_async.receiver._dispatcher.logger.disabled", True)


def of_bad(delivery: Delivery) -> Exception | None:
    return ValueError("no") if delivery.event_id.startswith("bad") else None


@pytest.mark.parametrize("count", [1, 20, 100])
@virtual.clocked
async def test_a_good_event_waits_for_no_bad_ones_however_many_there_are(count: int) -> None:
    world = World(of_bad)
    receiver = world.receiver()
    async with receiver:
        for number in range(count):
            await world.post(receiver, f"bad-{number}")
        for number in range(60):
            await world.post(receiver, f"good-{number}")
            await asyncio.sleep(20 if number else 0)
        await asyncio.sleep(40)
        assert (await receiver.waiting()).failing == count
    good = [f"good-{number}" for number in range(60)]
    assert world.longest_wait(good) <= 35
    waits = sorted(world.handled[event] - world.came[event] for event in good)
    assert waits[30] <= 2 * WORK


@pytest.mark.usefixtures("seldom")
@virtual.clocked
async def test_a_quarter_of_the_places_is_kept_for_what_never_failed_whichever_types_fail() -> None:
    world = World()
    again = most = 0

    async def handle(delivery: Delivery) -> None:
        nonlocal again, most
        world.attempts[delivery.event_id] += 1
        if delivery.event_id.startswith("bad"):
            if world.attempts[delivery.event_id] == 1:
                raise ValueError("no")
            again, most = again + 1, max(most, again + 1)
            await asyncio.sleep(45)  # until after the next look
            again -= 1

    async with world.receiver(*TYPES[:2], handle=handle) as receiver:
        for number in range(24):  # each is one of a row in which none fails after the other
            await world.post(receiver, f"bad-{number}", TYPES[number % 2])
            await world.post(receiver, f"good-{number}", TYPES[number % 2])
        await world.all_handled(within=HOUR)
    assert most == 6, "of eight"


@pytest.mark.parametrize(("concurrency", "most"), [(2, 1), (3, 2), (8, 5)])
@virtual.clocked
async def test_a_type_that_hangs_holds_little_more_than_half_of_the_places(concurrency: int, most: int) -> None:
    world = World()
    hanging = 0

    async def handle(delivery: Delivery) -> None:
        nonlocal hanging
        if delivery.event_id.startswith("slow"):
            hanging += 1
            await asyncio.Event().wait()
        await world.handle(delivery)

    async with world.receiver(handle=handle, concurrency=concurrency) as receiver:
        for number in range(10):  # what has ended holds none
            for place, type_id in enumerate(TYPES[:2]):
                await world.post(receiver, f"{place}-{number}", type_id)
        await world.all_handled(within=60)
        for number in range(20):
            await world.post(receiver, f"slow-{number}")
        await asyncio.sleep(3)
        assert hanging == most
        await world.post(receiver, "other", TYPES[1])
        await asyncio.sleep(2)
        assert "other" in world.handled


@pytest.mark.parametrize("types", [1, 2])
@virtual.clocked
async def test_what_waits_is_handled_one_after_the_other_without_a_pause(types: int) -> None:
    world = World()
    most = now = 0

    async def handle(delivery: Delivery) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await world.handle(delivery)
        now -= 1

    receiver = world.receiver(handle=handle)
    for number in range(160):
        await world.post(receiver, f"e-{number}", TYPES[number % types])
    async with receiver:
        began = virtual.now()
        while len(world.handled) < 160:
            await asyncio.sleep(0.1)
        assert virtual.now() - began <= 1.3 * 20 * WORK
        assert most == 8
        began = virtual.now()
        await world.post(receiver, "next")
        await asyncio.sleep(WORK + 0.02)
        assert "next" in world.handled, "nor does one that comes then wait for the next look"


@virtual.clocked
async def test_a_worker_looks_once_a_second_after_it_had_something_to_do_and_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    looks: list[float] = []

    async def claim_due(*args: Any, **options: Any) -> Any:
        looks.append(virtual.now())
        return await MemoryInbox.claim_due(world.inbox, *args, **options)

    monkeypatch.setattr(world.inbox, "claim_due", claim_due)
    async with world.receiver() as receiver:
        await world.post(receiver, "e-1")
        await asyncio.sleep(30)
        assert 28 <= len(looks) <= 34
        closing = virtual.now()
    assert virtual.now() == closing


@virtual.clocked
async def test_an_inbox_that_keeps_nothing_is_not_asked_for_what_waits(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Plain(clock=virtual.clock)
    async with WebhookReceiver(SECRET, inbox=inbox, webhook_id="w1", clock=virtual.clock):
        await asyncio.sleep(200)
    assert caplog.text == ""


@virtual.clocked
async def test_one_statement_claims_for_all_places_where_one_type_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    claims: list[int] = []

    async def claim_due(*args: Any, **options: Any) -> Any:
        found = await MemoryInbox.claim_due(world.inbox, *args, **options)
        claims.append(len(found))
        return found

    monkeypatch.setattr(world.inbox, "claim_due", claim_due)
    receiver = world.receiver()
    for number in range(8):
        await world.post(receiver, f"e-{number}")
    async with receiver:
        await world.all_handled(within=5)
    assert claims[0] == 8


@virtual.clocked
async def test_one_partner_that_is_down_stops_no_other_type() -> None:
    down = [True]
    world = World(lambda each: ConnectionError("refused") if down[0] and each.event_type_id == TYPES[0] else None)
    receiver = world.receiver()
    async with receiver:
        for number in range(100):
            for place, type_id in enumerate(TYPES):
                await world.post(receiver, f"{place}-{number}", type_id)
            await asyncio.sleep(2)
        others = [event for event in world.came if not event.startswith("0-")]
        assert world.longest_wait(others) <= 10 * WORK
        assert (await receiver.waiting()).failing == 100
        down[0] = False
        await world.all_handled(within=35 * 60)
    assert len(world.handled) == 300
    assert await world.quarantined() == []


@virtual.clocked
async def test_a_partner_that_hangs_holds_up_no_other_one_that_is_back() -> None:
    down = [True]
    world = World(lambda each: ConnectionError("refused") if down[0] else None)

    async def handle(delivery: Delivery) -> None:
        if delivery.event_type_id == TYPES[0]:
            await asyncio.sleep(HOUR)  # until its time limit
        await world.handle(delivery)

    receiver = world.receiver(handle=handle, timeout=60.0)
    async with receiver:
        for number in range(40):
            for place, type_id in enumerate(TYPES[:2]):
                await world.post(receiver, f"{place}-{number}", type_id)
            await asyncio.sleep(2)
        await asyncio.sleep(2 * HOUR)
        down[0], back = False, virtual.now()
        while len(world.handled) < 40:
            await asyncio.sleep(1)
            assert virtual.now() - back < 75 * 60
    assert all(event.startswith("1-") for event in world.handled)


CALLS = (
    *("check", "claim", "complete", "release", "known", "note", "set_note", "known_since", "quarantine", "entries"),
    *("store", "claim_due", "put_off", "waiting"),
)


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize(
    ("what", "hours"),
    [
        ("Basiq", 1 / 6),
        ("Basiq", 24),
        ("a partner", 1 / 6),
        ("a partner", 24),
        ("the database", 1 / 6),
        ("the database", 24),
    ],
)
@virtual.clocked
async def test_after_an_outage_nothing_is_quarantined_and_all_is_handled_soon(what: str, hours: float) -> None:
    error = TransportError("Basiq is away") if what == "Basiq" else ConnectionError("refused")
    world = World(lambda _: error if what != "the database" and away[0] else None)
    away = [False]
    receiver = world.receiver()
    async with receiver:
        for number in range(20):
            await world.post(receiver, f"before-{number}")
        await asyncio.sleep(WORK / 2)
        away[0] = True
        fail_in(*(CALLS if what == "the database" else ()), error=InboxError("away"), inbox=world.inbox)
        statuses = set()
        for number in range(100):
            statuses.add(await world.post(receiver, f"during-{number}"))
            await asyncio.sleep(hours * HOUR / 100)
        assert statuses == ({503} if what == "the database" else {202})
        attempts = world.attempts.total()
        away[0] = False
        for call in CALLS:
            vars(world.inbox).pop(call, None)
        await world.all_handled(within=35 * 60)
    assert set(world.handled) == set(world.came)
    assert await world.quarantined() == []
    assert attempts <= 2_000
    assert world.repeated == 0, "what could not be recorded is recorded later"


@pytest.mark.usefixtures("seldom")
@virtual.clocked
async def test_one_users_403_is_tried_again_seldom_and_stops_no_other() -> None:
    refused = PermissionDeniedError("no consent", status=403)
    world = World(lambda each: refused if each.event_id == "bad" else None)
    receiver = world.receiver()
    async with receiver:
        await world.post(receiver, "bad")
        for number in range(100):
            await world.post(receiver, f"e-{number}")
            await asyncio.sleep(12 * HOUR / 100)
        (entry,) = await world.inbox.entries(waiting=True)
    assert (entry.error, entry.failures) == ("PermissionDeniedError: 403: no consent", world.attempts["bad"])
    assert world.attempts["bad"] <= 30
    assert world.longest_wait([event for event in world.came if event != "bad"]) <= 2 * WORK


@virtual.clocked
async def test_a_handler_that_hangs_is_quarantined_and_the_others_are_handled() -> None:
    world = World()

    async def handle(delivery: Delivery) -> None:
        if delivery.event_id == "bad":
            await asyncio.Event().wait()
        await world.handle(delivery)

    receiver = world.receiver(handle=handle, timeout=60, keep_trying=0)
    async with receiver:
        await world.post(receiver, "bad")
        for number in range(200):
            await world.post(receiver, f"e-{number}")
            await asyncio.sleep(60)
        (entry,) = await receiver.quarantined()
    assert (entry.failures, entry.error) == (8, "TimeoutError: the handler was cancelled after 60 s")
    assert world.longest_wait(world.handled) <= 2 * WORK
    assert len(world.handled) == 200


@asynccontextmanager
async def crashing(
    world: World, make: Callable[[MemoryInbox, asyncio.Event], WebhookReceiver]
) -> AsyncIterator[list[int]]:
    """Run one process after the other: each is gone when its event is set, and its inbox sees nothing of its end."""
    kills = [0]

    async def run() -> None:
        while True:
            inbox, gone = copy.copy(world.inbox), asyncio.Event()
            receiver = make(inbox, gone)
            async with receiver:
                await gone.wait()
                kills[0] += 1
                fail_in(*CALLS, error=InboxError("the process is gone"), inbox=inbox)
            await asyncio.sleep(1)

    task = asyncio.create_task(run())
    try:
        yield kills
    finally:
        task.cancel()
        await asyncio.wait((task,))


@virtual.clocked
async def test_what_kills_its_process_is_quarantined_after_three_times_and_all_others_are_handled_once() -> None:
    world = World()

    def make(inbox: MemoryInbox, gone: asyncio.Event) -> WebhookReceiver:
        async def handle(delivery: Delivery) -> None:
            if delivery.event_id == "killer":
                gone.set()
                await asyncio.Event().wait()
            await world.handle(delivery)

        return world.receiver(inbox=inbox, handle=handle)

    source = world.receiver()  # a process that only receives
    for number in range(30):
        await world.post(source, f"e-{number}" if number != 3 else "killer")
    async with crashing(world, make) as kills:
        await asyncio.sleep(HOUR)
        assert (await world.inbox.waiting()).count == 0
    assert await world.quarantined() == ["killer"]
    (entry,) = await world.inbox.entries()
    assert "the attempt did not end" in entry.error
    assert (entry.failures, entry.unended, kills[0]) == (3, 3, 3)
    assert len(world.handled) == 29
    assert world.repeated == 0
    repeated = [event for event, count in world.attempts.items() if count > 1]
    assert len(repeated) <= 7, "those that it was claimed with once"


def deaf(world: World) -> MemoryInbox:
    """An inbox that claims, while its response is lost, until ``del inbox.claim_due``."""
    inbox = copy.copy(world.inbox)

    async def claim_due(*args: Any, **options: Any) -> Any:
        await world.inbox.claim_due(*args, **options)
        raise InboxError("the response was lost")

    inbox.claim_due = claim_due  # type: ignore[method-assign]
    return inbox


@pytest.mark.parametrize("count", [1, 3])
@virtual.clocked
async def test_claims_that_no_process_got_are_no_attempts(count: int) -> None:
    world = World()
    inboxes = [deaf(world) for _ in range(count)]
    receivers = [world.receiver(inbox=inbox) for inbox in inboxes]
    async with AsyncExitStack() as stack:
        for receiver in receivers:
            await stack.enter_async_context(receiver)
        for number in range(20):
            await world.post(receivers[0], f"e-{number}")
        await asyncio.sleep(HOUR)
        assert world.attempts.total() == 0
        for inbox in inboxes:
            del inbox.claim_due
        await world.all_handled(within=120)
    assert (len(world.handled), set(world.attempts.values()), await world.quarantined()) == (20, {1}, [])


@virtual.clocked
async def test_a_process_that_ends_gives_back_what_it_may_have_claimed() -> None:
    world = World()
    inbox = deaf(world)
    async with world.receiver(inbox=inbox) as receiver:
        await world.post(receiver, "e-1")
        await asyncio.sleep(10)
        del inbox.claim_due
        began = virtual.now()
    async with world.receiver():
        await world.all_handled(within=5)
    assert virtual.now() - began < 10, "no claim has to run out"
    assert world.attempts == {"e-1": 1}


@virtual.clocked
async def test_a_process_that_ends_between_its_claim_and_the_work_loses_nothing() -> None:
    world = World()
    lives = itertools.count()

    def make(inbox: MemoryInbox, gone: asyncio.Event) -> WebhookReceiver:
        async def claim_and_end(*args: Any, **options: Any) -> Any:
            found = await world.inbox.claim_due(*args, **options)
            if found and life < 3:
                gone.set()
                await asyncio.Event().wait()
            return found

        life = next(lives)
        inbox.claim_due = claim_and_end  # type: ignore[method-assign]
        return world.receiver(inbox=inbox)

    source = world.receiver()
    for number in range(30):
        await world.post(source, f"e-{number}")
    async with crashing(world, make):
        await world.all_handled(within=1_000)
    assert len(world.handled) == 30
    assert set(world.attempts.values()) == {1}


@virtual.clocked
async def test_a_job_that_fails_on_what_waits_leaves_it_as_it_was() -> None:
    world = World(of_bad)
    receiver = world.receiver()
    async with receiver:
        await world.post(receiver, "bad")
        await asyncio.sleep(1)
        (before,) = await world.inbox.entries(waiting=True)
    job = WebhookReceiver(SECRET, inbox=world.inbox, webhook_id="w1", quarantine_after=1, clock=virtual.clock)

    @job.on("*")
    async def fail(delivery: Delivery) -> None:
        raise ValueError("in the job")

    for _ in range(10):
        delivery = Delivery("msg_bad", TYPES[0], "bad", {}, b"{}", {}, virtual.clock())
        assert (await job.dispatch(delivery)).status == 500
    (after,) = await world.inbox.entries(waiting=True)
    assert (after, await world.quarantined()) == (before, [])
    world.fails = lambda delivery: None
    async with world.receiver():
        await world.all_handled(within=60)
    assert [*world.handled] == ["bad"]


@virtual.clocked
async def test_a_type_that_one_of_two_processes_handles_is_handled_there_and_costs_no_failure() -> None:
    world = World()
    first, second = world.receiver(TYPES[0]), world.receiver(TYPES[1])
    async with first, second:
        for number in range(50):
            await world.post(first, f"a-{number}")
            await world.post(second, f"b-{number}", TYPES[1])
            await asyncio.sleep(0.5)
        await world.all_handled(within=120)
    assert len(world.handled) == 100
    assert set(world.attempts.values()) == {1}
    assert await world.quarantined() == []


@virtual.clocked
async def test_deploys_that_add_and_remove_handlers_lose_nothing() -> None:
    world = World()
    old, new, last = world.receiver(TYPES[0]), world.receiver(*TYPES[:2]), world.receiver(TYPES[1])
    async with old:
        async with new:  # both run for a while
            for number in range(20):
                await world.post(new, f"b-{number}", TYPES[1])
                await asyncio.sleep(1)
            await world.all_handled(within=60)
        for number in range(20):
            await world.post(old, f"a-{number}")
        async with last:  # its handler of the first type is gone
            await old.aclose()
            await asyncio.sleep(2 * HOUR)
            assert await world.quarantined() == []
        left = (await world.inbox.waiting()).count
        assert left + len(world.handled) == 40
        async with world.receiver():  # the handler comes back
            await world.all_handled(within=60)
    assert len(world.handled) == 40


@pytest.mark.usefixtures("seldom")
@virtual.clocked
async def test_a_limit_of_sixty_a_minute_costs_at_most_twice_as_many_requests() -> None:
    requests = Counter[int]()

    def refuse(delivery: Delivery) -> Exception | None:
        minute = int(virtual.now() // 60)
        requests[minute] += 1
        return RateLimitError("slowly", status=429) if requests[minute] > 60 else None

    world = World(refuse)
    receiver = world.receiver()
    async with receiver:
        for number in range(1_000):
            await world.post(receiver, f"e-{number}")
        await world.all_handled(within=2 * HOUR)
    assert len(world.handled) == 1_000
    assert requests.total() <= 2_000


@pytest.mark.usefixtures("seldom")
@virtual.clocked
async def test_a_weekend_without_a_worker_uses_up_no_time_to_try() -> None:
    world = World()
    world.fails = lambda each: ValueError("not yet") if world.attempts[each.event_id] <= 10 else None
    source = world.receiver()
    for number in range(20):
        await world.post(source, f"e-{number}")
    await asyncio.sleep(66 * HOUR)
    async with world.receiver():
        await world.all_handled(within=8 * HOUR)
    assert len(world.handled) == 20
    assert await world.quarantined() == []
