"""The client understands every form that the sources give an answer, and means the same by it."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.testing import FakeBasiq, Quirks
from tests.testing.conftest import quirks_name

from ..conftest import Caller

FORMS = list(Quirks.each_form())


async def everything(quirks: Quirks) -> list[Any]:
    """What the client makes of all that there is."""
    fake = FakeBasiq(seed="quirks", quirks=quirks, page_size=3)
    transport = InMemoryTransport(fake)
    seen: list[Any] = []
    async with BasiqClient(fake.api_key, transport=transport) as basiq:
        made = await basiq.webhooks.create(url="https://example.com/hook", subscribed_events=["consent.revoked"])
        same = await basiq.webhooks.ensure(url="https://example.com/hook", subscribed_events=["consent.revoked"])
        assert same.id == made.id
        webhook_id = made.id
        fake.seed_messages(7, webhook_id, failed=0.5)
        for webhook in (made, await basiq.webhooks.get(webhook_id), await basiq.webhooks.list().first()):
            assert webhook is not None
            seen.append((webhook.id, webhook.url, webhook.status, webhook.subscribed_events, webhook.links))
        for message in sorted(await basiq.messages.list(webhook_id).collect(), key=lambda each: each.id):
            same_message = await basiq.messages.get(webhook_id, message.id)
            event = await basiq.events.fetch(message)
            entity = await basiq.events.fetch_entity(message)
            assert same_message.id == message.id
            seen.append((message.id, message.event_type_id, message.event_id, dict(message.links)))
            seen.append((event.id, event.type, event.user_id, event.created, event.data_ref, dict(event.links)))
            seen.append(entity["id"])
            if quirks.attempts == "objects":
                assert all(attempt.status_code in (200, 500) for attempt in message.attempts)
                assert message.delivered == (message.attempts[-1].status_code == 200)
        more = await basiq.webhooks.ensure(url=made.url, subscribed_events=["user.created"])
        changed = await basiq.webhooks.update(webhook_id, url=made.url, subscribed_events=["user.deleted"], name="new")
        again = await basiq.webhooks.reactivate(webhook_id)
        seen += [(each.subscribed_events, each.name, each.status) for each in (more, changed, again)]
        seen.append(await basiq.messages.list(webhook_id, page_size=1).first() is not None)
        seen.append(len(await basiq.events.list().collect()))
        seen.append([(kind.id, kind.description) for kind in await basiq.event_types.list().collect()])
        await basiq.webhooks.delete(webhook_id)
        seen.append(len(await basiq.webhooks.list().collect()))
    fake.assert_no_misuses()
    return seen


@pytest.mark.parametrize("quirks", FORMS, ids=quirks_name)
async def test_the_client_means_the_same_by_every_form(quirks: Quirks) -> None:
    assert await everything(quirks) == await everything(Quirks())


@pytest.mark.parametrize(
    ("quirks", "path", "name", "forms"),
    [
        (Quirks(subscribed_events="string"), "{hook}", "subscribedEvents", ("user.created", ["user.created", "a.new"])),
        (Quirks(list_data="object"), "/notifications/webhooks?limit={count}", "data", (dict, list)),
        (Quirks(type_case="title"), "{hook}", "type", ("Webhook", "Webhook")),
        (Quirks(links="list"), "{hook}", "links", (list, list)),
        (Quirks(event_data="list"), "{event}", "data", (list, list)),
        (Quirks(event_type="dotted"), "{event}", "eventTypeId", ("user.created", "a.new")),
        (Quirks(), "{event}", "eventType", ("created", "new")),
    ],
    ids=lambda value: quirks_name(value) if isinstance(value, Quirks) else None,
)
def test_a_form_is_what_its_switch_says(quirks: Quirks, path: str, name: str, forms: tuple[Any, Any]) -> None:
    fake = FakeBasiq(quirks=quirks, event_types={"a.new": "a type of tomorrow"})
    caller = Caller(fake)
    for count, form in enumerate(forms, 1):
        types = ["user.created", "a.new"][:count]
        hook = fake.add_webhook(f"https://example.com/{count}", types)
        event = fake.emit(types[-1]).event_id
        shown = caller.get(path.format(hook=f"/notifications/webhooks/{hook}", event=f"/events/{event}", count=count))
        assert (type(shown[name]) is form) if isinstance(form, type) else (shown[name] == form)


@pytest.mark.parametrize(
    ("quirks", "names", "attempt"),
    [
        (Quirks(), set(), {"responseStatusCode": 500}),
        (Quirks(message_ids="both"), {"webhookId", "eventTypeId", "eventId"}, {"responseStatusCode": 500}),
        (Quirks(message_ids="top"), {"webhookId", "eventTypeId", "eventId"}, {"responseStatusCode": 500}),
        (Quirks(status_code="string"), set(), {"responseStatusCode": "500"}),
        (Quirks(attempts="strings"), set(), None),
    ],
    ids=lambda value: quirks_name(value) if isinstance(value, Quirks) else None,
)
def test_a_message_has_its_ids_and_attempts_where_and_as_its_switches_say(
    quirks: Quirks, names: set[str], attempt: dict[str, object] | None
) -> None:
    caller = Caller(FakeBasiq(quirks=quirks))
    webhook_id = caller.fake.seed_messages(1, failed=1)
    (message,) = caller.get(f"/notifications/webhooks/{webhook_id}/messages")["data"]
    assert set(message) == {"type", "id", "payload", "attempts", "links", *names}
    assert {"eventTypeId", "eventId"} <= set(message["payload"]) or quirks.message_ids == "top"
    (shown,) = message["attempts"]
    assert isinstance(shown, str) if attempt is None else attempt.items() <= shown.items()


def test_each_form_has_every_switch_in_every_position() -> None:
    literals = {name: hint for name, hint in get_type_hints(Quirks).items() if get_origin(hint) is Literal}
    assert set(get_type_hints(Quirks)) - set(literals) == {"concurrency"}
    for name, hint in literals.items():
        assert {getattr(quirks, name) for quirks in FORMS} == set(get_args(hint))
    assert len(set(FORMS)) == len(FORMS), "one form comes twice"


async def test_a_messages_attempts_are_listed_newest_first_or_turned_round() -> None:
    listed = {}
    for order in ("newest-first", "oldest-first"):
        fake = FakeBasiq(quirks=Quirks(attempt_order=order))
        fake.endpoint_down(status=500)
        caller = Caller(fake)
        made = caller.create()
        await fake.advance(minutes=20)
        await fake.emit("user.created")
        await fake.advance(minutes=6)
        (message,) = caller.get(f"/notifications/webhooks/{made['id']}/messages")["data"]
        listed[order] = [attempt["timestamp"] for attempt in message["attempts"]]
    assert len(set(listed["oldest-first"])) == 3
    assert listed["oldest-first"] == sorted(listed["oldest-first"])
    assert listed["newest-first"] == listed["oldest-first"][::-1]


@pytest.mark.parametrize(("where", "written", "read"), [("everywhere", True, True), ("nowhere", False, False)])
async def test_a_secret_is_there_where_the_fake_shows_it(where: Any, written: bool, read: bool) -> None:
    fake = FakeBasiq(quirks=Quirks(signing_key_in=where))
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as client:
        made = await client.webhooks.create(url="https://example.com/x", subscribed_events=["user.created"])
        assert (made.secret is not None) is written
        assert ((await client.webhooks.get(made.id)).secret is not None) is read
