"""The control API does over HTTP what a test does in Python, and responds as its description says."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis

from basiq_async import BasiqClient, RetryPolicy, ServerError
from basiq_async.receiver import Delivery, MemoryInbox, WebhookReceiver
from basiq_async.testing import FakeBasiq
from basiq_async.testing.fake._histories import SeededMessages  # private: how many are looked at is what is counted

from ..conftest import ENDPOINT
from .conftest import Controller


def receiver(fake: FakeBasiq, *statuses: int, url: str = ENDPOINT) -> list[bytes]:
    """Route a url to a receiver that returns these statuses, the last one for ever."""
    got: list[bytes] = []
    left = list(statuses)

    async def receive(headers: dict[str, str], body: bytes) -> int:
        got.append(body)
        return left.pop(0) if len(left) > 1 else left[0]

    fake.route(url, receive)
    return got


async def test_an_event_is_emitted_delivered_and_shown(control: Controller) -> None:
    got = receiver(control.fake, 200)
    webhook = (await control.post("/webhooks", url=ENDPOINT, subscribedEvents=["consent.revoked"]))["webhookId"]
    emitted = await control.post("/emit", eventTypeId="consent.revoked", userId="u1", data={"a": [1]}, wait=True)
    assert len(got) == 1
    message = await control.get(f"/messages/{emitted['messageIds'][0]}")
    assert (message["status"], message["userId"], message["data"]) == ("Success", "u1", {"a": [1]})
    assert [attempt["status"] for attempt in message["attempts"]] == [200]
    (delivery,) = (await control.get("/deliveries"))["items"]
    assert (delivery["webhookId"], delivery["attempt"], delivery["ok"]) == (webhook, 1, True)
    assert delivery["body"] == got[0].decode()


async def test_time_moves_and_makes_the_attempts_on_the_way(control: Controller) -> None:
    receiver(control.fake, 503)
    await control.post("/webhooks", url=ENDPOINT)
    emitted = await control.post("/emit", eventTypeId="user.created", wait=True)
    before = await control.get("/state")
    assert before["nextDue"] is not None
    assert before["pending"] == 1
    moved = await control.post("/next")
    assert moved["attempts"] == 1
    assert moved["now"] == before["nextDue"]
    moved = await control.post("/advance", hours=30)
    assert moved["attempts"] == 6
    assert moved["nextDue"] is None
    (webhook,) = (await control.get("/webhooks"))["items"]
    assert webhook["status"] == "disabled"
    message = await control.get(f"/messages/{emitted['messageIds'][0]}")
    assert len(message["attempts"]) == 8
    assert message["nextAttempt"] is None
    await control.post(f"/messages/{message['id']}/redeliver", wait=True)
    message = await control.get(f"/messages/{message['id']}")
    assert len(message["attempts"]) == 9  # one more, of a webhook that is disabled, and none after it
    assert message["nextAttempt"] is None


async def test_requests_fail_on_demand(control: Controller) -> None:
    await control.post("/fail", times=2, status=503, path="/events/*", retryAfter=7, method="GET")
    state = await control.get("/state")
    assert state["faults"][0]["left"] == 2
    async with BasiqClient(control.fake.api_key, base_url=control.base_url, retry=RetryPolicy(max_retries=0)) as basiq:
        with pytest.raises(ServerError):
            await basiq.event_types.get("user.created")
        with pytest.raises(ServerError):
            await basiq.event_types.get("user.created")
        await basiq.event_types.get("user.created")
    shown = (await control.get("/requests", search="events/types"))["items"]
    assert [request["status"] for request in shown] == [200, 503, 503]
    whole = await control.get(f"/requests/{shown[0]['number']}")
    assert {name.lower(): value for name, value in whole["headers"].items()}["authorization"] == "(hidden)"


async def test_a_lost_response_has_the_delivery_made_again_and_an_inbox_handles_it_once(control: Controller) -> None:
    handled: list[str] = []
    webhook = (await control.post("/webhooks", url=ENDPOINT))["webhookId"]
    secret = (await control.post(f"/webhooks/{webhook}/secret"))["secret"]
    service = WebhookReceiver(secret, inbox=MemoryInbox())

    @service.on("*")
    async def handle(delivery: Delivery) -> None:
        handled.append(delivery.event_id)

    control.fake.route(ENDPOINT, service)
    await control.post("/deliveries/fail", drop="response")
    emitted = await control.post("/emit", eventTypeId="user.created", wait=True)
    await control.post("/advance", seconds=5)
    shown = (await control.get("/deliveries"))["items"]
    assert [(each["attempt"], each["status"], each["ok"]) for each in shown] == [(2, 200, True), (1, None, False)]
    assert handled == [emitted["eventId"]]


async def test_deliveries_fail_as_often_as_asked_at_urls_that_match(control: Controller) -> None:
    other = f"{ENDPOINT}/other"
    got, got_there = receiver(control.fake, 200), receiver(control.fake, 200, url=other)
    for url in (ENDPOINT, other):
        await control.post("/webhooks", url=url)
    await control.post("/deliveries/fail", times=2, status=500, url="*/other")
    assert (await control.get("/state"))["deliveryFaults"][0]["left"] == 2
    for _ in range(3):
        await control.post("/emit", eventTypeId="user.created", wait=True)
    shown = (await control.get("/deliveries"))["items"]
    assert [each["status"] for each in shown if each["url"] == other] == [200, 500, 500]
    assert (len(got), len(got_there)) == (3, 1)


async def test_an_endpoint_goes_down_and_comes_back(control: Controller) -> None:
    got, other = receiver(control.fake, 200), f"{ENDPOINT}/other"
    await control.post("/webhooks", url=ENDPOINT)
    await control.post("/endpoint/down", url=ENDPOINT)
    emitted = await control.post("/emit", eventTypeId="user.created", wait=True)
    assert (await control.get("/state"))["endpointsDown"] == [{"url": ENDPOINT, "status": None}]
    assert not got
    await control.post("/endpoint/down", url=other)
    await control.post("/endpoint/up", url=ENDPOINT)
    await control.post("/messages/" + emitted["messageIds"][0] + "/redeliver", wait=True)
    assert len(got) == 1
    await control.post("/advance", seconds=5)
    assert len(got) == 2
    await control.post("/endpoint/down", status=502)
    await control.post("/emit", eventTypeId="user.created", wait=True)
    assert (await control.get("/deliveries", limit="1"))["items"][0]["status"] == 502
    await control.post("/endpoint/up")
    assert (await control.get("/state"))["endpointsDown"] == []


async def test_a_message_of_a_seeded_history_keeps_the_attempts_of_a_redelivery(control: Controller) -> None:
    receiver(control.fake, 200)
    webhook = (await control.post("/webhooks", url=ENDPOINT))["webhookId"]
    await control.post("/seed", messages=20, failed=1, webhookId=webhook)
    (newest,) = (await control.get("/messages", limit="1", webhookId=webhook, status="Failed"))["items"]
    await control.post(f"/messages/{newest['id']}/redeliver", wait=True)
    message = await control.get(f"/messages/{newest['id']}")
    assert [attempt["status"] for attempt in message["attempts"]] == [500, 200]
    assert message["status"] == "Success"


async def test_lists_come_in_pages_without_gaps(control: Controller) -> None:
    receiver(control.fake, 200)
    await control.post("/webhooks", url=ENDPOINT)
    await control.post("/seed", messages=7)
    for _ in range(3):
        await control.post("/emit", eventTypeId="user.created", wait=True)
    for path, total in (("/messages", 10), ("/deliveries", 3)):
        items: list[Any] = []
        query: dict[str, str] = {"limit": "2"}
        while True:
            page = await control.get(path, **query)
            assert page["total"] == total
            items += page["items"]
            if page["next"] is None:
                break
            query["next"] = page["next"]
        assert len(items) == total
        key = "id" if path == "/messages" else "number"
        assert len({item[key] for item in items}) == total
    assert (await control.get("/messages", search="USER.CREATED", limit="3"))["items"]


async def test_the_secret_comes_only_when_it_is_asked_for(control: Controller) -> None:
    webhook = (await control.post("/webhooks", url=ENDPOINT))["webhookId"]
    secret = (await control.post(f"/webhooks/{webhook}/secret"))["secret"]
    assert secret == control.fake.secret(webhook)
    for path in ("/state", "/webhooks", "/messages", "/requests"):
        assert secret not in str(await control.get(path))


async def test_tokens_expire_accounts_close_and_everything_is_reset(control: Controller) -> None:
    async with BasiqClient(control.fake.api_key, base_url=control.base_url) as basiq:
        await basiq.event_types.get("user.created")
        await control.post("/expire-tokens")
        await basiq.event_types.get("user.created")
        await control.post("/disable-account")
        with pytest.raises(Exception, match="403"):
            await basiq.event_types.get("user.created")
    assert (await control.get("/violations"))["items"] == []
    await control.post("/reset", log=True)
    assert (await control.get("/state"))["requests"] == 0
    await control.post("/seed", messages=5)
    await control.post("/reset")
    state = await control.get("/state")
    assert (state["webhooks"], state["messages"]) == (0, 0)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/emit", {}, "eventTypeId is missing"),
        ("/emit", {"eventTypeId": 1}, "must be a text"),
        ("/emit", {"eventTypeId": "no.such"}, "no event type"),
        ("/emit", {"eventTypeId": "user.created", "more": 1}, "no field 'more'"),
        ("/emit", {"eventTypeId": "user.created", "data": []}, "JSON object"),
        ("/advance", {"hours": -1}, "from 0 to"),
        ("/advance", {"hours": True}, "a number"),
        ("/fail", {}, "say what goes wrong"),
        ("/fail", {"status": 99}, "from 100 to 999"),
        ("/fail", {"drop": "answer"}, "one of: request, response"),
        ("/fail", {"status": 500, "headers": {"a": "b\r\nc"}}, "printable"),
        ("/deliveries/fail", {}, "say what goes wrong"),
        ("/webhooks", {"url": "http://x", "subscribedEvents": [1]}, "array of texts"),
        ("/seed", {"messages": 1, "webhookId": "none"}, "no webhook"),
    ],
)
async def test_a_call_that_is_not_valid_says_why(
    control: Controller, path: str, body: dict[str, Any], said: str
) -> None:
    error = (await control.post(path, expect=400, **body))["error"]
    assert error["code"] == "not-valid"
    assert said in error["message"]


async def test_what_is_not_there_is_not_found(control: Controller) -> None:
    for path in ("/messages/none", "/requests/7", "/no-such"):
        assert (await control.get(path, expect=404))["error"]["code"] == "not-found"
    assert (await control.post("/webhooks/none/secret", expect=404))["error"]["code"] == "not-found"
    assert (await control.get("/requests", expect=400, limit="0"))["error"]["message"].startswith("limit")
    assert (await control.get("/requests", expect=400, next="x"))["error"]["message"].startswith("next")
    assert (await control.post("/state", expect=405))["error"]["code"] == "refused"


async def test_every_operation_is_described_and_responds_as_described(control: Controller) -> None:
    receiver(control.fake, 200)
    webhook = (await control.post("/webhooks", url=ENDPOINT))["webhookId"]
    emitted = await control.post("/emit", eventTypeId="user.created", wait=True)
    await control.post("/fail", delay=0.001, times=5)
    await control.post("/deliveries/fail", status=500, times=5)
    async with BasiqClient("d3Jvbmc=", base_url=control.base_url) as basiq:
        with pytest.raises(Exception, match="Authorization"):
            await basiq.event_types.get("user.created")
    ids = {"webhookId": webhook, "messageId": emitted["messageIds"][0], "number": "1"}
    bodies: dict[str, dict[str, Any]] = {
        "emit": {"eventTypeId": "user.created"},
        "fail": {"status": 500},
        "failDeliveries": {"drop": "request"},
        "addWebhook": {"url": "http://127.0.0.1:1/"},
        "seed": {"messages": 1},
        "reset": {"log": True},
    }
    operations = [
        (operation["operationId"], method, path.removeprefix("/_fake").format(**ids))
        for path, methods in control.document["paths"].items()
        for method, operation in methods.items()
    ]
    for name, method, path in sorted(operations, key=lambda each: each[0] == "reset"):
        if method == "get":
            await control.get(path)
        elif name == "removeState":
            await control.named((await control.post("/states"))["apiKey"]).post(path)
        else:
            await control.post(path, **bodies.get(name, {}))
    assert control.called == {name for name, _, _ in operations}


def test_the_description_is_valid_openapi(control: Controller) -> None:
    schemathesis.openapi.from_dict(control.document).validate()


async def test_time_and_history_end_where_dates_do(control: Controller) -> None:
    for _ in range(2):
        refused = await control.post("/advance", expect=400, days=10_000_000)
        assert "up to the year 9000" in refused["error"]["message"]
    await control.post("/advance", days=2_500_000)
    await control.post("/advance", expect=400, days=2_500_000)
    refused = await control.post("/seed", expect=400, messages=100_000_000, every=1_000_000)
    assert "before the year 1" in refused["error"]["message"]


async def test_no_request_looks_at_more_than_some_of_a_long_history(control: Controller) -> None:
    first_webhook = control.fake.seed_messages(1_000_000)
    (history,) = control.fake._store.app.messages[first_webhook].segments
    looked_at = 0
    make = SeededMessages.__getitem__

    def counting(self: SeededMessages, index: int) -> Any:
        nonlocal looked_at
        looked_at += 1
        return make(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeededMessages, "__getitem__", counting)
        first = await control.get("/messages", search="no such text")
        assert (first["items"], first["total"]) == ([], 1_000_000)
        await control.get("/messages", status="Pending")
        await control.get("/messages", next=history[500_000].id, search="no such text", webhookId=first_webhook)
        deep = await control.get("/messages", next=history[2].id)
        assert (len(deep["items"]), deep["next"]) == (3, None)
        async with BasiqClient(control.fake.api_key, base_url=control.base_url) as basiq:
            pages = basiq.messages.list(first_webhook, filter="status.eq('Pending')", prefetch=0).pages()
            assert [len((await anext(pages)).items) for _ in range(2)] == [0, 0]
            await pages.aclose()
    assert looked_at <= 3 * 5_001 + 2 * 20_001 + 100
    assert (await control.get("/messages", search="no such text", next=first["next"]))["next"] != first["next"]
    for place in ("1-", "1", ""):
        await control.get("/messages", expect=400, next=place)


async def test_pages_of_messages_hold_while_new_ones_arrive(control: Controller) -> None:
    receiver(control.fake, 200)
    for url in (ENDPOINT, f"{ENDPOINT}/2"):
        await control.post("/webhooks", url=url)
    await control.post("/seed", messages=5)
    await control.post("/emit", eventTypeId="user.created")
    known = {message.id for message in control.fake.messages()}
    found: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while True:
        page = await control.get("/messages", **query)
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        query["next"] = page["next"]
        await control.post("/emit", eventTypeId="user.created")
    assert len(found) == 7
    assert set(found) == known
