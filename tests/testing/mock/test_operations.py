"""The control API does over HTTP what a test does in Python, and responds as its description says."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
import schemathesis

from basiq_async import BasiqClient, RetryPolicy, ServerError
from basiq_async.testing import FakeBasiq
from basiq_async.testing.fake import _lists  # private: a limit of 20,000 takes seconds
from basiq_async.testing.fake._histories import SeededMessages  # private: how many are looked at is what is counted
from basiq_async.testing.mock import _history  # private: as above

from ..conftest import ENDPOINT, Endpoint
from .conftest import Controller

DETAILS: dict[str, Any] = {
    "status": 503,
    "path": "/events/*",
    "method": "GET",
    "body": "no",
    "delay": 0.5,
    "loop": True,
}


@pytest.mark.parametrize(
    ("path", "body", "method", "arguments"),
    [
        ("/fail", {"delay": 1}, "fail_next", {"times": 1, "delay": 1, "drop": None, "status": None, "headers": {}}),
        (
            "/fail",
            {**DETAILS, "times": 2, "retryAfter": 7, "headers": {"x-a": "b"}, "drop": "response"},
            "fail_next",
            {**DETAILS, "times": 2, "retry_after": 7, "headers": {"x-a": "b"}, "drop": "response"},
        ),
        (
            "/deliveries/fail",
            {"status": 500},
            "fail_deliveries",
            {"times": 1, "status": 500, "drop": None, "url": None},
        ),
        (
            "/deliveries/fail",
            {"times": 2, "drop": "response", "url": "*/a"},
            "fail_deliveries",
            {"times": 2, "status": None, "drop": "response", "url": "*/a"},
        ),
        ("/endpoint/down", {}, "endpoint_down", {"url": None, "status": None}),
        ("/endpoint/down", {"url": ENDPOINT, "status": 502}, "endpoint_down", {"url": ENDPOINT, "status": 502}),
        ("/endpoint/up", {"url": ENDPOINT}, "endpoint_up", {"url": ENDPOINT}),
        ("/expire-tokens", {}, "expire_tokens", {}),
        ("/disable-account", {}, "disable_account", {}),
        ("/reset", {}, "reset", {}),
        ("/reset", {"log": True}, "reset_log", {}),
        ("/advance", {"days": 1, "hours": 2, "minutes": 3, "seconds": 4}, "advance", {"delta": timedelta(1, 7384)}),
        ("/advance", {"seconds": 4}, "advance", {"delta": timedelta(seconds=4)}),
        ("/advance", {}, "advance", {"delta": timedelta(0)}),
        ("/next", {}, "advance_to_next", {}),
        ("/webhooks", {"url": ENDPOINT}, "add_webhook", {"url": ENDPOINT, "subscribed_events": None, "active": True}),
        (
            "/webhooks",
            {"url": ENDPOINT, "subscribedEvents": ["user.created"], "active": False},
            "add_webhook",
            {"url": ENDPOINT, "subscribed_events": ("user.created",), "active": False},
        ),
        (
            "/seed",
            {"messages": 7, "eventTypes": ["user.created"], "every": 2.5, "failed": 0.5},
            "seed_messages",
            {"n": 7, "webhook_id": None, "event_types": ("user.created",), "every": 2.5, "failed": 0.5},
        ),
        ("/seed", {"messages": 7}, "seed_messages", {"n": 7, "event_types": None, "every": 1, "failed": 0}),
    ],
)
async def test_an_operation_does_what_a_method_of_the_fake_does(
    control: Controller,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    method: str,
    arguments: dict[str, Any],
) -> None:
    calls: list[dict[str, Any]] = []
    right = getattr(FakeBasiq, method)
    signature = inspect.signature(right)

    def keep(self: FakeBasiq, *args: Any, **kwargs: Any) -> Any:
        calls.append(dict(signature.bind(self, *args, **kwargs).arguments))
        return right(self, *args, **kwargs)

    monkeypatch.setattr(FakeBasiq, method, keep)
    await control.post(path, **body)
    (made,) = calls
    assert {name: made[name] for name in ("self", *arguments)} == {"self": control.fake, **arguments}


async def test_an_event_is_emitted_delivered_and_shown(control: Controller) -> None:
    endpoint = Endpoint(200)
    control.fake.route(ENDPOINT, endpoint)
    webhook = (await control.post("/webhooks", url=ENDPOINT, subscribedEvents=["consent.revoked"]))["webhookId"]
    about = {"userId": "u1", "entityId": "c1", "data": {"a": [1]}}
    emitted = await control.post("/emit", eventTypeId="consent.revoked", **about, wait=True)
    ((_, body),) = endpoint.got
    message = await control.get(f"/messages/{emitted['messageIds'][0]}")
    assert (message["status"], {name: message[name] for name in about}) == ("Success", about)
    assert [attempt["status"] for attempt in message["attempts"]] == [200]
    (delivery,) = (await control.get("/deliveries"))["items"]
    assert (delivery["webhookId"], delivery["number"], delivery["ok"]) == (webhook, 1, True)
    assert delivery["body"] == body.decode()


async def test_time_moves_and_says_how_many_attempts_were_made_on_the_way(control: Controller) -> None:
    control.fake.route(ENDPOINT, Endpoint(503))
    await control.post("/webhooks", url=ENDPOINT)
    emitted = await control.post("/emit", eventTypeId="user.created", wait=True)
    before = await control.get("/state")
    assert before["pending"] == 1
    moved = await control.post("/next")
    assert moved == {"attempts": 1, "now": before["nextDue"], "nextDue": moved["nextDue"]}
    moved = await control.post("/advance", hours=30)
    assert (moved["attempts"], moved["nextDue"]) == (6, None)
    (webhook,) = (await control.get("/webhooks"))["items"]
    assert webhook["status"] == "disabled"
    await control.post(f"/messages/{emitted['messageIds'][0]}/redeliver", wait=True)
    message = await control.get(f"/messages/{emitted['messageIds'][0]}")
    assert (len(message["attempts"]), message["nextAttempt"]) == (9, None)


async def test_the_state_has_the_faults_and_the_log_hides_credentials(control: Controller) -> None:
    await control.post("/fail", times=2, status=503, path="/events/*")
    await control.post("/deliveries/fail", times=2, status=500, url="*/other")
    await control.post("/endpoint/down", url=ENDPOINT)
    async with BasiqClient(control.fake.api_key, base_url=control.base_url, retry=RetryPolicy(max_retries=0)) as basiq:
        with pytest.raises(ServerError):
            await basiq.event_types.get("user.created")
    state = await control.get("/state")
    assert (state["faults"][0]["left"], state["deliveryFaults"][0]["left"]) == (1, 2)
    assert state["endpointsDown"] == [{"url": ENDPOINT, "status": None}]
    (shown,) = (await control.get("/requests", search="EVENTS/types"))["items"]
    assert shown["status"] == 503
    whole = await control.get(f"/requests/{shown['number']}")
    assert {name.lower(): value for name, value in whole["headers"].items()}["authorization"] == "(hidden)"


async def test_lists_come_in_pages_without_gaps_and_logs_begin_with_the_newest(control: Controller) -> None:
    control.fake.route(ENDPOINT, Endpoint(200))
    await control.post("/webhooks", url=ENDPOINT)
    await control.post("/seed", messages=7)
    emitted = [await control.post("/emit", eventTypeId="user.created", wait=True) for _ in range(3)]
    assert await walk(control) == [message.id for message in control.fake.messages()]
    found = await control.get("/deliveries", limit="2")
    assert found["total"] == 3
    assert [each["messageId"] for each in found["items"]] == [each["messageIds"][0] for each in emitted[:0:-1]]
    assert (await control.get("/messages", search="USER.CREATED", limit="3"))["items"]


async def walk(control: Controller, **between: Any) -> list[str]:
    """Return the ids of all messages, read in pages of two. Between two pages, an event may be emitted."""
    found: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while True:
        page = await control.get("/messages", **query)
        assert page["total"] == control.fake.count_messages()
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            return found
        query["next"] = page["next"]
        if between:
            await control.post("/emit", **between)


async def test_the_secret_comes_only_when_it_is_asked_for(control: Controller) -> None:
    webhook = (await control.post("/webhooks", url=ENDPOINT))["webhookId"]
    secret = (await control.post(f"/webhooks/{webhook}/secret"))["secret"]
    assert secret == control.fake.secret(webhook)
    for path in ("/state", "/webhooks", "/messages", "/requests"):
        assert secret not in str(await control.get(path))


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
    assert (await control.post("/state", expect=405))["error"]["code"] == "refused"


async def test_every_operation_is_described_and_responds_as_described(control: Controller) -> None:
    control.fake.route(ENDPOINT, Endpoint(200))
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


async def test_no_request_looks_at_more_than_some_of_a_long_history(
    control: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (_history.MOST_SCANNED, _lists.MOST_SCANNED) == (5_000, 20_000), "as the documentation says"
    monkeypatch.setattr(_history, "MOST_SCANNED", 50)
    monkeypatch.setattr(_lists, "MOST_SCANNED", 200)
    first_webhook = control.fake.seed_messages(1_000_000)
    (history,) = control.fake._store.app.messages[first_webhook].segments
    looked_at = 0
    make = SeededMessages.__getitem__

    def counting(self: SeededMessages, index: int) -> Any:
        nonlocal looked_at
        looked_at += 1
        return make(self, index)

    monkeypatch.setattr(SeededMessages, "__getitem__", counting)
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
    assert looked_at <= 3 * 51 + 2 * 201 + 100
    assert (await control.get("/messages", search="no such text", next=first["next"]))["next"] != first["next"]
    for place in ("1-", "1", ""):
        await control.get("/messages", expect=400, next=place)


async def test_pages_of_messages_hold_while_new_ones_arrive(control: Controller) -> None:
    for url in (ENDPOINT, f"{ENDPOINT}/2"):
        await control.post("/webhooks", url=url)
    await control.post("/seed", messages=5)
    await control.post("/emit", eventTypeId="user.created")
    known = [message.id for message in control.fake.messages()]
    assert await walk(control, eventTypeId="user.created") == known


async def test_the_first_64_kib_of_a_body_are_shown(control: Controller) -> None:
    body = "é" * 40_000
    async with control.session.post(f"{control.base_url}/events", data=body.encode()) as response:
        assert response.status == 405
    assert (await control.get("/requests/1"))["body"] == body[: 32 * 1024]
