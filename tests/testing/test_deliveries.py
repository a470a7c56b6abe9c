"""Events become signed deliveries, which are tried on Basiq's schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport
from basiq_async.receiver import Delivery, WebhookReceiver, verify
from basiq_async.testing import DeliveredAttempt, FakeBasiq, ManualClock, SystemClock, serve
from basiq_async.testing._dispatch import POLL, _wait
from basiq_async.testing._endpoints import is_local

from .conftest import ENDPOINT, Caller

WAITS = [timedelta(seconds=s) for s in (0, 5, 300, 1800, 7200, 18_000, 36_000, 36_000)]


class Endpoint:
    """Answers with the statuses given, then with the last of them for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[Mapping[str, str], bytes]] = []

    async def handle(self, headers: Mapping[str, str], body: bytes) -> int:
        self.got.append((headers, body))
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


def arranged(fake: FakeBasiq, *statuses: int) -> tuple[str, Endpoint]:
    endpoint = Endpoint(*statuses)
    fake.route(ENDPOINT, endpoint)
    return fake.add_webhook(ENDPOINT), endpoint


async def test_an_event_is_recorded_and_delivered_signed_to_each_webhook_that_wants_it(fake: FakeBasiq) -> None:
    webhook_id, endpoint = arranged(fake, 204)
    fake.add_webhook("https://example.com/other", ["user.created"])
    emission = await fake.emit("consent.revoked", user_id="u-1", entity_id="c-1", data={"kept": True})
    ((headers, body),) = endpoint.got
    verify(fake.secret(webhook_id), headers, body)
    delivery = fake.deliveries[0]
    assert (delivery.message_id,) == emission.message_ids
    assert (delivery.number, delivery.status, delivery.answer, delivery.ok) == (1, 204, "No Content", True)
    event = Caller(fake).get(f"/events/{emission.event_id}")
    assert (event["entity"], event["eventType"], event["userId"]) == ("consent", "revoked", "u-1")
    assert event["data"] == {"kept": True}


async def test_a_webhook_in_its_cool_off_gets_nothing(fake: FakeBasiq) -> None:
    fake.add_webhook(ENDPOINT, active=False)
    assert (await fake.emit("user.created")).message_ids == ()
    await fake.advance(minutes=15)
    assert len((await fake.emit("user.created")).message_ids) == 1


async def test_a_failed_delivery_is_tried_eight_times_on_schedule_then_the_endpoint_is_disabled(
    fake: FakeBasiq,
) -> None:
    webhook_id, endpoint = arranged(fake, 503)
    caller = Caller(fake)
    began = fake.now()
    fake.emit("consent.revoked")
    await fake.advance(hours=30)
    assert len(endpoint.got) == 8
    times = [attempt.at for attempt in fake.deliveries]
    assert [after - before for before, after in zip([began, *times], times, strict=False)] == WAITS
    assert [attempt.number for attempt in fake.deliveries] == list(range(1, 9))
    assert len({headers["webhook-id"] for headers, _ in endpoint.got}) == 1
    (message,) = caller.get(f"/notifications/webhooks/{webhook_id}/messages")["data"]
    assert [attempt["status"] for attempt in message["attempts"]] == ["Failed"] * 8
    assert caller.get(f"/notifications/webhooks/{webhook_id}")["status"] == "disabled"
    assert (await fake.emit("user.created")).message_ids == ()


async def test_an_update_brings_a_disabled_endpoint_back(fake: FakeBasiq) -> None:
    webhook_id, endpoint = arranged(fake, *[500] * 8, 200)
    await fake.emit("consent.revoked")
    await fake.advance(days=2)
    answer = Caller(fake).json("POST", f"/notifications/webhooks/{webhook_id}", {"url": ENDPOINT})
    assert answer["status"] == "active"
    await fake.emit("user.created")
    assert len(endpoint.got) == 9
    assert fake.deliveries[-1].ok


async def test_an_attempt_that_succeeds_is_the_last(fake: FakeBasiq) -> None:
    _, endpoint = arranged(fake, 500, 302, 200)
    await fake.emit("consent.revoked")
    await fake.advance(timedelta(days=3))
    assert [attempt.status for attempt in fake.deliveries] == [500, 302, 200]
    assert len(endpoint.got) == 3


async def test_nothing_more_goes_to_a_webhook_that_is_deleted(fake: FakeBasiq) -> None:
    webhook_id, endpoint = arranged(fake, 500)
    await fake.emit("consent.revoked")
    Caller(fake).json("DELETE", f"/notifications/webhooks/{webhook_id}", status=204)
    await fake.advance(days=2)
    assert len(endpoint.got) == 1
    assert fake._courier.pending() == 0


async def test_the_same_story_is_told_the_same_way() -> None:
    async def story() -> list[DeliveredAttempt]:
        fake = FakeBasiq(sign_at=lambda: 1_767_571_200.0)
        arranged(fake, 500, 500, 200)
        for type_id in ("user.created", "consent.revoked", "account.updated"):
            fake.emit(type_id)
            await fake.advance(minutes=3)
        await fake.advance(days=1)
        return list(fake.deliveries)

    first = await story()
    assert len(first) == 5
    assert first == await story()
    assert [attempt.at for attempt in first] == sorted(attempt.at for attempt in first)


async def test_deliver_makes_what_is_due_now(fake: FakeBasiq) -> None:
    _, endpoint = arranged(fake, 200)
    fake.emit("user.created")
    assert not endpoint.got
    await fake.deliver()
    assert len(endpoint.got) == 1


async def test_an_endpoint_can_let_more_happen_without_waiting_for_itself(fake: FakeBasiq) -> None:
    seen: list[str] = []

    async def endpoint(headers: Mapping[str, str], body: bytes) -> int:
        seen.append(headers["webhook-id"])
        if len(seen) == 1:
            await fake.emit("user.updated")
        return 200

    fake.route(ENDPOINT, endpoint)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert len(seen) == 2


async def test_who_settles_waits_for_what_another_task_is_delivering(fake: FakeBasiq) -> None:
    go = asyncio.Event()
    started = asyncio.Event()

    async def endpoint(headers: Mapping[str, str], body: bytes) -> int:
        started.set()
        await go.wait()
        return 200

    fake.route(ENDPOINT, endpoint)
    fake.add_webhook(ENDPOINT)
    fake.emit("user.created")
    async with asyncio.TaskGroup() as group:
        group.create_task(fake.deliver())
        await started.wait()
        second = group.create_task(fake.deliver())
        await asyncio.sleep(0)
        assert not second.done()
        go.set()
    assert fake.deliveries[0].ok


async def test_a_receiver_of_this_project_is_an_endpoint(fake: FakeBasiq) -> None:
    webhook_id = fake.add_webhook(ENDPOINT)
    receiver = WebhookReceiver(fake.secret(webhook_id))
    got: list[str] = []

    @receiver.on("*")
    async def anything(delivery: Delivery) -> None:
        got.append(delivery.event_type_id)

    fake.route(ENDPOINT, receiver)
    await fake.emit("user.created")
    fake.route(ENDPOINT, receiver.asgi)
    await fake.emit("user.updated")
    assert got == ["user.created", "user.updated"]
    assert all(attempt.ok for attempt in fake.deliveries)


async def test_an_asgi_application_is_an_endpoint(fake: FakeBasiq) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)
        assert (await receive())["body"].startswith(b"{")
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 202})
        await send({"type": "http.response.body", "body": b"taken"})
        await send({"type": "http.response.trailers"})

    url = "https://example.com:8443/a%20b?c=d"
    fake.route(url, app)
    fake.add_webhook(url)
    await fake.emit("user.created")
    assert fake.deliveries[0].answer == "taken"
    (scope,) = scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")
    assert scope["server"] == ("example.com", 8443)
    assert dict(scope["headers"])[b"host"] == b"example.com:8443"


async def test_an_asgi_application_that_says_nothing_gave_no_answer(fake: FakeBasiq) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    fake.route(ENDPOINT, app)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert (fake.deliveries[0].status, fake.deliveries[0].answer) == (None, "the application sent no answer")


async def test_an_endpoint_that_raises_is_a_server_error_that_keeps_its_text(fake: FakeBasiq) -> None:
    async def endpoint(headers: Mapping[str, str], body: bytes) -> int:
        raise RuntimeError("its own affair")

    fake.route(ENDPOINT, endpoint)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert (fake.deliveries[0].status, fake.deliveries[0].answer) == (500, "Internal Server Error: RuntimeError")


@pytest.mark.parametrize("result", [None, True, "200"])
async def test_an_endpoint_that_gives_no_status_is_a_mistake_in_the_test(fake: FakeBasiq, result: object) -> None:
    async def endpoint(headers: Mapping[str, str], body: bytes) -> object:
        return result

    fake.route(ENDPOINT, endpoint)
    fake.add_webhook(ENDPOINT)
    with pytest.raises(ConfigurationError, match="a receiver gives a status"):
        await fake.emit("user.created")


async def test_a_status_that_has_no_name_is_shown_as_a_number(fake: FakeBasiq) -> None:
    arranged(fake, 299)
    await fake.emit("user.created")
    assert (fake.deliveries[0].answer, fake.deliveries[0].ok) == ("299", True)


@pytest.mark.parametrize("receiver", [None, 5, lambda: None, lambda a, b, c, d: None, dict])
def test_what_cannot_receive_is_no_route(fake: FakeBasiq, receiver: Any) -> None:
    with pytest.raises(ConfigurationError, match="a receiver is an async callable"):
        fake.route(ENDPOINT, receiver)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1/", True),
        ("http://a.localhost/", True),
        ("http://127.0.0.9/", True),
        ("http://[::1]:80/", True),
        ("https://example.com/", False),
        ("http://10.0.0.1/", False),
        ("nothing", False),
    ],
)
def test_only_this_machine_is_called_by_itself(url: str, local: bool) -> None:
    assert is_local(url) is local


async def test_an_endpoint_elsewhere_is_not_called_without_a_route(fake: FakeBasiq) -> None:
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert fake.deliveries[0].status is None
    assert "FakeBasiq.route" in fake.deliveries[0].answer
    async with serve(fake) as base_url:
        assert base_url
        await fake.emit("user.created")
    assert "outside this machine" in fake.deliveries[1].answer


async def test_an_endpoint_on_this_machine_is_called_over_http(fake: FakeBasiq, unused_tcp_port: int) -> None:
    webhook_id = ""
    got: list[bytes] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        got.append(await request.read())
        verify(fake.secret(webhook_id), request.headers, got[-1])
        return web.Response(status=201, text="made")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?a=%27b"
    webhook_id = fake.add_webhook(url)
    fake.add_webhook(f"http://127.0.0.1:{unused_tcp_port}/")
    try:
        await fake.emit("user.created")
        assert [attempt.status for attempt in fake.deliveries] == [201, None]
        assert fake.deliveries[0].answer == "made"
        assert fake.deliveries[1].answer.startswith("the connection failed")
        async with serve(fake, deliver_anywhere=True) as base_url:
            await fake.emit("user.updated")
            assert base_url.encode() in got[-1]
    finally:
        await runner.cleanup()
    assert len(got) == 2


async def test_a_running_server_delivers_without_being_asked(fake: FakeBasiq) -> None:
    done = asyncio.Event()

    async def endpoint(headers: Mapping[str, str], body: bytes) -> int:
        done.set()
        return 200

    fake.route(ENDPOINT, endpoint)
    fake.add_webhook(ENDPOINT)
    async with serve(fake):
        fake.emit("user.created")
        async with asyncio.timeout(5):
            await done.wait()


async def test_on_the_systems_clock_retries_come_as_time_goes_by() -> None:
    fake = FakeBasiq(clock=SystemClock(speed=2000), cool_off=0)
    done = asyncio.Event()
    endpoint = Endpoint(500, 500, 200)

    async def receiver(headers: Mapping[str, str], body: bytes) -> int:
        status = await endpoint.handle(headers, body)
        if status == 200:
            done.set()
        return status

    fake.route(ENDPOINT, receiver)
    fake.add_webhook(ENDPOINT)
    async with serve(fake), asyncio.timeout(5):
        fake.emit("user.created")
        await done.wait()
    assert len(endpoint.got) == 3


async def test_what_is_no_receiver_fails_whoever_runs_the_server(fake: FakeBasiq) -> None:
    called = asyncio.Event()

    async def endpoint(headers: Mapping[str, str], body: bytes) -> object:
        called.set()
        return None

    fake.route(ENDPOINT, endpoint)
    fake.add_webhook(ENDPOINT)
    with pytest.raises(ConfigurationError, match="a receiver gives a status"):
        async with serve(fake):
            fake.emit("user.created")
            await called.wait()
            await asyncio.sleep(0)


async def test_how_long_the_server_sleeps_depends_on_the_clock() -> None:
    clock = ManualClock()
    for fake, wait in ((FakeBasiq(clock=lambda: clock()), POLL), (FakeBasiq(clock=clock), None)):
        assert _wait(fake._courier, fake) is None
        fake.add_webhook(ENDPOINT)
        fake.emit("user.created")
        assert _wait(fake._courier, fake) == wait


async def test_an_endpoint_that_is_slow_to_acknowledge_is_told(fake: FakeBasiq) -> None:
    clock = fake.clock
    assert isinstance(clock, ManualClock)

    async def slow(headers: Mapping[str, str], body: bytes) -> int:
        clock.advance(seconds=31)
        return 200

    fake.route(ENDPOINT, slow)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert [violation.code for violation in fake.violations] == ["slow-acknowledgement"]
    assert "took 31 s" in fake.violations[0].detail


async def test_an_endpoint_that_never_acknowledges_is_given_up_and_told() -> None:
    fake = FakeBasiq(delivery_timeout=0.01)

    async def never(headers: Mapping[str, str], body: bytes) -> int:
        await asyncio.Event().wait()
        return 200

    fake.route(ENDPOINT, never)
    fake.add_webhook(ENDPOINT)
    await fake.emit("user.created")
    assert fake.deliveries[0].status is None
    assert [violation.code for violation in fake.violations] == ["slow-acknowledgement"]


async def test_only_a_manual_clock_is_advanced() -> None:
    with pytest.raises(ConfigurationError, match="only a ManualClock"):
        await FakeBasiq(clock=SystemClock()).advance(hours=1)


def test_clocks_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2026, 1, 1))
    for speed in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="speed must be above 0"):
            SystemClock(speed)
    assert repr(SystemClock(60)) == "SystemClock(speed=60)"
    assert repr(ManualClock()) == "ManualClock(2026-01-05T00:00:00+00:00)"


async def test_a_clients_own_test_message_arrives(fake: FakeBasiq) -> None:
    _, endpoint = arranged(fake, 200)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.messages.send_test("user.created", text="hello")
    await fake.deliver()
    assert b"hello" in endpoint.got[0][1]
