"""What a receiver takes out of a quarantine in Redis is what a receiver put there: others may write to Redis."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from basiq_async.receiver import Inbox, MemoryInbox, RedisInbox, Result, SQLiteInbox, WebhookReceiver
from tests.support.deliveries import OTHER_SECRET, SECRET, Service, payload

BROKEN = payload("user.broken", "e-broken")


async def set_aside(inbox: Inbox, **options: Any) -> Service:
    """A service whose quarantine holds one delivery, and which handles everything from now on."""
    service = Service(inbox=inbox, quarantine_after=1, **options)
    assert (await service.post(BROKEN)).result is Result.QUARANTINED
    service.handled.clear()
    service.broken = False
    return service


FORGED_BODY = b64encode(payload("user.broken", "e-broken", extra="forged")).decode()


@pytest.mark.parametrize("forged", [{"body": FORGED_BODY}, {"delivery_id": "msg_2"}, {"seal": None}, {"seal": ...}])
async def test_a_delivery_that_somebody_changed_is_refused_kept_and_reported(
    forged: dict[str, Any], client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    service = await set_aside(RedisInbox(client))
    (name,) = await client.keys("*:delivery:*")
    fields = json.loads(await client.hget(name, "text")) | forged
    kept = {field: value for field, value in fields.items() if value is not ...}  # what others took off is not there
    await client.hset(name, "text", json.dumps(kept))
    (outcome,) = await service.receiver.retry_quarantined()
    assert (outcome.result, outcome.reason) == (Result.REJECTED, "not-sealed")
    assert "no handler gets it. Another program wrote to the inbox's storage" in str(outcome.error)
    assert str(outcome.error) in caplog.text
    assert service.events[-1].reason == "not-sealed"
    assert service.handled == []
    (entry,) = await service.receiver.quarantined()
    assert await service.receiver.drop_quarantined([entry.delivery_id]) == 1


async def test_after_a_rotation_the_old_secret_is_needed_for_old_deliveries(client: Redis) -> None:
    await set_aside(RedisInbox(client), webhook_id="w1")
    for secrets, result in ((OTHER_SECRET, Result.REJECTED), ([OTHER_SECRET, SECRET], Result.HANDLED)):
        receiver = WebhookReceiver(secrets, inbox=RedisInbox(client), webhook_id="w1")

        @receiver.on("*")
        async def take(delivery: object) -> None: ...

        (outcome,) = await receiver.retry_quarantined()
        assert outcome.result is result
        await receiver.aclose()


async def test_an_inbox_of_ones_own_needs_no_seal_and_outlives_a_rotation(tmp_path: Path) -> None:
    for inbox in (MemoryInbox(), SQLiteInbox(tmp_path / "inbox.db")):
        service = await set_aside(inbox, webhook_id="w1")
        await service.receiver.aclose()
        receiver = WebhookReceiver(OTHER_SECRET, inbox=inbox, webhook_id="w1")

        @receiver.on("*")
        async def take(delivery: object) -> None: ...

        (outcome,) = await receiver.retry_quarantined()
        assert outcome.result is Result.HANDLED
        await receiver.aclose()
        if isinstance(inbox, SQLiteInbox):
            await inbox.aclose()
