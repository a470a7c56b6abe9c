"""The notes of jobs that post have an end, and what went with them makes no verdict: nothing is posted twice for it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from basiq_async._work import places  # private: no caller chooses how many jobs an inbox keeps the notes of
from basiq_async.receiver import MemoryInbox
from basiq_async.replay import (
    HttpTarget,
    Recovery,
    Replay,
    Report,
    _history,  # private: no caller chooses how many are kept
    recover,
    since,
)
from basiq_async.testing import Quirks
from tests.support.worlds import World, a_world

DAY = timedelta(days=1)
REMEMBER = 4 * DAY


class Posting:
    """Jobs that post to many urls with one inbox."""

    def __init__(self, world: World, url: str, posted: list[tuple[str, str]]) -> None:
        self.world, self.url, self.posted = world, url, posted
        self.ahead = timedelta()
        """By how much the machine's clock is ahead."""
        self.inbox = MemoryInbox(clock=lambda: world.fake.clock() + self.ahead, remember=REMEMBER)

    async def recover(self, job: str, **options: Any) -> Recovery:
        async with self._target(job) as target:
            return await recover(self.world.basiq, self.world.webhook_id, target, inbox=self.inbox, **options)

    async def replay(self, job: str, **options: Any) -> Report:
        async with self._target(job) as target:
            return await Replay(self.world.basiq, self.world.webhook_id, target, inbox=self.inbox, **options).run()

    def _target(self, job: str) -> HttpTarget:
        url = f"{self.url}/{job}"
        return HttpTarget(url, self.world.fake.secret(self.world.webhook_id), clock=self.world.fake.clock)

    async def pass_by(self, *jobs: str) -> None:
        """Let other jobs use the inbox."""
        for job in jobs:
            await self.replay(job)
            await self.recover(job)

    async def let_others_pass(self) -> None:
        """Let so much time and so many jobs pass that nothing is left of any job before."""
        for _ in range(3):
            await self.world.fake.advance(days=8)
            await self.pass_by("a", "b", "c", "d")
        self.posted.clear()


@asynccontextmanager
async def posting(monkeypatch: pytest.MonkeyPatch, quirks: Quirks | None = None) -> AsyncIterator[Posting]:
    monkeypatch.setattr(places, "MOST_JOBS", 3)
    posted, app = list[tuple[str, str]](), web.Application()

    async def receive(request: web.Request) -> web.Response:
        posted.append((request.path, (await request.json())["eventId"]))
        return web.Response(status=204)

    app.router.add_post("/{job}", receive)
    async with TestServer(app) as server, a_world(quirks=quirks) as world:
        made = Posting(world, str(server.make_url("")), posted)
        await world.emit(2, status=500)
        await world.fake.advance(hours=30)  # all their attempts failed
        await world.reactivate()
        yield made


async def test_the_notes_of_any_number_of_jobs_take_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async with posting(monkeypatch) as p:
        monkeypatch.setattr(_history, "MOST_RESUME_POINTS", 4)
        sizes = []
        for number in range(12):
            await p.pass_by(f"job{number}")
            sizes.append(len(p.inbox._notes))
        assert sizes[-1] == sizes[10], sorted(p.inbox._notes)
        assert all(len(text) <= 65_536 for text in p.inbox._notes.values())


@pytest.mark.parametrize("form", [("objects", "objects"), ("absent", "objects"), ("absent", "absent")])
@pytest.mark.parametrize("how", ["recover", "replay"])
async def test_a_job_that_comes_back_after_its_notes_went_posts_nothing_twice_and_does_not_say_finished(
    how: str, form: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with posting(monkeypatch, Quirks(attempts=form[0], attempts_by_id=form[1])) as p:
        run = p.recover if how == "recover" else p.replay
        if not (await run("mine")).finished:
            return  # where neither list nor message tells the attempts
        await p.world.fake.advance(days=15)  # the inbox has forgotten
        assert (await run("mine")).finished, "its notes say what it decided"
        assert len(p.posted) == 2
        await p.let_others_pass()
        await p.world.fake.advance(minutes=1)
        later = await p.world.emit(1, status=500)
        await p.world.fake.advance(hours=30)
        await p.world.reactivate()
        found = await run("mine")
        assert not found.finished
        is_told = form != ("absent", "absent")  # else nothing tells what is later
        assert set(p.posted) == ({("/mine", each) for each in later} if is_told else set())


async def test_of_a_recovery_a_person_says_since_when_all_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with posting(monkeypatch) as p:
        await p.recover("mine", since=p.world.fake.clock())
        assert p.posted == []
        await p.let_others_pass()
        await p.recover("mine")
        found = await p.recover("mine")
        assert (found.handled, found.finished, found.problems[0].code) == (0, False, "unknown")
        before = found.problems[0].about
        assert "--since" in str(found.problems[0])
        found = await p.recover("mine", since=before)
        assert (found.handled, found.finished) == (0, True), found.problems
        assert (await p.recover("mine")).finished, "it is noted"
        assert p.posted == []


async def test_a_new_job_that_wants_all_says_so_where_others_lost_their_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with posting(monkeypatch) as p:
        await p.let_others_pass()
        found = await p.recover("new")
        assert (found.handled, found.finished) == (0, False)
        found = await p.recover("new", since=p.world.fake.clock() - 60 * DAY)
        assert (found.handled, len(p.posted)) == (2, 2)
        found = await p.recover("another", everything=True)
        assert (found.handled, [each.code for each in found.problems]) == (2, ["unrecoverable", "unknown-activity"])


async def test_a_replay_counts_what_it_may_have_posted_and_selects_what_is_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with posting(monkeypatch) as p:
        await p.replay("mine")
        await p.let_others_pass()
        found = await p.replay("mine")
        assert (found.skipped, found.finished, found.read_to_end) == ({"forgotten": 2}, False, True)
        assert "2 messages were left out" in caplog.text
        later = since(p.world.fake.clock() - DAY)
        assert (await p.replay("mine", where=later)).finished
        assert p.posted == []
        assert not (await p.replay("mine")).finished, "a selection decides nothing of the rest"


async def test_jobs_that_use_their_notes_keep_them_whatever_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async with posting(monkeypatch) as p:
        assert (await p.recover("mine")).finished
        for number in range(6):
            await p.world.fake.advance(days=5)
            await p.pass_by(f"other{number}")
            assert (await p.recover("mine")).finished
        assert [path for path, _ in p.posted].count("/mine") == 2


@pytest.mark.parametrize("ahead", [timedelta(), timedelta(days=40), timedelta(hours=-2)], ids=str)
async def test_of_jobs_that_come_and_go_for_months_none_posts_twice_and_the_daily_one_is_finished(
    ahead: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    async with posting(monkeypatch) as p:
        missed = 2
        for day in range(45):
            missed += len(await p.world.emit(1, status=500))
            await p.world.fake.advance(hours=20)
            if (await p.world.basiq.webhooks.get(p.world.webhook_id)).status != "active":
                await p.world.reactivate()
            p.ahead = ahead if day in (20, 21, 30) else timedelta()
            for job in ("daily", *chance.sample("abcdef", chance.randrange(3))):
                found = await p.recover(job)
                report = await p.replay(job)
                assert (found.finished and report.finished) or job != "daily"
        assert [each for each, count in Counter(p.posted).items() if count > 1] == []
        assert len([path for path, _ in p.posted if path == "/daily"]) == missed
