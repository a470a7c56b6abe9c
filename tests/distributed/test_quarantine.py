"""Dead letters of a fleet: each tried once, none hidden by another, and none that the fleet did not write itself."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from redis.asyncio import Redis

from basiq_async import Message
from basiq_async.receiver import MemoryInbox
from basiq_async.transports.auth import ApiKey
from tests.support.fleets import Crew, crew
from tests.support.histories import Recorder, Refusing
from tests.support.real_time import PATIENCE

DEAD_LETTERS = "basiq:{job}:dead"


async def test_dead_letters_that_are_retried_twice_at_once_are_tried_once(redis_url: str) -> None:
    async def slowly(message: Message) -> None:
        if failing:
            raise ValueError("no")
        await asyncio.sleep(0.02)

    failing = True
    recorder = Recorder(slowly)
    async with crew(redis_url, recorder, messages=600, page_size=200, concurrency=16) as fleet:
        job = await fleet.submit()
        assert (await job.wait(timeout=PATIENCE)).dead == 600
        failing = False
        found = await asyncio.gather(job.retry_dead(), job.retry_dead(), (await fleet.fleet.get("job")).retry_dead())
        assert max(each.dead for each in found) == 600
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, report.dead) == (600, 0)
        assert len(recorder.ids) == 600


async def test_a_page_of_dead_letters_that_is_taken_over_holds_none_of_the_next_page(redis_url: str) -> None:
    target = Refusing()
    async with crew(redis_url, target, messages=300, page_size=300, workers=1) as fleet:
        target.refused.update(await fleet.ids())
        job = await fleet.submit()
        assert (await job.wait(timeout=PATIENCE)).dead == 300
        for worker in fleet.workers:
            worker.stop()
        await job.retry_dead()
        assert fleet.notifications[-1] == ("job", "d1.0"), "no worker is told of the dead letters to retry"
        # The first owner of the page read it, recorded the page after it, handled the first dead letters, and died.
        dead_letters = await job.dead_letters()
        page: dict[str, Any] = {"count": "250", "last": str(dead_letters[-1].number), "quota": "250"}
        owner = {"owner": "gone", "until": "0", "width": "1", "worker": "w", "tries": "1"}
        following = {"cursor": page["last"], "position": "250", "tries": "0", "upto": "300"}
        async with Redis.from_url(redis_url) as redis:
            await redis.hset("basiq:{job}:s:d1.0", mapping={**page, **owner})
            await redis.hset("basiq:{job}:s:d1.1", mapping=following)
            await redis.zadd("basiq:{job}:due", {"d1.0": 0, "d1.1": 0})
        await job.drop_dead([each.id for each in dead_letters[:50]])
        target.refused.clear()
        await fleet.start(2)
        assert (await job.wait(timeout=PATIENCE)).dead == 0
        assert Counter(target.taken).most_common(1)[0][1] == 1
        assert len(target.taken) == 250


async def test_dead_letters_of_several_webhooks_hide_no_event_from_each_other_in_an_inbox(redis_url: str) -> None:
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
        assert (await job.wait(timeout=PATIENCE)).dead == 10
        failing = False
        assert (await job.retry_dead()).dead == 10
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, report.dead, dict(report.skipped)) == (10, 0, {})
        assert Counter(webhook for webhook, _ in handled) == dict.fromkeys(webhooks, 5)


async def with_dead_letters(fleet: Crew, target: Refusing) -> list[str]:
    """Have a job that ended with its 4 messages as dead letters, and a target that takes everything from now on."""
    ids = await fleet.ids()
    target.refused.update(ids)
    assert (await fleet.run()).dead == 4
    target.refused.clear()
    return ids


def change_message(fields: list[Any]) -> None:
    fields[2]["payload"]["eventId"] = "forged"


def change_webhook(fields: list[Any]) -> None:
    fields[3] = "another"


def take_off_the_seal(fields: list[Any]) -> None:
    fields[4] = ""


def take_the_seal_of_another(fields: list[Any]) -> None:
    fields[2]["id"] = "forged"


@pytest.mark.parametrize("change", [change_message, change_webhook, take_off_the_seal, take_the_seal_of_another])
async def test_a_dead_letter_that_somebody_changed_in_redis_is_refused_kept_and_reported(
    change: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew(redis_url, target := Refusing(), messages=4) as fleet:
        ids = await with_dead_letters(fleet, target)
        redis = Redis.from_url(redis_url)
        fields = json.loads(await redis.hget(DEAD_LETTERS, ids[1]))
        change(fields)
        await redis.hset(DEAD_LETTERS, ids[1], json.dumps(fields))
        (job,) = await fleet.fleet.jobs()
        assert (await job.retry_dead()).dead == 4
        report = await job.wait(timeout=PATIENCE)
        assert (report.handled, report.dead, report.finished) == (3, 1, True)
        assert sorted(target.taken) == sorted({*ids} - {ids[1]})
        assert json.loads(await redis.hget(DEAD_LETTERS, ids[1])) == fields  # and not sealed by us
        problem = (await job.progress()).problem
        assert problem.startswith(f"1 dead letters are kept, and not tried again, {ids[1]!r} among them")
        assert f"the dead letter {ids[1]!r} of the job 'job' is refused" in caplog.text
        await redis.aclose()


async def test_a_dead_letter_that_somebody_planted_in_redis_is_refused(redis_url: str) -> None:
    async with crew(redis_url, target := Refusing(), messages=4) as fleet:
        ids = await with_dead_letters(fleet, target)
        async with Redis.from_url(redis_url) as redis:
            genuine = await redis.hget(DEAD_LETTERS, ids[0])
            for number, text in enumerate((genuine, b"[]", b"no JSON", b"[1,2,3,4,5]", b"null"), start=100):
                await redis.hset(DEAD_LETTERS, f"planted-{number}", text)
                await redis.zadd(f"{DEAD_LETTERS}:n", {f"planted-{number}": number})
        (job,) = await fleet.fleet.jobs()
        await job.retry_dead()
        report = await job.wait(timeout=PATIENCE)
        assert sorted(target.taken) == sorted(ids)
        assert (report.handled, report.dead) == (4, 5)
        assert [each.id for each in await job.dead_letters()] == [f"planted-{number}" for number in range(100, 105)]


async def test_dead_letters_of_another_job_or_api_key_are_refused(redis_url: str) -> None:
    async with crew(redis_url, target := Refusing(), messages=4) as fleet:
        await with_dead_letters(fleet, target)
        empty = fleet.fake.add_webhook(url="https://other.example/hook")
        other = await fleet.submit(key="other", webhook_id=empty)
        await other.wait(timeout=PATIENCE)
        async with Redis.from_url(redis_url) as redis:
            for end in ("", ":n"):
                await redis.copy(DEAD_LETTERS + end, "basiq:{other}:dead" + end)
        await other.retry_dead()
        await other.wait(timeout=PATIENCE)
        assert target.taken == []

        fleet.client._key = ApiKey("another-key")  # as in a worker that was started with it
        (job,) = [each for each in await fleet.fleet.jobs() if each.key == "job"]
        await job.retry_dead()
        report = await job.wait(timeout=PATIENCE)
        assert (target.taken, report.dead) == ([], 4)
        assert "or the API key has changed since they failed" in (await job.progress()).problem
