"""The example of a service that was down for an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.replay_after_outage import main, outage


async def test_every_event_of_the_outage_is_handled_once(tmp_path: Path) -> None:
    handled, report = await outage(tmp_path)
    assert len(handled) == handled.total() == 160
    assert 0 < report.handled <= 60
    assert report.handled + report.skipped["handled-before"] == 160


def test_it_tells_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out.startswith("160 events, each handled 1 time")
