"""What the quirks change: the forms of responses, and the rules that no source of Basiq states."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from basiq_async.testing import FakeBasiq, Quirks

from ..conftest import ENDPOINT, Caller, Endpoint, arranged

DOCUMENTED_TOO = {
    "messages_path", "subscribed_events", "list_data", "type_case", "attempts_by_id", "attempt_order", "status_code",
    "message_ids", "links", "event_data", "event_type", "signing_key", "signing_key_in", "signing_key_on_update",
    "expired_response", "unknown_key_response",
}  # fmt: skip
"""The forms in which the engine says nothing that Basiq's documents do not say."""


def test_the_engine_differs_in_each_rule_that_is_its_own_and_a_test_may_change_one() -> None:
    engine, default = attrs.asdict(Quirks.engine()), attrs.asdict(Quirks())
    assert {name for name, form in engine.items() if form == default[name]} == DOCUMENTED_TOO
    changed = Quirks.engine(update="patches", concurrency=1)
    assert (changed.update, changed.concurrency, changed.waits) == ("patches", 1, "jittered")


def test_the_quirks_of_a_fake_are_those_that_its_class_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FakeBasiq().quirks == FakeBasiq.default_quirks
    monkeypatch.setattr(FakeBasiq, "default_quirks", Quirks.engine())
    assert FakeBasiq().quirks == Quirks.engine()
    assert FakeBasiq(api_keys=["a", "b"]).states["b"].quirks == Quirks.engine()
    assert FakeBasiq(quirks=Quirks()).quirks == Quirks()


IDS = "ids of the attempts"


def form(message: dict[str, Any]) -> object:
    """Return how a message shows its attempts: ``objects``, ``IDS``, or None if it does not."""
    attempts = message.get("attempts")
    if attempts is None:
        return None
    return "objects" if all(isinstance(each, dict) for each in attempts) else IDS


@pytest.mark.parametrize(
    ("quirks", "listed", "alone"),
    [
        (Quirks(), "objects", "objects"),
        (Quirks(attempts="strings"), IDS, "objects"),
        (Quirks(attempts="absent"), None, "objects"),
        (Quirks(attempts_by_id="strings"), "objects", IDS),
        (Quirks(attempts="strings", attempts_by_id="absent"), IDS, None),
    ],
    ids=str,
)
def test_a_list_and_one_message_have_a_form_of_attempts_each(quirks: Quirks, listed: object, alone: object) -> None:
    caller = Caller(FakeBasiq(quirks=quirks))
    path = f"/notifications/webhooks/{caller.fake.seed_messages(3)}/messages"
    found = caller.every(path)
    assert [form(each) for each in found] == [listed] * 3
    assert [form(caller.get(f"{path}/{each['id']}")) for each in found] == [alone] * 3


async def updated(body: dict[str, Any], **quirks: Any) -> tuple[dict[str, Any], FakeBasiq]:
    """Update a webhook that was disabled, and return what the response and a read after it show."""
    fake, webhook_id = arranged(Endpoint(500), quirks=Quirks(**quirks))
    caller, path = Caller(fake), f"/notifications/webhooks/{webhook_id}"
    caller.json("POST", path, {"url": ENDPOINT, "name": "one", "subscribedEvents": ["user.created"]})
    await fake.emit("user.created")
    await fake.advance(hours=28)
    caller.authorize()
    assert caller.get(path)["status"] == "disabled"
    written = caller.json("POST", path, {"url": ENDPOINT, **body})
    found = caller.get(path)
    assert {**found, "secret": written["secret"]} == written
    return found, fake


@pytest.mark.parametrize("body", [{}, {"name": "two"}, {"subscribedEvents": ["user.deleted"]}], ids=str)
@pytest.mark.parametrize("rule", ["mixed", "replaces", "patches"])
async def test_an_update_keeps_or_drops_what_its_body_omits_by_its_rule(rule: str, body: dict[str, Any]) -> None:
    webhook, fake = await updated(body, update=rule)
    before = {"name": "one", "subscribedEvents": ["user.created"]}
    if rule == "replaces":
        before = {"subscribedEvents": list(fake.event_types)}
    expected = {**before, **body}
    assert {name: webhook[name] for name in ("name", "subscribedEvents") if name in webhook} == expected


@pytest.mark.parametrize(("rule", "status"), [("mixed", "active"), ("replaces", "active"), ("patches", "disabled")])
async def test_an_update_that_patches_leaves_a_disabled_webhook_disabled(rule: str, status: str) -> None:
    webhook, fake = await updated({}, update=rule)
    assert webhook["status"] == status
    emission = await fake.emit("user.created")
    assert len(emission.message_ids) == (status == "active")
    if status == "disabled":
        assert emission.not_sent == (f"webhook {webhook['id']} is disabled: no update makes it active again",)


@pytest.mark.parametrize("without_events", ["all", "absent"])
@pytest.mark.parametrize("written_by", ["a create", "an update"])
async def test_a_webhook_without_event_types_gets_every_event(without_events: Any, written_by: str) -> None:
    quirks = Quirks(update="replaces", without_events=without_events)
    fake = FakeBasiq(cool_off=0, quirks=quirks)
    fake.route(ENDPOINT, endpoint := Endpoint(200))
    caller = Caller(fake)
    body = {"url": ENDPOINT} if written_by == "a create" else {"url": ENDPOINT, "subscribedEvents": ["user.created"]}
    made = caller.json("POST", "/notifications/webhooks", body, status=201)
    if written_by == "an update":
        made = caller.json("POST", f"/notifications/webhooks/{made['id']}", {"url": ENDPOINT})
    assert made.get("subscribedEvents") == (list(fake.event_types) if without_events == "all" else None)
    for each in fake.event_types:
        await fake.emit(each)
    assert len(endpoint.got) == len(fake.event_types)
    chosen = {"url": ENDPOINT, "subscribedEvents": ["user.deleted"]}
    assert caller.json("POST", f"/notifications/webhooks/{made['id']}", chosen)["subscribedEvents"] == ["user.deleted"]
    assert (await fake.emit("user.created")).message_ids == ()


async def test_a_webhook_that_is_removed_is_gone_with_its_messages_and_what_was_planned() -> None:
    fake, webhook_id = arranged(endpoint := Endpoint(500), quirks=Quirks(disables="removed"))
    other = fake.add_webhook("https://example.com/other")
    fake.route("https://example.com/other", Endpoint(200))
    caller, path = Caller(fake), f"/notifications/webhooks/{webhook_id}"
    await fake.emit("user.created")
    await fake.advance(hours=27)
    await fake.emit("user.deleted")  # whose further attempts are dropped with the webhook
    await fake.advance(hours=1)
    caller.authorize()
    assert [each.id for each in fake.webhooks()] == [other]
    assert caller.error("GET", path, status=404)["code"] == "resource-not-found"
    assert caller.error("GET", f"{path}/messages", status=404)["code"] == "resource-not-found"
    made = len(endpoint.got)
    await fake.advance(days=3)
    assert (len(endpoint.got), fake.next_due) == (made, None)
    assert len((await fake.emit("user.created")).message_ids) == 1
    caller.authorize()
    assert caller.create(ENDPOINT)["id"] != webhook_id
