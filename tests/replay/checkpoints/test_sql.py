"""The checkpoint in a SQL database: one run at a time, whatever is killed, frozen or away."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from basiq_async import CheckpointError, CheckpointInUseError, ConfigurationError
from basiq_async._storage.sql import BusyError  # private: what a call meets is chosen here
from basiq_async.receiver import Delivery, SQLInbox, WebhookReceiver
from basiq_async.replay import Checkpoint, MemoryCheckpoint, SQLCheckpoint, checkpoint_metadata, recover
from basiq_async.replay.protocol import Advance, Commit, ReplayJob
from basiq_async.testing import FakeBasiq, check_checkpoint
from tests.support import virtual
from tests.support.cancelling import storm
from tests.support.databases import engine_of, in_use, new_table, run, scalar
from tests.support.histories import Recorder, history
from tests.support.real_time import PATIENCE
from tests.support.servers import PostgresServer, postgres_server

DRIVERS = ["asyncpg", "psycopg", "aiosqlite"]
JOB = ReplayJob("w1")
SOON = 0.4
"""A lease that the tests wait for."""


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "aiosqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/checkpoint.db"
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.url(request.param)


@pytest.fixture
async def engine(postgres: PostgresServer) -> AsyncGenerator[AsyncEngine]:
    async with engine_of(postgres.url()) as engine:
        yield engine


async def test_it_keeps_every_promise(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine:
        await check_checkpoint(lambda name: SQLCheckpoint(engine, name, table=table, lease=2 * SOON), seconds=PATIENCE)


def test_it_is_a_checkpoint() -> None:
    assert issubclass(SQLCheckpoint, Checkpoint)


# --- whose it is ---


async def test_without_a_name_each_webhook_and_each_source_has_a_job_of_its_own(engine: AsyncEngine) -> None:
    checkpoint = SQLCheckpoint(engine, table=new_table())
    jobs = [ReplayJob("w1"), ReplayJob("w1", source="events"), ReplayJob("w2")]
    for number, job in enumerate(jobs):
        await checkpoint.open(job, concurrency=1)
        await checkpoint.save(Commit(done=[f"m{number}"]))
        await checkpoint.aclose()
    for number, job in enumerate(jobs):
        state = await checkpoint.peek(job)
        assert state is not None
        assert state.done == {f"m{number}"}


@pytest.mark.parametrize("job", [ReplayJob("w1", "a.eq('b')"), ReplayJob("w1", selection="failed only")])
async def test_another_selection_needs_a_name(engine: AsyncEngine, job: ReplayJob) -> None:
    table = new_table()
    checkpoint = SQLCheckpoint(engine, table=table)
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.aclose()
    with pytest.raises(CheckpointError, match=r"checkpoint 'w1' \(messages\) in .* belongs to "):
        await checkpoint.open(job, concurrency=1)
    named = SQLCheckpoint(engine, "other", table=table)
    await named.open(job, concurrency=1)
    await named.aclose()


async def test_a_job_whose_row_was_deleted_begins_anew(engine: AsyncEngine) -> None:
    table = new_table()
    checkpoint = SQLCheckpoint(engine, table=table)
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.save(Commit(done=["a"]))
    await checkpoint.aclose()
    await run(engine, f"DELETE FROM {table}")
    assert (await checkpoint.open(JOB, concurrency=1)).done == set()
    await checkpoint.aclose()


# --- one run at a time ---

HOLD = """
import asyncio, sys
from sqlalchemy.ext.asyncio import create_async_engine
from basiq_async import CheckpointError
from basiq_async.replay import SQLCheckpoint
from basiq_async.replay.protocol import Commit, ReplayJob

async def main():
    engine = create_async_engine(sys.argv[1])
    checkpoint = SQLCheckpoint(engine, table=sys.argv[2], lease=float(sys.argv[3]))
    await checkpoint.open(ReplayJob("w1"), concurrency=5)
    await checkpoint.save(Commit(done=["a"], handled=1))
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await checkpoint.save(Commit(done=["late"]))
    except CheckpointError as error:
        print(error, flush=True)
    else:
        print("saved", flush=True)
    await engine.dispose()

asyncio.run(main())
"""


def hold(url: str, table: str, lease: float = SOON) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, url, table, str(lease)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


async def test_while_another_process_lives_it_is_in_use_and_when_that_is_killed_it_is_free(url: str) -> None:
    table = new_table()
    with hold(url, table, lease=3.0) as process:  # which a busy machine renews in time
        async with engine_of(url) as engine:
            checkpoint = SQLCheckpoint(engine, table=table)
            said = rf"another run, which is alive \(process {process.pid} on .*, since .* UTC\): wait"
            with pytest.raises(CheckpointInUseError, match=said):
                await checkpoint.open(JOB, concurrency=1)
            process.kill()
            process.wait()
            state = await checkpoint.open(JOB, concurrency=1)
            await checkpoint.aclose()
    assert (state.done, state.handled, state.interrupted) == ({"a"}, 1, 5)


async def test_what_a_frozen_run_still_wants_to_record_is_refused_once_another_has_the_job(engine: AsyncEngine) -> None:
    table, url = new_table(), engine.url.render_as_string(hide_password=False)
    with hold(url, table) as process:
        process.send_signal(signal.SIGSTOP)
        checkpoint = SQLCheckpoint(engine, table=table)
        await checkpoint.open(JOB, concurrency=1)
        process.send_signal(signal.SIGCONT)
        said, _ = await asyncio.to_thread(process.communicate, "\n")
        assert "another run has taken the job over" in said
        await checkpoint.save(Commit(done=["b"]))
        await checkpoint.aclose()
    state = await checkpoint.peek(JOB)
    assert state is not None
    assert state.done == {"a", "b"}


async def test_a_run_that_lasts_longer_than_its_lease_keeps_the_job(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basiq_async.replay.checkpoints._sql._BEATS", 1_500)  # each 40 ms, of a minute
    table = new_table()
    first, second = (SQLCheckpoint(engine, table=table, lease=60) for _ in range(2))
    await first.open(JOB, concurrency=1)
    begun = await scalar(engine, f"SELECT renewed_at FROM {table}")
    async with asyncio.timeout(PATIENCE):
        while await scalar(engine, f"SELECT renewed_at FROM {table}") == begun:
            await asyncio.sleep(0.01)
    with pytest.raises(CheckpointInUseError):
        await second.open(JOB, concurrency=1)
    await first.save(Commit(done=["a"]))
    await first.aclose()
    assert (await second.open(JOB, concurrency=1)).done == {"a"}
    await second.aclose()


async def test_a_clock_that_was_set_back_prolongs_no_lease(engine: AsyncEngine) -> None:
    table = new_table()
    checkpoint = SQLCheckpoint(engine, table=table)
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.aclose()
    await run(engine, f"UPDATE {table} SET holder = 'gone', lease = 60, renewed_at = renewed_at + 86400")
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.aclose()


async def test_one_object_cannot_be_opened_twice(engine: AsyncEngine) -> None:
    checkpoint = SQLCheckpoint(engine, table=new_table())
    await checkpoint.open(JOB, concurrency=1)
    with pytest.raises(CheckpointInUseError):
        await checkpoint.open(JOB, concurrency=1)
    await checkpoint.aclose()
    with pytest.raises(CheckpointError, match="not open"):
        await checkpoint.save(Commit())


async def test_no_connection_is_held_while_it_is_open(engine: AsyncEngine) -> None:
    checkpoint = SQLCheckpoint(engine, table=new_table())
    await checkpoint.open(JOB, concurrency=1)
    assert in_use(engine) == 0
    await checkpoint.save(Commit(done=["a"]))
    assert in_use(engine) == 0
    await checkpoint.aclose()


async def test_a_close_that_is_cancelled_has_closed_it(engine: AsyncEngine) -> None:
    checkpoint = SQLCheckpoint(engine, table=new_table())
    await checkpoint.open(JOB, concurrency=1)
    closing = asyncio.create_task(checkpoint.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.aclose()


async def test_an_open_that_is_cancelled_while_it_waits_leaves_nothing_behind(engine: AsyncEngine) -> None:
    table = new_table()
    checkpoint = SQLCheckpoint(engine, table=table)
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.aclose()
    await run(engine, f"UPDATE {table} SET holder = 'killed', lease = 60, renewed_at = {_NOW}")
    opening = asyncio.create_task(checkpoint.open(JOB, concurrency=1))
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await scalar(engine, f"SELECT holder FROM {table}") == "killed"


_NOW = "extract(epoch from clock_timestamp())"


# --- a database that fails ---


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "at once"])
async def test_a_database_that_is_away_for_a_moment_does_not_end_a_run(driver: str, how: signal.Signals) -> None:
    with postgres_server() as server:
        async with engine_of(server.url(driver)) as engine, history(200) as past:
            checkpoint = SQLCheckpoint(engine)
            handled: list[str] = []

            async def handle(message: Any) -> None:
                handled.append(message.id)
                if len(handled) == 100:
                    await asyncio.to_thread(server.stop, how)
                    asyncio.get_running_loop().call_later(0.2, back.set)

            back = asyncio.Event()

            async def restart() -> None:
                await back.wait()
                await asyncio.to_thread(server.start)

            replay = past.replay(handle, checkpoint=checkpoint, concurrency=8)
            report, _ = await asyncio.gather(replay.run(), restart())
            assert (report.finished, report.handled) == (True, 200)
            state = await checkpoint.peek(replay.job)
            assert state is not None
            assert (state.handled, state.interrupted) == (200, 0)


async def test_a_commit_whose_response_is_lost_is_recorded_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = SQLCheckpoint(engine, table=new_table())
    lost = 0

    commits = AsyncConnection.commit

    async def lossy(connection: AsyncConnection) -> None:
        nonlocal lost
        await commits(connection)
        if lost < 3:
            lost += 1
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"), None, True)

    monkeypatch.setattr(AsyncConnection, "commit", lossy)
    state = await checkpoint.open(JOB, concurrency=3)
    assert state.interrupted == 0
    for commit in (Commit(done=["a"], handled=2), Commit(done=["b"], handled=3, failed=1)):
        lost = 0
        await checkpoint.save(commit)
    await checkpoint.aclose()
    found = await checkpoint.peek(JOB)
    assert found is not None
    assert (found.done, found.handled, found.failed, found.interrupted) == ({"a", "b"}, 5, 1, 3)


async def test_a_database_that_stays_away_is_told_and_nothing_more_is_recorded() -> None:
    with postgres_server() as server:
        async with engine_of(server.url()) as engine:
            checkpoint = SQLCheckpoint(engine)
            await checkpoint.open(JOB, concurrency=1)
            await checkpoint.save(Commit(advance=Advance("c", 3, ["a"])))
            await asyncio.to_thread(server.stop)
            patience, checkpoint._store.timeout = checkpoint._store.timeout, 0.5
            with pytest.raises(CheckpointError, match=r"away for 0\.5 s|did not respond.*run the same again"):
                await checkpoint.save(Commit(done=["secret-of-a-consumer"]))
            await asyncio.to_thread(server.start)
            with pytest.raises(CheckpointError, match="an earlier save failed"):
                await checkpoint.save(Commit(done=["b"]))
            checkpoint._store.timeout = patience
            await checkpoint.aclose()
            assert (await checkpoint.open(JOB, concurrency=1)).cursor == "c"
            await checkpoint.aclose()


@pytest.mark.parametrize(("options", "limit"), [({}, 20), ({"timeout": 5}, 5)])
@virtual.clocked
async def test_a_call_is_tried_again_for_as_long_as_its_time_limit(
    options: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = SQLCheckpoint(create_async_engine("sqlite+aiosqlite://"), **options)
    began, tries = virtual.now(), list[float]()

    async def busy(*_: object, timeout: float, **__: object) -> None:
        tries.append(virtual.now() - began + timeout)
        raise BusyError

    monkeypatch.setattr(checkpoint._store, "run", busy)
    with pytest.raises(CheckpointError, match=f"away for {limit} s"):
        async with asyncio.timeout(60):
            await checkpoint.peek(JOB)
    assert limit - 1 <= virtual.now() - began <= limit, "it is given up when its time is over"
    assert tries == [pytest.approx(limit)] * len(tries), "every attempt has what is left of the time"
    assert limit < len(tries) < limit + 10, "the pauses grow to a second"


async def test_where_no_table_can_be_created_the_open_says_so_and_nothing_is_left_to_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def forbidden(*_: object) -> None:
        raise CheckpointError("permission denied for schema public")

    async with engine_of(f"sqlite+aiosqlite:///{tmp_path}/checkpoint.db") as engine:
        checkpoint = SQLCheckpoint(engine)
        monkeypatch.setattr(checkpoint._store, "_prepare", forbidden)
        with pytest.raises(CheckpointError, match="permission denied"):
            await checkpoint.open(JOB, concurrency=1)
    assert "could not be released" not in caplog.text, "a run that was never recorded keeps nobody waiting"


async def test_a_pool_without_a_free_connection_is_told_in_time(postgres: PostgresServer) -> None:
    async with engine_of(postgres.url(), pool_size=1, max_overflow=0) as engine:
        checkpoint = SQLCheckpoint(engine, table=new_table(), timeout=0.2)
        async with engine.connect():
            with pytest.raises(CheckpointError, match=r"did not respond within 0\.\d+ s.*connections of the pool"):
                await checkpoint.open(JOB, concurrency=1)


async def test_errors_hold_no_values(engine: AsyncEngine) -> None:
    table = new_table()
    checkpoint = SQLCheckpoint(engine, table=table)
    await checkpoint.open(JOB, concurrency=1)
    await run(engine, f"ALTER TABLE {table}_log ADD CHECK (fields NOT LIKE '%consumer%')")
    with pytest.raises(CheckpointError) as caught:
        await checkpoint.save(Commit(advance=Advance("secret-of-a-consumer", 9, [])))
    await checkpoint.aclose()
    cause = caught.value.__cause__
    assert "CheckViolation" in str(caught.value)
    assert "secret-of-a-consumer" not in f"{caught.value} {cause}"


# --- tables ---


async def test_without_tables_it_says_how_to_make_them(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine:
        checkpoint = SQLCheckpoint(engine, table=table, create_tables=False)
        for call in (checkpoint.peek(JOB), checkpoint.open(JOB, concurrency=1)):
            with pytest.raises(CheckpointError, match=r"tables are missing: run the migration .*checkpoint\.ddl\(\)"):
                await call
        assert await SQLCheckpoint(engine, table=table).peek(JOB) is None
        await run(engine, *checkpoint.ddl().split(";\n")[:-1])
        await checkpoint.open(JOB, concurrency=1)
        await checkpoint.aclose()


def test_its_metadata_has_its_tables_for_alembic() -> None:
    names = {"app.place", "app.place_log", "app.place_dead", "app.place_version"}
    assert set(checkpoint_metadata("place", "app").tables) == names
    engine = create_async_engine("sqlite+aiosqlite://")
    assert set(SQLCheckpoint(engine, table="place", schema="app").metadata.tables) == names


async def test_processes_that_make_the_tables_at_once_all_succeed(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine:
        checkpoints = [SQLCheckpoint(engine, str(number), table=table) for number in range(5)]
        await asyncio.gather(*(each.open(JOB, concurrency=1) for each in checkpoints))
        await asyncio.gather(*(each.aclose() for each in checkpoints))


async def test_rows_that_make_no_sense_are_refused(engine: AsyncEngine) -> None:
    table = new_table()
    checkpoint = SQLCheckpoint(engine, table=table)
    await checkpoint.open(JOB, concurrency=1)
    await checkpoint.aclose()
    for change in (f"UPDATE {table}_log SET done = '[oops'", f"UPDATE {table}_log SET fields = '{{}}', done = '[]'"):
        await run(engine, change)
        with pytest.raises(CheckpointError, match="hold data that no checkpoint has written"):
            await checkpoint.open(JOB, concurrency=1)


async def test_tables_of_another_version_are_refused_and_left_as_they_are(url: str) -> None:
    table = new_table()
    async with engine_of(url) as engine:
        checkpoint = SQLCheckpoint(engine, table=table)
        await checkpoint.open(JOB, concurrency=1)
        await checkpoint.save(Commit(done=["a"]))
        await checkpoint.aclose()
        await run(engine, f"UPDATE {table}_version SET version = version + 1")
        later = SQLCheckpoint(engine, table=table)
        with pytest.raises(
            CheckpointError, match=rf"tables {table} were made by another version .* pass another table="
        ):
            await later.open(JOB, concurrency=1)
        assert await scalar(engine, f"SELECT count(*) FROM {table}_log") >= 2
        await run(engine, f"UPDATE {table}_version SET version = version - 1")
        assert (await later.open(JOB, concurrency=1)).done == {"a"}
        await later.aclose()
        await run(engine, f"DROP TABLE {table}_version")
        with pytest.raises(CheckpointError, match="were made by another version"):
            await SQLCheckpoint(engine, table=table).open(JOB, concurrency=1)


async def test_an_engine_in_autocommit_mode_is_refused(postgres: PostgresServer) -> None:
    async with engine_of(postgres.url(), isolation_level="AUTOCOMMIT") as engine:
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            await SQLCheckpoint(engine, table=new_table()).open(JOB, concurrency=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": ""}, "name must be a str"),
        ({"name": 5}, "name must be a str"),
        ({"table": "no; DROP"}, "cannot name a table or schema of the checkpoint"),
        ({"lease": 0}, "lease must be a finite number of seconds above 0"),
        ({"timeout": -1}, "timeout must be a finite number of seconds above 0"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        SQLCheckpoint(create_async_engine("sqlite+aiosqlite://"), **options)


def test_what_is_no_async_engine_of_a_known_database_is_refused() -> None:
    engine: Any = "postgresql://localhost"
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        SQLCheckpoint(engine)


async def test_a_forked_child_refuses_one_that_was_open(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = SQLCheckpoint(engine, table=new_table())
    await checkpoint.open(JOB, concurrency=1)
    parent = os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        with pytest.raises(CheckpointError, match=r"forked.*after the fork, in each worker"):
            await checkpoint.save(Commit(done=["a"]))
        await checkpoint.aclose()
    await checkpoint.save(Commit(done=["b"]))
    await checkpoint.aclose()


# --- in use ---


async def test_one_is_enough_for_a_recovery_through_a_pool_of_five(postgres: PostgresServer) -> None:
    table = new_table()
    async with (
        engine_of(postgres.url(), pool_size=5, max_overflow=0) as engine,
        SQLInbox(engine, table=f"{table}_inbox") as inbox,
        history(120, failed=1.0) as past,
    ):
        receiver = WebhookReceiver(past.fake.secret(past.webhook_id), webhook_id=past.webhook_id, inbox=inbox)
        handled: list[str] = []

        @receiver.on("*")
        async def handle(delivery: Delivery, session: AsyncSession) -> None:
            handled.append(delivery.id)

        checkpoint = SQLCheckpoint(engine, table=table)
        for expected in (120, 0):
            recovery = await recover(past.client, past.webhook_id, receiver, checkpoint=checkpoint)
            assert recovery.messages.finished
            assert recovery.events.finished
            assert recovery.messages.handled == expected
        assert len(handled) == 120
        assert await scalar(engine, f"SELECT count(*) FROM {table}") == 2


async def test_runs_that_are_cancelled_in_every_way_lose_nothing_and_keep_no_connection(engine: AsyncEngine) -> None:
    fake = FakeBasiq()
    made = fake, fake.seed_messages(3_000)
    checkpoint = SQLCheckpoint(engine, table=new_table(), lease=2.0)
    tally = await storm(checkpoint, made, concurrency=16, cancellations=25, rng=random.Random(1))
    assert tally.cancellations == 25
    assert in_use(engine) == 0


async def test_of_two_workers_that_recover_at_once_one_works_and_the_other_leaves(engine: AsyncEngine) -> None:
    table, working, refused = new_table(), asyncio.Event(), asyncio.Event()

    async def handle(message: Any) -> None:
        working.set()
        await refused.wait()

    async with history(1) as past:
        # Long enough that a busy machine renews it in time; the other one waits for a part of it.
        first, second = (SQLCheckpoint(engine, table=table, lease=5) for _ in range(2))
        work = past.replay(handle, checkpoint=first)
        other = Recorder()
        running = asyncio.create_task(work.run())
        await working.wait()
        with pytest.raises(CheckpointInUseError):
            await past.replay(other, checkpoint=second).run()
        refused.set()
        assert (await running).handled == 1
        assert not other.ids


async def test_a_checkpoint_of_one_source_cannot_serve_a_recovery_alone(engine: AsyncEngine) -> None:
    async with history(1) as past:
        receiver = WebhookReceiver(past.fake.secret(past.webhook_id))
        with pytest.raises(ConfigurationError, match=r"events_checkpoint, or SQLCheckpoint\(engine\)"):
            await recover(past.client, past.webhook_id, receiver, checkpoint=MemoryCheckpoint())
