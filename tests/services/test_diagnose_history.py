"""What a diagnosis says of a history: of its newest messages, in either order, and of what a recovery has brought."""

from __future__ import annotations

import secrets
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from basiq_async import BasiqClient, ConfigurationError, Diagnosis, InMemoryTransport, Message, Request, Response
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.replay import HttpTarget, recover
from basiq_async.services.coverage import Coverage, coverage_note  # private: what a recovery notes
from basiq_async.testing import FakeBasiq, ManualClock, Quirks, serve
from tests.support.deliveries import SECRET, taking
from tests.support.scripted import Scripted, answer, client, page
from tests.support.worlds import URL, World, a_world

ORDERS = ("oldest-first", "newest-first")


def codes(found: Diagnosis) -> set[str]:
    return {problem.code for problem in found.problems}


def world(order: Any, seeded: int = 0) -> AbstractAsyncContextManager[World]:
    return a_world(quirks=Quirks(message_order=order, event_order=order), seeded=seeded)


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_the_first_messages_are_looked_at_and_a_part_is_never_well(order: str) -> None:
    async with world(order, 3_000) as w:
        await w.emit(60, status=500)
        await w.fake.advance(minutes=10)
        found = await w.basiq.webhooks.diagnose(w.webhook_id, max_items=100)
        assert (found.look.items, found.look.complete, found.never_sent) == (200, False, 0)
        assert found.look.earliest is not None
        assert found.look.latest is not None
        assert f"messages from {found.look.earliest:%Y-%m-%d %H:%M} to {found.look.latest:%Y-%m-%d %H:%M} UTC" in (
            found.problems[-1].text
        )
        if order == "newest-first":
            assert {"failing", "undelivered"} <= codes(found)
            assert found.undelivered == 60
            assert found.attempts.last_success is not None
            assert found.look.latest >= found.attempts.last_success
        else:
            assert codes(found) == {"partial"}


@pytest.mark.parametrize(("most", "requests"), [(100, 8), (1_000, 12)])
async def test_a_limit_bounds_the_requests_in_any_order(order: str, most: int, requests: int) -> None:
    async with world(order, 10_000) as w:
        before = len(w.fake.requests)
        found = await w.basiq.webhooks.diagnose(w.webhook_id, max_items=most)
        assert not found.look.complete
        assert len(w.fake.requests) - before <= requests


@pytest.mark.parametrize(("most", "complete"), [(59, False), (60, True), (61, True)])
async def test_a_list_that_is_as_long_as_the_limit_was_read_whole(order: str, most: int, complete: bool) -> None:
    async with world(order) as w:
        await w.emit(60)
        await w.fake.advance(minutes=10)
        found = await w.basiq.webhooks.diagnose(w.webhook_id, max_items=most)
        assert (found.look.complete, found.healthy, found.look.items) == (complete, complete, 2 * min(most, 60))


async def test_a_part_that_is_well_does_not_show_that_the_whole_is() -> None:
    async with world("newest-first", 3_000) as w:
        found = await w.basiq.webhooks.diagnose(w.webhook_id, max_items=100)
        assert (codes(found), found.healthy) == ({"partial"}, False)
        assert found.look.items < 1_000
        whole = await w.basiq.webhooks.diagnose(w.webhook_id, max_items=None)
        assert whole.healthy
        assert whole.look.items > 3_000


async def test_an_event_that_comes_while_it_looks_is_none_without_a_message(order: str) -> None:
    fake = FakeBasiq(quirks=Quirks(message_order=order))  # type: ignore[arg-type]  # one of two words
    webhook_id = fake.add_webhook(URL, ["user.created"])
    fake.seed_messages(20, webhook_id)
    transport = InMemoryTransport(fake)

    class Busy:
        async def send(self, request: Any, /) -> Any:
            response = await transport.send(request)
            await fake.emit("user.created")
            return response

        async def aclose(self) -> None: ...

    async with BasiqClient(fake.api_key, transport=Busy()) as basiq:
        found = await basiq.webhooks.diagnose(webhook_id)
    assert found.never_sent == 0


@pytest.mark.parametrize(("age", "never_sent"), [(timedelta(0), 0), (timedelta(hours=2), 1)])
async def test_an_event_of_just_now_gets_its_message_in_a_moment(age: timedelta, never_sent: int) -> None:
    created = (datetime.now(UTC) - age).isoformat()
    event = {"id": "e1", "entity": "user", "eventType": "created", "createdDate": created}

    def respond(request: Any) -> Any:
        if "/messages" in request.url:
            return page([])
        if request.url.endswith("/events"):
            return page([event])
        if request.url.endswith("/types"):
            return page([{"id": "user.created"}])
        return answer({"id": "w", "url": URL, "status": "active", "subscribedEvents": ["user.created"]})

    async with client(Scripted(respond)) as basiq:
        assert (await basiq.webhooks.diagnose("w")).never_sent == never_sent


async def outage(w: World) -> None:
    """20 delivered; 5 fail until the webhook is disabled; 4 events make no message; it is active again, and 3 come."""
    await w.emit(20)
    await w.emit(5, status=500)
    await w.fake.advance(hours=30)
    await w.emit(4)
    await w.basiq.webhooks.reactivate(w.webhook_id)
    await w.fake.advance(minutes=20)
    await w.emit(3)
    await w.fake.advance(minutes=20)


@pytest.mark.parametrize("by", ["inbox", "receiver"])
async def test_what_a_recovery_has_brought_is_no_problem_any_more(order: str, by: str) -> None:
    async with world(order) as w:
        inbox = MemoryInbox()
        receiver = taking(webhook_id=w.webhook_id, inbox=inbox)
        await outage(w)
        options: dict[str, Any] = {"inbox": inbox} if by == "inbox" else {"receiver": receiver}
        before = await w.basiq.webhooks.diagnose(w.webhook_id, **options)
        assert (before.undelivered, before.never_sent) == (5, 4)
        assert codes(before) >= {"undelivered", "never-sent"}
        recovery = await recover(w.basiq, w.webhook_id, receiver, inbox=inbox)
        assert recovery.finished, recovery.problems
        after = await w.basiq.webhooks.diagnose(w.webhook_id, **options)
        assert codes(after) <= {"endpoint-unreachable"}
        assert after.recovered == 9


async def test_what_a_recovery_has_read_need_not_be_looked_at_again() -> None:
    async with world("newest-first", 5_000) as w:
        await w.fake.advance(hours=30)
        await w.emit(30)
        await w.fake.advance(hours=1)
        inbox = MemoryInbox()
        covered = Coverage(read_up_to=w.fake.clock() - timedelta(hours=20), types={"user.created": w.fake.clock()})
        await inbox.set_note(coverage_note(w.webhook_id), covered.write())
        found = await w.basiq.webhooks.diagnose(w.webhook_id, inbox=inbox)
        assert found.healthy, found.problems
        assert found.never_sent == 0
        assert found.look.items < 4_000


def make_failing(w: World) -> WebhookReceiver:
    """Return a receiver that puts everything into the quarantine."""
    receiver = WebhookReceiver(SECRET, webhook_id=w.webhook_id, quarantine_after=1)

    @receiver.on("*")
    async def handler(delivery: Delivery) -> None:
        raise ValueError("no")

    return receiver


async def test_the_quarantine_is_a_problem() -> None:
    async with world("oldest-first") as w:
        receiver = make_failing(w)
        w.fake.route(URL, receiver)
        await w.emit(2)
        message = await w.basiq.messages.list(w.webhook_id).first()
        assert message is not None
        await receiver.dispatch(Delivery.from_message(message))
        found = await w.basiq.webhooks.diagnose(w.webhook_id, inbox=receiver.inbox)
        assert "quarantined" in codes(found)
        assert not found.healthy


async def test_what_comes_into_the_quarantine_while_the_lists_are_read_is_a_problem() -> None:
    async with world("oldest-first") as w:
        receiver = make_failing(w)

        class Meanwhile(InMemoryTransport):
            """A transport whose list of messages comes as the service acknowledges one of them."""

            async def send(self, request: Request, /) -> Response:
                if request.url.endswith("/messages") or "/messages?" in request.url:
                    await receiver.dispatch(Delivery.from_message(message))
                return await super().send(request)

        await w.emit(1)
        first = await w.basiq.messages.list(w.webhook_id).first()
        assert first is not None
        message = first
        async with BasiqClient(w.fake.api_key, transport=Meanwhile(w.fake)) as basiq:
            found = await basiq.webhooks.diagnose(w.webhook_id, inbox=receiver.inbox)
        assert (found.quarantined, found.healthy) == (1, False)
        assert "quarantined" in codes(found)


async def test_what_waits_for_long_is_a_problem() -> None:
    async with world("oldest-first") as w:
        inbox = MemoryInbox(clock=w.fake.clock)
        receiver = taking(w.fake.secret(w.webhook_id), webhook_id=w.webhook_id, inbox=inbox, deferred=True)
        w.fake.route(URL, receiver)
        await w.emit(2)
        found = await w.basiq.webhooks.diagnose(w.webhook_id, receiver=receiver)
        assert (found.waiting.count, found.undelivered, "waiting" in codes(found)) == (2, 0, False)
        await w.fake.advance(minutes=6)
        found = await w.basiq.webhooks.diagnose(w.webhook_id, receiver=receiver)
        (problem,) = [each for each in found.problems if each.code == "waiting"]
        assert str(problem) == (
            "2 deferred deliveries wait to be handled, the oldest for 6 min, and 0 of them have failed: let a process "
            "handle them, and look at its log"
        )


async def test_what_fails_is_a_problem_from_the_first_failure_on_with_its_type_time_and_error() -> None:
    async with world("oldest-first") as w:
        inbox = MemoryInbox(clock=w.fake.clock)
        receiver = WebhookReceiver(
            w.fake.secret(w.webhook_id), webhook_id=w.webhook_id, inbox=inbox, deferred=True, clock=w.fake.clock
        )

        @receiver.on("*")
        async def handler(delivery: Delivery) -> None:
            raise ConnectionError("partner refused")

        w.fake.route(URL, receiver)
        await w.emit(2)
        await receiver.work(until_empty=True)
        found = await w.basiq.webhooks.diagnose(w.webhook_id, inbox=inbox)
        (problem,) = [each for each in found.problems if each.code == "deferred-failing"]
        (kind,) = found.failing_types
        assert (kind.count, found.waiting.failing, "waiting" in codes(found)) == (2, 2, False)
        since = f"{kind.since:%Y-%m-%d %H:%M} UTC"
        assert str(problem) == f"2 of {kind.event_type_id} fail since {since}: ConnectionError: partner refused"


async def test_an_event_that_ended_its_process_is_named() -> None:
    async with world("oldest-first") as w:
        inbox = MemoryInbox(clock=w.fake.clock)
        receiver = taking(w.fake.secret(w.webhook_id), webhook_id=w.webhook_id, inbox=inbox, deferred=True)
        w.fake.route(URL, receiver)
        await w.emit(2)
        for unended in (1, 3):
            for each in await inbox.claim_due("t", limit=1, retries=1, lease=60):
                entry = attrs.evolve(each.entry, failures=unended, unended=unended, failing_since=w.fake.now())
                await (inbox.put_off(entry, "t", seconds=5) if unended < 3 else inbox.quarantine(entry.key, "t", entry))
        (alone,), (killer,) = await inbox.entries(waiting=True), await inbox.entries()
        found = await w.basiq.webhooks.diagnose(w.webhook_id, receiver=receiver)
        texts = {problem.code: str(problem) for problem in found.problems}
        assert texts["deferred-failing"].endswith(f"; handled alone: {alone.event_id}")
        assert f". The event {killer.event_id} is there because it ended three processes" in texts["quarantined"]


async def test_an_undelivered_event_that_ended_its_process_is_named_before_it_is_in_the_quarantine() -> None:
    async with world("oldest-first") as w:
        inbox = MemoryInbox(clock=w.fake.clock)
        event_id, _ = await w.emit(2, status=503)
        for _ in range(2):
            await inbox.claim(event_id, secrets.token_hex(), lease=1)
            await w.fake.advance(seconds=2)
        receiver = taking(w.fake.secret(w.webhook_id), webhook_id=w.webhook_id, inbox=inbox)
        found = await w.basiq.webhooks.diagnose(w.webhook_id, receiver=receiver)
        (problem,) = [each for each in found.problems if each.code == "undelivered"]
        assert found.look.unended == ((event_id, 2),)
        assert f"2 processes were killed, or hung, while it handled the event {event_id}" in str(problem)


async def test_what_waits_of_a_webhook_that_was_replaced_is_not_forgotten() -> None:
    async with world("oldest-first") as w:
        inbox = MemoryInbox(clock=w.fake.clock)
        receiver = taking(w.fake.secret(w.webhook_id), webhook_id=w.webhook_id, inbox=inbox, deferred=True)
        w.fake.route(URL, receiver)
        await w.emit(2)
        await w.basiq.webhooks.delete(w.webhook_id)
        webhook_id = w.fake.add_webhook(URL, ["user.created"])
        now = WebhookReceiver(SECRET, webhook_id=[webhook_id, w.webhook_id], inbox=inbox)
        recovery = await recover(w.basiq, webhook_id, now, inbox=inbox)
        assert (recovery.finished, recovery.waiting.count, recovery.handled) == (False, 2, 0)
        await w.fake.advance(minutes=6)
        found = await w.basiq.webhooks.diagnose(webhook_id, inbox=inbox)
        assert (found.waiting.count, "waiting" in codes(found)) == (2, True)


async def test_what_basiq_delivered_elsewhere_is_a_problem_where_the_inbox_would_know_it(order: str) -> None:
    async with world(order) as w:
        inbox = MemoryInbox(clock=w.fake.clock)
        receiver = WebhookReceiver(SECRET, webhook_id=w.webhook_id, inbox=inbox, clock=w.fake.clock)
        got: list[str] = []

        @receiver.on("*")
        async def handler(delivery: Delivery) -> None:
            got.append(delivery.event_id)

        async with receiver:
            await w.emit(3)  # before the records of the inbox begin to be of use
            await w.fake.advance(hours=1)
            await w.emit(4)  # something else says 204
            await w.fake.advance(hours=1)
            found = await w.basiq.webhooks.diagnose(w.webhook_id, inbox=inbox)
            assert (found.unrecorded, codes(found)) == (4, {"unrecorded"})
            an_hour_ago = (w.fake.now() - timedelta(hours=1)).replace(microsecond=0)
            assert (found.look.lacking.statuses, found.look.lacking.first) == ({204: 4}, an_hour_ago)
            assert "answered with 204" in next(each.text for each in found.problems)
            assert (await recover(w.basiq, w.webhook_id, receiver, inbox=inbox)).finished
            assert len(got) == 4, "what it calls a problem is brought by the line that it names"
            assert (await w.basiq.webhooks.diagnose(w.webhook_id, inbox=inbox)).healthy


async def test_what_the_service_handled_is_no_failure_among_the_attempts_of_a_day(order: str) -> None:
    async with world(order) as w, MemoryInbox() as inbox:
        receiver = taking(w.fake.secret(w.webhook_id), webhook_id=w.webhook_id, inbox=inbox)
        w.fake.route(URL, receiver)
        for _ in range(9):
            await w.fake.emit("user.created")
        w.fake.fail_deliveries(status=401)
        await w.fake.emit("user.created")
        found = await w.basiq.webhooks.diagnose(w.webhook_id, inbox=inbox)
        assert (found.attempts.failed_share, found.attempts.by_status) == (0.1, {204: 9, 401: 1})
        assert codes(found) == {"undelivered"}


async def test_a_receiver_of_another_webhook_is_refused() -> None:
    async with world("oldest-first") as w:
        receiver = WebhookReceiver(SECRET, webhook_id="another", inbox=MemoryInbox())
        with pytest.raises(ConfigurationError, match="is of the webhook 'another'"):
            await w.basiq.webhooks.diagnose(w.webhook_id, receiver=receiver)
        with pytest.raises(ConfigurationError, match="is of the webhook 'another'"):
            await recover(w.basiq, w.webhook_id, receiver, inbox=receiver.inbox)


@pytest.mark.documented_world("its webhook is disabled after one message", "disables")
async def test_time_is_told_by_basiqs_clock_and_not_by_this_machines() -> None:
    fake = FakeBasiq(clock=ManualClock(datetime.now(UTC) + timedelta(days=30)))  # as a mock that was moved ahead
    webhook_id = fake.add_webhook(URL, ["user.created"])

    async def down(headers: Any, body: bytes) -> int:
        return 500

    fake.route(URL, down)
    await fake.emit("user.created")
    await fake.advance(hours=30)
    await fake.emit("user.created")
    await fake.advance(hours=1)
    receiver = WebhookReceiver(SECRET)

    @receiver.on("*")
    async def handler(delivery: Delivery) -> None: ...

    async with serve(fake) as url, BasiqClient(fake.api_key, base_url=url) as basiq:
        found = await basiq.webhooks.diagnose(webhook_id)
        assert (found.undelivered, found.never_sent) == (1, 1)
        await basiq.webhooks.reactivate(webhook_id)
        recovery = await recover(basiq, webhook_id, receiver, inbox=receiver.inbox)
        assert recovery.finished, recovery.problems
        after = await basiq.webhooks.diagnose(webhook_id, receiver=receiver)
        assert (after.healthy, after.recovered) == (True, 2)


@pytest.mark.parametrize("of_a_service", [False, True], ids=["of a job alone", "of a service too"])
async def test_what_a_job_posted_is_evidence_only_without_a_service_that_handles_it(
    monkeypatch: pytest.MonkeyPatch, of_a_service: bool
) -> None:
    async def deliver(self: HttpTarget, message: Message) -> None: ...

    monkeypatch.setattr(HttpTarget, "deliver", deliver)
    async with world("oldest-first") as w:
        inbox = MemoryInbox(clock=w.fake.clock)
        await w.emit(2, status=500)
        await w.fake.advance(minutes=10)
        async with HttpTarget(URL, SECRET) as target:
            assert (await recover(w.basiq, w.webhook_id, target, inbox=inbox)).handled == 2
        receiver = taking(webhook_id=w.webhook_id, inbox=inbox)
        if of_a_service:
            async with receiver:
                pass  # its start notes that a service uses the inbox
        found = await w.basiq.webhooks.diagnose(w.webhook_id, inbox=inbox)
        assert (found.recovered, found.undelivered) == ((0, 2) if of_a_service else (2, 0))
        asked = await w.basiq.webhooks.diagnose(w.webhook_id, receiver=receiver)
        assert (asked.recovered, asked.undelivered) == (0, 2), "a receiver knows what it handled itself"


async def test_what_has_no_handler_is_not_missed_though_only_the_inbox_is_looked_at() -> None:
    """The receiver has noted its handlers; without such a note, every type counts."""
    fake = FakeBasiq(clock=ManualClock(datetime.now(UTC) - timedelta(hours=2)))
    webhook_id = fake.add_webhook(URL, ["user.created", "consent.revoked"])
    inbox = MemoryInbox(clock=fake.clock)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        fake.endpoint_down(URL)
        for kind in ("user.created", "user.created", "consent.revoked"):
            await fake.emit(kind)
        await fake.advance(minutes=6)
        assert (await basiq.webhooks.diagnose(webhook_id, inbox=inbox)).undelivered == 3
        receiver = taking(SECRET, "consent.*", webhook_id=webhook_id, inbox=inbox, clock=fake.clock)
        async with receiver:
            found = await basiq.webhooks.diagnose(webhook_id, inbox=inbox)
            by_receiver = await basiq.webhooks.diagnose(webhook_id, receiver=receiver)
    assert (found.undelivered, found.types.unhandled) == (1, ("user.created",))
    assert (by_receiver.undelivered, by_receiver.types.unhandled) == (1, ("user.created",))
