"""A week of cron: a recovery and a doctor at every step are red while something is wrong, green otherwise.

``make cron`` runs it: during the outage each recovery waits for the target in real time.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from .conftest import Endpoint, Run, Served

STEP = timedelta(minutes=float(os.environ.get("BASIQ_CRON_MINUTES", "0")))
WEEK = timedelta(days=7)
DAYS_AGO = 7 + 1 / 24
OUTAGE = timedelta(hours=36), timedelta(hours=66)
EVERY = timedelta(minutes=30)

pytestmark = pytest.mark.skipif(not STEP, reason="minutes of outage in real time: `make cron` runs it")


def test_each_verdict_of_a_week_is_true(
    run: Run, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, emitted = served.fake, set[str]()
    lines, sizes, verdicts = 0, [], []
    with Endpoint() as service:
        webhook_id = fake.add_webhook(service.url, ["consent.revoked"])
        service.secret = fake.secret(webhook_id)
        monkeypatch.setenv("BASIQ_WEBHOOK_SECRET", service.secret)
        accepted: list[str] = []

        def is_wrong() -> bool:
            """What the fake itself says: disabled, or an event that the service does not have."""
            by_message = {message.id: message.event.id for message in fake.messages(webhook_id)}
            have = {by_message.get(each, each.removeprefix("event-")) for each in accepted}
            disabled = fake.webhooks()[0].status(fake.now()) == "disabled"
            return disabled or not emitted <= have

        begin = fake.now()
        while (passed := fake.now() - begin) < WEEK:
            down = OUTAGE[0] <= passed < OUTAGE[1]
            service.status = 503 if down else 204
            if fake.webhooks()[0].status(fake.now()) == "disabled" and not down:
                assert run("webhooks", "reactivate", webhook_id).exit_code == 0

            async def pass_time(happens: bool) -> None:
                if happens:
                    emitted.add((await fake.emit("consent.revoked")).event_id)
                await fake.advance(STEP)

            before = len(service.ids)
            served.run(pass_time(passed % EVERY < STEP), seconds=60)
            recovered = run("recover", webhook_id, "--to", service.url, "--max-pause", "0.01")
            accepted += [] if down else service.ids[before:]
            looked = run("webhooks", "doctor", webhook_id)
            wrong = is_wrong()
            problems = [each["code"] for each in looked.row["problems"]]
            assert looked.exit_code == wrong, (passed, wrong, problems)
            assert recovered.exit_code == wrong, (passed, wrong, recovered.stderr)
            verdicts.append(wrong)
            lines += len((recovered.stdout + recovered.stderr + looked.stdout + looked.stderr).splitlines())
            sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))
    red = [index for index, wrong in enumerate(verdicts) if wrong]
    print(
        f"{len(verdicts)} steps, {len(red)} red, {lines} lines, files {sizes[0]} B at first, {sizes[-1]} B at the end"
    )
    assert len(red) == red[-1] - red[0] + 1, "one outage is one stretch of red"
    assert sizes[-1] < 1_000_000, "the record of a week is small"
