"""What ``emit`` says of the webhooks that get no message."""

from __future__ import annotations

from datetime import timedelta

from basiq_async import BasiqClient, InMemoryTransport
from basiq_async.testing import FakeBasiq, ManualClock


async def test_an_event_in_the_cool_off_makes_no_message_and_says_what_ends_it() -> None:
    fake = FakeBasiq(clock=ManualClock())
    waiting = fake.add_webhook("https://a.example", ["consent.revoked"], active=False)
    active = fake.add_webhook("https://b.example", ["consent.revoked"])
    fake.add_webhook("https://c.example", ["user.created"], active=False)
    emission = fake.emit("consent.revoked")
    assert len(emission.message_ids) == 1
    assert emission.not_sent == (f"webhook {waiting} is in its cool-off: fake.advance(seconds=900) ends it",)
    await fake.advance(seconds=900)
    emission = fake.emit("consent.revoked")
    assert (len(emission.message_ids), emission.not_sent) == (2, ())
    assert active


async def test_an_event_for_a_disabled_webhook_says_what_makes_it_active_again() -> None:
    fake = FakeBasiq(clock=ManualClock())
    webhook_id = fake.add_webhook("https://a.example", ["consent.revoked"])
    fake.route("https://a.example", _down)
    await fake.emit("consent.revoked")
    await fake.advance(timedelta(hours=28))
    (said,) = fake.emit("consent.revoked").not_sent
    assert said == f"webhook {webhook_id} is disabled: an update with its url makes it active again"
    async with BasiqClient(fake.api_key, transport=InMemoryTransport(fake)) as basiq:
        await basiq.webhooks.update(webhook_id, url="https://a.example", subscribed_events=["consent.revoked"])
    assert fake.emit("consent.revoked").not_sent == ()


async def _down(headers: object, body: bytes) -> int:
    return 502
