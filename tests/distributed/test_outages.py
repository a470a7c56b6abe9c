"""Redis is away for longer than a worker is patient: no job ends for it, and no loop of a task queue."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from pathlib import Path

import pytest
from redis.asyncio import Redis

from basiq_async import ConfigurationError
from basiq_async.distributed import Fleet
from basiq_async.distributed._record_types import RecordUnavailableError  # private: an error of the record alone
from basiq_async.errors import RecordError
from tests.support.environment import free_port
from tests.support.fleets import JobStore, crew
from tests.support.frames import leaks, variables
from tests.support.histories import Recorder
from tests.support.real_time import PATIENCE
from tests.support.servers import REDIS_PROGRAM, redis_server

pytestmark = pytest.mark.skipif(REDIS_PROGRAM is None, reason="no redis-server is installed here")


@pytest.mark.real_time("workers are patient by a clock that they share with a server that is killed")
@pytest.mark.parametrize("rate", [None, 20.0])
async def test_no_job_ends_because_redis_was_away_for_longer_than_workers_are_patient(
    rate: float | None, tmp_path: Path
) -> None:
    with redis_server(tmp_path, "--appendfsync", "always") as server:
        away = asyncio.Event()

        async def behave(message: object) -> None:
            if len(recorder.ids) >= 12 and not away.is_set():
                server.kill()
                away.set()
            await asyncio.sleep(0.01)

        recorder = Recorder(behave)
        async with crew(server.url, recorder, messages=30, workers=0, concurrency=2) as fleet:
            fleet.patience = 0.6
            job = await fleet.submit(rate=rate)
            await fleet.start(2)
            await away.wait()
            await asyncio.sleep(1.5 * fleet.patience)  # back while a worker would say that the job has failed
            await asyncio.to_thread(server.start)
            report = await job.wait(timeout=PATIENCE)
            assert (report.finished, report.read) == (True, 30)
            assert set(recorder.ids) == set(await fleet.ids())


async def test_the_loop_of_a_task_queue_continues_when_redis_is_away_or_a_job_is_unknown(tmp_path: Path) -> None:
    sent: list[tuple[str, str]] = []

    async def send(key: str, segment: str) -> None:
        sent.append((key, segment))

    with redis_server(tmp_path, "--appendfsync", "always") as server:
        fleet = Fleet(server.url, lease=1.0, notify=send)
        fleet._store = JobStore(server.url)
        async with crew(server.url, messages=20, workers=0) as made:
            fleet.job("work")(made.fleet._functions["work"])
            async with fleet, fleet.worker() as worker:
                await worker.process_segment("nothing", "0.0")
                server.kill()
                fleet._store.connection._patience = 0.15
                await worker.process_segment("job", "0.0")
                fleet._store.connection._patience = PATIENCE
                await asyncio.to_thread(server.start)
                job = await fleet.submit("work", made.webhook_id, key="job")
                while sent:
                    await worker.process_segment(*sent.pop())
                assert (await job.wait(timeout=PATIENCE)).handled == 20


async def test_a_redis_cluster_is_refused_at_the_start_and_told_why(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes") as server:
        fleet = Fleet(server.url)
        fleet.job("work")(lambda: None)  # type: ignore[arg-type,return-value]
        async with fleet:
            with pytest.raises(ConfigurationError, match="is a node of a Redis Cluster, which a fleet cannot use"):
                await fleet.submit("work", "w1", key="job")
            with pytest.raises(ConfigurationError, match="is a node of a Redis Cluster"):
                async with fleet.worker():
                    pass


async def test_a_user_of_redis_with_the_rights_that_the_page_names_can_run_a_job(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text("utf-8")
    assert "`+@all -@dangerous +info`" in page
    assert "`~basiq:*`" in page
    with redis_server(tmp_path) as server:
        async with Redis.from_url(server.url) as redis:
            rules = ["+@all", "-@dangerous", "+info"]
            await redis.acl_setuser("fleet", enabled=True, passwords="+S3CRET", keys="basiq:*", commands=rules)
            await redis.acl_setuser("default", enabled=False)
            url = server.url.replace("//", "//fleet:S3CRET@")
            async with crew(url, messages=20) as fleet:
                assert (await fleet.run()).handled == 20
            async with Fleet(url) as notifying:
                notifying.job("work")(contextlib.nullcontext)  # type: ignore[arg-type]
                await notifying.submit("work", "w1", key="another")
            assert await redis.llen("basiq:notifications") == 1  # by the broker


async def test_the_password_of_redis_shows_in_no_error_no_repr_and_no_frame(tmp_path: Path) -> None:
    url = f"redis://user:S3CRET@127.0.0.1:{free_port()}/0"
    record = JobStore(url, patience=0.1)
    fleet = Fleet(url)
    await fleet._store.connection.aclose()
    fleet._store = record
    errors: list[BaseException] = []
    for call in (record.progress("job"), record.connection.check(), fleet.get("job"), fleet.jobs()):
        with pytest.raises(RecordError, match=r"did not respond for 0\.1 s") as caught:
            await call
        errors.append(caught.value)
    for arguments in ({"lease": 0}, {"prefix": ""}, {"notify": print, "broker": fleet.broker}):
        with pytest.raises(ConfigurationError) as refused:
            Fleet(url, **arguments)
        errors.append(refused.value)
    for wrong in ("http://user:S3CRET@127.0.0.1", "redis://user:S3CRET@127.0.0.1:port", "S3CRET"):
        with pytest.raises(ConfigurationError, match="url must be that of a Redis server") as refused:
            Fleet(wrong)
        errors.append(refused.value)
    for error in errors:
        assert "S3CRET" not in str(error)
        assert leaks(error) == []
        assert any(variables(error))
    assert "S3CRET" not in repr([fleet, record, fleet.broker, vars(fleet), vars(record)])
    await record.connection.aclose()


async def test_a_wrong_password_is_said_to_be_one(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        record = JobStore(server.url.replace("//", "//user:S3CRET@"), patience=PATIENCE)
        with pytest.raises(RecordUnavailableError, match=r"refused a command: .*password") as caught:
            await record.progress(uuid.uuid4().hex)
        assert "S3CRET" not in str(caught.value)
        assert leaks(caught.value) == []
        await record.connection.aclose()
