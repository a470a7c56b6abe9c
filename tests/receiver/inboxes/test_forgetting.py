"""What the quarantine keeps of one user is removed, whatever names the user, and what names another stays."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import attrs
import pytest

from basiq_async import BasiqClient, ConfigurationError, InMemoryTransport, Message
from basiq_async.receiver import (
    Inbox,
    InboxEntry,
    MemoryInbox,
    Result,
    WebhookReceiver,
)
from basiq_async.replay import Replay
from basiq_async.testing import FakeBasiq
from basiq_async.testing.fake.catalog import EVENT_TYPES
from tests.support.deliveries import quarantined_delivery

ENDPOINT = "https://service.example/basiq"


@pytest.mark.documented_world("what was never attempted is listed", "listed")
async def test_of_each_event_type_what_is_one_users_goes_and_what_is_anothers_stays(any_inbox: Inbox) -> None:
    """As deliveries of a receiver, and as messages of a replay. ``u-1`` is the beginning of the others' ids."""
    fake = FakeBasiq()
    webhook_id = fake.add_webhook(ENDPOINT)
    receiver = WebhookReceiver(fake.secret(webhook_id), webhook_id=webhook_id, inbox=any_inbox, quarantine_after=1)

    @receiver.on("*")
    async def refuse(_: object) -> None:
        raise ValueError("no")

    async def refuse_message(message: Message) -> None:
        raise ValueError("no")

    fake.route(ENDPOINT, receiver)
    for user_id in ("u-1", "u-10", "u-1-b"):
        for event_type in EVENT_TYPES:
            await fake.emit(event_type, user_id=user_id)
    for user_id in ("u-1", "u-10"):
        for event_type in EVENT_TYPES:
            fake.emit(event_type, user_id=user_id)
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await Replay(basiq, webhook_id, refuse_message, inbox=any_inbox).run()

    types = len(EVENT_TYPES)
    assert len([entry async for entry in entries(any_inbox)]) == 5 * types
    assert await receiver.forget("u-1") == 2 * types
    left = [entry async for entry in entries(any_inbox)]
    assert len(left) == 3 * types
    assert [entry for entry in left if b'/users/u-1"' in entry.body or b"/users/u-1/" in entry.body] == []
    assert await receiver.forget("u-1") == 0
    retried = await receiver.retry_quarantined()
    assert [each.result for each in retried].count(Result.QUARANTINED) == 3 * types, "what is left can be handled"


async def entries(inbox: Inbox) -> AsyncGenerator[InboxEntry]:
    last = None
    while page := await inbox.entries(after=last, limit=100):
        for entry in page:
            yield entry
        last = page[-1]


NAMING = {
    "the end of a link": b'{"links": {"eventEntity": "https://api/users/u-1"}}',
    "escaped slashes": rb'{"links": {"eventEntity": "https:\/\/api\/users\/u-1\/accounts"}}',
    "an escaped letter": rb'{"userId": "\u0075-1"}',
    "after a line break": rb'{"text": "of\nu-1"}',
    "a percent-encoded link": b'{"next": "https://api/x?filter=user.id.eq(%27u-1%27)"}',
    "twice encoded": b'{"next": "/login?to=%252Fusers%252Fu-1%252F"}',
    "a list": b'{"links": [{"event": "/users/u-1?x=1"}]}',
    "nested a thousand deep": b"[" * 5_000 + b'"u-1"' + b"]" * 5_000,
    "no JSON": b'{"userId": "u-1',
}
OTHERS = {
    "another user": b'{"userId": "u-10", "links": {"event": "/users/u-1-b/"}}',
    "an escaped backslash": rb'{"text": "\\u0075-1x \\nu-12"}',
    "no user": b"{}",
}


@pytest.mark.parametrize("body", NAMING.values(), ids=NAMING)
async def test_a_user_is_found_in_any_writing(body: bytes) -> None:
    inbox = MemoryInbox()
    receiver = WebhookReceiver("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", webhook_id="wh", inbox=inbox)
    for number, each in enumerate([body, *OTHERS.values()]):
        await inbox.claim(f"k{number}", "t", lease=10)
        assert await inbox.quarantine(f"k{number}", "t", attrs.evolve(quarantined_delivery(f"k{number}"), body=each))
    assert await receiver.forget("u-1") == 1
    assert [entry.key for entry in await inbox.entries()] == ["k1", "k2", "k3"]


async def test_the_text_of_an_error_names_a_user_too_and_no_id_is_refused() -> None:
    inbox = MemoryInbox()
    receiver = WebhookReceiver("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", webhook_id="wh", inbox=inbox)
    await inbox.claim("k", "t", lease=10)
    await inbox.quarantine("k", "t", attrs.evolve(quarantined_delivery("k"), error="KeyError: 'u-1'"))
    for no_id in ("", " ", None):
        with pytest.raises(ConfigurationError, match="id of a user"):
            await receiver.forget(no_id)  # type: ignore[arg-type]
    assert await receiver.forget("u-1") == 1
