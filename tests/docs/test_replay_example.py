"""The examples of a service that was down."""

from __future__ import annotations

from pathlib import Path

import pytest

from basiq_async import ConfigurationError
from basiq_async.testing import FakeBasiq, serve
from examples import recover_after_outage
from examples.replay_after_outage import main, outage

URL = "https://service.example/basiq"


async def test_every_event_of_the_outage_is_handled_once(tmp_path: Path) -> None:
    handled, report = await outage(tmp_path)
    assert len(handled) == handled.total() == 160
    assert 0 < report.handled <= 60
    assert report.handled + report.skipped["handled-before"] == 160
    with pytest.raises(ConfigurationError, match="inbox join"):  # another Basiq, whose webhook is another
        await outage(tmp_path)


def test_it_tells_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out.startswith("160 events, each handled 1 time")


async def test_a_second_start_of_the_recovery_finds_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeBasiq(cool_off=0)
    webhook_id = fake.add_webhook(URL, recover_after_outage.EVENTS)
    for _ in range(5):
        await fake.emit("consent.revoked")
    await fake.advance(hours=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", fake.secret(webhook_id))
    monkeypatch.setenv("BASIQ_WEBHOOK_ID", webhook_id)
    monkeypatch.setenv("BASIQ_API_KEY", fake.api_key)
    async with serve(fake) as url:
        monkeypatch.setenv("BASIQ_BASE_URL", url)
        for count in (5, 0):
            await recover_after_outage.main(URL)
            shown = capsys.readouterr().out
            assert f"{count} messages, and events without a message, were handled" in shown
            assert "left:" not in shown
