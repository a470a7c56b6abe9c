"""A fake that is restored from JSON data is the one that was saved."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from basiq_async.errors import ConfigurationError
from basiq_async.testing import FakeBasiq, ManualClock

from ..conftest import ENDPOINT, Caller, Endpoint


async def arranged() -> FakeBasiq:
    fake = FakeBasiq(seed=7)
    fake.route(ENDPOINT, Endpoint(503))
    caller = Caller(fake)
    webhook_id = fake.add_webhook(ENDPOINT)
    fake.seed_messages(2000, webhook_id, failed=0.2)
    await fake.emit("consent.revoked", user_id="u-1", data={"ü": ["\ud800", None]})
    caller.create("https://example.com/second", name="second")
    *_, seeded = fake.messages(webhook_id)
    await fake.redeliver(seeded.id)
    fake.seed_messages(10, webhook_id)
    await fake.advance(seconds=5)
    return fake


def contents(fake: FakeBasiq) -> Any:
    caller = Caller(fake)
    webhooks = caller.every("/notifications/webhooks")
    messages = [caller.every(f"/notifications/webhooks/{webhook['id']}/messages") for webhook in webhooks]
    return webhooks, messages, caller.every("/events?limit=500")


async def test_what_is_restored_is_what_was_saved() -> None:
    fake = await arranged()
    saved = json.loads(json.dumps(fake.snapshot()))
    other = FakeBasiq(seed=7)
    other.restore(saved)
    assert contents(other) == contents(fake)
    assert other.now() == fake.now()
    assert other.upcoming() == fake.upcoming()
    assert other.snapshot()["upcoming"] == saved["upcoming"]


async def test_tokens_secrets_and_attempts_to_come_survive() -> None:
    fake = await arranged()
    caller = Caller(fake)
    caller.authorize()
    (webhook, _) = fake.webhooks()
    other = FakeBasiq(seed=7, clock=ManualClock())
    other.restore(json.loads(json.dumps(fake.snapshot())))
    assert Caller(other, token=caller.token).get("/events/types")
    assert other.secret(webhook.id) == fake.secret(webhook.id)
    other.route(ENDPOINT, Endpoint(503))
    await other.advance(hours=30)
    assert other.webhooks()[0].disabled
    assert [attempt.number for attempt in other.deliveries] == list(range(3, 9))


async def test_new_ids_do_not_repeat_old_ones() -> None:
    fake = await arranged()
    other = FakeBasiq(seed=7)
    other.restore(fake.snapshot())
    known = {message.id for message in other.messages()}
    assert other.emit("user.created").message_ids[0] not in known


def test_the_state_of_another_key_is_refused() -> None:
    snapshot = FakeBasiq(api_keys=["b3RoZXI="]).snapshot()
    with pytest.raises(ConfigurationError, match="another API key") as caught:
        FakeBasiq().restore(snapshot)
    assert "b3RoZXI=" not in str(caught.value)


def _damaged(saved: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Yield functions that damage a snapshot, each at one place, and leave it JSON of the right shape."""
    first, second = saved["application"]["webhooks"]
    yield lambda state: state.pop("now")
    yield lambda state: state["application"].pop("messages")
    yield lambda state: state["application"]["messages"].pop(second)
    yield lambda state: state["application"]["webhooks"][first].update(id="another")
    yield lambda state: state["application"]["events"]["segments"][0].update(types=[])
    yield lambda state: state["application"]["messages"][first]["segments"][0]["events"].update(types=[])
    yield lambda state: next(iter(state["states"].values()))["content"].pop("application")


async def test_a_damaged_state_is_refused_and_changes_nothing() -> None:
    fake = await arranged()
    fake.add_state()
    saved = json.loads(json.dumps(fake.snapshot()))
    for damage in _damaged(saved):
        damaged = copy.deepcopy(saved)
        damage(damaged)
        other = FakeBasiq(seed=7)
        before = other.snapshot()
        with pytest.raises(ConfigurationError, match="not the state of a fake"):
            other.restore(damaged)
        assert other.snapshot() == before
