"""What a handler accepts: the session, and what ``prepare`` fetched before the transaction began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport
from basiq_async.errors import AuthenticationError, ConnectionFailedError, NotFoundError, ServerError, TargetError
from basiq_async.models import Event
from basiq_async.receiver import Delivery, MemoryInbox, Result, WebhookReceiver
from basiq_async.replay import Replay
from basiq_async.replay.targets._adapters import choose_handling  # private: what a replay makes of a target
from basiq_async.testing import FakeBasiq
from tests.support import virtual
from tests.support.deliveries import SECRET, payload, post
from tests.support.inboxes import Transactional


async def fetch(delivery: Delivery) -> str:
    return f"prepared for {delivery.event_id}"


def handlers(got: list[object]) -> dict[str, Callable[..., Awaitable[None]]]:
    async def optional(delivery: Delivery, session: object = None) -> None:
        got.append(session)

    async def by_name(delivery: Delivery, *, session: object) -> None:
        got.append(session)

    async def second(delivery: Delivery, other: object) -> None:
        got.append(other)

    return {"session=None": optional, "*, session": by_name, "a second parameter": second}


async def by_position(delivery: Delivery, connection: object) -> None: ...


async def by_keyword(delivery: Delivery, *, connection: object = None) -> None: ...


@pytest.mark.parametrize("handler", [by_position, by_keyword])
def test_a_parameter_connection_is_refused_by_its_name(handler: Callable[..., Awaitable[None]]) -> None:
    for inbox in (Transactional(), MemoryInbox()):
        with pytest.raises(ConfigurationError, match=r"parameter `connection`.*`await session\.connection\(\)`"):
            WebhookReceiver(SECRET, inbox=inbox).on("*")(handler)
    with pytest.raises(ConfigurationError, match="parameter `connection`"):
        choose_handling(handler, Transactional())


@pytest.mark.parametrize("form", handlers([]))
async def test_a_parameter_for_the_session_gets_it_or_is_refused_when_it_is_registered(form: str) -> None:
    got: list[object] = []
    receiver = WebhookReceiver(SECRET, inbox=Transactional())
    receiver.on("*")(handlers(got)[form])
    assert (await post(receiver)).result is Result.HANDLED
    assert got == [Transactional.session]
    with pytest.raises(ConfigurationError, match="such as SQLInbox"):
        WebhookReceiver(SECRET).on("*")(handlers(got)[form])
    with pytest.raises(ConfigurationError, match="such as SQLInbox"):
        choose_handling(handlers(got)[form], MemoryInbox())


@pytest.mark.parametrize("sessions", [False, True])
async def test_what_prepare_returns_reaches_the_handler_and_is_made_before_the_claim_of_a_transaction(
    *, sessions: bool
) -> None:
    inbox = Transactional()
    receiver = WebhookReceiver(SECRET, inbox=inbox)

    async def prepare(delivery: Delivery) -> str:
        inbox.log.append("prepare")
        return await fetch(delivery)

    if sessions:

        @receiver.on("*", prepare=prepare)
        async def with_session(delivery: Delivery, session: object, prepared: str) -> None:
            inbox.log.append(prepared)

    else:

        @receiver.on("*", prepare=prepare)
        async def handle(delivery: Delivery, prepared: str) -> None:
            inbox.log.append(prepared)

    body = payload(event_id="e-1")
    assert (await post(receiver, body)).result is Result.HANDLED
    assert inbox.log == ["prepare", *(["claim"] if sessions else []), "prepared for e-1"]
    assert (await post(receiver, body)).result is Result.DUPLICATE
    assert inbox.log.count("prepare") == 1, "it was fetched for an event that was handled before"


async def test_a_delivery_in_the_quarantine_is_prepared_and_handled_when_it_is_retried() -> None:
    receiver, fails, got = WebhookReceiver(SECRET, inbox=Transactional(), quarantine_after=1), [True], []

    @receiver.on("*", prepare=fetch)
    async def handle(delivery: Delivery, session: object, prepared: str) -> None:
        if fails:
            raise ValueError("no")
        got.append(prepared)

    assert (await post(receiver, payload(event_id="e-1"))).result is Result.QUARANTINED
    assert [each.result for each in await receiver.retry_quarantined()] == [Result.QUARANTINED]
    fails.clear()
    assert [each.result for each in await receiver.retry_quarantined()] == [Result.HANDLED]
    assert got == ["prepared for e-1"]
    assert not await receiver.quarantined()


@virtual.clocked
async def test_the_read_of_a_thin_event_holds_no_transaction() -> None:
    most = running = 0

    class Counting(Transactional):
        @asynccontextmanager
        async def transaction(self, key: str, token: str, *, session: bool = True) -> AsyncGenerator[object]:
            nonlocal most, running
            running += 1
            most = max(most, running)
            yield Transactional.session
            running -= 1

    receiver = WebhookReceiver(SECRET, inbox=Counting())

    async def slowly(delivery: Delivery) -> str:
        await asyncio.sleep(0.3)
        return ""

    @receiver.on("*", prepare=slowly)
    async def handle(delivery: Delivery, session: object, prepared: str) -> None: ...

    started = virtual.now()
    await asyncio.gather(*(post(receiver, payload(event_id=f"e-{number}")) for number in range(200)))
    assert (most, virtual.now() - started < 1.0) == (1, True)


async def test_a_replay_prepares_as_the_receiver_does() -> None:
    fake, got = FakeBasiq(), []
    receiver = WebhookReceiver(SECRET)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        webhook_id = fake.add_webhook("https://service.example/basiq")
        for _ in range(3):
            await fake.emit("user.created")

        async def read(delivery: Delivery) -> Event:
            return await delivery.event(client)

        @receiver.on("*", prepare=read)
        async def handle(delivery: Delivery, prepared: Event) -> None:
            got.append((delivery.event_id, prepared.id))

        report = await Replay(client, webhook_id, receiver, inbox=receiver.inbox).run()
    assert report.handled == 3
    assert all(event_id == prepared for event_id, prepared in got)


@virtual.clocked
async def test_a_prepare_that_takes_too_long_is_cancelled() -> None:
    receiver = WebhookReceiver(SECRET, inbox=Transactional(), handler_timeout=2.0)

    async def hangs(delivery: Delivery) -> None:
        await asyncio.sleep(3600)

    @receiver.on("*", prepare=hangs)
    async def handle(delivery: Delivery, session: object, prepared: None) -> None:
        raise AssertionError("it was called all the same")

    started = virtual.now()
    assert (await post(receiver)).result is Result.TIMED_OUT
    assert virtual.now() - started == 2.0


async def plain(delivery: Delivery) -> None: ...
async def prepared_one(delivery: Delivery, prepared: object) -> None: ...
def not_async(delivery: Delivery) -> None: ...


@pytest.mark.parametrize(
    ("handler", "prepare", "shown"),
    [
        (plain, fetch, "needs a parameter `prepared`"),
        (prepared_one, None, "pass the function that makes its value"),
        (prepared_one, not_async, "prepare= .*not_async is not async"),
    ],
)
def test_a_prepare_that_cannot_be_right_is_refused(handler: Any, prepare: Any, shown: str) -> None:
    with pytest.raises(ConfigurationError, match=shown):
        WebhookReceiver(SECRET).on("*", prepare=prepare)(handler)


def test_a_sync_target_is_refused_before_it_is_called() -> None:
    def target(message: object) -> None:
        raise AssertionError("it was called")

    with pytest.raises(ConfigurationError, match="the target is not async"):
        choose_handling(target, MemoryInbox())  # type: ignore[arg-type]  # it is wrong


def api_error(kind: type[Any], status: int) -> Exception:
    error: Exception = kind("no", status=status, method="GET", path="/events/e")
    return error


@pytest.mark.parametrize(
    ("error", "result", "counts"),
    [
        (ValueError("no"), Result.QUARANTINED, True),
        (api_error(NotFoundError, 404), Result.QUARANTINED, True),
        (api_error(ServerError, 503), Result.FAILED, False),
        (api_error(AuthenticationError, 401), Result.FAILED, False),
        (ConnectionFailedError("reset", sent=True), Result.FAILED, False),
        (TargetError("the queue is full", retry_after=30), Result.UNAVAILABLE, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_a_failure_that_is_not_the_events_does_not_count_towards_the_quarantine(
    error: Exception, result: Result, *, counts: bool
) -> None:
    receiver = WebhookReceiver(SECRET, quarantine_after=1)

    @receiver.on("*")
    async def handle(delivery: Delivery) -> None:
        raise error

    outcome = await post(receiver)
    assert outcome.result is result
    assert outcome.error is error
    assert bool(await receiver.quarantined()) is counts
    if result is Result.UNAVAILABLE:
        assert (outcome.status, outcome.headers) == (503, {"Retry-After": "30"})


async def test_an_id_or_type_of_a_megabyte_is_neither_remembered_nor_logged_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Any] = []
    receiver = WebhookReceiver(SECRET, on_delivery=events.append, max_body_size=4 * 2**20)

    @receiver.on("broken.*")
    async def handle(delivery: Delivery) -> None:
        raise ValueError("no")

    for number in range(3):
        long = f"{number}" + "x" * 2**20
        await post(receiver, payload(long, event_id=long))
        await post(receiver, payload(f"broken.{long}", event_id=long), message_id=long)
        await post(receiver, payload(long, event_id=long), message_id=long)
        await post(receiver, b"genuine, and no JSON", message_id=long)
    assert {event.result for event in events} == {Result.IGNORED, Result.FAILED, Result.UNREADABLE}
    assert max(len(record.getMessage()) for record in caplog.records) < 600
    kept = [repr(vars(record)) for record in caplog.records] + [repr(event) for event in events]
    kept += [repr(receiver.unhandled), repr(vars(receiver._routes))]
    assert max(map(len, kept)) < 20_000
