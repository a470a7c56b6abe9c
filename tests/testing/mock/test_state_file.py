"""A fake's state survives in a file."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from basiq_async import BasiqClient
from basiq_async.errors import ConfigurationError
from basiq_async.testing import FakeBasiq, ManualClock, serve
from tests.support.real_time import PATIENCE

from ..conftest import ENDPOINT, Caller


async def _receive(headers: dict[str, str], body: bytes) -> int:
    return 503


async def arranged() -> FakeBasiq:
    fake = FakeBasiq(seed=7)
    fake.route(ENDPOINT, _receive)
    caller = Caller(fake)
    webhook_id = fake.add_webhook(ENDPOINT)
    fake.seed_messages(2000, webhook_id, failed=0.2)
    await fake.emit("consent.revoked", user_id="u-1", data={"ü": ["\ud800", None]})
    caller.create("https://example.com/second", name="second")
    message = next(message for message in fake.messages(webhook_id) if len(message.attempts) == 1)
    await fake.redeliver(message.id)
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
    other.route(ENDPOINT, _receive)
    await other.advance(hours=30)
    assert other.webhooks()[0].disabled
    assert [attempt.number for attempt in other.deliveries] == list(range(3, 9))


async def test_new_ids_do_not_repeat_old_ones() -> None:
    fake = await arranged()
    other = FakeBasiq(seed=7)
    other.restore(fake.snapshot())
    known = {message.id for message in other.messages()}
    assert other.emit("user.created").message_ids[0] not in known


async def test_a_server_keeps_it_in_a_file_only_its_owner_can_read(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    fake = FakeBasiq()
    async with serve(fake, state_file=file) as base_url, BasiqClient(fake.api_key, base_url=base_url) as basiq:
        made = await basiq.webhooks.create(url="http://127.0.0.1:1/", subscribed_events=["user.created"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = FakeBasiq()
    async with serve(other, state_file=file) as base_url, BasiqClient(other.api_key, base_url=base_url) as basiq:
        assert [webhook.id for webhook in await basiq.webhooks.list().collect()] == [made.id]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json"]


async def test_a_change_in_any_state_is_saved_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basiq_async.testing.mock.state_file.SOONEST", 0.005)
    file = tmp_path / "state.json"
    fake = FakeBasiq()
    state = fake.add_state("payments")
    async with serve(fake, state_file=file):
        for each in (fake, state, fake.add_state("later")):
            webhook_id = each.add_webhook(ENDPOINT)
            async with asyncio.timeout(PATIENCE):
                while webhook_id not in file.read_text():
                    await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 2, "applications": {}}', "[" * 100_000]
)
async def test_a_file_that_holds_no_state_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="state"):
        async with serve(FakeBasiq(), state_file=file):
            pass
    assert file.read_text() == text


async def test_the_state_of_another_key_is_refused(tmp_path: Path) -> None:
    snapshot = FakeBasiq(api_keys=["b3RoZXI="]).snapshot()
    with pytest.raises(ConfigurationError, match="another API key") as caught:
        FakeBasiq().restore(snapshot)
    assert "b3RoZXI=" not in str(caught.value)


async def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        async with serve(FakeBasiq(), state_file=tmp_path / "no" / "state.json"):
            pass
