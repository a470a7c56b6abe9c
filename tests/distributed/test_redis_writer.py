"""Someone who can write to Redis, without a key or a secret, can do what SECURITY.md lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from basiq_async.distributed import Fleet, Work
from tests.support.fleets import crew
from tests.support.histories import Recorder
from tests.support.real_time import PATIENCE


@asynccontextmanager
async def stranger(redis_url: str) -> AsyncIterator[Fleet]:
    """A fleet of somebody else on this Redis: it has the names of the job functions and nothing else."""
    fleet = Fleet(redis_url)

    @fleet.job("work")
    @asynccontextmanager
    async def work() -> AsyncIterator[Work]:
        raise AssertionError("the workers run their own function")
        yield

    async with fleet:
        yield fleet


async def test_a_job_over_another_webhook_gets_genuine_messages_of_that_webhook(redis_url: str) -> None:
    target = Recorder()
    async with crew(redis_url, target, messages=5) as team, stranger(redis_url) as other:
        another = team.fake.add_webhook("https://other.example/basiq")
        team.fake.seed_messages(7, another)
        other._notify = team.notify  # type: ignore[method-assign]
        job = await other.submit("work", another, key="theirs", rate=1_000)
        report = await job.wait(timeout=PATIENCE)
        genuine = {message.id async for message in team.client.messages.list(another)}
    assert report.handled == 7
    assert set(target.ids) == genuine


async def test_a_job_can_be_stopped_forgotten_and_its_quarantine_read_and_dropped(redis_url: str) -> None:
    async def refuse(message: object) -> None:
        raise RuntimeError("no")

    async with crew(redis_url, refuse, messages=3) as team, stranger(redis_url) as other:
        await team.run()
        theirs = await other.get("job")
        read = await theirs.quarantined()
        assert {entry.delivery_id for entry in read} == set(await team.ids())
        assert await theirs.drop_quarantined([read[0].delivery_id]) == 1
        await theirs.retry_quarantined()
        await theirs.cancel("somebody else")
        progress = await theirs.progress()
        assert (progress.state, progress.reason) == ("cancelled", "somebody else")
        await theirs.forget()
        assert await team.fleet.jobs() == []
