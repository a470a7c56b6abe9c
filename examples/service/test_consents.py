"""The service's tests. ``fake_basiq`` and ``basiq_client`` come from the plugin of basiq-async: nothing to import."""

from __future__ import annotations

import pytest
from consents import Consents

from basiq_async import BasiqClient
from basiq_async.testing import FakeBasiq

pytestmark = pytest.mark.asyncio
URL = "https://service.example/basiq"


@pytest.fixture
def consents(fake_basiq: FakeBasiq, basiq_client: BasiqClient) -> Consents:
    webhook_id = fake_basiq.add_webhook(URL, ["consent.revoked"])
    service = Consents(basiq_client, fake_basiq.secret(webhook_id))
    fake_basiq.route(URL, service.receiver)
    return service


async def test_a_revoked_consent_is_noticed(fake_basiq: FakeBasiq, consents: Consents) -> None:
    await fake_basiq.emit("consent.revoked", user_id="user-1")
    assert consents.revoked == {"user-1"}
    fake_basiq.assert_no_violations()


async def test_a_lookup_that_fails_is_made_up_for_by_basiqs_next_attempt(
    fake_basiq: FakeBasiq, consents: Consents
) -> None:
    fake_basiq.fail_next(status=404, path="/events/*")
    await fake_basiq.emit("consent.revoked", user_id="user-1")
    assert consents.revoked == set()
    await fake_basiq.advance(seconds=5)
    assert consents.revoked == {"user-1"}
    assert [attempt.ok for attempt in fake_basiq.deliveries] == [False, True]
