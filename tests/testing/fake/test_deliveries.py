"""The fake delivers: signed, on Basiq's schedule, over HTTP and to what is in this process."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import datetime, timedelta
from typing import Any

import attrs
import pytest
import standardwebhooks
from aiohttp import web

from basiq_async import BasiqClient
from basiq_async.receiver import WebhookReceiver
from basiq_async.testing import FakeBasiq, Quirks, SystemClock, serve
from tests.support.served import serving

from ..conftest import ENDPOINT, Caller, Endpoint, arranged

# The vendor's delivery schedule, written out: after how many seconds each attempt comes.
DUE = [0, 5, 305, 2105, 9305, 27305, 63305, 99305]


async def test_an_event_is_delivered_signed_to_each_subscribed_webhook() -> None:
    endpoint, other = Endpoint(200), Endpoint(200)
    fake, webhook_id = arranged(endpoint)
    fake.add_webhook("https://example.com/other", ["user.deleted"])
    fake.route("https://example.com/other", other)
    emitted = await fake.emit("consent.revoked", user_id="u-1")
    assert not other.got
    ((headers, body),) = endpoint.got
    payload = json.loads(body)
    assert set(payload) == {"eventTypeId", "eventId", "links"}
    assert (payload["eventTypeId"], payload["eventId"]) == ("consent.revoked", emitted.event_id)
    assert set(payload["links"]) == {"event", "eventEntity"}
    assert headers["webhook-id"] == emitted.message_ids[0]
    assert headers["content-type"] == "application/json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    standardwebhooks.Webhook(fake.secret(webhook_id)).verify(body, headers)
    (attempt,) = fake.deliveries
    assert (attempt.webhook_id, attempt.number, attempt.status, attempt.ok) == (webhook_id, 1, 200, True)
    assert "webhook-signature" not in repr(attempt)


@pytest.mark.parametrize("way", ["receiver", "its handle", "an application"])
async def test_a_receiver_on_the_clock_of_the_fake_gets_deliveries_of_that_time(way: str) -> None:
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(ENDPOINT)
    receiver = WebhookReceiver(fake.secret(webhook_id), clock=fake.clock)
    if way == "an application":
        fake.route(ENDPOINT, receiver.asgi, by_clock=True)
    else:
        fake.route(ENDPOINT, receiver if way == "receiver" else receiver.handle)
    for _ in range(2):
        await fake.emit("user.created")
        assert (fake.deliveries[-1].status, int(fake.deliveries[-1].headers["webhook-timestamp"])) == (
            204,
            fake.now().timestamp(),
        )
        await fake.advance(days=30)


async def test_a_receiver_on_another_clock_gets_the_machines_time_and_is_told_why_that_may_be_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(ENDPOINT)
    fake.route(ENDPOINT, WebhookReceiver(fake.secret(webhook_id)))
    await fake.emit("user.created")
    assert fake.deliveries[-1].status == 204
    assert "machine's time" not in caplog.text
    fake.route(ENDPOINT, WebhookReceiver(fake.secret(webhook_id), clock=fake.clock), by_clock=False)
    await fake.emit("user.created")
    assert fake.deliveries[-1].status == 401
    assert "refused a delivery that has the machine's time" in caplog.text


@pytest.mark.parametrize("form", ["prefixed", "bare", "unpadded"])
async def test_every_form_of_the_secret_verifies(form: Any) -> None:
    endpoint = Endpoint(204)
    fake, webhook_id = arranged(endpoint, quirks=Quirks(signing_key=form))
    await fake.emit("user.created")
    ((headers, body),) = endpoint.got
    receiver = WebhookReceiver(fake.secret(webhook_id))
    assert (await receiver.handle(headers, body)).status == 204
    assert fake.secret(webhook_id).startswith("whsec_") == (form != "bare")


async def test_a_failing_endpoint_is_tried_eight_times_on_the_schedule_then_disabled() -> None:
    endpoint = Endpoint(503)
    fake, webhook_id = arranged(endpoint)
    caller = Caller(fake)
    start = fake.now()
    await fake.emit("user.created")
    await fake.advance(hours=30)
    assert [(attempt.at - start).total_seconds() for attempt in fake.deliveries] == DUE
    assert [attempt.number for attempt in fake.deliveries] == list(range(1, 9))
    assert len({headers["webhook-id"] for headers, _ in endpoint.got}) == 1
    assert len({body for _, body in endpoint.got}) == 1
    assert fake.now() == start + timedelta(hours=30)
    path = f"/notifications/webhooks/{webhook_id}"
    assert caller.get(path)["status"] == "disabled"
    (message,) = caller.get(path + "/messages")["data"]
    assert [attempt["status"] for attempt in message["attempts"]] == ["Failed"] * 8
    assert {attempt["responseStatusCode"] for attempt in message["attempts"]} == {503}
    assert {attempt["response"] for attempt in message["attempts"]} == {"Service Unavailable"}
    assert len({attempt["id"] for attempt in message["attempts"]}) == 8
    at = [datetime.fromisoformat(attempt["timestamp"]) for attempt in message["attempts"]]
    assert [(moment - start).total_seconds() for moment in at] == DUE[::-1]  # as the reference's example has them


async def test_with_the_longer_rule_a_webhook_is_disabled_after_120_hours_in_which_nothing_succeeded() -> None:
    fake, webhook_id = arranged(Endpoint(503), quirks=Quirks(disables="failing-120h"))
    (webhook,) = fake.webhooks()
    for hour in range(147):  # the first message comes to its end in the 28th hour
        await fake.emit("user.created")
        await fake.advance(hours=1)
        assert not webhook.disabled, hour
    await fake.advance(hours=1)
    assert webhook.disabled
    await fake.emit("user.created")
    assert fake.count_messages(webhook_id) == 147


async def test_with_the_longer_rule_any_success_starts_again_and_an_update_does_not() -> None:
    disabled = {}
    for heal in ("a success", "an update"):
        fake, webhook_id = arranged(Endpoint(503), quirks=Quirks(disables="failing-120h"))
        for hour in range(170):
            if hour == 100 and heal == "a success":
                fake.route(ENDPOINT, Endpoint(204))
            elif hour == 100:
                Caller(fake).json("POST", f"/notifications/webhooks/{webhook_id}", {"url": ENDPOINT})
            await fake.emit("user.created")
            fake.route(ENDPOINT, Endpoint(503))
            await fake.advance(hours=1)
        disabled[heal] = fake.webhooks()[0].disabled
    assert disabled == {"a success": False, "an update": True}


@pytest.mark.parametrize(("days", "disabled"), [(9, True), (11, False)])
async def test_with_the_longer_rule_a_failure_is_forgiven_after_240_hours(days: int, disabled: bool) -> None:
    fake, _ = arranged(Endpoint(503), quirks=Quirks(disables="failing-120h"))
    for _ in range(2):
        await fake.emit("user.created")
        await fake.advance(days=days)
    assert fake.webhooks()[0].disabled is disabled


async def test_for_24_hours_the_former_key_signs_too_where_a_quirk_says_so() -> None:
    endpoint = Endpoint(204)
    fake, webhook_id = arranged(endpoint, quirks=Quirks(signing_key_on_update="new", former_key="signs-24h"))
    secrets = [fake.secret(webhook_id)]
    for _ in range(2):
        Caller(fake).json("POST", f"/notifications/webhooks/{webhook_id}", {"url": ENDPOINT})
        secrets.append(fake.secret(webhook_id))
        await fake.advance(hours=12)

    async def accepted() -> list[int]:
        await fake.emit("user.created")
        headers, body = endpoint.got[-1]
        return [(await WebhookReceiver(each).handle(headers, body)).status for each in secrets]

    assert await accepted() == [401, 204, 204]
    await fake.advance(hours=12)
    assert await accepted() == [401, 401, 204]


async def test_the_latest_ten_former_keys_sign_and_no_more() -> None:
    endpoint = Endpoint(204)
    fake, webhook_id = arranged(endpoint, quirks=Quirks(signing_key_on_update="new", former_key="signs-24h"))
    for count in (9, 3):
        for _ in range(count):
            Caller(fake).json("POST", f"/notifications/webhooks/{webhook_id}", {"url": ENDPOINT})
        await fake.emit("user.created")
    assert [len(headers["webhook-signature"].split()) for headers, _ in endpoint.got] == [10, 11]


async def test_an_endpoint_that_recovers_is_not_tried_again() -> None:
    endpoint = Endpoint(500, 500, 200)
    fake, webhook_id = arranged(endpoint)
    await fake.emit("user.created")
    await fake.advance(days=3)
    assert len(endpoint.got) == 3
    (message,) = Caller(fake).get(f"/notifications/webhooks/{webhook_id}/messages")["data"]
    assert [attempt["status"] for attempt in message["attempts"]] == ["Success", "Failed", "Failed"]


@pytest.mark.parametrize(
    ("status", "ok"), [(199, False), (200, True), (204, True), (299, True), (300, False), (404, False)]
)
async def test_only_2xx_is_a_success(status: int, ok: bool) -> None:
    fake, _ = arranged(Endpoint(status))
    await fake.emit("user.created")
    assert fake.deliveries[0].ok == ok
    assert fake.deliveries[0].status == status


async def test_the_clock_moves_to_the_next_attempt_if_there_is_one() -> None:
    fake, _ = arranged(Endpoint(503, 200))
    start = fake.now()
    assert not await fake.advance_to_next()
    fake.emit("user.created")
    for seconds, made in ((0, 1), (5, 2)):
        assert await fake.advance_to_next()
        assert ((fake.now() - start).total_seconds(), len(fake.deliveries)) == (seconds, made)
    assert not await fake.advance_to_next()


async def test_deliveries_happen_in_the_order_in_which_they_are_due() -> None:
    fake, _ = arranged(Endpoint(500))
    start = fake.now()
    await fake.emit("user.created")
    await fake.advance(seconds=3)
    await fake.emit("user.deleted")
    await fake.advance(seconds=10)
    seen = [(attempt.event_type_id, (attempt.at - start).total_seconds()) for attempt in fake.deliveries]
    assert seen == [("user.created", 0), ("user.deleted", 3), ("user.created", 5), ("user.deleted", 8)]


async def test_two_runs_with_one_seed_have_the_same_ids_and_no_id_comes_twice_without() -> None:
    async def run(seed: int | str | None) -> list[Any]:
        fake, _ = arranged(Endpoint(500, 200, 500, 200), seed=seed)
        for type_id in ("user.created", "consent.revoked"):
            await fake.emit(type_id)
            await fake.advance(minutes=10)
        return [attrs.astuple(attrs.evolve(attempt, headers={})) for attempt in fake.deliveries]

    assert await run("a") == await run("a") != await run("b")
    assert await run(7) == await run(7)
    fakes = [FakeBasiq() for _ in range(2)]
    webhooks = [(fake.add_webhook(), fake.add_webhook("https://example.com/other")) for fake in fakes]
    made = [
        {emission.event_id, *emission.message_ids, *hooks, *map(fake.secret, hooks)}
        for fake, hooks in zip(fakes, webhooks, strict=True)
        for emission in [fake.emit("user.created")]
    ]
    assert made[0].isdisjoint(made[1])
    assert FakeBasiq(seed=fakes[0].seed).add_webhook() == webhooks[0][0]


def test_no_secret_and_no_token_follows_from_the_seed() -> None:
    one, other = (FakeBasiq(seed=7) for _ in range(2))
    assert one.add_webhook() == (webhook_id := other.add_webhook())
    assert one.secret(webhook_id) != other.secret(webhook_id)
    assert Caller(one).authorize() != Caller(other).authorize()


async def test_what_is_emitted_without_waiting_is_delivered_by_the_next_advance() -> None:
    endpoint = Endpoint(200)
    fake, _ = arranged(endpoint)
    fake.emit("user.created")
    assert not endpoint.got
    await fake.advance()
    assert len(endpoint.got) == 1
    fake.emit("user.created")
    await fake.deliver()
    assert len(endpoint.got) == 2


async def test_the_attempts_of_a_deleted_webhook_are_dropped() -> None:
    endpoint = Endpoint(500)
    fake, webhook_id = arranged(endpoint)
    await fake.emit("user.created")
    Caller(fake).send("DELETE", f"/notifications/webhooks/{webhook_id}")
    await fake.advance(days=2)
    assert len(endpoint.got) == 1


async def test_a_clock_that_runs_can_be_advanced_too() -> None:
    endpoint = Endpoint(503)
    fake, _ = arranged(endpoint, clock=SystemClock())
    await fake.emit("user.created")
    before = fake.now()
    await fake.advance(minutes=6)
    assert len(endpoint.got) == 3
    assert timedelta(minutes=6) <= fake.now() - before < timedelta(minutes=7)


# --- over HTTP ---


async def test_the_served_fake_delivers_by_itself_what_a_client_causes() -> None:
    arrived: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def hook(request: web.Request) -> web.Response:
        arrived.put_nowait(await request.json())
        return web.Response(status=204)

    fake = FakeBasiq(cool_off=0)
    async with (
        serving(hook) as url,
        serve(fake) as base_url,
        BasiqClient(fake.api_key, base_url=base_url) as basiq,
    ):
        await basiq.webhooks.create(url=url, subscribed_events=["user.created"])
        await basiq.messages.send_test("user.created", text="hi")
        payload = await asyncio.wait_for(arrived.get(), 5)
        assert payload["Text"] == "hi"
        assert payload["links"]["event"].startswith(base_url)
        emitted = await fake.emit("user.created")
        assert (await arrived.get())["eventId"] == emitted.event_id
        await fake.advance(hours=1)
    assert [attempt.ok for attempt in fake.deliveries] == [True, True]
    fake.assert_no_misuses()


async def test_on_a_clock_that_runs_the_retries_come_in_its_time() -> None:
    done = asyncio.Event()

    class Failing(Endpoint):
        async def __call__(self, headers: dict[str, str], body: bytes) -> Any:
            status = await super().__call__(headers, body)
            if len(self.got) == 3:
                done.set()
            return status

    clock = SystemClock(speed=20_000)
    fake, _ = arranged(Failing(500, 500, 200), clock=clock)
    async with serve(fake):
        fake.emit("user.created")
        await asyncio.wait_for(done.wait(), 5)
        await fake.deliver()
    first, second, third = (attempt.at for attempt in fake.deliveries)
    assert second - first >= timedelta(seconds=5)
    assert third - second >= timedelta(minutes=5)


async def test_advance_waits_for_the_attempts_that_the_server_is_making() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def endpoint(headers: dict[str, str], body: bytes) -> int:
        begun.set()
        await go_on.wait()
        return 500 if len(fake.deliveries) == 0 else 200

    fake, _ = arranged(endpoint)
    async with serve(fake):
        fake.emit("user.created")
        await begun.wait()
        advancing = asyncio.create_task(fake.advance(minutes=1))
        await asyncio.sleep(0.005)
        assert not advancing.done()
        go_on.set()
        await advancing
    assert [attempt.status for attempt in fake.deliveries] == [500, 200]


def test_a_message_without_an_attempt_yet_is_pending(caller: Caller) -> None:
    webhook_id = caller.fake.add_webhook(ENDPOINT)
    caller.fake.emit("user.created")
    path = f"/notifications/webhooks/{webhook_id}/messages?filter="
    assert len(caller.get(path + "status.eq('Pending')")["data"]) == 1
    assert caller.get(path + "status.eq('Success')")["data"] == []


def test_the_key_is_what_the_secret_says() -> None:
    fake = FakeBasiq()
    text = fake.secret(fake.add_webhook())
    assert len(base64.b64decode(text.removeprefix("whsec_"))) == 24


async def test_a_webhook_gets_nothing_before_its_cool_off_is_over_and_an_emission_says_so(caller: Caller) -> None:
    endpoint, fake = Endpoint(200), caller.fake
    fake.route(ENDPOINT, endpoint)
    made = caller.create(ENDPOINT, ["consent.revoked"])
    fake.add_webhook("https://b.example", ["consent.revoked"])
    fake.add_webhook("https://c.example", ["user.created"], active=False)
    await fake.advance(seconds=899)
    assert caller.get(made["links"]["self"])["status"] == "pending-approval"
    emission = await fake.emit("consent.revoked")
    assert (len(emission.message_ids), endpoint.got) == (1, [])
    assert emission.not_sent == (f"webhook {made['id']} is in its cool-off: fake.advance(seconds=1) ends it",)
    await fake.advance(seconds=1)
    assert caller.get(made["links"]["self"])["status"] == "active"
    emission = await fake.emit("consent.revoked")
    assert (len(emission.message_ids), emission.not_sent, len(endpoint.got)) == (2, (), 1)


async def test_a_disabled_webhook_gets_nothing_until_an_update_brings_it_back_and_an_emission_says_so() -> None:
    endpoint = Endpoint(*[500] * 8, 200)
    fake, webhook_id = arranged(endpoint)
    await fake.emit("user.created")
    await fake.advance(hours=28)
    emission = await fake.emit("user.deleted")
    assert emission.message_ids == ()
    assert emission.not_sent == (f"webhook {webhook_id} is disabled: an update makes it active again",)
    path = f"/notifications/webhooks/{webhook_id}"
    assert Caller(fake).json("POST", path, {"url": ENDPOINT})["status"] == "active"
    await fake.advance(hours=48)
    assert len(endpoint.got) == 8
    assert (await fake.emit("user.deleted")).not_sent == ()
    assert len(endpoint.got) == 9
