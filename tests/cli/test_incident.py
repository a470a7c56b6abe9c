"""The incident of the page on recovery, with its own lines: 3 % failed, 30 hours down, disabled; all is delivered once.

``BASIQ_STRESS=50000`` has a history of that many messages.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basiq_async.testing import FakeBasiq, ManualClock, Quirks
from tests.support.environment import ROOT

from .conftest import SECRET, Endpoint, Run, Served

COUNT = int(os.environ.get("BASIQ_STRESS", "600"))
PAGE = ROOT / "docs" / "howto" / "recover.md"
URL = "https://example.com/basiq"


@pytest.fixture(params=["oldest-first", "newest-first"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    quirks = Quirks(message_order=request.param, event_order=request.param)
    clock = ManualClock(datetime.now(UTC) - timedelta(hours=32))
    with Served(FakeBasiq(quirks=quirks, clock=clock)) as running:
        yield running


def lines(webhook_id: str, url: str) -> list[list[str]]:
    """The lines of the page, for this webhook and this service."""
    block = PAGE.read_text().split("<!-- the stress test runs these lines -->")[1].split("```")[1]
    found = re.findall(r"^\$ basiq-async (.*)$", block, re.MULTILINE)
    here = [line.replace("WEBHOOK_ID", webhook_id) for line in found]
    return [[{URL: url}.get(word, word) for word in shlex.split(line)] for line in here]


def test_the_incident_of_the_page(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", SECRET)
    fake, few = served.fake, max(20, COUNT // 100)
    with Endpoint() as service:
        webhook_id = fake.add_webhook(service.url, ["consent.revoked"])
        fake.seed_messages(COUNT, webhook_id, every=5.0, failed=0.03)

        async def incident() -> None:
            fake.endpoint_down(service.url)
            for _ in range(few):
                await fake.emit("consent.revoked")
            await fake.advance(hours=30)
            for _ in range(few):
                await fake.emit("consent.revoked")
            await fake.advance(hours=1)
            fake.endpoint_up(service.url)

        served.run(incident(), seconds=600)
        service.ids.clear()
        service.secret = fake.secret(webhook_id)
        look, reactivate, recover, again = lines(webhook_id, service.url)

        before = run(*look)
        assert before.exit_code == 1, before.output
        problems = {each["code"]: each["command"] for each in before.row["problems"]}
        here = ["basiq-async", "--base-url", served.url]
        assert shlex.split(problems["disabled"]) == [*here, *reactivate]
        assert shlex.split(problems["undelivered"]) == [*here, *recover]
        assert run(*reactivate).exit_code == 0
        done = run(*recover)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = done.row
        after = run(*again)
        assert after.exit_code == 0, after.output

        # Nothing is missing, and nothing came twice: neither from Basiq and the recovery, nor from both sources.
        messages = run("messages", "list", webhook_id).rows
        delivered = {each["event_id"] for each in messages if each["delivered"]}
        by_message = {each["id"]: each["event_id"] for each in messages}
        events = {each["id"] for each in run("events", "list").rows}
        posted = [by_message.get(each, each.removeprefix("event-")) for each in service.ids]
        assert len(posted) == len(set(posted)) == found["messages"]["handled"] + found["events"]["handled"]
        assert found["events"]["handled"] == few
        assert not delivered & set(posted)
        assert events == delivered | set(posted)
        assert run(*recover).exit_code == 0
        assert len(service.ids) == len(posted)
