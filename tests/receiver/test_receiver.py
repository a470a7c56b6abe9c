from __future__ import annotations

import asyncio
import json
import os
import random
import time
import traceback
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from basiq_async import BasiqClient, ConfigurationError, InboxError, InMemoryTransport, Message, ServerError
from basiq_async._signing.signature import SigningKeys
from basiq_async.receiver import Delivery, DeliveryEvent, MemoryInbox, Result, WebhookReceiver
from basiq_async.receiver.protocol import Claim, ClaimStatus
from basiq_async.testing import FakeBasiq, ManualClock
from tests.support.deliveries import NOW, OTHER_SECRET, SECRET, Service, new_id, payload, signed
from tests.support.environment import PACKAGE
from tests.support.inboxes import fail_in
from tests.support.real_time import PATIENCE


async def test_a_genuine_delivery_is_handled_and_answered_with_204() -> None:
    recorder = Service("consent.*")
    body = payload("consent.revoked", "e-204", name="Ada Lovelace")
    outcome = await recorder.post(body, message_id="msg_7")
    assert (outcome.result, outcome.status, outcome.headers) == (Result.HANDLED, 204, {"basiq-async-result": "handled"})
    assert outcome.acknowledged
    [delivery] = recorder.handled
    assert outcome.delivery is delivery
    assert (delivery.id, delivery.event_type_id, delivery.event_id) == ("msg_7", "consent.revoked", "e-204")
    assert delivery.links["event"].endswith("/events/e-204")
    assert delivery.body == body
    assert delivery.raw == json.loads(body)
    assert abs(delivery.timestamp - datetime.now(UTC)) < timedelta(seconds=10)
    assert "Lovelace" not in repr(outcome)


async def test_the_same_event_is_handled_once_whatever_its_delivery_is_called() -> None:
    recorder = Service("consent.*")
    body = payload()
    assert (await recorder.post(body, message_id="msg_1")).status == 204
    for message_id in ("msg_1", "msg_2"):
        outcome = await recorder.post(body, message_id=message_id)
        assert (outcome.result, outcome.status) == (Result.DUPLICATE, 200)
    assert len(recorder.handled) == 1


async def test_without_an_event_id_the_deliverys_own_id_tells_duplicates() -> None:
    recorder = Service("consent.*")
    body = json.dumps({"eventTypeId": "consent.revoked"}).encode()
    results = [(await recorder.post(body, message_id=each)).result for each in ("m1", "m1", "m2")]
    assert results == [Result.HANDLED, Result.DUPLICATE, Result.HANDLED]
    assert recorder.handled[0].event_id == ""


async def test_a_type_without_a_handler_is_acknowledged_and_not_recorded() -> None:
    recorder = Service("consent.*")
    body = payload("hologram.created", "e-new")
    outcome = await recorder.post(body)
    assert (outcome.result, outcome.status) == (Result.IGNORED, 204)
    assert outcome.delivery is not None
    assert not await recorder.receiver.inbox.known([outcome.delivery.key])
    recorder.receiver.on("hologram.*")(recorder.handle)
    assert (await recorder.post(body)).result is Result.HANDLED


@pytest.mark.parametrize("body", [b'{"hello": 1}', b"{}", b'{"eventTypeId": null, "eventId": ""}'])
async def test_a_payload_without_a_type_goes_to_the_handler_for_all(body: bytes) -> None:
    recorder = Service("consent.*")
    assert (await recorder.post(body)).result is Result.IGNORED
    recorder.receiver.on("*")(recorder.handle)
    assert (await recorder.post(body)).result is Result.HANDLED
    assert recorder.handled[0].event_type_id == ""


async def test_a_bad_signature_gets_401_and_no_detail(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Service("consent.*")
    body = payload(name="Ada Lovelace")
    outcome = await recorder.post(body, secret=OTHER_SECRET)
    assert (outcome.result, outcome.status, outcome.headers, outcome.reason) == (Result.REJECTED, 401, {}, "no-match")
    assert outcome.delivery is None
    assert not recorder.handled
    assert "no-match" in caplog.text
    assert "Lovelace" not in caplog.text
    assert SECRET not in caplog.text


async def test_a_rotated_secret_is_accepted_beside_the_new_one() -> None:
    receiver = WebhookReceiver([SECRET, OTHER_SECRET])
    body = payload()
    for secret in (SECRET, OTHER_SECRET):
        assert (await receiver.handle(signed(body, secret=secret), body)).status == 204
    assert (await receiver.handle(await receiver.sign("msg_2", datetime.now(UTC), body), body)).status == 204


async def test_two_workers_that_seed_the_random_module_alike_have_two_tokens() -> None:
    tokens: set[str] = set()

    class Watching(MemoryInbox):
        async def claim(
            self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
        ) -> Claim:
            tokens.add(token)
            return await super().claim(key, token, lease=lease, quarantined=quarantined, transaction=transaction)

    for _ in range(2):
        random.seed(7)
        await Service("consent.*", inbox=Watching()).post(payload())
    assert len(tokens) == 2


async def test_a_body_of_exactly_the_limit_is_read_and_a_larger_one_gets_413() -> None:
    body = payload()
    recorder = Service("consent.*", max_body_size=len(body))
    assert (await recorder.post(body)).status == 204
    outcome = await recorder.post(body + b" ")
    assert (outcome.result, outcome.status) == (Result.TOO_LARGE, 413)


async def test_a_handler_that_fails_gets_the_delivery_again(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Service("consent.*")
    failures = [RuntimeError("the database is down"), ExceptionGroup("both", [ValueError("a"), KeyError("b")])]

    @recorder.receiver.on("user.*")
    async def fail(delivery: Delivery) -> None:
        if failures:
            raise failures.pop(0)

    body = payload("user.created")
    outcome = await recorder.post(body, message_id="msg_500")
    assert (outcome.result, outcome.status) == (Result.FAILED, 500)
    assert isinstance(outcome.error, RuntimeError)
    assert "msg_500" in caplog.text
    assert "the database is down" in caplog.text
    assert (await recorder.post(body)).result is Result.FAILED
    assert (await recorder.post(body)).result is Result.HANDLED


async def test_a_handler_that_takes_too_long_is_cancelled_and_gets_the_delivery_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Service("consent.*", handler_timeout=0.02)
    cancelled: list[bool] = []

    @recorder.receiver.on("user.*")
    async def slow(delivery: Delivery) -> None:
        if cancelled:
            return
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    body = payload("user.created")
    outcome = await recorder.post(body, message_id="msg_slow")
    assert (outcome.result, outcome.status) == (Result.TIMED_OUT, 500)
    assert cancelled == [True]
    assert "'msg_slow' was cancelled after 0.02 s" in " ".join(caplog.text.split())
    assert (await recorder.post(body)).result is Result.HANDLED


async def test_a_delivery_that_another_worker_holds_gets_503_with_retry_after_and_its_holder_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "basiq_async.receiver")
    inbox = MemoryInbox()
    recorders = [Service("consent.*", inbox=inbox), Service("consent.*", inbox=inbox)]
    begun, go_on = asyncio.Event(), asyncio.Event()

    @recorders[0].receiver.on("user.created")
    async def first(delivery: Delivery) -> None:
        begun.set()
        await go_on.wait()

    recorders[1].receiver.on("user.created")(recorders[1].handle)
    body = payload("user.created")
    async with asyncio.TaskGroup() as group:
        handling = group.create_task(recorders[0].post(body))
        await begun.wait()
        outcome = await recorders[1].post(body)
        assert (outcome.result, outcome.status) == (Result.BUSY, 503)
        assert 1 <= int(outcome.headers["Retry-After"]) <= 30
        [record] = [record for record in caplog.records if "is held by worker" in record.getMessage()]
        assert (f"/{os.getpid()}/" in record.getMessage(), record.delivery_id) == (True, "msg_1")
        go_on.set()
    assert handling.result().result is Result.HANDLED
    assert (await recorders[1].post(body)).result is Result.DUPLICATE
    assert not recorders[1].handled


@pytest.mark.parametrize(
    ("failing", "event_type", "result", "logged"),
    [
        ("claim", "consent.revoked", Result.UNAVAILABLE, "'msg_1' could not be claimed"),
        ("complete", "consent.revoked", Result.HANDLED, "'msg_1' was handled, but that could not be recorded"),
        ("lost", "consent.revoked", Result.HANDLED, "'msg_1' was handled after its lease"),
        ("release", "consent.broken", Result.FAILED, "stays claimed until its lease runs out"),
    ],
)
async def test_an_inbox_that_fails_is_logged_and_hides_no_result_of_the_handler(
    failing: str, event_type: str, result: Result, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = MemoryInbox()
    if failing == "lost":
        inbox.complete = AsyncMock(return_value=False)  # type: ignore[method-assign]
    else:
        fail_in(failing, error=InboxError("the disk is full"), inbox=inbox)
    recorder = Service("consent.*", inbox=inbox)
    outcome = await recorder.post(payload(event_type))
    assert outcome.result is result
    assert logged in caplog.text
    if failing == "claim":
        assert (outcome.status, outcome.headers) == (503, {"Retry-After": "5"})
        assert isinstance(outcome.error, InboxError)
    assert len(recorder.handled) == (failing != "claim")


@pytest.mark.parametrize("ending", ["whole", "forged", "unreadable", "breaks off", "too large", "closed meanwhile"])
async def test_the_duration_of_a_streamed_delivery_counts_the_bodys_arrival(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("basiq_async.receiver._receiver.time", SimpleNamespace(perf_counter=lambda: now))
    service = Service(max_body_size=1_000)
    body = b"[]" if ending == "unreadable" else payload()

    async def arrive() -> AsyncGenerator[bytes]:
        nonlocal now
        yield body[:1]
        now += 3.0
        if ending == "breaks off":
            raise ConnectionError
        if ending == "closed meanwhile":
            await service.receiver.aclose()
        yield body[1:] + bytes(5_000 if ending == "too large" else 0)

    headers = signed(body, secret=OTHER_SECRET if ending == "forged" else SECRET)
    await service.receiver.handle_stream(headers, arrive())
    (event,) = service.events
    assert event.duration == 3.0, event


async def test_the_headers_of_a_streamed_delivery_are_checked_once() -> None:
    """A body may arrive for longer than its signature is fresh."""
    now = time.time()
    service = Service(clock=lambda: datetime.fromtimestamp(now, UTC))
    body = payload()

    async def arrive() -> AsyncGenerator[bytes]:
        nonlocal now
        now += 600.0
        yield body

    assert (await service.receiver.handle_stream(signed(body), arrive())).status == 204


async def test_the_hook_is_told_of_every_request(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Service("consent.*")
    body = payload("consent.revoked", "e-hook")
    await recorder.post(body, message_id="m1")
    await recorder.post(body, message_id="m1")
    await recorder.post(body, secret=OTHER_SECRET)
    await recorder.post(b"[]", message_id="msg_400")
    assert "msg_400" in caplog.text
    first, second, third, fourth = recorder.events
    assert (first.result, first.status, first.delivery_id, first.event_type_id) == (
        "handled",
        204,
        "m1",
        "consent.revoked",
    )
    assert 0 < first.duration < 5
    assert (second.result, second.status) == ("duplicate", 200)
    assert (third.result, third.status, third.delivery_id, third.reason) == ("rejected", 401, None, "no-match")
    assert (fourth.result, fourth.status, fourth.delivery_id) == ("unreadable", 400, None)


async def test_a_hook_that_fails_does_not_touch_the_delivery(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: DeliveryEvent) -> None:
        raise RuntimeError("metrics are down")

    receiver = WebhookReceiver(SECRET, on_delivery=hook)
    body = payload()
    assert (await receiver.handle(signed(body), body)).status == 204
    assert "metrics are down" in caplog.text


async def test_freshness_goes_by_the_clock_that_was_given() -> None:
    clock = ManualClock(NOW)
    recorder = Service("consent.*", clock=clock)
    assert (await recorder.post(payload(), at=NOW)).status == 204
    clock.advance(timedelta(minutes=6))
    outcome = await recorder.post(payload(), at=NOW)
    assert (outcome.status, outcome.reason) == (401, "too-old")
    patient = Service("consent.*", clock=clock, tolerance=timedelta(hours=1))
    assert (await patient.post(payload(), at=NOW)).status == 204


async def test_a_timestamp_that_no_date_can_hold_is_unreadable_and_no_crash() -> None:
    recorder = Service("consent.*", clock=lambda: datetime(9999, 12, 31, tzinfo=UTC), tolerance=timedelta.max)
    keys, seconds = SigningKeys.read(SECRET), str(8 * 10**13)
    assert isinstance(keys, SigningKeys)
    signature = {"webhook-timestamp": seconds, "webhook-signature": keys.sign("m", seconds, b"{}")}
    assert (await recorder.receiver.handle({"webhook-id": "m", **signature}, b"{}")).status == 400


@pytest.mark.parametrize(
    "options",
    [
        {"max_body_size": 0},
        {"handler_timeout": 0},
        {"handler_timeout": float("inf")},
        {"handler_timeout": float("nan")},
        {"body_timeout": -1},
        {"tolerance": timedelta(seconds=-1)},
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        WebhookReceiver(SECRET, **options)


async def test_the_receiver_does_not_show_its_secret() -> None:
    receiver = WebhookReceiver(SECRET)
    receiver.on("*")(Service("consent.*").handle)
    assert repr(receiver) == "<WebhookReceiver: 1 patterns, 0 in flight>"
    await receiver.aclose()
    assert repr(receiver) == "<WebhookReceiver: 1 patterns, closed>"


async def test_a_delivery_that_is_known_to_be_genuine_goes_the_same_way() -> None:
    recorder = Service("consent.*")
    message = Message(
        "msg_5",
        {
            "id": "msg_5",
            "payload": {"eventTypeId": "consent.revoked", "eventId": "e-5", "links": {"event": "https://x/e-5"}},
            "attempts": [
                {"id": "a2", "timestamp": "2026-01-05T12:00:05Z"},
                {"id": "a1", "timestamp": "2026-01-05T12:00:00Z"},
                {"id": "a3"},
            ],
        },
    )
    delivery = Delivery.from_message(message)
    assert (delivery.id, delivery.event_type_id, delivery.event_id) == ("msg_5", "consent.revoked", "e-5")
    assert delivery.links == {"event": "https://x/e-5"}
    assert delivery.timestamp == NOW
    assert delivery.raw == message.payload
    assert delivery.body.startswith(b'{"eventTypeId":"consent.revoked",')
    assert json.loads(delivery.body) == message.payload
    assert (await recorder.receiver.dispatch(delivery)).result is Result.HANDLED
    assert (await recorder.receiver.dispatch(delivery)).result is Result.DUPLICATE
    assert (await recorder.post(payload("consent.revoked", "e-5"))).result is Result.DUPLICATE
    assert recorder.handled == [delivery]
    assert [event.result for event in recorder.events] == ["handled", "duplicate", "duplicate"]


def test_a_message_that_was_never_tried_has_the_time_that_is_given() -> None:
    assert Delivery.from_message(Message("m", {}), timestamp=NOW).timestamp == NOW
    assert Delivery.from_message(Message("m", {})).event_type_id == ""


async def test_the_full_event_is_one_call_away() -> None:
    fake, deliveries = FakeBasiq(), list[Delivery]()
    receiver = WebhookReceiver(fake.secret(fake.add_webhook("https://example.org/basiq")))

    @receiver.on("user.created")
    async def handle(delivery: Delivery) -> None:
        deliveries.append(delivery)

    fake.route("https://example.org/basiq", receiver)
    await fake.emit("user.created", user_id="u-1")
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        event = await deliveries[0].event(client)
    assert (event.id, event.type) == (deliveries[0].event_id, "user.created")
    assert fake.deliveries[0].status == 204


async def test_an_answer_that_basiq_repeats_after_a_failure_is_handled_once() -> None:
    fake, tries = FakeBasiq(), list[str]()
    receiver = WebhookReceiver(fake.secret(fake.add_webhook("https://example.org/basiq")))

    @receiver.on("user.created")
    async def handle(delivery: Delivery) -> None:
        tries.append(delivery.id)
        if len(tries) < 3:
            raise RuntimeError("not yet")

    fake.route("https://example.org/basiq", receiver)
    await fake.emit("user.created", user_id="u-1")
    await fake.advance(hours=30)
    assert (len(tries), len(set(tries))) == (3, 1)
    assert [attempt.status for attempt in fake.deliveries] == [500, 500, 204]


async def test_claims_carry_the_lease_that_was_set_or_one_longer_than_the_handler_may_take() -> None:
    leases: list[float] = []

    class Watching(MemoryInbox):
        async def claim(
            self, key: str, token: str, *, lease: float, quarantined: bool = False, transaction: bool = False
        ) -> Claim:
            leases.append(lease)
            return Claim(ClaimStatus.BUSY, 0.2)

    outcome = await Service("consent.*", inbox=Watching(), handler_timeout=50).post(payload(event_id=new_id()))
    assert set(leases) == {70}
    assert outcome.headers == {"Retry-After": "1"}
    await Service("consent.*", inbox=Watching(), lease=12).post(payload())
    assert leases[-1] == 12
    with pytest.raises(ConfigurationError, match="longer than handler_timeout"):
        WebhookReceiver(SECRET, lease=10)


async def test_two_bodies_of_the_largest_size_may_arrive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WebhookReceiver(SECRET)._requests._bodies.max_total == 16 * 2**20, "security-guarantees.md names this limit"
    monkeypatch.setattr("basiq_async.receiver._requests._BODIES", 0)
    size = 100_000
    receiver = WebhookReceiver(SECRET, max_body_size=size)
    both = asyncio.Barrier(2)

    async def arrive(body: bytes) -> AsyncGenerator[bytes]:
        yield body[: size // 2]
        yield body[size // 2 :]
        await both.wait()

    rest = "x" * (size - len(payload(event_id="e-1", name="")))
    bodies = [payload(event_id=event_id, name=rest) for event_id in ("e-1", "e-2")]
    assert {len(body) for body in bodies} == {size}
    async with asyncio.timeout(PATIENCE):
        read = [receiver._requests.read_stream(signed(body), arrive(body), size, None) for body in bodies]
        found = await asyncio.gather(*read)
    assert [isinstance(each, Delivery) for each in found] == [True, True], "a genuine delivery was refused"


async def test_a_type_without_a_handler_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Service("consent.*")
    for number in range(3):
        outcome = await recorder.post(payload("user.created", f"e-{number}"))
        assert (outcome.result, outcome.status) == (Result.IGNORED, 204)
    await recorder.post(payload("account.updated"))
    assert recorder.receiver.unhandled == {"user.created": 3, "account.updated": 1}
    assert [event.event_type_id for event in recorder.events] == ["user.created"] * 3 + ["account.updated"]
    warned = [record for record in caplog.records if "no handler is registered" in record.getMessage()]
    assert [record.event_type_id for record in warned] == ["user.created", "account.updated"]


async def test_of_ever_new_types_without_a_handler_only_some_are_counted() -> None:
    recorder = Service("consent.*")
    for number in range(300):
        await recorder.post(payload(f"user.type{number}"))
    assert len(recorder.receiver.unhandled) == 256


async def test_records_and_events_have_the_fields_of_the_delivery(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Service("consent.*", quarantine_after=5)

    @recorder.receiver.on("user.created")
    async def broken(delivery: Delivery) -> None:
        try:
            raise ServerError(status=500, correlation_id="c-1")
        except ServerError as exc:
            raise LookupError("no such user") from exc

    await recorder.post(payload("user.created", "e-9"), message_id="msg_9")
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    names = ("delivery_id", "event_id", "event_type_id", "handler", "attempt", "correlation_id")
    fields = {name: getattr(record, name) for name in names}
    assert fields == {
        "delivery_id": "msg_9",
        "event_id": "e-9",
        "event_type_id": "user.created",
        "handler": broken.__qualname__,
        "attempt": 1,
        "correlation_id": "c-1",
    }
    [event] = recorder.events
    assert {name: getattr(event, name) for name in names} == fields
    assert event.age is not None
    assert 0 <= event.age < 10


async def test_no_frame_of_ours_behind_a_handlers_error_holds_a_secret_or_a_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Service("consent.*", quarantine_after=1)

    @recorder.receiver.on("user.created")
    async def broken(delivery: Delivery) -> None:
        raise RuntimeError("broken")

    outcome = await recorder.post(payload("user.created", name="Ada Lovelace"))
    [record] = [record for record in caplog.records if record.exc_info]
    for error in (outcome.error, record.exc_info[1]):
        assert error is not None
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        assert [frame for frame in frames if frame.f_code.co_filename.startswith(PACKAGE)]
        shown = repr([frame.f_locals for frame in frames])
        assert "Lovelace" not in shown
        assert SECRET[6:] not in shown


async def test_a_handler_that_blocks_the_event_loop_is_logged_once_with_its_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("basiq_async._work.blocking.monotonic", lambda: now)
    receiver = WebhookReceiver(SECRET)

    async def fetch(delivery: Delivery) -> str:
        await asyncio.sleep(0)
        return "value"

    @receiver.on("user.created", prepare=fetch)
    async def export(delivery: Delivery, prepared: str) -> None:
        nonlocal now
        now += 1.5

    @receiver.on("*")
    async def waits(delivery: Delivery) -> None:
        nonlocal now
        await asyncio.sleep(0)
        now += 0.9
        await asyncio.sleep(0)
        now += 0.9

    for event_type_id in ("user.created", "user.created", "user.deleted"):
        body = payload(event_type_id)
        assert (await receiver.handle(signed(body), body)).result is Result.HANDLED
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "export blocked the event loop for 1.5 s" in record.getMessage()
    assert record.handler.endswith("export")  # type: ignore[attr-defined]  # of extra


async def test_a_handler_may_be_any_awaitable() -> None:
    receiver = WebhookReceiver(SECRET)
    handled: list[str] = []

    class Handler:
        async def __call__(self, delivery: Delivery) -> None:
            handled.append(delivery.event_id)

    receiver.on("user.created")(Handler())
    receiver.on("user.deleted")(AsyncMock())
    for event_type_id in ("user.created", "user.deleted"):
        body = payload(event_type_id)
        assert (await receiver.handle(signed(body), body)).result is Result.HANDLED
    assert len(handled) == 1


@pytest.mark.parametrize(
    ("result", "options"),
    [("handled", {}), ("duplicate", {}), ("quarantined", {"quarantine_after": 1}), ("ignored", {})],
)
async def test_the_response_to_a_genuine_delivery_says_its_result_and_a_forger_is_told_nothing(
    result: str, options: dict[str, Any]
) -> None:
    service = Service("user.*" if result == "ignored" else "*", **options)
    service.broken = result == "quarantined"
    for _ in range(2 if result == "duplicate" else 1):
        outcome = await service.post(payload("consent.revoked", "e-1"), message_id="m-1")
    assert outcome.headers == {"basiq-async-result": result}
    forged = await service.post(payload("consent.revoked", "e-1"), secret=OTHER_SECRET)
    assert (forged.status, forged.headers) == (401, {})
