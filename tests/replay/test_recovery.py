"""A recovery says that it is finished only where nothing is left, and repeats nothing that was done."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from basiq_async import (
    BasiqClient,
    ConfigurationError,
    ConnectionFailedError,
    InMemoryTransport,
    Message,
    ReplayError,
    Response,
    RetryPolicy,
    Webhook,
)
from basiq_async.receiver import Delivery, InboxEntry, MemoryInbox, WebhookReceiver
from basiq_async.replay import HttpTarget, Progress, Recovery, Replay, Where, limit, recover
from basiq_async.services.coverage import Coverage, coverage_note
from basiq_async.services.resources import WEBHOOKS
from basiq_async.testing import FakeBasiq, ManualClock, Quirks
from tests.support.worlds import URL, World, a_world

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(timedelta(days=3)) as made:
        yield made


def codes(found: Recovery) -> list[str]:
    return [problem.code for problem in found.problems]


# --- finished ---


async def test_a_plan_counts_nothing_from_before_its_since_and_a_later_one_neither(world: World) -> None:
    await world.emit(2, status=500)
    await world.fake.advance(hours=1)
    since = world.fake.now()
    await world.emit(1, status=500)
    receiver = world.receiver()
    run = recover(world.basiq, world.webhook_id, receiver, inbox=world.inbox, since=since)
    assert (await run.plan()).messages == 1
    assert (await run).handled == 1
    assert (await recover(world.basiq, world.webhook_id, receiver, inbox=world.inbox).plan()).messages == 0


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
@pytest.mark.parametrize("by", ["recover", "recover a function", "replay of events"])
async def test_a_webhook_for_which_basiq_names_no_types_misses_events_of_every_type(by: str) -> None:
    quirks = Quirks(update="replaces", without_events="absent")
    async with a_world(timedelta(days=3), quirks=quirks) as world:
        basiq, at = world.basiq, world.basiq._api.at(WEBHOOKS.one, webhook_id=world.webhook_id)
        await basiq._api.post(Webhook, at, {"url": URL})
        assert (await basiq.webhooks.get(world.webhook_id)).subscribed_events == ()
        await world.disable()
        missed = await world.emit(1) + await world.emit(1, of="consent.revoked")
        await world.reactivate()
        found = await basiq.webhooks.diagnose(world.webhook_id, receiver=world.receiver(), inbox=world.inbox)
        assert found.never_sent == 2
        if by == "replay of events":
            assert (await world.replay(world.handle, source="events").run()).finished
        else:
            assert (
                await world.recover(world.receiver() if by == "recover" else world.handle, inbox=world.inbox)
            ).finished
        assert set(missed) <= set(world.got)
        healthy = await basiq.webhooks.diagnose(world.webhook_id, receiver=world.receiver("user.*"), inbox=world.inbox)
        assert [each.code for each in healthy.problems if "types" in each.code or each.code == "never-sent"] == []


async def test_an_event_that_does_not_tell_its_type_is_left_to_a_person(world: World) -> None:
    class WithoutEntity(InMemoryTransport):
        async def send(self, request: Any, /) -> Response:
            response = await super().send(request)
            return attrs.evolve(response, body=response.body.replace(b'"entity"', b'"group"'))

    await world.disable()
    await world.emit(2)
    await world.reactivate()
    async with BasiqClient(world.fake.api_key, transport=WithoutEntity(world.fake)) as client:
        found = await recover(client, world.webhook_id, world.receiver(), inbox=world.inbox)
    assert (codes(found), found.finished) == (["quarantined"], False)
    assert found.quarantined == 2


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
async def test_it_is_not_finished_while_the_webhook_is_disabled(world: World) -> None:
    await world.disable()
    await world.emit(2)
    await world.fake.advance(minutes=3)
    receiver = world.receiver()
    found = await world.recover(receiver)
    assert (codes(found), found.finished, len(world.got)) == (["disabled"], False, 3)
    late = await world.emit(1)  # and indeed more is missed
    assert not set(late) & set(world.got)
    await world.reactivate()
    again = await world.recover(receiver)
    assert again.finished
    assert set(late) <= set(world.got)
    assert len(world.got) == len(set(world.got)) == 4


async def test_the_quarantine_of_a_functions_inbox_counts_too(world: World) -> None:
    inbox = MemoryInbox()
    (event,) = await world.emit(1, status=500)
    world.poisoned = {event}
    message = next(m for m in await world.basiq.messages.list(world.webhook_id).collect() if m.event_id == event)
    await world.receiver(inbox=inbox, quarantine_after=1).dispatch(Delivery.from_message(message))
    assert (await world.recover(world.handle, inbox=inbox)).quarantined == 1


async def test_it_is_not_finished_with_a_message_that_it_quarantined_until_that_is_handled(world: World) -> None:
    (bad, *_) = await world.emit(2, status=500)
    world.poisoned.add(bad)
    receiver = world.receiver()
    found = await world.recover(receiver)
    assert (codes(found), found.quarantined, found.finished) == (["quarantined"], 1, False)
    assert found.events is not None
    assert found.events.handled == 0, "the same event is not tried a second time"
    (entry,) = await receiver.quarantined()
    assert (entry.event_id, entry.kind, entry.acknowledged) == (bad, "message", False)
    world.poisoned.clear()
    world.fake.route(URL, receiver)
    await world.fake.advance(minutes=10)  # Basiq's next attempt
    assert bad in world.got
    assert (await world.recover(receiver)).finished


async def test_what_waits_is_not_passed_and_it_is_not_finished_until_that_is_handled(world: World) -> None:
    inbox = MemoryInbox(clock=world.fake.clock)
    service = world.receiver(inbox=inbox, deferred=True)
    world.fake.route(URL, service)
    (made,) = await world.emit(1)  # it is stored, and no worker runs
    await world.fake.advance(minutes=7)
    found = await world.recover(world.receiver(inbox=inbox))
    assert (codes(found), found.waiting.count, found.finished, world.got) == (["waiting"], 1, False, [])
    assert str(found.problems[0]).startswith("1 deferred delivery waits to be handled, the oldest for 7 min")
    replay = Replay(world.basiq, world.webhook_id, service, inbox=inbox)
    plan = await replay.plan()
    assert (plan.total, plan.waiting) == (0, 1)
    shown: list[Progress] = []
    report = await replay.run(shown.append)
    assert (report.skipped, report.waiting, report.finished) == ({"handled-before": 1}, 1, False)
    assert shown[-1] is report
    async with service:
        while (await service.waiting()).count:
            await asyncio.sleep(0)
    assert world.got == [made]
    assert (await world.recover(world.receiver(inbox=inbox))).finished
    assert (await replay.run()).finished


class GivingUp(MemoryInbox):
    """An inbox whose worker puts what waits into the quarantine, each time that one is read."""

    async def entries(
        self, *, waiting: bool = False, after: InboxEntry | None = None, limit: int = 100
    ) -> Sequence[InboxEntry]:
        found = await super().entries(waiting=waiting, after=after, limit=limit)
        for each in () if waiting else await self.claim_due("worker/1", limit=9, retries=9, lease=60.0):
            await self.quarantine(each.entry.key, "worker/1", attrs.evolve(each.entry, acknowledged=True))
        return found


async def test_what_a_worker_gives_up_while_what_is_left_is_counted_is_left(world: World) -> None:
    inbox = GivingUp(clock=world.fake.clock)
    world.fake.route(URL, world.receiver(inbox=inbox, deferred=True))
    await world.emit(1)  # it is stored, and no other worker runs
    found = await world.recover(world.receiver(inbox=inbox))
    assert (found.waiting.count, found.quarantined, found.finished) == (1, 0, False)
    assert (await world.recover(world.receiver(inbox=inbox))).quarantined == 1


async def test_a_replay_that_meets_a_waiting_key_claims_and_handles_it(world: World) -> None:
    stored: list[int] = []

    class DeliveredMeanwhile(MemoryInbox):
        async def known(self, keys: Sequence[str]) -> Collection[str]:
            found = await super().known(keys)
            if keys and not stored:
                await world.fake.advance(minutes=10)  # Basiq's next attempt, after the page was compared with the inbox
                stored.append((await service.waiting()).count)
            return found

    (missed,) = await world.emit(1, status=500)
    inbox = DeliveredMeanwhile(clock=world.fake.clock)
    service = world.receiver(inbox=inbox, deferred=True)
    world.fake.route(URL, service)
    report = await Replay(world.basiq, world.webhook_id, service, inbox=inbox).run()
    assert (report.handled, stored, world.got, (await service.waiting()).count) == (1, [1], [missed], 0)


async def test_with_a_limit_it_is_not_finished_since_the_history_was_not_read_to_its_end(world: World) -> None:
    await world.emit(3, status=500)
    found = await world.recover(world.receiver(), where=limit(2))
    assert (codes(found), found.events, found.handled) == (["unread", "unread"], None, 2)


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
async def test_events_of_the_last_two_minutes_are_left_to_the_next_recovery_and_keep_this_one_open(
    world: World,
) -> None:
    await world.disable()
    await world.emit(2)
    receiver = world.receiver()
    found = await world.recover(receiver)
    assert (found.recent, codes(found), len(world.got)) == (2, ["disabled", "unread"], 1)
    await world.fake.advance(minutes=3)
    assert (await world.recover(receiver)).recent == 0
    assert len(world.got) == 3


async def test_an_event_whose_message_basiq_makes_while_the_lists_are_read_is_not_posted_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpTarget, "deliver", lambda self, message: world.handle(message))
    missed = await world.emit(1, status=500)
    transport = InMemoryTransport(world.fake)

    class Busy:
        waits = transport.waits

        async def send(self, request: Any, /) -> Any:
            response = await transport.send(request)
            if "/messages" in request.url:
                await world.emit(1)  # after the messages, before the events
            return response

        async def aclose(self) -> None: ...

    async with (
        BasiqClient(world.fake.api_key, transport=Busy()) as basiq,
        HttpTarget("http://127.0.0.1:9/x", SECRET) as target,
    ):
        found = await recover(basiq, world.webhook_id, target, inbox=MemoryInbox())
    assert world.got == missed
    assert found.finished, found.problems


# --- unrecoverable ---


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
async def test_what_an_earlier_run_saw_is_unrecoverable_for_a_later_one_that_begins_after_it(world: World) -> None:
    await world.disable()
    await world.emit(1)
    await world.reactivate()
    receiver = world.receiver()
    await Replay(world.basiq, world.webhook_id, receiver, inbox=receiver.inbox).run()  # no events
    await world.fake.advance(days=9)
    for _ in range(2):
        found = await world.recover(receiver)
        assert (codes(found), found.finished) == (["unrecoverable"], False)
    known = await world.recover(receiver, acknowledged=world.fake.clock())
    assert (known.finished, known.unrecoverable) == (True, ())


async def test_what_was_brought_in_time_is_not_unrecoverable_later(world: World) -> None:
    await world.disable()
    await world.emit(1)
    await world.reactivate()
    receiver = world.receiver()
    for _ in range(4):
        await world.emit(1)
        found = await world.recover(receiver)
        assert (found.finished, found.unrecoverable) == (True, ())
        await world.fake.advance(days=3)


async def test_a_webhook_that_a_recovery_found_active_did_not_lose_what_happened_later(world: World) -> None:
    await world.disable()
    await world.reactivate()
    receiver = world.receiver()
    assert (await world.recover(receiver)).finished  # no message shows yet that the webhook is active again
    await world.fake.advance(days=9)
    await world.emit(1)
    found = await world.recover(receiver)
    assert (found.finished, found.unrecoverable) == (True, ()), "nothing was lost in the quiet days"


async def test_of_a_long_outage_the_part_that_no_list_has_is_unrecoverable(world: World) -> None:
    await world.disable()
    began = world.fake.clock()
    await world.fake.advance(days=10)
    await world.reactivate()
    found = await world.recover(world.receiver())
    (lost,) = found.unrecoverable
    assert lost.since < began
    assert lost.until == world.fake.clock() - timedelta(days=7)
    assert "acknowledged" in str(found.problems[0])


# --- what was delivered ---


async def test_delivered_messages_from_before_the_inbox_began_are_passed_over_and_counted(world: World) -> None:
    await world.emit(6)
    missed = await world.emit(2, status=500)
    for target, options in ((world.receiver(), {}), (world.handle, {"inbox": MemoryInbox()})):
        world.got.clear()
        found = await world.recover(target, **options)
        assert sorted(world.got) == sorted(missed)
        assert (found.passed_over, found.finished) == (6, True)
        again = await world.recover(target, **options)
        assert (len(world.got), again.passed_over, again.finished) == (2, 6, True)
    found = await world.recover(world.handle, inbox=MemoryInbox(), everything=True)
    assert (len(world.got), found.passed_over) == (2 + 8, 0)


async def test_events_of_a_type_that_is_not_subscribed_are_passed_where_it_is_asked_for(world: World) -> None:
    receiver = world.receiver()
    other = await world.fake.emit("consent.revoked")
    await world.fake.advance(minutes=3)
    assert (await world.recover(receiver)).handled == 0
    assert (await world.recover(receiver, all_types=True)).finished
    assert world.got == [other.event_id]


async def test_a_type_that_is_subscribed_to_while_the_lists_are_read_is_not_noted_as_read(world: World) -> None:
    await world.emit(1, status=500)
    await world.fake.advance(minutes=20)

    async def subscribe(message: Message) -> None:
        types = ["user.created", "consent.revoked"]
        await world.basiq.webhooks.update(world.webhook_id, url=URL, subscribed_events=types)

    inbox = MemoryInbox()
    assert (await world.recover(subscribe, inbox=inbox)).finished
    found = Coverage.read(await inbox.note(coverage_note(world.webhook_id)))
    assert (found.read_up_to is not None, list(found.types)) == (True, ["user.created"])


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
@pytest.mark.parametrize("where", [None, limit(1)], ids=["to the end", "in part"])
async def test_a_recovery_notes_that_the_webhook_was_disabled_meanwhile(world: World, where: Where | None) -> None:
    await world.emit(1 if where is None else 2, status=500)
    await world.fake.advance(minutes=20)

    async def disable(message: Message) -> None:
        await world.emit(1, status=500)
        await world.fake.advance(hours=30)

    inbox = MemoryInbox()
    found = await world.recover(disable, inbox=inbox, where=where)
    assert (found.finished, found.problems[0].code) == (False, "disabled")
    assert Coverage.read(await inbox.note(coverage_note(world.webhook_id))).seen_inactive is not None


async def test_a_recovery_that_is_told_to_stop_begins_no_more(world: World) -> None:
    await world.emit(3, status=500)

    async def handle(message: Message) -> None:
        run.stop()

    run = world.recovery(handle, inbox=MemoryInbox(), concurrency=1)
    found = await run
    assert (found.messages.handled, found.events, found.finished) == (1, None, False)


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
@pytest.mark.parametrize("everything", [False, True])
async def test_what_a_lost_note_may_have_told_of_is_passed_only_where_everything_is_asked_for(
    world: World, everything: bool
) -> None:
    missed = await world.disable()  # one with a message
    missed += await world.emit(2)
    await world.reactivate()
    inbox = MemoryInbox(clock=world.fake.clock)
    await inbox.set_note(coverage_note(world.webhook_id), Coverage(gone_before=world.fake.clock()).write())
    found = await world.recover(world.handle, inbox=inbox, everything=everything)
    assert sorted(world.got) == (sorted(missed) if everything else [])
    told = "".join(str(each) for each in found.problems if each.code == "unknown")
    assert ("nothing tells of 3 messages and events" in told) is not everything


async def test_what_a_person_says_is_noted_before_the_lists_are_read_to_their_ends(world: World) -> None:
    await world.emit(2, status=500)
    inbox, moment = MemoryInbox(), world.fake.clock()
    await world.recover(world.handle, inbox=inbox, where=limit(1), acknowledged=moment)
    assert Coverage.read(await inbox.note(coverage_note(world.webhook_id))).acknowledged == moment


async def test_events_from_before_a_type_was_subscribed_are_passed(world: World) -> None:
    receiver = world.receiver()
    other = await world.fake.emit("consent.revoked")
    await world.fake.advance(minutes=3)
    assert (await world.recover(receiver)).finished
    await world.basiq.webhooks.ensure(url=URL, subscribed_events=["consent.revoked"])
    assert (await world.recover(receiver)).finished
    assert world.got == [other.event_id]


async def test_an_inbox_that_forgot_repeats_nothing(world: World) -> None:
    clock = world.fake.clock
    inbox = MemoryInbox(remember=timedelta(days=1), clock=clock)
    receiver = world.receiver(inbox=inbox)
    world.fake.route(URL, receiver)
    await world.emit(9)
    for _ in range(8):
        await world.fake.advance(hours=20)
        await world.emit(1)
    for _ in range(2):
        found = await world.recover(receiver)
        assert found.passed_over >= 9
        assert found.finished
    assert len(world.got) == len(set(world.got)) == 17


async def test_what_basiq_delivered_while_the_inbox_knew_is_handled_where_the_inbox_lacks_it(world: World) -> None:
    inbox = MemoryInbox(clock=world.fake.clock)
    async with world.receiver(inbox=inbox, clock=world.fake.clock):
        pass  # it notes that live deliveries are recorded here
    await world.fake.advance(hours=1)
    made = await world.emit(2)  # something else than the service said 204
    found = await world.recover(world.receiver(inbox=inbox))
    assert sorted(world.got) == sorted(made)
    assert found.passed_over == 0


async def test_an_http_target_gets_nothing_that_basiq_delivered_however_long_its_inbox_was_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpTarget, "deliver", lambda self, message: world.handle(message))
    inbox = MemoryInbox(clock=world.fake.clock)
    await world.fake.advance(hours=1)
    await world.emit(3)
    missed = await world.emit(2, status=500)
    async with HttpTarget("http://127.0.0.1:9/x", SECRET) as target:
        with pytest.raises(ConfigurationError, match=r"an inbox of its own for an HttpTarget|needs an inbox"):
            await world.recover(target)
        found = await world.recover(target, inbox=inbox)
    assert (sorted(world.got), found.passed_over) == (sorted(missed), 3)


@pytest.mark.parametrize(("statuses", "named"), [((401, 401), True), ((401, 500), False), ((500, 401), False)])
async def test_a_target_that_says_401_to_everything_is_told_of_the_secret_and_not_of_a_handler(
    world: World, monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, int], named: bool
) -> None:
    script = list(statuses)

    async def send(self: Any, request: Any) -> Response:
        return Response(script.pop(0), {}, b"")

    await world.emit(2, status=401)
    inbox = MemoryInbox()
    monkeypatch.setattr("basiq_async.transports.aiohttp.StatusTransport.send", send)
    async with HttpTarget("http://127.0.0.1:9/x", SECRET, retry=RetryPolicy(max_retries=0)) as target:
        found = await world.recover(target, inbox=inbox, concurrency=1)
        assert codes(found) == (["refused", "quarantined"] if named else ["quarantined"])
        texts = [str(problem) for problem in found.problems]
        assert texts[0].startswith("the target responded 401 to each of 2 messages") is named
        assert ("fix the handler" in texts[-1]) is (not named)
        again = await world.recover(target, inbox=inbox)
        assert codes(again) == ["quarantined"], "nothing was posted"


# --- around it ---


def test_an_option_of_a_replay_too_has_the_same_default_for_a_recovery() -> None:
    own, of_replay = inspect.signature(recover).parameters, inspect.signature(Replay).parameters
    shared = own.keys() & of_replay.keys()
    assert shared >= {"inbox", "where", "concurrency", "rate", "max_pause"}
    assert {name: own[name].default for name in shared} == {name: of_replay[name].default for name in shared}


async def test_a_moment_without_a_time_zone_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match="acknowledged"):
        await world.recover(world.receiver(), acknowledged=datetime(2026, 1, 1))  # the point


# --- what only a later look shows ---


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
async def test_a_message_under_way_at_an_earlier_look_is_looked_at_again_before_it_says_finished(world: World) -> None:
    await world.emit(1, status=500)
    await world.fake.advance(hours=1)  # four attempts have failed, and four will
    receiver = world.receiver()
    assert (await world.recover(receiver)).finished
    await world.fake.advance(hours=30)  # they fail, and Basiq disables the webhook
    silent = await world.emit(2)
    await world.fake.advance(days=9)  # no recovery for longer than the event list reaches
    await world.reactivate()
    await world.emit(1)
    found = await world.recover(receiver)
    assert (codes(found), found.finished) == (["unrecoverable"], False)
    assert set(world.got).isdisjoint(silent)
    diagnosis = await world.basiq.webhooks.diagnose(world.webhook_id, receiver=receiver)
    assert "unrecoverable" in {problem.code for problem in diagnosis.problems}
    # It stays, until someone acknowledges it; then for all who look.
    assert not (await world.recover(receiver)).finished
    assert (await world.recover(receiver, acknowledged=found.unrecoverable[0].until)).finished
    assert (await world.recover(receiver)).finished
    assert not (await world.basiq.webhooks.diagnose(world.webhook_id, receiver=receiver)).unrecoverable


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
async def test_a_recovery_that_is_killed_at_any_request_names_all_that_it_did_not_handle(order: str) -> None:
    quirks = Quirks(message_order=order, event_order=order)  # type: ignore[arg-type]  # one of two words
    for kill in range(3, 40, 2):
        fake = FakeBasiq(clock=ManualClock(datetime.now(UTC) - timedelta(days=3)), quirks=quirks, page_size=3)
        inner = InMemoryTransport(fake)
        made = World(fake, BasiqClient(fake.api_key, transport=inner), fake.add_webhook(URL, ["user.created"]))

        async def receive(headers: Any, body: bytes, world: World = made) -> int:
            return world.status

        fake.route(URL, receive)
        await made.disable()
        silent = {}
        for _ in range(12):
            created = fake.clock()
            silent[(await made.emit(1))[0]] = created
            await fake.advance(minutes=20)
        await made.reactivate()
        receiver = made.receiver()
        requests = len(fake.requests)

        class Killed:
            async def send(
                self, request: Any, /, fake: FakeBasiq = fake, inner: Any = inner, last: int = requests + kill
            ) -> Any:
                if len(fake.requests) >= last:
                    raise ConnectionFailedError("the process dies", sent=False)
                return await inner.send(request)

            async def aclose(self) -> None: ...

        async with BasiqClient(fake.api_key, transport=Killed(), retry=RetryPolicy(max_retries=0)) as basiq:
            with suppress(ReplayError, ConnectionFailedError):
                await recover(basiq, made.webhook_id, receiver, inbox=receiver.inbox)
        before = set(made.got)
        await fake.advance(days=8)  # now the event list is empty
        found = await made.recover(receiver)
        assert len(made.got) == len(set(made.got)), "handled twice"
        for event_id, created in silent.items():
            named = any(each.since <= created < (each.until or fake.clock()) for each in found.unrecoverable)
            assert named or event_id in made.got, f"killed at request {kill}: {created} is lost, and not named"
        assert found.finished is (not found.unrecoverable)
        assert before <= set(made.got)
        await made.basiq.aclose()


@attrs.define
class Fortnights:
    """A webhook with an event each hour, for weeks without a recovery, under one of the rules for disabling it."""

    world: World
    made: dict[str, datetime] = attrs.Factory(dict[str, datetime])
    failing: set[str] = attrs.Factory(set[str])
    down: bool = False

    async def receive(self, headers: Any, body: bytes) -> int:
        return 500 if self.down or json.loads(body)["eventId"] in self.failing else 204

    async def hours(self, count: int, *, poison: bool = False) -> None:
        for _ in range(count):
            now = self.world.fake.clock()
            emission = self.world.fake.emit("user.created")
            self.made[emission.event_id] = now
            if poison:
                self.failing.add(emission.event_id)
                poison = False
            await emission
            await self.world.fake.advance(minutes=59, seconds=random.Random(len(self.made)).randrange(120))

    def is_disabled(self) -> bool:
        return self.world.fake.webhooks()[0].disabled

    async def check(self) -> Recovery:
        """Recover, and see that what never was a message is handled or named, and that nothing else is named."""
        world, fake = self.world, self.world.fake
        found = await world.recover(world.receiver(), everything=True)
        messages = {message.event.id for message in fake.messages()}
        assert set(world.got) >= messages
        for event_id, created in self.made.items():
            named = any(each.since <= created < (each.until or fake.clock()) for each in found.unrecoverable)
            assert named is (event_id not in world.got), (created, found.unrecoverable)
        assert found.finished is (not found.unrecoverable)
        return found


@pytest.fixture(params=["exhausted", "failing-120h"])
async def fortnights(request: pytest.FixtureRequest, world: World) -> Fortnights:
    world.fake.quirks = Quirks(disables=request.param)
    made = Fortnights(world)
    world.fake.route(URL, made.receive)
    return made


async def test_a_poisoned_message_beside_good_ones_names_a_time_only_where_basiq_disabled_the_webhook(
    fortnights: Fortnights,
) -> None:
    stories = fortnights
    await stories.hours(30)
    await stories.hours(40, poison=True)
    was_disabled = stories.is_disabled()
    await stories.world.reactivate()
    await stories.hours(10 * 24)
    found = await stories.check()
    assert len(found.unrecoverable) == was_disabled == (stories.world.fake.quirks.disables == "exhausted")


async def test_a_long_outage_names_the_time_in_which_no_messages_were_made_and_no_other(fortnights: Fortnights) -> None:
    stories = fortnights
    await stories.hours(30)
    stories.down = True
    for _ in range(14 * 24):
        await stories.hours(1)
        if stories.is_disabled():
            break
    await stories.hours(40)
    stories.down = False
    await stories.world.reactivate()
    await stories.hours(10 * 24)
    (lost,) = (await stories.check()).unrecoverable
    assert lost.until is not None
    assert timedelta(hours=39) < lost.until - lost.since < timedelta(hours=43)


async def test_an_outage_of_two_days_without_an_end_names_nothing_where_basiq_goes_on(fortnights: Fortnights) -> None:
    stories = fortnights
    await stories.hours(30)
    stories.down = True
    await stories.hours(48)
    stories.down = False
    was_disabled = stories.is_disabled()
    await stories.world.reactivate()
    await stories.hours(10 * 24)
    assert len((await stories.check()).unrecoverable) == was_disabled


async def test_it_is_not_finished_while_the_webhook_is_pending() -> None:
    fake = FakeBasiq()
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        made = await basiq.webhooks.create(url=URL, subscribed_events=["user.created"])
        receiver = WebhookReceiver(SECRET)
        found = await recover(basiq, made.id, receiver, inbox=receiver.inbox)
        assert (codes(found), found.finished) == (["pending"], False)
        await fake.advance(minutes=20)
        assert (await recover(basiq, made.id, receiver, inbox=receiver.inbox)).finished


async def test_a_first_recovery_with_nothing_to_pass_says_nothing_of_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await world.recover(world.receiver())).finished
    assert "handles about" not in caplog.text
    await world.emit(1, status=500)
    await world.recover(world.receiver(inbox=MemoryInbox()))
    assert "handles about 1 message and 0 events" in caplog.text


async def test_everything_is_handled_where_that_is_asked_for(world: World) -> None:
    await world.emit(6)
    found = await world.recover(world.handle, inbox=MemoryInbox(), everything=True)
    assert (len(world.got), found.passed_over) == (6, 0)


@pytest.mark.parametrize("order", ["oldest-first", "newest-first"])
async def test_a_failure_shows_however_many_messages_were_under_way_at_the_earlier_look(order: str) -> None:
    quirks = Quirks(message_order=order, event_order=order)  # type: ignore[arg-type]  # one of two words
    fake = FakeBasiq(clock=ManualClock(datetime.now(UTC) - timedelta(days=3)), quirks=quirks)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        world = World(fake, basiq, fake.add_webhook(URL, ["user.created"]))
        failing: set[str] = set()

        async def receive(headers: Any, body: bytes) -> int:
            return 500 if json.loads(body)["eventId"] in failing or not failing else 204

        fake.route(URL, receive)
        for _ in range(12):
            sent = await world.emit(10)
            await fake.advance(seconds=10)
        await fake.advance(hours=1)
        receiver = world.receiver()
        assert (await world.recover(receiver)).finished
        failing.add(sent[-1])  # all others are delivered now; they were more than the recovery knows by their ids
        await fake.advance(hours=30)
        assert (await basiq.webhooks.get(world.webhook_id)).status == "disabled"
        silent = await world.emit(2)
        await fake.advance(days=9)
        await world.reactivate()
        await world.emit(1)
        found = await world.recover(receiver)
        assert (codes(found), found.finished) == (["unrecoverable"], False)
        assert set(world.got).isdisjoint(silent)


async def test_the_inbox_of_another_webhook_is_refused_whether_a_service_or_a_job_has_used_it(world: World) -> None:
    async with WebhookReceiver(SECRET, webhook_id="another", inbox=world.inbox):
        pass
    await world.emit(2, status=500)
    for call in (world.recover, Replay(world.basiq, world.webhook_id, world.handle, inbox=world.inbox).run):
        with pytest.raises(ConfigurationError, match="the inbox is of the webhook 'another', and not of"):
            await (call(world.handle, inbox=world.inbox) if call == world.recover else call())  # type: ignore[call-arg, operator]
    job = MemoryInbox()
    await Replay(world.basiq, world.webhook_id, world.handle, inbox=job).run()
    other = world.fake.add_webhook("https://example.com/other")
    with pytest.raises(ConfigurationError, match="the inbox is of the webhook"):
        await recover(world.basiq, other, world.handle, inbox=job)
