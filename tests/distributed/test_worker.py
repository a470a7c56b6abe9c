"""A worker looks at what a broker and Redis hand to it: others may write to both."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from redis.asyncio import Redis

from basiq_async.distributed._record_types import LONGEST_KEY  # private: the limit of a key
from basiq_async.errors import RecordError
from tests.support.fleets import crew
from tests.support.histories import Recorder
from tests.support.real_time import PATIENCE

FORGED = "0.0\n2026-11-27 12:00:00 INFO basiq_async.distributed the job 'job' is finished"


@pytest.mark.parametrize(
    ("key", "segment"),
    [("job", FORGED), ("job", "0." + "1" * 1_000), ("k" * 100_000, "0.0"), ("job", ""), (5, "0.0"), ("job", None)],
    ids=["newline", "long segment", "long key", "no segment", "a number", "nothing"],
)
async def test_a_notification_that_is_none_is_ignored_in_one_short_line(
    redis_url: str, caplog: pytest.LogCaptureFixture, key: Any, segment: Any
) -> None:
    async with crew(redis_url, workers=0) as fleet:
        await fleet.submit()
        (worker,) = await fleet.start(1, segments=0)
        caplog.clear()
        await worker.process_segment(key, segment)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "a notification that is not one of a fleet is ignored"
    ]


async def test_a_notification_with_the_longest_key_is_one(redis_url: str) -> None:
    recorder = Recorder()
    async with crew(redis_url, recorder, messages=10, workers=0) as fleet:
        job = await fleet.submit(key="k" * LONGEST_KEY)
        (worker,) = await fleet.start(1, segments=0)
        await worker.process_segment(job.key, "0.0")
        assert (await job.progress()).handled == 10


async def test_a_segment_or_a_job_that_another_program_wrote_is_left_out_and_logged_nowhere(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with crew(redis_url, messages=20) as fleet, Redis.from_url(redis_url) as redis:
        await redis.sadd("basiq:active", "k" * 10_000, b"\xff\n")
        await redis.zadd("basiq:{job}:due", {FORGED: 1})
        job = await fleet.submit()
        while (progress := await job.progress()).handled < 20:
            assert progress.state != "failed"
            await asyncio.sleep(0.01)
        await redis.zrem("basiq:{job}:due", FORGED)
    assert all("\n" not in record.getMessage() and len(record.getMessage()) < 2_000 for record in caplog.records)


async def test_an_error_is_one_printable_line_of_limited_length_in_the_log_and_in_the_reason(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def behave(message: object) -> None:
        raise ValueError("no\n" + "x" * 100_000)

    async with crew(redis_url, behave, messages=20, on_error="stop") as fleet:
        job = await fleet.submit()
        while not (progress := await job.progress()).ended:
            await asyncio.sleep(0.01)
    assert progress.state == "failed"
    for text in (progress.reason, *(record.getMessage() for record in caplog.records)):
        assert "\n" not in text
        assert len(text) < 2_000


@pytest.mark.parametrize(
    "damage",
    [
        {"rate": "fast"},
        {"lists": "[[1, 2, 3]]"},
        {"lists": "[" * 100_000},
        {"submitted_at": "yesterday"},
        {"id": None, "name": None},
        {"name": "\x00" * 1_200_000},
    ],
    ids=["rate", "lists", "deep lists", "moment", "no name", "long name"],
)
async def test_a_job_that_another_program_damaged_holds_up_no_other(
    redis_url: str, caplog: pytest.LogCaptureFixture, damage: dict[str, str | None]
) -> None:
    recorder = Recorder()
    async with crew(redis_url, recorder, workers=0) as fleet, Redis.from_url(redis_url) as redis:
        fleet.lost = lambda number: 0  # the workers have to find the jobs
        damaged = await fleet.submit(key="a damaged job")
        for name, value in damage.items():
            base = "basiq:{a damaged job}"
            await (redis.hdel(base, name) if value is None else redis.hset(base, name, value))
        job = await fleet.submit()
        fleet.lost = lambda number: 1
        await fleet.start(1)
        assert (await job.wait(timeout=PATIENCE)).handled == 60
        with pytest.raises(RecordError, match="another program changed the job 'a damaged job' in Redis"):
            await fleet.fleet.get(damaged.key)
    assert "another program changed the job 'a damaged job'" in caplog.text
    assert all(len(record.getMessage()) < 2_000 for record in caplog.records)
    assert "Traceback" not in caplog.text


async def test_a_job_whose_key_is_of_another_type_holds_up_no_other(redis_url: str) -> None:
    free = asyncio.Event()

    async def behave(message: object) -> None:
        await free.wait()

    recorder = Recorder(behave)
    async with crew(redis_url, recorder, messages=20, workers=1, lease=1.0) as fleet:
        jobs = [await fleet.submit(key=key) for key in ("a", "b")]
        async with Redis.from_url(redis_url) as redis, asyncio.timeout(PATIENCE):
            while recorder.at_once < 2 or not all([(await job.progress()).held for job in jobs]):
                await asyncio.sleep(0.01)
            await redis.set("basiq:{a}", "no job")
            before = await redis.zscore("basiq:{b}:due", "0.0")
            while await redis.zscore("basiq:{b}:due", "0.0") == before:  # until a heartbeat prolonged the lease
                await asyncio.sleep(0.01)
            free.set()
            assert (await jobs[1].wait()).handled == 20
