"""A job that posts is not the service: it keeps keys of its own, and the service's inbox only says what was handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import attrs
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from basiq_async import ConfigurationError, RetryPolicy
from basiq_async.receiver import MemoryInbox
from basiq_async.replay import HttpTarget, Recovery, limit
from tests.support.worlds import World, a_world


@attrs.define
class Service(World):
    """A service behind real HTTP, whose webhook Basiq could not reach."""

    url: str = ""
    posts: int = 0

    def target(self, query: str = "", **options: Any) -> HttpTarget:
        return HttpTarget(self.url + query, self.fake.secret(self.webhook_id), **options)

    async def post(self, inbox: MemoryInbox | None = None, *, query: str = "", **more: Any) -> Recovery:
        """Recover by posting to the service, with its inbox as evidence."""
        async with self.target(query, retry=RetryPolicy(max_retries=0), **more) as target:
            return await self.recover(target, inbox=self.inbox if inbox is None else inbox)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Service]:
    async def receive(request: web.Request) -> web.StreamResponse:
        s.posts += 1
        return await s.serving.aiohttp_handler(request)

    app = web.Application()
    app.router.add_post("/basiq", receive)
    async with TestServer(app) as server, a_world(timedelta(days=1), url=str(server.make_url("/basiq"))) as world:
        s = Service(world.fake, world.basiq, world.webhook_id, url=str(server.make_url("/basiq")))
        s.fake.endpoint_down(s.url)
        s.serving = s.receiver(**options)
        await s.serving._gate.ask(live=True)  # as its start does, which would also handle what waits
        yield s


async def test_what_is_posted_and_waits_in_the_service_is_not_taken_for_handled_and_stays() -> None:
    async with serving(deferred=True) as s:
        await s.miss(6)
        found = await s.post()
        assert (found.handled, found.finished, found.waiting.count, s.got) == (6, False, 6, [])
        again = await s.post()
        assert (again.handled, again.finished, again.waiting.count) == (0, False, 6)
        async with s.serving:
            while len(s.got) < 6 or (await s.serving.waiting()).count:
                await asyncio.sleep(0.01)  # its worker takes real time
        assert (await s.post()).finished
        assert (len(set(s.got)), len(s.got), s.posts) == (6, 6, 6)
        assert (await s.basiq.webhooks.diagnose(s.webhook_id, inbox=s.inbox)).undelivered == 0


async def test_a_replay_that_posts_counts_what_waits_and_what_failed_at_the_service() -> None:
    for options, left in (({"deferred": True}, (3, 0)), ({"quarantine_after": 1}, (0, 3))):
        async with serving(**options) as s:
            await s.miss(3)
            s.fails = True
            async with s.target() as target:
                replay = s.replay(target)
                for handled in (3, 0):
                    report = await replay.run()
                    assert (report.handled + report.skipped.get("quarantined", 0), report.finished) == (handled, False)
                    assert (report.waiting, report.at_service) == left
                s.fails = False
                async with s.serving:
                    await s.serving.work(until_empty=True)
                    await s.serving.retry_quarantined()
                report = await replay.run()
                assert (report.waiting, report.at_service, report.finished) == (0, 0, True)
            assert len(s.got) == 3


@pytest.mark.parametrize("by", ["retry", "recovery"])
async def test_what_the_service_knows_is_not_posted_and_what_it_gets_later_ends_the_entry_of_the_job(by: str) -> None:
    async with serving() as s:
        await s.miss(2)
        assert (await s.recover(s.serving)).handled == 2
        await s.miss(3)
        s.fails = True
        found = await s.post()
        assert (found.handled, found.quarantined, found.at_service, found.finished, s.posts) == (0, 3, 0, False, 3)
        s.fails = False
        async with s.target() as target:
            job = s.replay(target)
            assert len(await job.quarantined()) == 3
            await s.recover(s.serving, everything=True)
            if by == "retry":
                assert (await job.retry_quarantined()).handled == 0
            else:
                assert (await s.post()).quarantined == 0
            assert await job.quarantined() == []
        assert (await s.post()).finished
        assert len(s.got) == len(set(s.got)) == 5


async def test_what_failed_at_the_service_is_counted_and_only_its_receiver_tries_it_again() -> None:
    async with serving(quarantine_after=1) as s:
        await s.miss(2)
        s.fails = True
        found = await s.post()  # the service quarantines them, and acknowledges them
        assert (found.handled, found.quarantined, found.at_service, found.finished) == (0, 0, 2, False)
        assert found.messages.skipped == {"quarantined": 2}
        again = await s.post()
        assert (again.handled, again.at_service, again.finished) == (0, 2, False), "they stay there"
        assert "with its receiver" in str(next(each for each in found.problems if each.code == "quarantined"))
        s.fails = False
        async with s.target() as target:
            assert (await s.replay(target).retry_quarantined()).handled == 0
        assert len(await s.serving.quarantined()) == 2
        await s.serving.retry_quarantined()
        assert (await s.post()).finished
        assert len(s.got) == 2
        await s.miss(2)
        async with s.target() as target:
            part = await s.recover(target, inbox=s.inbox, where=limit(1))
        assert (part.handled, part.at_service, part.events) == (1, 0, None), "it was read in part"


async def test_a_replay_with_a_record_of_its_own_counts_what_the_endpoint_says_to_be_quarantined() -> None:
    async with serving(quarantine_after=1) as s:
        await s.miss(2)
        s.fails = True
        async with s.target() as target:
            report = await s.replay(target, inbox=MemoryInbox()).run()
        assert (report.at_service, report.finished, report.skipped) == (2, False, {"quarantined": 2})


async def test_two_places_are_two_jobs_and_a_name_makes_them_one() -> None:
    async with serving() as s:
        await s.miss(2)
        jobs = MemoryInbox()
        for query, handled, twice in (("tenant=1", 2, 0), ("tenant=2", 0, 2), ("tenant=1", 0, 0)):
            found = await s.post(jobs, query=f"?{query}")
            assert (found.handled, found.messages.skipped.get("duplicate", 0)) == (handled, twice)
        for query, twice in (("key=1", 2), ("key=2", 0)):
            found = await s.post(jobs, query=f"?{query}", name="refill")
            assert (found.handled, found.messages.skipped.get("duplicate", 0)) == (0, twice)
        assert s.posts == 6
        assert len(s.got) == 2


async def test_a_job_to_another_place_is_no_evidence_unless_its_record_is_named() -> None:
    async with serving() as s:
        await s.miss(2)
        jobs = MemoryInbox()
        assert (await s.post(jobs, query="?elsewhere")).handled == 2
        found = await s.basiq.webhooks.diagnose(s.webhook_id, inbox=jobs)
        assert (found.undelivered, found.recovered) == (0, 2)
        await s.miss(1)
        assert (await s.post(jobs)).messages.skipped["duplicate"] == 2
        await s.miss(1)
        assert (await s.post(jobs, query="?elsewhere")).messages.skipped["duplicate"] == 1
        found = await s.basiq.webhooks.diagnose(s.webhook_id, inbox=jobs)
        assert (found.undelivered, found.recovered) == (1, 3), "the job to its own url decides"


async def test_another_place_than_the_services_is_refused_with_its_inbox() -> None:
    async with serving() as s:
        await s.miss(2)
        with pytest.raises(ConfigurationError, match="another place"):
            await s.post(query="?elsewhere")
        async with s.target("?elsewhere") as target:
            with pytest.raises(ConfigurationError, match="another place"):
                await s.replay(target).run()
        assert s.posts == 0
