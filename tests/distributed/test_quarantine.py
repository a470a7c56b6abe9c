"""The quarantine of a job: each entry tried once, none hidden by another, and none that the fleet did not write."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from basiq_async import ConfigurationError, Message
from basiq_async.receiver import MemoryInbox, StoredDelivery
from basiq_async.receiver.protocol import ClaimStatus
from basiq_async.transports.auth import ApiKey
from tests.support.fleets import Crew, crew
from tests.support.histories import Refusing
from tests.support.job_stores import WHEN
from tests.support.real_time import PATIENCE

QUARANTINE = "basiq:{job}:quarantine"


async def test_a_page_of_the_quarantine_that_is_taken_over_holds_none_of_the_next_page(redis_url: str) -> None:
    async with crew(redis_url, target := Refusing(), messages=300, page_size=300, workers=1) as fleet:
        await with_a_quarantine(fleet, target)
        (job,) = await fleet.fleet.jobs()
        for worker in fleet.workers:
            worker.stop()
        await job.retry_quarantined()
        assert fleet.notifications[-1] == ("job", "q1.0"), "no worker is notified of the entries to retry"
        # The first owner of the page read it, recorded the page after it, handled the first entries, and died.
        entries = await job.quarantined(limit=250)
        page: dict[str, Any] = {"read": "250", "edge": '["250"]'}
        owner = {"owner": "gone", "until": "0", "worker": "w", "tries": "1"}
        following = {"cursor": "250", "tries": "0", "upto": "300"}
        async with Redis.from_url(redis_url) as redis:
            await redis.hset("basiq:{job}:s:q1.0", mapping={**page, **owner})
            await redis.hset("basiq:{job}:s:q1.1", mapping=following)
            await redis.zadd("basiq:{job}:due", {"q1.0": 0, "q1.1": 0})
        await job.drop_quarantined([each.delivery_id for each in entries[:50]])
        await fleet.start(2)
        await job.wait(timeout=PATIENCE)
        assert await job.quarantined() == []
        assert Counter(target.taken).most_common(1)[0][1] == 1
        assert len(target.taken) == 250


async def test_entries_of_several_webhooks_hide_no_event_from_each_other_in_an_inbox(redis_url: str) -> None:
    handled: list[tuple[str | None, str | None]] = []
    failing = True

    async def behave(message: Message) -> None:
        if failing:
            raise ValueError("no")
        handled.append((message.webhook_id, message.event_id))

    async with crew(redis_url, behave, messages=0, inbox=MemoryInbox()) as fleet:
        other = fleet.fake.add_webhook(url="https://other.example/hook")
        for number in range(5):
            fleet.fake.emit("user.created", user_id=f"u{number}")
        webhooks = [fleet.webhook_id, other]
        job = await fleet.submit(webhook_id=webhooks)
        await job.wait(timeout=PATIENCE)
        assert len(await job.quarantined()) == 10
        failing = False
        await job.retry_quarantined()
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, await job.quarantined(), dict(report.skipped)) == (10, [], {})
        assert Counter(webhook for webhook, _ in handled) == dict.fromkeys(webhooks, 5)


async def with_a_quarantine(fleet: Crew, target: Refusing) -> list[str]:
    """Have a job that ended with its messages set aside, and a target that takes everything from now on."""
    ids = await fleet.ids()
    target.refused.update(ids)
    assert (await fleet.run()).failed == len(ids)
    target.refused.clear()
    return ids


CHANGES: list[dict[str, Any]] = [
    {"body": b64encode(b'{"id": "forged", "payload": {}}').decode()},
    {"event_id": "forged"},
    {"webhook_id": "another"},
    {"seal": ""},
    {"seal": None},
    {"delivery_id": 5},
]


async def test_entries_that_somebody_changed_or_planted_in_redis_are_refused_kept_and_reported(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew(redis_url, target := Refusing(), messages=8) as fleet, Redis.from_url(redis_url) as redis:
        ids = await with_a_quarantine(fleet, target)
        entries = [json.loads(await redis.hget(QUARANTINE, id)) for id in ids[2:]]
        wrong = zip(ids[2:], entries, CHANGES, strict=True)
        texts = {id: json.dumps({**entry, **change}).encode() for id, entry, change in wrong}
        foreign = [await redis.hget(QUARANTINE, ids[0]), b"[]", b"no JSON", b"[1,2,3,4,5]", b"null"]
        for number, text in enumerate(foreign, start=100):
            texts[f"planted-{number}"] = text
            await redis.zadd(f"{QUARANTINE}:n", {f"planted-{number}": number})
        await redis.hset(QUARANTINE, mapping=texts)
        (job,) = await fleet.fleet.jobs()
        await job.retry_quarantined()
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, dict(report.skipped), report.finished) == (2, {"refused": len(texts)}, True)
        assert sorted(target.taken) == sorted(ids[:2])
        assert sorted(each.delivery_id for each in await job.quarantined()) == sorted(texts)
        for id, text in texts.items():
            assert await redis.hget(QUARANTINE, id) == text, "an entry was sealed by us"
            assert f"the quarantined message {id!r} is refused" in caplog.text


async def test_entries_of_another_job_or_api_key_are_refused(redis_url: str) -> None:
    async with crew(redis_url, target := Refusing(), messages=4) as fleet:
        await with_a_quarantine(fleet, target)
        empty = fleet.fake.add_webhook(url="https://other.example/hook")
        other = await fleet.submit(key="other", webhook_id=empty)
        await other.wait(timeout=PATIENCE)
        async with Redis.from_url(redis_url) as redis:
            for end in ("", ":n"):
                await redis.copy(QUARANTINE + end, "basiq:{other}:quarantine" + end)
        await other.retry_quarantined()
        report = await other.wait(timeout=PATIENCE)
        assert (target.taken, dict(report.skipped)) == ([], {"refused": 4})

        fleet.client._key = ApiKey("another-key")  # as in a worker that was started with it
        (job,) = [each for each in await fleet.fleet.jobs() if each.key == "job"]
        await job.retry_quarantined()
        report = await job.wait(timeout=PATIENCE)
        assert (target.taken, dict(report.skipped)) == ([], {"refused": 4})
        assert len(await job.quarantined()) == 4


async def test_the_quarantine_is_read_in_pages_and_exported(redis_url: str, tmp_path: Path) -> None:
    async with crew(redis_url, target := Refusing(), messages=7) as fleet:
        await with_a_quarantine(fleet, target)
        (job,) = await fleet.fleet.jobs()
        first = await job.quarantined(limit=4)
        rest = await job.quarantined(after=first[-1])
        assert sorted(each.delivery_id for each in [*first, *rest]) == sorted(await fleet.ids())
        await job.drop_quarantined([first[-1].delivery_id])
        assert await job.quarantined(after=first[-1]) == rest
        assert await job.export_quarantined(tmp_path / "failed.jsonl") == 6
        lines = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
        assert [line["id"] for line in lines] == [each.delivery_id for each in [*first[:3], *rest]]
        with pytest.raises(ConfigurationError, match="exists already"):
            await job.export_quarantined(tmp_path / "failed.jsonl")
        foreign = StoredDelivery("k", "m", "t", "e", b"{}", WHEN, "no", 1, WHEN)
        with pytest.raises(ConfigurationError, match="after must be an entry"):
            await job.quarantined(after=foreign)


async def test_what_is_handled_leaves_the_quarantine_at_its_retry_and_what_fails_again_stays(redis_url: str) -> None:
    inbox = MemoryInbox()
    async with crew(redis_url, target := Refusing(), messages=3, inbox=inbox) as fleet:
        await with_a_quarantine(fleet, target)
        (job,) = await fleet.fleet.jobs()
        first, second, third = await job.quarantined()
        target.refused.add(third.delivery_id)
        assert (await inbox.claim(first.key, "live", lease=60)).status is ClaimStatus.CLAIMED
        await inbox.complete(first.key, "live")
        await job.retry_quarantined()
        report = await job.wait(timeout=PATIENCE)
        assert (dict(report.skipped), report.handled, target.taken) == ({"handled-before": 1}, 1, [second.delivery_id])
        assert report.finished
        (entry,) = await job.quarantined()
        assert (entry.delivery_id, entry.failures) == (third.delivery_id, 2)
        assert await job.drop_quarantined([third.delivery_id]) == 1
        await job.retry_quarantined()
        assert (await job.progress()).quarantined == 0
