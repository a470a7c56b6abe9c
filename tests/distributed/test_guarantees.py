"""The table of guarantees, row by row, with real worker processes and a Redis server of each test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import pytest
from redis.asyncio import Redis

from basiq_async.errors import ReplayError
from tests.distributed.test_rate_limiter import most_within
from tests.support.fleet_processes import plant
from tests.support.fleets import progress_when
from tests.support.real_time import PATIENCE, until
from tests.support.servers import REDIS_PROGRAM

pytestmark = pytest.mark.skipif(REDIS_PROGRAM is None, reason="no redis-server is installed here")

POINTS = [("claim", "after", 1), ("record_page", "after", 1), ("save", "after", 3), ("finish", "before", 1)]
"""Where processes die. test_healing.py has every call of a worker, within one process."""
BOUND = 8 * 2
"""Concurrency times segments: what one process may have handled and not recorded."""


async def test_workers_that_die_at_any_step_lose_nothing(tmp_path: Path) -> None:
    async with plant(tmp_path, messages=1_000, order="newest-first") as works:
        doomed = [works.start(die_at=point) for point in POINTS]
        for process in doomed:
            assert await works.exit_of(process) == -signal.SIGKILL
        works.start()
        await works.check(BOUND * len(POINTS))
        progress = await works.job.progress()
        # The deaths hit segments under way. Not each leaves one: some die after their finish, or on the same segment.
        assert progress.takeovers >= len(POINTS) // 2


async def test_a_worker_stopped_beyond_its_lease_begins_no_message_when_it_continues(tmp_path: Path) -> None:
    async with plant(tmp_path, wait=0.0) as works:
        first = works.start(most=20)
        await progress_when(works.job, lambda progress: progress.handled >= 20)
        first.send_signal(signal.SIGSTOP)
        second = works.start()
        await works.until(200, second.pid)
        before = works.effects(first.pid)
        works.go()
        first.send_signal(signal.SIGCONT)
        await works.check(BOUND)
        # What it had begun before may end; it may take new segments, and repeats nothing of the old ones.
        repeated = set(before) & set(works.effects(second.pid))
        assert len(repeated) <= BOUND


async def test_a_fleet_that_died_continues_with_any_worker_even_without_its_notifications(tmp_path: Path) -> None:
    async with plant(tmp_path) as works:
        fleet = [works.start(most=40), works.start(most=40)]
        await works.until(60)
        for process in fleet:
            process.kill()
        works.go()
        async with Redis.from_url(works.redis.url) as redis:
            await redis.delete("basiq:notifications")
        works.start()
        await works.check(2 * BOUND)


@pytest.mark.real_time("processes' leases are by the clock of a server that is killed")
async def test_a_redis_that_is_killed_and_away_for_longer_than_the_lease_loses_nothing(tmp_path: Path) -> None:
    async with plant(tmp_path) as works:
        works.start(most=40)
        works.start(most=40)
        await works.until(60)
        works.redis.kill()
        works.go()
        await asyncio.sleep(2 * works.lease)
        works.redis.start()
        await works.check(2 * BOUND)


async def test_a_redis_that_lost_its_last_second_repeats_it_and_loses_nothing(tmp_path: Path) -> None:
    async with plant(tmp_path) as works:
        works.start()
        works.start()
        await works.until(60)
        kept = works.redis.log().stat().st_size
        await works.until(250)
        works.redis.kill()
        os.truncate(works.redis.log(), kept - 7)  # in the midst of a command
        works.redis.start()
        report = await works.job.wait(timeout=PATIENCE)
        assert report.finished
        assert sorted(set(works.effects())) == sorted(works.ids)


async def test_a_full_redis_has_the_job_wait(tmp_path: Path) -> None:
    async with plant(tmp_path) as works:
        works.start(most=60)
        await works.until(60)
        async with Redis.from_url(works.redis.url) as redis:
            await redis.config_set("maxmemory", "1")
            works.go()
            progress = await progress_when(works.job, lambda progress: not progress._held)
            full = works.effects()
            assert len(full) < works.messages
            assert progress.state == "running"
            assert progress.handled == len(full)
            await redis.config_set("maxmemory", "0")
        await works.check(0)


async def test_a_signal_has_a_worker_record_what_is_under_way_and_end(tmp_path: Path) -> None:
    async with plant(tmp_path, least=0.02) as works:
        first = works.start(most=20)
        await works.until(20)
        first.send_signal(signal.SIGTERM)
        works.go()
        assert await works.exit_of(first) == 0
        progress = await works.job.progress()
        assert progress.handled == len(works.effects()) < 200
        assert progress._held == 0
        works.start()
        await works.check(0)


async def test_a_worker_that_starts_while_redis_is_away_ends_at_a_signal(tmp_path: Path) -> None:
    async with plant(tmp_path, messages=1) as works:
        works.redis.kill()
        worker = works.start()
        await works.until_logged(" starts")
        worker.send_signal(signal.SIGTERM)
        await works.exit_of(worker)


async def test_a_second_signal_ends_a_worker_at_once(tmp_path: Path) -> None:
    async with plant(tmp_path, least=30.0) as works:
        first = works.start(begun=str(tmp_path / "begun"))
        await until((tmp_path / "begun").exists)
        first.send_signal(signal.SIGTERM)
        await works.until_logged("Got signal")
        assert first.poll() is None
        async with asyncio.timeout(PATIENCE):
            while first.poll() is None:  # one that comes while the first is still being handled is lost
                first.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.05)
        assert await works.exit_of(first) != 0


async def test_a_process_that_dies_is_started_anew_and_a_signal_ends_them_all(tmp_path: Path) -> None:
    async with plant(tmp_path) as works:
        parent = works.start(processes=2)
        await works.until(100)
        pids = {int(line.split()[1]) for line in (tmp_path / "effects").read_text().splitlines()}
        assert parent.pid not in pids
        os.kill(next(iter(pids)), signal.SIGKILL)
        await works.check(BOUND)
        parent.send_signal(signal.SIGTERM)
        assert await works.exit_of(parent) == 0
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


@pytest.mark.parametrize("command", ["basiq-async worker", "taskiq worker"])
async def test_each_command_starts_a_worker_that_ends_at_a_signal(tmp_path: Path, command: str) -> None:
    async with plant(tmp_path, messages=200) as works:
        own = command == "basiq-async worker"
        process = works.start_command("--segments", "1", "--log-level", "DEBUG") if own else works.start_taskiq()
        await works.check(0)
        process.send_signal(signal.SIGTERM)
        assert await works.exit_of(process) == 0


async def test_with_the_sql_inbox_nothing_is_handled_twice_whatever_is_killed(tmp_path: Path) -> None:
    database = str(tmp_path / "effects.db")
    async with plant(tmp_path, "once", messages=30, database=database) as works:
        doomed = works.start()
        await works.until(8)
        doomed.kill()
        works.start()
        report = await works.job.wait(timeout=PATIENCE)
        assert report.finished
        assert report.handled + report.skipped.get("handled-before", 0) == 30
        with contextlib.closing(sqlite3.connect(database)) as connection:
            effects = [row[0] for row in connection.execute("SELECT id FROM effects")]
        assert sorted(effects) == sorted(works.ids)


async def test_a_segment_that_kills_every_worker_stops_the_job_which_names_it(tmp_path: Path) -> None:
    async with plant(tmp_path, messages=50) as works:
        parent = works.start(processes=2, deadly=[works.ids[0]], most_tries=2, wait=0.0)
        with pytest.raises(ReplayError, match=r"segment 0\.0 was claimed 2 times and no message of it was finished"):
            await works.job.wait(timeout=PATIENCE)
        assert works.ids[0] not in works.effects()
        parent.send_signal(signal.SIGTERM)
        await works.exit_of(parent)
        deaths = (await works.job.progress()).takeovers
        assert deaths >= 2
        await works.job.resume()
        works.start()
        await works.check(BOUND * deaths)


async def test_one_rate_holds_over_processes_and_across_a_takeover(tmp_path: Path) -> None:
    rate = 200.0
    async with plant(tmp_path, messages=400, wait=0.0, rate=rate) as works:
        doomed, *_others = [works.start() for _ in range(3)]
        await works.until(50, doomed.pid)
        doomed.kill()
        await works.check(BOUND)
        assert (await works.job.progress()).takeovers >= 1
        moments = works.moments()
        # A process that a busy machine stops between a slot and its effect has one message of each segment late.
        for window in (0.5, 1.0):
            assert most_within(moments, window) <= 1.15 * rate * window + 1 + 3 * 2
