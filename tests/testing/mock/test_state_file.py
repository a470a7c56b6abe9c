"""A fake's state survives in a file."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from basiq_async import BasiqClient
from basiq_async.errors import ConfigurationError
from basiq_async.testing import FakeBasiq, serve
from tests.support.real_time import PATIENCE

from ..conftest import ENDPOINT


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
    monkeypatch.setattr("basiq_async.testing.mock.state_file.EVERY", 0.005)
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


async def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        async with serve(FakeBasiq(), state_file=tmp_path / "no" / "state.json"):
            pass


async def test_it_is_saved_again_after_a_save_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("basiq_async.testing.mock.state_file.EVERY", 0.005)
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "state.json"
    fake = FakeBasiq()
    async with serve(fake, state_file=file), asyncio.timeout(PATIENCE):
        folder.rename(tmp_path / "gone")
        first = fake.add_webhook(ENDPOINT)
        while not caplog.records:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        (tmp_path / "gone").rename(folder)
        while first not in file.read_text():
            await asyncio.sleep(0.005)
    assert [record.getMessage() for record in caplog.records] == [
        f"the state file {file} cannot be written: No such file or directory; it is tried again"
    ]
