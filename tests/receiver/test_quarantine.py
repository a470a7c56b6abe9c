"""A delivery that its handler can never take is quarantined, before Basiq disables the endpoint."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from basiq_async import ConfigurationError, InboxError, ServerError, TargetError
from basiq_async.receiver import Delivery, Inbox, InboxEntry, MemoryInbox, Result, WebhookReceiver
from basiq_async.receiver.protocol import inbox_key
from basiq_async.testing import ManualClock
from tests.support import virtual
from tests.support.deliveries import NOW, OTHER_SECRET, SECRET, Service, payload, quarantined_delivery, signed
from tests.support.inboxes import fail_in

BROKEN = payload("user.broken", "e-broken")


async def post(service: Service, body: bytes = BROKEN, **options: object) -> Result:
    return (await service.receiver.handle(signed(body, **options), body)).result


async def test_without_it_a_delivery_that_always_fails_is_asked_for_again_and_again() -> None:
    service = Service()
    assert [await post(service) for _ in range(8)] == [Result.FAILED] * 8
    assert list(await service.receiver.quarantined()) == []


async def test_a_page_of_a_receivers_quarantine_has_a_hundred_deliveries() -> None:
    inbox = MemoryInbox()
    for number in range(102):
        key = inbox_key(f"e-{number}", f"msg_{number}")
        delivery = attrs.evolve(quarantined_delivery(key), delivery_id=f"msg_{number}", event_id=f"e-{number}")
        await inbox.quarantine(key, "a", delivery)
    receiver = WebhookReceiver(SECRET, inbox=inbox)
    assert [len(await receiver.quarantined()), len(await receiver.quarantined(limit=101))] == [100, 101]


async def test_after_so_many_failures_it_is_quarantined_acknowledged_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(quarantine_after=3)
    outcomes = [await service.receiver.handle(signed(BROKEN, message_id="msg_b"), BROKEN) for _ in range(4)]
    assert [outcome.result for outcome in outcomes] == [*["failed"] * 2, "quarantined", "duplicate"]
    assert [outcome.attempt for outcome in outcomes] == [1, 2, 3, None]
    assert outcomes[2].acknowledged
    assert [(event.result, event.status, event.attempt) for event in service.events[1:3]] == [
        ("failed", 500, 2),
        ("quarantined", 200, 3),
    ]
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 3, "each failure is reported once"
    assert "'msg_b' failed, 3 times so far; the delivery is in the quarantine" in errors[-1].getMessage()
    [entry] = await service.receiver.quarantined()
    assert (entry.delivery_id, entry.event_type_id, entry.event_id) == ("msg_b", "user.broken", "e-broken")
    assert (entry.body, entry.error, entry.failures) == (BROKEN, "RuntimeError: broken", 3)


async def test_a_success_forgets_the_failures_before_it() -> None:
    service = Service(quarantine_after=2)
    failing = [True]

    @service.receiver.on("user.created")
    async def handle(delivery: Delivery) -> None:
        if failing:
            raise RuntimeError("not yet")

    body = payload("user.created")
    assert await post(service, body) is Result.FAILED
    failing.clear()
    assert await post(service, body) is Result.HANDLED
    assert list(await service.receiver.quarantined()) == []


async def test_what_is_in_the_quarantine_is_run_again_when_it_can_be_handled() -> None:
    service = Service(quarantine_after=1)
    for number in range(3):
        await post(service, payload("user.broken", f"e-{number}"), message_id=f"msg_{number}")
    handled: list[Delivery] = []

    mended = WebhookReceiver(SECRET, inbox=service.receiver.inbox, on_delivery=service.events.append)

    @mended.on("*")
    async def handle(delivery: Delivery) -> None:
        if delivery.event_id == "e-1":
            raise ValueError("still")
        handled.append(delivery)

    outcomes = await mended.retry_quarantined()
    assert [outcome.result for outcome in outcomes] == ["handled", "quarantined", "handled"]
    assert [event.result for event in service.events[-3:]] == ["handled", "quarantined", "handled"]
    assert [delivery.event_id for delivery in handled] == ["e-0", "e-2"]
    assert handled[0].body.startswith(b'{"eventTypeId": "user.broken"')
    [entry] = await mended.quarantined()
    assert (entry.delivery_id, entry.failures, entry.error) == ("msg_1", 2, "ValueError: still")


async def test_chosen_ones_are_run_again_or_dropped() -> None:
    service = Service(quarantine_after=1)
    for number in range(3):
        await post(service, payload("user.broken", f"e-{number}"), message_id=f"msg_{number}")
    receiver = service.receiver
    [outcome] = await receiver.retry_quarantined(["msg_1", "unknown"])
    assert outcome.delivery is not None
    assert (outcome.result, outcome.delivery.id) == ("quarantined", "msg_1")
    assert await receiver.drop_quarantined(["msg_0", "msg_1", "unknown"]) == 2
    assert [entry.delivery_id for entry in await receiver.quarantined()] == ["msg_2"]
    assert await post(service, payload("user.broken", "e-0")) is Result.DUPLICATE
    for call in (receiver.retry_quarantined("msg_2"), receiver.drop_quarantined("msg_2")):
        with pytest.raises(ConfigurationError, match="list of delivery ids"):
            await call


async def test_the_list_comes_in_pages_and_each_delivery_is_tried_once_on_a_clock_that_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("basiq_async._work.inbox_calls._PAGE", 10)
    service = Service(quarantine_after=1, clock=ManualClock(NOW))
    for number in range(15):
        await post(service, payload("user.broken", f"e-{number}"), message_id=f"msg_{number}", at=NOW)
    first = await service.receiver.quarantined(limit=6)
    second = await service.receiver.quarantined(after=first[-1], limit=20)
    assert (len(first), len(second)) == (6, 9)
    assert len(await service.receiver.retry_quarantined()) == 15
    with pytest.raises(ConfigurationError, match="limit"):
        await service.receiver.quarantined(limit=0)


async def test_a_receiver_that_closes_begins_no_further_retry() -> None:
    service = Service(quarantine_after=1)
    for number in range(3):
        await post(service, payload("user.broken", f"e-{number}"), message_id=f"msg_{number}")
    await service.receiver.aclose()
    assert list(await service.receiver.retry_quarantined()) == []


@pytest.mark.parametrize("call", ["release", "quarantine"])
async def test_an_inbox_that_cannot_quarantine_it_has_basiq_send_it_again(call: str) -> None:
    service = Service(inbox=fail_in(call, error=InboxError("the disk is full")), quarantine_after=1)
    assert await post(service) is Result.FAILED


async def test_a_retry_that_cannot_be_stored_leaves_the_delivery_as_it_was() -> None:
    inbox = MemoryInbox()
    service = Service(inbox=inbox, quarantine_after=1)
    await post(service)
    fail_in("quarantine", error=InboxError("the disk is full"), inbox=inbox)
    assert [outcome.result for outcome in await service.receiver.retry_quarantined()] == ["failed"]
    del inbox.quarantine
    assert [outcome.result for outcome in await service.receiver.retry_quarantined()] == ["quarantined"]


@pytest.mark.parametrize("after", [0, -1, True, 1.5, "3"])
def test_a_number_of_failures_that_cannot_be_is_refused(after: object) -> None:
    with pytest.raises(ConfigurationError, match="quarantine_after"):
        WebhookReceiver(SECRET, quarantine_after=after)


def test_an_inbox_that_is_none_is_refused() -> None:
    class Half:
        async def claim(self) -> None: ...

    with pytest.raises(
        ConfigurationError,
        match=r"Inbox protocol; Half lacks known, note, set_note, check, complete, release, known_since, quarantine, ",
    ):
        WebhookReceiver(SECRET, inbox=Half())
    assert isinstance(MemoryInbox(), Inbox)


async def test_without_webhook_ids_two_webhooks_on_one_inbox_are_refused() -> None:
    inbox = MemoryInbox()
    first = WebhookReceiver(SECRET, inbox=inbox)
    WebhookReceiver([OTHER_SECRET, SECRET], inbox=inbox)  # one secret replaces the other
    with pytest.raises(ConfigurationError, match="pass webhook_id to both"):
        WebhookReceiver(OTHER_SECRET, inbox=inbox)
    WebhookReceiver(OTHER_SECRET, inbox=inbox, webhook_id="w2")
    await first.aclose()


@pytest.mark.parametrize("call", ["entries", "claim", "complete"])
@virtual.clocked
async def test_an_inbox_that_hangs_does_not_hold_the_quarantine_for_ever(call: str) -> None:
    service = Service(quarantine_after=1)
    await post(service, message_id="msg_1")
    fail_in(call, inbox=service.receiver.inbox)
    with pytest.raises(InboxError, match="did not respond within 5 s"):
        await service.receiver.drop_quarantined(["msg_1"])


async def test_a_delivery_whose_body_cannot_be_read_stays_and_no_handler_gets_it() -> None:
    inbox = MemoryInbox()
    entry = InboxEntry(
        key=inbox_key("e-1", "msg_1"),
        delivery_id="msg_1",
        event_type_id="user.created",
        event_id="e-1",
        body=b"not JSON",
        signed_at=NOW,
        error="by hand",
        failures=1,
        quarantined_at=NOW,
    )
    assert await inbox.quarantine(entry.key, "token", entry)
    service = Service(inbox=inbox)
    assert [outcome.result for outcome in await service.receiver.retry_quarantined()] == ["unreadable"]
    assert service.handled == []
    assert [each.delivery_id for each in await inbox.entries()] == ["msg_1"]


@pytest.mark.parametrize(
    ("errors", "results"),
    [
        ([ServerError(status=503), TargetError("busy", retry_after=7)], [Result.UNAVAILABLE] * 3),
        ([ServerError(status=503)], [Result.FAILED] * 3),
        ([ServerError(status=503), ValueError("no")], [Result.FAILED, Result.QUARANTINED, Result.DUPLICATE]),
    ],
    ids=["an outage that asks for a wait", "an outage", "one is the event's"],
)
async def test_failures_of_a_task_group_count_only_if_one_of_them_is_of_the_event(
    errors: list[Exception], results: list[Result]
) -> None:
    service = Service(quarantine_after=2)

    async def fail(error: Exception) -> None:
        raise error

    @service.receiver.on("user.broken")
    async def handle(_: Delivery) -> None:
        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(fail(error))

    assert [await post(service) for _ in range(3)] == results
