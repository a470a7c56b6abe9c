"""Tests of service.py. The fixtures come with basiq-async and need no import, and no socket is opened."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from service import ConsentWatch

from basiq_async import BasiqClient, ServerError
from basiq_async.receiver import MemoryInbox, SecretFile
from basiq_async.testing import FakeBasiq

URL = "https://my-service.example/basiq"


@pytest.fixture
async def watch(
    fake_basiq: FakeBasiq, basiq_client: BasiqClient, basiq_strict: FakeBasiq, tmp_path: Path
) -> ConsentWatch:
    """Return the service, subscribed, after the 15 minutes before Basiq begins to deliver."""
    watch = ConsentWatch(basiq_client, URL, SecretFile(tmp_path / "basiq.secret"), MemoryInbox())
    await watch.start()
    assert watch.receiver is not None
    fake_basiq.route(URL, watch.receiver)
    await fake_basiq.advance(minutes=15)
    return watch


async def test_a_revoked_consent_is_noted(fake_basiq: FakeBasiq, watch: ConsentWatch) -> None:
    await fake_basiq.emit("consent.revoked", user_id="user-1")
    assert watch.without_consent == ["user-1"]


async def test_an_outage_of_basiqs_api_is_survived(fake_basiq: FakeBasiq, watch: ConsentWatch) -> None:
    # The handler cannot fetch the event: that is not its fault, and the receiver responds 503. It succeeds when Basiq
    # sends the event again.
    fake_basiq.fail_next(5, status=503, retry_after=0, path="/events/*")
    await fake_basiq.emit("consent.expired", user_id="user-2")
    assert watch.without_consent == []
    await fake_basiq.advance(hours=1)
    assert watch.without_consent == ["user-2"]
    assert [attempt.status for attempt in fake_basiq.deliveries] == [503, 204]


async def test_an_endpoint_that_is_down_for_a_week_is_disabled(fake_basiq: FakeBasiq, watch: ConsentWatch) -> None:
    async def down(headers: dict[str, str], body: bytes) -> int:
        return 503

    fake_basiq.route(URL, down)
    for _ in range(8):
        await fake_basiq.emit("consent.revoked", user_id="user-3")
        await fake_basiq.advance(days=1)
    (webhook,) = await watch.basiq.webhooks.list().collect()
    assert webhook.status == "disabled"


async def test_a_restarted_service_finds_its_webhook_and_its_secret(fake_basiq: FakeBasiq, watch: ConsentWatch) -> None:
    restarted = ConsentWatch(watch.basiq, URL, watch.secret, watch.inbox)
    await restarted.start()
    assert restarted.receiver is not None
    fake_basiq.route(URL, restarted.receiver)
    await fake_basiq.emit("consent.revoked", user_id="user-4")
    assert restarted.without_consent == ["user-4"]


async def test_what_the_service_sees_when_basiq_fails(fake_basiq: FakeBasiq, basiq_client: BasiqClient) -> None:
    fake_basiq.fail_next(5, status=503, retry_after=0, path="/notifications/webhooks")
    with pytest.raises(ServerError):
        await basiq_client.webhooks.list().collect()


async def test_programs_in_any_language_can_call_it(basiq_server: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{basiq_server}/events/types") as answer:
        assert answer.status == 401  # no token
