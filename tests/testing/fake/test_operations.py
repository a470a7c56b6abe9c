"""The operations and their documented answers."""

from __future__ import annotations

import json

import pytest

from basiq_async import Request
from basiq_async.testing import FakeBasiq

from ..conftest import BASE, ENDPOINT, Caller

NOWHERE = "11111111-2222-4333-8444-555555555555"
WEBHOOKS = "/notifications/webhooks"
TEST = "/notifications/messages/test"


def test_a_webhook_is_created_read_listed_changed_and_deleted(caller: Caller) -> None:
    made = caller.create(name="a name", description="what for")
    assert made["status"] == "pending-approval"
    assert (made["name"], made["description"]) == ("a name", "what for")
    assert made["secret"].startswith("whsec_")
    assert made["links"] == {"self": f"{BASE}{WEBHOOKS}/{made['id']}"}
    read = caller.get(f"{WEBHOOKS}/{made['id']}")
    assert read == {name: value for name, value in made.items() if name != "secret"}
    assert caller.get(WEBHOOKS)["data"] == [read]
    changed = caller.json("POST", made["links"]["self"], {"url": "https://example.com/other", "name": "new"})
    assert changed == {**made, "url": "https://example.com/other", "name": "new"}
    assert caller.send("DELETE", f"{WEBHOOKS}/{made['id']}").status == 204
    assert caller.error("GET", f"{WEBHOOKS}/{made['id']}", status=404)["code"] == "resource-not-found"
    assert caller.get(WEBHOOKS)["data"] == []


def test_a_webhook_without_a_name_and_a_description_shows_neither(caller: Caller) -> None:
    assert not {"name", "description"} & caller.create().keys()


def test_a_webhook_is_subscribed_to_what_it_names_and_without_that_to_everything(caller: Caller) -> None:
    one = caller.json("POST", WEBHOOKS, {"url": ENDPOINT, "subscribedEvents": "user.created"}, status=201)
    assert one["subscribedEvents"] == ["user.created"]
    every = caller.json("POST", WEBHOOKS, {"url": "https://example.com/all"}, status=201)
    assert len(every["subscribedEvents"]) == 15
    twice = caller.create("https://example.com/twice", ["user.created", "user.created"])
    assert twice["subscribedEvents"] == ["user.created"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"url": ' + b"1" * 5000 + b"}"])
def test_a_body_that_is_no_json_is_invalid_content(caller: Caller, body: bytes) -> None:
    answer = caller.send("POST", WEBHOOKS, body, content_type="application/json")
    assert answer.status == 400
    entry = json.loads(answer.body)["data"][0]
    assert (entry["code"], entry["source"]["parameter"]) in {("invalid-content", "body"), ("invalid-content", "url")}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_content_type_that_is_no_json_is_invalid_content(caller: Caller, kind: str) -> None:
    answer = caller.send("POST", WEBHOOKS, b'{"url": "https://example.com/"}', content_type=kind)
    assert answer.status == 400
    assert json.loads(answer.body)["data"][0]["source"] == {"parameter": "Content-Type"}


def test_a_charset_beside_the_content_type_is_taken(caller: Caller) -> None:
    body = json.dumps({"url": ENDPOINT}).encode()
    assert caller.send("POST", WEBHOOKS, body, content_type="Application/JSON; charset=utf-8").status == 201


def test_ids_are_taken_in_either_case(caller: Caller) -> None:
    made = caller.create()
    assert caller.get(f"{WEBHOOKS}/{made['id'].upper()}")["id"] == made["id"]


def test_messages_are_listed_and_read_with_and_without_the_trailing_slash(caller: Caller) -> None:
    webhook_id = caller.fake.seed_messages(3)
    path = f"{WEBHOOKS}/{webhook_id}/messages"
    listed = caller.get(path)
    assert caller.get(path + "/") == listed
    assert listed["size"] == listed["count"] == 3
    for message in listed["data"]:
        assert caller.get(message["links"]["self"]) == message
        assert message["links"]["webhook"] == f"{BASE}{WEBHOOKS}/{webhook_id}"


def test_the_links_of_a_message_lead_to_its_event_and_entity(caller: Caller) -> None:
    caller.fake.seed_messages(40)
    webhook_id = caller.get(WEBHOOKS)["data"][0]["id"]
    for message in caller.every(f"{WEBHOOKS}/{webhook_id}/messages"):
        payload = message["payload"]
        event = caller.get(payload["links"]["event"])
        assert event["id"] == payload["eventId"]
        assert f"{event['entity']}.{event['eventType']}" == payload["eventTypeId"]
        assert event["dataRef"] == payload["links"]["eventEntity"]
        entity = caller.get(payload["links"]["eventEntity"])
        assert entity["links"]["self"] == payload["links"]["eventEntity"]


async def test_a_test_message_goes_to_each_webhook_that_is_subscribed(caller: Caller) -> None:
    first = caller.create(ENDPOINT, ["user.created"])
    second = caller.create("https://example.com/second", ["user.deleted"])
    await caller.fake.advance(minutes=15)
    caller.json("POST", TEST, {"eventTypeId": "user.created", "Text": "hello"}, status=201)
    (message,) = caller.get(f"{WEBHOOKS}/{first['id']}/messages")["data"]
    assert message["payload"]["eventTypeId"] == "user.created"
    assert message["payload"]["Text"] == "hello"
    assert caller.get(f"{WEBHOOKS}/{second['id']}/messages")["data"] == []


async def test_a_test_message_in_the_guides_form_goes_to_the_webhook_of_that_url(caller: Caller) -> None:
    caller.create(ENDPOINT, ["user.created"])
    second = caller.create("https://example.com/second", ["user.deleted"])
    await caller.fake.advance(minutes=15)
    body = {"URL": "https://example.com/second", "Events": ["user.created", "consent.revoked"]}
    caller.json("POST", TEST, body, status=201)
    sent = caller.get(f"{WEBHOOKS}/{second['id']}/messages")["data"]
    assert [message["payload"]["eventTypeId"] for message in sent] == ["user.created", "consent.revoked"]


def test_the_event_types_of_today_are_listed_and_read(caller: Caller) -> None:
    types = caller.get("/events/types")["data"]
    assert len(types) == 15
    assert caller.get("/events/types/") == caller.get("/events/types")
    for event_type in types:
        assert caller.get(event_type["links"]["self"]) == event_type


def test_a_fake_can_know_event_types_that_are_new() -> None:
    fake = FakeBasiq(event_types={"payment.made": "a payment was made"})
    caller = Caller(fake)
    assert caller.get("/events/types/payment.made")["description"] == "a payment was made"
    webhook_id = fake.add_webhook(ENDPOINT, ["payment.made"])
    fake.emit("payment.made")
    (message,) = caller.get(f"{WEBHOOKS}/{webhook_id}/messages")["data"]
    assert message["payload"]["links"]["eventEntity"].startswith(BASE + "/users/")
    assert caller.get(message["payload"]["links"]["eventEntity"])["type"] == "payment"


async def test_events_are_shown_for_seven_days(caller: Caller) -> None:
    caller.fake.emit("user.created")
    await caller.fake.advance(days=3)
    second = caller.fake.emit("user.deleted")
    await caller.fake.advance(days=4)
    caller.authorize()
    assert len(caller.get("/events")["data"]) == 2
    await caller.fake.advance(seconds=1)
    assert [event["id"] for event in caller.get("/events")["data"]] == [second.event_id]


def test_an_event_is_read_by_its_id(caller: Caller) -> None:
    made = caller.fake.emit("consent.revoked", user_id="u-1", entity_id="c-1", data={"a": 1})
    event = caller.get(f"/events/{made.event_id}")
    assert (event["entity"], event["eventType"], event["userId"]) == ("consent", "revoked", "u-1")
    assert event["data"] == {"a": 1}
    assert event["dataRef"] == f"{BASE}/users/u-1/consents/c-1"
    assert caller.get(event["dataRef"]) == {"a": 1}


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/token", "POST"),
        (WEBHOOKS, "GET, POST"),
        (f"{WEBHOOKS}/{NOWHERE}", "GET, POST, DELETE"),
        (f"{WEBHOOKS}/{NOWHERE}/messages", "GET"),
        (f"{WEBHOOKS}/{NOWHERE}/messages/{NOWHERE}", "GET"),
        (TEST, "POST"),
        ("/events", "GET"),
        ("/events/types", "GET"),
        ("/events/types/user.created", "GET"),
        ("/events/abc", "GET"),
    ],
)
def test_a_wrong_method_is_answered_with_those_that_there_are(caller: Caller, path: str, allow: str) -> None:
    for method in ("PUT", "PATCH", "OPTIONS"):
        answer = caller.send(method, path)
        assert answer.status == 405
        assert answer.headers["allow"] == allow


def test_links_have_the_origin_and_the_prefix_that_the_request_came_to(fake: FakeBasiq) -> None:
    caller = Caller(fake)
    caller.create()
    request = Request(
        "GET", f"http://localhost:8080/basiq{WEBHOOKS}", {"authorization": f"Bearer {caller.token}"}, None
    )
    (webhook,) = json.loads(fake.handle(request, prefix="/basiq").body)["data"]
    assert webhook["links"]["self"] == f"http://localhost:8080/basiq{WEBHOOKS}/{webhook['id']}"
    assert fake.handle(request).status == 404
    assert caller.fake.handle(Request("GET", BASE + WEBHOOKS), prefix="/basiq").status == 404


def test_text_that_has_no_bytes_in_utf8_comes_back_as_it_went_in(caller: Caller) -> None:
    body = b'{"url": "https://example.com/", "name": "\\ud800"}'
    made = caller.send("POST", WEBHOOKS, body, content_type="application/json")
    assert json.loads(made.body)["name"] == "\ud800"


def test_a_fake_shows_its_time_and_no_key(fake: FakeBasiq) -> None:
    fake.add_webhook()
    assert repr(fake) == "<FakeBasiq at 2026-01-05T00:00:00+00:00, 1 webhooks>"
    assert fake.api_key == FakeBasiq.DEFAULT_API_KEY
    assert fake.now().isoformat() == "2026-01-05T00:00:00+00:00"
