"""A webhook that is made again, or joined by a second one, has no event of its service handled again."""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from basiq_async import APIError, BasiqClient, ConfigurationError, InMemoryTransport, Message
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import recover
from basiq_async.testing import FakeBasiq, ManualClock, Quirks
from basiq_async.transports.base import Request, Response
from tests.support.worlds import TYPE, URL, World, a_world

SECOND_URL = "https://service.example/again"
AGES = timedelta(days=400)
"""The fake signs with the real time."""


class Transport(InMemoryTransport):
    """A transport that ``hides`` the list of webhooks from the API key."""

    hides = False

    async def send(self, request: Request, /) -> Response:
        if self.hides and request.url.endswith("/webhooks"):
            return Response(403, {}, b'{"data": [{"code": "access-denied"}]}')
        return await super().send(request)


@pytest.fixture
async def service(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A service with an inbox, which handles what it is sent at any of its urls."""
    quirks = Quirks(**getattr(request, "param", {}))
    async with a_world(timedelta(days=20), quirks=quirks, transport=Transport) as made:
        made.inbox = MemoryInbox(clock=made.fake.clock, remember=None)
        made.options = {"clock": made.fake.clock, "tolerance": AGES}
        await made.start(made.webhook_id)
        yield made


def assert_once(world: World, count: int) -> None:
    assert len(world.got) == len(set(world.got)) == count
    assert all(each.key == each.event_id for each in world.given if isinstance(each, Delivery))


async def made_again(s: World) -> str:
    await s.basiq.webhooks.delete(s.webhook_id)
    await s.emit(2)  # no webhook is subscribed
    await s.fake.advance(minutes=10)
    return s.add_webhook()


async def second_webhook(s: World) -> str:
    """Both get each event for a while, as in a rotation."""
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.emit(2)
    await s.miss(2)
    await s.basiq.webhooks.delete(s.webhook_id)
    return new


CHANGES = [made_again, second_webhook]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_the_webhook_has_no_event_handled_again(
    service: World, change: Callable[[World], Awaitable[str]]
) -> None:
    s = service
    await s.emit(8)
    await s.miss(3)
    before = len(s.got)
    new = await change(s)
    await s.start(new, s.webhook_id)
    await s.emit(4)
    await s.fake.advance(hours=1)
    assert (await s.recover(webhook_id=new)).finished
    assert (await s.recover(webhook_id=new)).handled == 0
    assert_once(s, 8 + 3 + 4 + (2 if change is made_again else 4))
    assert before == 8
    assert (await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).healthy


async def test_a_replay_takes_each_webhook_of_its_receiver_and_refuses_others(service: World) -> None:
    s = service
    await s.emit(3)
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.emit(2)
    for webhook_id in (new, s.webhook_id):
        assert (await s.replay(webhook_id=webhook_id).run()).handled == 0
    calls: list[Callable[..., object]] = [s.replay, s.recovery]
    for call in calls:
        with pytest.raises(ConfigurationError, match="the receiver is of the webhook"):
            call(webhook_id="another")
    with pytest.raises(ConfigurationError, match="the receiver is of the webhook"):
        await s.basiq.webhooks.diagnose("another", receiver=s.receiver())
    assert_once(s, 5)


async def test_a_job_needs_no_list_once_a_receiver_has_joined_the_webhook(service: World, tmp_path: Path) -> None:
    s = service
    await s.emit(3)
    await s.miss(2)
    new = s.add_webhook(SECOND_URL)
    with pytest.raises(ConfigurationError, match="the inbox is of the webhook"):
        await s.replay(s.handle, webhook_id=new).run()
    await s.start(new, s.webhook_id)
    s.fails = True
    assert (await s.replay(s.handle).run()).failed == 2
    entries = await s.replay(s.handle, webhook_id=new).quarantined()
    assert len(entries) == await s.replay(s.handle, webhook_id=new).export_quarantined(tmp_path / "failed.jsonl") == 2
    assert (await s.replay(s.handle, webhook_id=new).plan()).quarantined == 2
    s.fails = False
    assert (await s.replay(s.handle, webhook_id=new).retry_quarantined()).handled == 2
    assert (await s.recover(s.handle, inbox=s.inbox, webhook_id=new)).finished
    assert_once(s, 5)


async def test_a_service_whose_inbox_was_flushed_recovers_and_is_then_refused_to_others(service: World) -> None:
    s = service
    await s.miss(3)
    s.inbox = MemoryInbox(clock=s.fake.clock, remember=None)
    assert (await s.recover()).handled == 3
    with pytest.raises(ConfigurationError, match="the inbox is of the webhook"):
        await s.start("another")
    found = await s.basiq.webhooks.diagnose(s.webhook_id, inbox=s.inbox)
    assert (found.passed_over, found.unrecorded) == (0, 0), "a recovery does not say that it has live deliveries"
    await s.start(s.webhook_id)
    await s.emit(1)
    assert_once(s, 4)


async def test_a_job_notes_nothing_of_a_webhook_that_basiq_does_not_have(service: World) -> None:
    s = service

    async def take(message: Message) -> None: ...

    s.inbox = MemoryInbox()
    for call in (s.replay(take, webhook_id="mistyped").run, s.recovery(take, inbox=s.inbox, webhook_id="mistyped").run):
        with pytest.raises(APIError, match="webhookId is not valid"):
            await call()
    assert await s.inbox.note("webhooks") is None
    assert (await s.replay(take).run()).handled == 0


async def test_a_first_recovery_says_how_much_it_passes_and_since_bounds_it_from_then_on(
    service: World, caplog: pytest.LogCaptureFixture
) -> None:
    s = service
    await s.emit(3, status=500)
    await s.fake.advance(hours=4)
    begins = s.fake.clock()
    await s.miss(2)
    run = s.recovery(since=begins)
    plan = await run.plan()
    assert (plan.first, plan.messages, plan.events, plan.total) == (True, 2, 0, 2)
    assert (await s.recovery().plan()).total == 5
    with caplog.at_level(logging.WARNING, "basiq_async.replay"):
        assert (await run).finished
    assert "handles about 2 messages and 0 events" in caplog.text
    found = await s.basiq.webhooks.diagnose(s.webhook_id, receiver=s.receiver())
    assert (found.undelivered, found.recovered) == (0, 2)
    caplog.clear()
    assert (await s.recover()).handled == 0
    assert "handles about" not in caplog.text
    assert (await s.recover(since=begins - timedelta(days=2))).handled == 3
    with pytest.raises(ConfigurationError, match="since must be a datetime with a time zone"):
        s.recovery(since=datetime(2026, 1, 1))  # what is refused


async def test_a_webhook_is_not_read_because_another_of_its_service_was(service: World) -> None:
    s = service
    assert (await s.recover()).finished
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.miss(1)
    await s.start(new, s.webhook_id)
    assert (await s.recover()).handled == 1
    await s.fake.advance(days=9)
    await s.miss(1)
    assert (await s.recover()).handled == 1
    found = await s.recover(webhook_id=new)
    assert (found.handled, found.unrecoverable) == (0, ())
    assert_once(s, 2)


UNTOLD = {"attempts": "absent", "attempts_by_id": "absent"}


async def rotated(s: World, *, gone: bool) -> str:
    """A service that was there before its inbox, and was recovered; a second webhook joins it."""
    await s.emit(3)
    s.inbox = MemoryInbox(clock=s.fake.clock, remember=None)
    await s.fake.advance(hours=1)
    await s.start(s.webhook_id)
    await s.emit(2)
    await s.fake.advance(hours=1)
    assert (await s.recover()).finished
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.fake.advance(hours=1)
    if gone:
        await s.basiq.webhooks.delete(s.webhook_id)
    s.got.clear()
    return new


@pytest.mark.parametrize("service", [{}, {"attempts": "absent"}], indirect=True, ids=["told", "by-id"])
@pytest.mark.parametrize("gone", [True, False], ids=["gone", "active"])
@pytest.mark.parametrize("looks_first", [True, False])
async def test_what_one_webhook_was_read_up_to_is_not_passed_through_another(
    service: World, gone: bool, looks_first: bool
) -> None:
    """The inbox does not know what was delivered before it began, and the event list has it."""
    s, new = service, await rotated(service, gone=gone)
    if looks_first:
        assert (await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).healthy
    await s.emit(1)
    await s.miss(2)
    found = await s.basiq.webhooks.diagnose(new, receiver=s.receiver())
    assert (found.undelivered, found.never_sent, found.unrecoverable) == (2, 0, ())
    assert (await s.recovery(webhook_id=new).plan()).total == 2
    done = await s.recover(webhook_id=new)
    assert (done.finished, done.events and done.events.handled) == (True, 0), done.problems
    assert_once(s, 3)
    assert (await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).healthy
    assert (await s.recover(webhook_id=new, everything=True)).handled == 3, "a person said so"


@pytest.mark.parametrize("service", [UNTOLD], indirect=True, ids=["untold"])
async def test_a_person_who_acknowledged_what_nothing_tells_of_one_webhook_did_so_for_the_service(
    service: World,
) -> None:
    s = service
    await s.emit(2)
    assert [each.code for each in (await s.recover()).problems] == ["unknown-activity"]
    assert (await s.recover(acknowledged=s.fake.clock())).finished
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.emit(1)
    await s.fake.advance(hours=1)
    assert (await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).healthy
    assert (await s.recover(webhook_id=new)).finished
    assert_once(s, 3)
    await s.fake.advance(days=9)
    assert [each.code for each in (await s.recover(webhook_id=new)).problems] == ["unknown-activity"]


async def test_what_a_webhook_missed_of_a_type_that_the_other_was_not_read_for_is_passed(service: World) -> None:
    s = service
    new = s.add_webhook(SECOND_URL, [TYPE, "user.deleted"])
    await s.start(new, s.webhook_id)
    await s.emit(1, status=500, of="user.deleted")
    await s.fake.advance(days=9)
    s.status = 204
    assert (await s.recover()).finished
    await s.basiq.webhooks.update(s.webhook_id, url=URL, subscribed_events=[TYPE, "user.deleted"])
    assert (await s.recover()).finished, "no list of this webhook has it"
    found = await s.basiq.webhooks.diagnose(new, receiver=s.receiver())
    assert found.undelivered == 1
    await s.recover(webhook_id=new)
    assert_once(s, 1)


async def test_an_api_key_that_may_not_list_webhooks_leaves_unknown_which_are_gone(service: World) -> None:
    s, new = service, await rotated(service, gone=True)
    await s.fake.advance(days=10)
    assert len((await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).unrecoverable) == 1
    Transport.hides = True
    try:
        found = await s.basiq.webhooks.diagnose(new, receiver=s.receiver())
    finally:
        Transport.hides = False
    assert (found.unrecoverable, [each.code for each in found.problems]) == ((), ["forbidden"])


async def test_what_was_too_recent_for_one_webhook_is_passed_through_the_next(service: World) -> None:
    """An event of two minutes before, to the half second: the list of messages was asked for at the same second."""
    s = service
    await s.fake.advance(1 - s.fake.now().microsecond / 1e6)
    await s.emit(2)
    s.fake._store.webhook(s.webhook_id).disabled = True
    await s.emit(1)
    await s.fake.advance(120.5)
    found = await s.recover()
    assert (found.recent, found.handled) == (1, 0)
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.basiq.webhooks.delete(s.webhook_id)
    await s.fake.advance(hours=1)
    assert (await s.recover(webhook_id=new)).finished
    assert_once(s, 3)


async def test_while_another_webhook_of_its_service_is_active_a_new_one_has_lost_nothing(service: World) -> None:
    assert (await service.recover()).finished
    await service.fake.advance(days=10)
    new = service.add_webhook(SECOND_URL)
    await service.start(new, service.webhook_id)
    assert (await service.recover(webhook_id=new)).unrecoverable == ()


async def test_the_time_between_a_webhook_that_is_gone_and_the_next_is_named(service: World) -> None:
    s = service
    assert (await s.recover()).finished
    await s.basiq.webhooks.delete(s.webhook_id)
    await s.fake.advance(days=10)
    new = s.add_webhook()
    await s.start(new, s.webhook_id)
    problems = (await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).problems
    assert [each.code for each in problems] == ["unrecoverable"]
    found = await s.recover(webhook_id=new)
    assert (found.finished, len(found.unrecoverable)) == (False, 1)
    assert (await s.recover(webhook_id=new, acknowledged=s.fake.clock())).finished
    assert (await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).healthy


async def test_what_is_not_wanted_of_one_webhook_is_not_wanted_of_the_next(service: World) -> None:
    """The service moved to another inbox, and recovered since then."""
    s = service
    await s.emit(2)
    await s.miss(3)
    s.inbox = MemoryInbox(clock=s.fake.clock)
    await s.start(s.webhook_id)
    s.got.clear()
    begins = s.fake.clock()
    await s.fake.advance(minutes=10)
    assert (await s.recover(since=begins)).finished
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.emit(1)
    await s.fake.advance(minutes=10)
    found = await s.basiq.webhooks.diagnose(new, receiver=s.receiver())
    assert (found.healthy, found.attempts.failed_share, found.never_sent) == (True, 0.0, 0), found.problems
    assert (await s.recovery(webhook_id=new, since=begins - timedelta(hours=1)).plan()).total == 5
    assert (await s.recover(webhook_id=new)).handled == 0
    assert (await s.basiq.webhooks.diagnose(s.webhook_id, receiver=s.receiver())).attempts.failed_share == 0.0
    assert_once(s, 1)


@pytest.mark.parametrize("first", ["a receiver", "a job"])
async def test_what_was_delivered_before_a_webhook_joined_is_counted_until_it_is_passed_or_acknowledged(
    service: World, first: str
) -> None:
    """The inbox was restored from a backup of before the second webhook joined, which joined again."""
    s = service
    await s.emit(3)
    backup = copy.deepcopy(vars(s.inbox))
    await s.fake.advance(hours=1)
    new = s.add_webhook(SECOND_URL)
    await s.start(new, s.webhook_id)
    await s.basiq.webhooks.delete(s.webhook_id)
    await s.emit(4)
    await s.fake.advance(hours=1)
    vars(s.inbox).update(backup)
    s.got.clear()
    if first == "a receiver":
        await s.start(new, s.webhook_id)
    for found in (await s.recover(webhook_id=new), await s.recover(webhook_id=new)):
        assert [each.code for each in found.problems] == ["joined-later"]
        assert (found.before_joining, found.finished, s.got) == (4, False, [])
        assert "before this webhook joined: 4." in str(found.problems[0])
    diagnosed = await s.basiq.webhooks.diagnose(new, receiver=s.receiver())
    assert (diagnosed.before_joining, "joined-later" in [each.code for each in diagnosed.problems]) == (4, True)
    kept = copy.deepcopy(vars(s.inbox))
    assert (await s.recover(webhook_id=new, everything=True)).finished
    assert len(s.got) == 4
    vars(s.inbox).update(kept)
    found = await s.recover(webhook_id=new, acknowledged=s.fake.clock())
    assert (found.finished, found.before_joining, found.passed_over) == (True, 0, 4)
    assert "joined-later" not in [each.code for each in
                                  (await s.basiq.webhooks.diagnose(new, receiver=s.receiver())).problems]  # fmt: skip


@pytest.mark.parametrize("has_one_clock", [False, True])
async def test_a_rehearsal_with_two_clocks_is_told_how_to_have_one(
    has_one_clock: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Something else than the service said 200: only by one clock is that later than the inbox."""
    fake, got = FakeBasiq(clock=ManualClock(datetime(2026, 1, 5, tzinfo=UTC))), []
    webhook_id = fake.add_webhook(URL, ["user.created"])
    clock: dict[str, Any] = {"clock": fake.clock} if has_one_clock else {}
    receiver = WebhookReceiver(
        fake.secret(webhook_id), webhook_id=webhook_id, inbox=MemoryInbox(**clock), deferred=False, **clock
    )

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        got.append(delivery.event_id)

    async def accept(headers: Any, body: bytes) -> int:
        return 200

    fake.route(URL, accept)
    async with receiver, BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await fake.advance(minutes=10)
        await fake.emit("user.created")
        await fake.advance(minutes=5)
        found = await recover(basiq, webhook_id, receiver, inbox=receiver.inbox)
    assert (len(got), found.passed_over) == ((1, 0) if has_one_clock else (0, 1))
    advice = "WebhookReceiver(..., inbox=MemoryInbox(clock=fake.clock), clock=fake.clock)"
    assert (advice in caplog.text) is not has_one_clock
