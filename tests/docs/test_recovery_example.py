"""The example of a service that was down."""

from __future__ import annotations

from pathlib import Path

import pytest

from basiq_async.testing import FakeBasiq, Quirks, serve
from examples import recover_after_outage

URL = "https://service.example/basiq"


async def test_a_second_start_of_the_recovery_finds_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeBasiq(cool_off=0)
    webhook_id = fake.add_webhook(URL, recover_after_outage.EVENTS)
    for _ in range(5):
        await fake.emit("consent.revoked")
    await fake.advance(hours=2)
    monkeypatch.chdir(tmp_path)
    Path("basiq.secret").write_text(fake.secret(webhook_id))
    monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
    async with serve(fake) as url:
        monkeypatch.setenv("BASIQ_BASE_URL", url)
        for count in (5, 0):
            await recover_after_outage.main(URL)
            shown = capsys.readouterr().out
            assert f"{count} messages, and events without a message, were handled" in shown
            assert "left:" not in shown


async def test_a_webhook_that_basiq_removed_is_made_again_and_its_events_are_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeBasiq(cool_off=0, quirks=Quirks(disables="removed"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
    async with serve(fake) as url:
        monkeypatch.setenv("BASIQ_BASE_URL", url)
        await recover_after_outage.main(URL)  # it creates the webhook
        await fake.emit("consent.revoked")
        await fake.advance(hours=40)
        assert fake.webhooks() == []
        await recover_after_outage.main(URL)
    assert "1 messages, and events without a message, were handled" in capsys.readouterr().out
    assert len(fake.webhooks()) == 1
